"""tests/reference/bound.py is right: the bins fill the line, and Gaussian data cost their entropy."""

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]
Load = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def bound(reference: Load) -> ModuleType:
    return reference("bound")


@pytest.fixture(scope="module")
def gaussian(reference: Load) -> ModuleType:
    return reference("gaussian_data")


@pytest.fixture(scope="module")
def linear(reference: Load) -> Callable[[int], Array]:
    """Ho et al.'s betas, for T steps of the same total noise."""
    ddpm = reference("ddpm")
    return lambda steps: np.asarray(ddpm.linear_betas(steps, 0.1 / steps, min(20 / steps, 0.999)))


@pytest.mark.parametrize(("mean", "std"), [(0.03, 0.0074), (-0.999, 0.5), (1.2, 0.01)])
def test_the_bins_of_all_levels_hold_the_whole_decoder(bound: ModuleType, mean: float, std: float) -> None:
    levels = [2 * k / 255 - 1 for k in range(256)]
    masses = [2 ** -bound.level_bits(x, mean, 2 * math.log(std), 8) for x in levels]
    assert sum(masses) == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("z", [30.0, 1000.0])
def test_a_bin_far_out_costs_what_the_tail_expansion_says(bound: ModuleType, z: float) -> None:
    # Mills: 1 - Phi(z) = phi(z) / z (1 - 1/z^2 + ...); the next term is 3 / z^4, that beyond the bin e^-z of it.
    tail = z**2 / 2 + math.log(z * math.sqrt(2 * math.pi)) - math.log1p(-1 / z**2 + 3 / z**4)
    assert bound.bin_bits(z, z + 1) == pytest.approx(tail / math.log(2), rel=1e-8)
    assert bound.bin_bits(-z - 1, -z) == bound.bin_bits(z, z + 1)


@pytest.mark.parametrize(
    ("bits", "floor", "least"), [(8, 1.9630, 1.3054), (12, 5.9655, 5.2444), (16, 9.9658, 9.2445)]
)
def test_floor_of_the_papers_decoder(
    bound: ModuleType, linear: Callable[[int], Array], bits: int, floor: float, least: float
) -> None:
    variance = bound.posterior(linear(1000), 1)[2]
    assert bound.decoder_floor(variance, bits) == pytest.approx(floor, abs=5e-5)
    assert bound.decoder_least(variance, bits) == pytest.approx(least, abs=5e-5)


def test_floor_in_fine_bins_is_the_entropy_of_the_residual(bound: ModuleType) -> None:
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 1e-4) - math.log2(2 / 65535)
    # The bins' second-order term is (half / std)^2 / 6 = 4e-7.
    assert bound.decoder_floor(1e-4, 16) == pytest.approx(entropy, abs=1e-6)


def test_taking_fixed_large_for_the_posteriors_variance_loses_0_486_bits(
    bound: ModuleType, linear: Callable[[int], Array]
) -> None:
    assert bound.variance_mismatch_bits(linear(1000), "fixed_large") == pytest.approx(0.4864, abs=5e-5)
    assert bound.variance_mismatch_bits(linear(1000), "fixed_small") == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_terms_are_the_weighted_eps_errors_plus_the_variances_mismatch(
    bound: ModuleType, linear: Callable[[int], Array], variance_type: str
) -> None:
    """Ho et al. eq. 12 leaves out a constant: 0 for fixed_small, for fixed_large what others lose."""
    betas, generator = linear(40), np.random.default_rng(0)
    x_start, noises = generator.uniform(-1, 1, 6), generator.normal(size=(40, 6))

    def predict(x_t: Array, t: int) -> tuple[Array, float]:
        return 0.7 * x_t, bound.model_log_variance(betas, t, variance_type)

    result = bound.bound(betas, x_start, lambda t: noises[t], predict, 8)
    weighted = 0.0
    for t in range(1, 40):
        variance = math.exp(bound.model_log_variance(betas, t, variance_type))
        weighted += bound.eps_weight(betas, t, variance) * result.eps_mse[t] / math.log(2)
    mismatch = bound.variance_mismatch_bits(betas, variance_type)
    assert sum(result.terms[1:]) == pytest.approx(weighted + mismatch, rel=1e-10)


def test_every_parameterisation_recovers_the_image_from_its_true_target(bound: ModuleType) -> None:
    abar, x_start, noise = 0.3, np.array([-0.9, 0.2, 1.0]), np.array([0.5, -1.5, 2.0])
    alpha, sigma = math.sqrt(abar), math.sqrt(1 - abar)
    x_t = alpha * x_start + sigma * noise
    targets = {"epsilon": noise, "sample": x_start, "v_prediction": alpha * noise - sigma * x_start}
    for prediction_type, target in targets.items():
        recovered = bound.xstart_of(abar, x_t, target, prediction_type)
        np.testing.assert_allclose(recovered, x_start, atol=1e-15)


