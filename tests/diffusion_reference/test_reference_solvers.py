"""tests/reference/solvers.py is right: orders of convergence to the exact flow of Gaussian data, and identities."""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[np.float64]
Load = Callable[[str], ModuleType]
Denoise = Callable[[Array, int], Array]
MEAN, SPECTRUM = np.array([0.1, -0.2, 0.3]), np.array([0.5, 0.08, 0.01])
BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
START = np.array([0.4, -1.1, 0.8])


@pytest.fixture(scope="module")
def solvers(reference: Load) -> ModuleType:
    return reference("solvers")


@pytest.fixture(scope="module")
def gaussian(reference: Load) -> ModuleType:
    return reference("gaussian_data")


def point(lam: float) -> tuple[float, float]:
    """The variance-preserving (alpha, sigma) at half log-SNR lambda."""
    return 1 / math.sqrt(1 + math.exp(-2 * lam)), 1 / math.sqrt(1 + math.exp(2 * lam))


def path(steps: int, *, to_image: bool = False) -> tuple[Array, Array]:
    """`steps` even steps of lambda from -3 to 3, and into sigma = 0 if `to_image`; noisiest first."""
    points = [point(lam) for lam in np.linspace(-3, 3, steps + 1)] + [(1.0, 0.0)] * to_image
    return np.array([p[0] for p in points]), np.array([p[1] for p in points])


def best(gaussian: ModuleType, alphas: Array, sigmas: Array) -> Denoise:
    """The optimal denoiser along a path."""
    return lambda x, i: gaussian.optimal_denoiser(alphas[i], sigmas[i], x, MEAN, BASIS, SPECTRUM)


def flow_error(gaussian: ModuleType, sampler: Callable[..., Any], steps: int, **options: object) -> float:
    """How far a sampler ends from the exact solution of the flow."""
    alphas, sigmas = path(steps)
    end = sampler(best(gaussian, alphas, sigmas), alphas, sigmas, START, **options)[-1]
    exact = gaussian.ode_map((alphas[0], sigmas[0]), (alphas[-1], sigmas[-1]), START, MEAN, BASIS, SPECTRUM)
    return float(np.abs(end - exact).max())


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("ddim", {}, 1),
        ("dpmpp_2m", {}, 2),
        ("heun", {}, 2),
        # The first step is of order 1, which costs the chain nothing up to order 2; UniC adds one to each.
        ("unipc", {"order": 1, "corrector": False, "lower_at_end": False}, 1),
        ("unipc", {"order": 2, "corrector": False, "lower_at_end": False}, 2),
        ("unipc", {"order": 1, "lower_at_end": False}, 2),
        ("unipc", {"order": 2, "lower_at_end": False}, 3),
    ],
)
def test_chain_converges_to_the_exact_flow_at_its_order(
    solvers: ModuleType, gaussian: ModuleType, name: str, options: dict[str, object], order: int
) -> None:
    coarse, fine = (flow_error(gaussian, getattr(solvers, name), steps, **options) for steps in (48, 96))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)  # next order's share at these steps


def test_third_order_unipc_chain_is_at_least_third(solvers: ModuleType, gaussian: ModuleType) -> None:
    """UniC adds one to three, but the first step is UniPC-1, whose local error is h^3: between 3 and 4."""
    coarse, fine = (
        flow_error(gaussian, solvers.unipc, steps, order=3, lower_at_end=False) for steps in (48, 96)
    )
    assert math.log2(coarse / fine) > 2.85


