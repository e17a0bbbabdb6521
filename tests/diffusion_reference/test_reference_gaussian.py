"""tests/reference/gaussian_data.py is right: Bayes, the flow's moments, and what the fixed variances cost."""

import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]
Load = Callable[[str], ModuleType]
MEAN, SPECTRUM = np.array([0.1, -0.2, 0.3]), np.array([0.5, 0.08, 0.01])
BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]


@pytest.fixture(scope="module")
def gaussian(reference: Load) -> ModuleType:
    return reference("gaussian_data")


@pytest.fixture(scope="module")
def linear(reference: Load) -> Callable[[int], Array]:
    """Ho et al.'s betas, for T steps of the same total noise."""
    ddpm = reference("ddpm")
    return lambda steps: np.asarray(ddpm.linear_betas(steps, 0.1 / steps, min(20 / steps, 0.999)))


def test_denoiser_is_the_regression_on_the_joint_covariance(gaussian: ModuleType) -> None:
    sigma_0 = gaussian.covariance(BASIS, SPECTRUM)
    np.testing.assert_allclose(sigma_0, BASIS @ np.diag(SPECTRUM) @ BASIS.T, atol=1e-15)
    x_t, (alpha, sigma) = np.array([0.5, -1.0, 2.0]), (0.6, 0.8)
    marginal = alpha**2 * sigma_0 + sigma**2 * np.eye(3)
    gain = alpha * sigma_0 @ np.linalg.inv(marginal)
    found = gaussian.optimal_denoiser(alpha, sigma, x_t, MEAN, BASIS, SPECTRUM)
    np.testing.assert_allclose(found, MEAN + gain @ (x_t - alpha * MEAN), atol=1e-14)
    left = sigma_0 - gain @ marginal @ gain.T
    remaining = gaussian.remaining_variance(alpha, sigma, SPECTRUM)
    np.testing.assert_allclose(BASIS.T @ left @ BASIS, np.diag(remaining), atol=1e-14)


def test_flow_takes_the_marginal_at_one_point_to_that_at_another(gaussian: ModuleType) -> None:
    start, end = (0.3, math.sqrt(0.91)), (1.0, 0.0)
    sigma_0 = gaussian.covariance(BASIS, SPECTRUM)
    mean, variance = gaussian.push(
        lambda x: gaussian.ode_map(start, end, x, MEAN, BASIS, SPECTRUM),
        start[0] * MEAN,
        start[0] ** 2 * sigma_0 + start[1] ** 2 * np.eye(3),
    )
    np.testing.assert_allclose(mean, MEAN, atol=1e-14)
    np.testing.assert_allclose(variance, sigma_0, atol=1e-14)


def test_flow_has_the_slope_of_the_probability_flow_ode(gaussian: ModuleType) -> None:
    """Karras et al. eq. 1 with no scale: dx/dsigma = (x - D) / sigma."""
    x, sigma, step = np.array([0.5, -1.0, 2.0]), 0.7, 1e-4
    ends = [
        gaussian.ode_map((1.0, sigma), (1.0, sigma + sign * step), x, MEAN, BASIS, SPECTRUM)
        for sign in (1, -1)
    ]
    slope = (x - gaussian.optimal_denoiser(1.0, sigma, x, MEAN, BASIS, SPECTRUM)) / sigma
    np.testing.assert_allclose(
        (ends[0] - ends[1]) / (2 * step), slope, atol=1e-7
    )  # central difference: step^2


def test_ancestral_steps_with_the_exact_reverse_variance_end_at_the_data(
    gaussian: ModuleType, linear: Callable[[int], Array], reference: Load
) -> None:
    betas, ddpm = linear(12), reference("ddpm")
    mean, abars = np.zeros(3), ddpm.alphas_cumprod(betas)
    variance = abars[-1] * gaussian.covariance(BASIS, SPECTRUM) + (1 - abars[-1]) * np.eye(3)
    mean = math.sqrt(abars[-1]) * MEAN
    for t in reversed(range(12)):
        path = math.sqrt(abars[t]), math.sqrt(1 - abars[t])
        spread = np.sqrt(gaussian.reverse_variance(betas, t, SPECTRUM))

        def step(x: Array, z: Array, t: int = t, path: tuple = path, spread: Array = spread) -> Array:
            best = gaussian.optimal_denoiser(*path, x, MEAN, BASIS, SPECTRUM)
            return np.asarray(ddpm.posterior_mean(betas, best, x, t) + gaussian.in_basis(BASIS, spread, z))

        mean, variance = gaussian.push_step(step, mean, variance)
    np.testing.assert_allclose(mean, MEAN, atol=1e-13)
    np.testing.assert_allclose(variance, gaussian.covariance(BASIS, SPECTRUM), atol=1e-13)


def test_exact_reverse_variance_runs_from_the_posteriors_to_beta(
    gaussian: ModuleType, linear: Callable[[int], Array], reference: Load
) -> None:
    betas = linear(1000)
    small, between, large = gaussian.reverse_variance(betas, 5, np.array([0.0, 1e-3, 1.0]))
    assert small == pytest.approx(reference("ddpm").posterior_variance(betas, 5), rel=1e-11)
    assert large == pytest.approx(betas[5], rel=1e-11)
    assert small < between < large


def test_sigma_points_integrate_quadratics_exactly(gaussian: ModuleType) -> None:
    points = gaussian.sigma_points(5)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(points.T @ points / len(points), np.eye(5), atol=1e-15)


def test_entropy_of_fine_bins_is_that_of_the_counted_levels(gaussian: ModuleType) -> None:
    levels = np.linspace(-1, 1, 2**12)
    masses = np.exp(-(levels**2) / (2 * 0.01))
    masses /= masses.sum()
    counted = -float((masses * np.log2(masses, where=masses > 0, out=np.zeros_like(masses))).sum())
    assert gaussian.quantised_entropy_bits(np.array([0.01]), 12) == pytest.approx(counted, abs=1e-6)


def test_fixed_large_is_exact_for_unit_data_but_for_its_first_variance(
    gaussian: ModuleType, linear: Callable[[int], Array]
) -> None:
    """The reverse variance of N(0, 1) is beta_t; only index 0, given posterior_variance[1], does not fit."""
    betas, unit, zero = linear(1000), np.ones(1), np.zeros(1)
    second = float(gaussian.reverse_variance(betas, 1, zero)[0])
    total = gaussian.expected_bound_bits(betas, zero, unit, lambda t: betas[t] if t else second)
    ratio = betas[0] / second
    loss = 0.5 * (ratio - 1 - math.log(ratio)) / math.log(2)
    assert loss == pytest.approx(0.1640, abs=5e-5)
    assert total - gaussian.entropy_bits(unit) == pytest.approx(loss, abs=1e-10)


def test_finer_linear_steps_do_not_remove_what_the_first_fixed_variance_costs(
    gaussian: ModuleType, linear: Callable[[int], Array]
) -> None:
    """beta_1 / posterior_variance[1] tends to 2 as T grows, so L_0 keeps (1 - log 2) / 2 nats, 0.2213 bits."""
    betas, spectrum = linear(2000), np.array([0.04])
    second = float(gaussian.reverse_variance(betas, 1, np.zeros(1))[0])
    total = gaussian.expected_bound_bits(betas, np.zeros(1), spectrum, lambda t: betas[t] if t else second)
    assert 0.15 < total - gaussian.entropy_bits(spectrum) < 0.2213
    repaired = gaussian.expected_bound_bits(betas, np.zeros(1), spectrum, lambda t: betas[t])
    assert repaired - gaussian.entropy_bits(spectrum) < 0.01