def test_learned_range_runs_from_fixed_small_to_beta(
    bound: ModuleType, linear: Callable[[int], Array]
) -> None:
    betas, ends = linear(1000), np.array([0.0, 1.0])
    small = bound.model_log_variance(betas, 500, "fixed_small")
    np.testing.assert_allclose(
        bound.learned_range_log_variance(betas, 500, ends), [small, math.log(betas[500])]
    )
    first = bound.learned_range_log_variance(betas, 0, ends)
    np.testing.assert_allclose(np.exp(first), [bound.posterior(betas, 1)[2], 1e-4])


def test_the_papers_prior_term_is_about_a_hundred_thousandth_of_a_bit(
    bound: ModuleType, linear: Callable[[int], Array]
) -> None:
    assert 5e-6 < bound.prior_bits(linear(1000), np.full(4, 0.6)) < 2e-5
    assert bound.prior_bits(np.array([0.5, 1.0]), np.full(4, 0.6)) == 0  # no signal is left


def test_rate_counts_the_steps_done_and_never_the_decoder(bound: ModuleType) -> None:
    result = bound.Bound(0.5, np.array([8.0, 4.0, 2.0, 1.0]), np.array([0.01, 0.04, 0.09, 0.16]), np.zeros(4))
    points = np.array(bound.rate_distortion(result))
    np.testing.assert_array_equal(points[:, 0], [1, 2, 3, 4])
    np.testing.assert_allclose(points[:, 1], [0.5, 1.5, 3.5, 7.5])
    np.testing.assert_allclose(points[:, 2], [51.0, 38.25, 25.5, 12.75])
    assert bound.total_bits(result) == 7.5 + 8


def test_hybrid_loss_of_a_thousand_steps_adds_the_term_itself(bound: ModuleType) -> None:
    assert bound.hybrid_loss(0.03, 0.002, 1000) == pytest.approx(0.032)


def gaussian_bound(
    bound: ModuleType,
    gaussian: ModuleType,
    betas: Array,
    case: tuple[Array, Array],
    log_variance: Callable[[int], Array | float],
) -> tuple[float, Array]:
    """(L_T, terms) at 16 bits with the optimal denoiser, in expectation over x_0 and noise by sigma points."""
    mean, spectrum = case
    size, abars = mean.size, bound.abars_of(betas)

    def predict(x_t: Array, t: int) -> tuple[Array, Array | float]:
        path = math.sqrt(abars[t]), math.sqrt(1 - abars[t])
        return gaussian.optimal_denoiser(*path, x_t, mean, np.eye(size), spectrum), log_variance(t)

    results = [
        bound.bound(betas, mean + np.sqrt(spectrum) * point[:size], lambda t, z=point[size:]: z, predict, 16)
        for point in gaussian.sigma_points(2 * size)
    ]
    prior = float(np.mean([result.prior for result in results]))
    return prior, np.mean([result.terms for result in results], axis=0)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_terms_of_gaussian_data_are_the_closed_form(
    bound: ModuleType, gaussian: ModuleType, linear: Callable[[int], Array], variance_type: str
) -> None:
    betas, mean, spectrum = linear(30), np.array([0.1, -0.2]), np.array([0.04, 0.01])

    def log_variance(t: int) -> float:
        return float(bound.model_log_variance(betas, t, variance_type))

    prior, terms = gaussian_bound(bound, gaussian, betas, (mean, spectrum), log_variance)
    expected = [
        gaussian.expected_term_bits(betas, t, spectrum, math.exp(log_variance(t))) for t in range(len(betas))
    ]
    assert prior == pytest.approx(gaussian.expected_prior_bits(betas, mean, spectrum), rel=1e-10)
    np.testing.assert_allclose(
        terms[1:], expected[1:], rtol=1e-10, atol=1e-14
    )  # last terms: 1e-8 out of O(1)
    # L_0 in bins 1/3000 of the decoder's sigma: the density, to the square of that.
    assert terms[0] == pytest.approx(expected[0] - math.log2(2 / 65535), abs=1e-6)


@pytest.mark.parametrize("steps", [25, 100])
def test_with_the_exact_reverse_variance_the_bound_is_the_entropy_at_any_number_of_steps(
    bound: ModuleType, gaussian: ModuleType, linear: Callable[[int], Array], steps: int
) -> None:
    betas, mean, spectrum = linear(steps), np.array([0.1, -0.2]), np.array([0.04, 0.01])

    def log_variance(t: int) -> Array:
        return np.asarray(np.log(gaussian.reverse_variance(betas, t, spectrum)))

    prior, terms = gaussian_bound(bound, gaussian, betas, (mean, spectrum), log_variance)
    exact = gaussian.quantised_entropy_bits(spectrum, 16) + gaussian.prior_gap_bits(betas, mean, spectrum)
    assert prior + terms.sum() == pytest.approx(exact, abs=1e-6)  # L_0's bins, as above