@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_one_unipc_step_from_exact_values_errs_at_its_order(
    solvers: ModuleType, gaussian: ModuleType, order: int, corrector: bool
) -> None:
    """Local error h^(p+1) predicted and h^(p+2) corrected, from unevenly placed earlier points."""

    def error(h: float) -> float:
        def state(lam: float) -> Array:
            return np.asarray(gaussian.ode_map(point(0.3), point(lam), START, MEAN, BASIS, SPECTRUM))

        def estimate(lam: float, x: Array) -> Array:
            return np.asarray(gaussian.optimal_denoiser(*point(lam), x, MEAN, BASIS, SPECTRUM))

        others = [
            (0.3 - gap * h, estimate(0.3 - gap * h, state(0.3 - gap * h))) for gap in (1.3, 2.1)[: order - 1]
        ]
        step = solvers.unipc_step
        now, end = estimate(0.3, START), 0.3 + h
        reached = step(point(0.3), point(end), START, now, others)
        if corrector:
            lam = solvers.half_log_snr(point(end))
            reached = step(point(0.3), point(end), START, now, [*others, (lam, estimate(end, reached))])
        return float(np.abs(reached - state(end)).max())

    assert math.log2(error(0.04) / error(0.02)) == pytest.approx(order + 1 + corrector, abs=0.1)


def test_second_order_unip_alone_is_dpm_solver_2m(solvers: ModuleType, gaussian: ModuleType) -> None:
    alphas, sigmas = path(12, to_image=True)
    denoise = best(gaussian, alphas, sigmas)
    unip = solvers.unipc(denoise, alphas, sigmas, START, 2, corrector=False)
    np.testing.assert_allclose(unip, solvers.dpmpp_2m(denoise, alphas, sigmas, START), atol=1e-14)


def test_first_order_unip_alone_is_ddim(solvers: ModuleType, gaussian: ModuleType) -> None:
    alphas, sigmas = path(12, to_image=True)
    denoise = best(gaussian, alphas, sigmas)
    unip = solvers.unipc(denoise, alphas, sigmas, START, 1, corrector=False)
    np.testing.assert_allclose(unip, solvers.ddim(denoise, alphas, sigmas, START), atol=1e-14)


def test_ddim_agrees_with_the_papers_own_form(solvers: ModuleType, reference: Load) -> None:
    s, t = point(-0.5), point(0.4)
    x_start, noise = np.array([-0.3, 0.6, 0.1]), np.array([1.0, -2.0, 0.5])
    eps = (START - s[0] * x_start) / s[1]
    theirs = reference("ddpm").ddim_step(s[0] ** 2, t[0] ** 2, START, eps, noise, 0.6)
    np.testing.assert_allclose(solvers.ddim_step(s, t, START, x_start, noise, 0.6), theirs, atol=1e-14)


def test_first_order_sde_step_is_ddim_at_eta_one(solvers: ModuleType) -> None:
    s, t, x_start, noise = point(-0.5), point(0.4), np.array([-0.3, 0.6, 0.1]), np.array([1.0, -2.0, 0.5])
    ours = solvers.sde_dpmpp_step(s, t, START, x_start, noise)
    np.testing.assert_allclose(ours, solvers.ddim_step(s, t, START, x_start, noise, 1.0), atol=1e-14)


def sde_error(solvers: ModuleType, gaussian: ModuleType, steps: int) -> float:
    """Error of the covariance that SDE-DPM-Solver++(2M) ends with; its start and noises in one vector."""
    alphas, sigmas = path(steps)
    denoise, data = best(gaussian, alphas, sigmas), gaussian.covariance(BASIS, SPECTRUM)

    def chain(inputs: Array) -> Array:
        start, *noises = inputs.reshape(steps + 1, 3)
        return np.asarray(solvers.sde_dpmpp_2m(denoise, alphas, sigmas, start, noises)[-1])

    mean, variance = np.zeros(3 * steps + 3), np.eye(3 * steps + 3)
    mean[:3], variance[:3, :3] = alphas[0] * MEAN, alphas[0] ** 2 * data + sigmas[0] ** 2 * np.eye(3)
    mean, variance = gaussian.push(chain, mean, variance)
    np.testing.assert_allclose(mean, alphas[-1] * MEAN, atol=1e-14)  # a chain about the mean stays there
    return float(np.abs(variance - alphas[-1] ** 2 * data - sigmas[-1] ** 2 * np.eye(3)).max())


def test_second_order_sde_chain_converges_to_the_datas_covariance_at_order_two(
    solvers: ModuleType, gaussian: ModuleType
) -> None:
    coarse, fine = sde_error(solvers, gaussian, 32), sde_error(solvers, gaussian, 64)
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "unipc", "heun", "sde_dpmpp_2m"])
def test_the_step_into_the_image_is_its_last_estimate(
    solvers: ModuleType, gaussian: ModuleType, name: str
) -> None:
    alphas, sigmas = path(9, to_image=True)
    seen: list[Array] = []

    def denoise(x: Array, i: int) -> Array:
        seen.append(best(gaussian, alphas, sigmas)(x, i))
        return seen[-1]

    extra = ([np.ones(3)] * 10,) if name == "sde_dpmpp_2m" else ()
    states = getattr(solvers, name)(denoise, alphas, sigmas, START, *extra)
    np.testing.assert_allclose(states[-1], seen[-1], atol=1e-14)
    assert len(seen) == (19 if name == "heun" else 10)  # Heun asks twice on all but its last step


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "unipc", "sde_dpmpp_2m"])
def test_a_path_may_begin_without_signal(solvers: ModuleType, gaussian: ModuleType, name: str) -> None:
    """Zero terminal SNR: lambda = -inf; the first step keeps the noise (or draws it anew) and adds the estimate."""
    alphas, sigmas = path(9, to_image=True)
    alphas, sigmas = np.array([0.0, *alphas]), np.array([1.0, *sigmas])
    noises = [np.full(3, 0.1 * i) for i in range(11)]
    extra = (noises,) if name == "sde_dpmpp_2m" else ()
    states = getattr(solvers, name)(best(gaussian, alphas, sigmas), alphas, sigmas, START, *extra)
    assert np.isfinite(states).all()
    if name in {"ddim", "dpmpp_2m"}:
        np.testing.assert_allclose(states[1], alphas[1] * MEAN + sigmas[1] * START, atol=1e-14)


def test_inversion_solved_to_the_end_undoes_ddim(solvers: ModuleType, gaussian: ModuleType) -> None:
    alphas, sigmas = path(20)
    denoise = best(gaussian, alphas, sigmas)
    image = solvers.ddim(denoise, alphas, sigmas, START)[-1]
    errors = [
        float(np.abs(solvers.ddim_invert(denoise, alphas, sigmas, image, k)[-1] - START).max())
        for k in (1, 3, 60)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-12


@pytest.mark.parametrize("sigma", [0.002, 0.3, 80.0])
def test_edm_preconditioning_gives_the_network_unit_variance(solvers: ModuleType, sigma: float) -> None:
    """Karras et al. app. B.6, for data N(0, 0.5^2): input and target of variance 1, the weighted error too."""
    c_skip, c_out, c_in, c_noise = solvers.edm_preconditioning(sigma)
    assert c_in**2 * (0.25 + sigma**2) == pytest.approx(1)
    target = solvers.edm_target(np.array([0.5, 0.0]), np.array([0.0, 1.0]), sigma)  # one unit of each source
    assert float(target @ target) == pytest.approx(1)
    assert solvers.edm_loss_weight(sigma) * c_out**2 == pytest.approx(1)
    assert c_noise == pytest.approx(math.log(sigma) / 4)
    assert c_skip == pytest.approx(0.25 / (0.25 + sigma**2))


def test_edm_denoiser_of_the_right_target_is_the_image(solvers: ModuleType) -> None:
    x_start, noise, sigma = np.array([-0.3, 0.6, 0.1]), np.array([1.0, -2.0, 0.5]), 1.7
    found = solvers.edm_denoise(
        lambda *_: solvers.edm_target(x_start, noise, sigma), x_start + sigma * noise, sigma
    )
    np.testing.assert_allclose(found, x_start, atol=1e-14)


def test_edm_levels_are_log_normal(solvers: ModuleType) -> None:
    assert solvers.edm_level(0.0) == pytest.approx(math.exp(-1.2))
    assert math.log(solvers.edm_level(1.0) / solvers.edm_level(-1.0)) == pytest.approx(2.4)
