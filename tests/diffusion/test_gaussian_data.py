"""Data that are exactly Gaussian: the best denoiser is known and affine, so a whole chain is an affine map.

Mean and covariance are pushed through it exactly, the chain's own noises as further inputs: no Monte Carlo. The data
are 2 x 2 pixels, correlated and off centre, of standard deviations 0.2 to 0.7 along their axes.

The levels are uniform in lambda = log(alpha / sigma), so that halving the step halves every one, and reach from almost
pure noise (lambda -6) to a sigma of 4.5e-5 (lambda 10): the jump from there to sigma 0 is of first order for every
sampler, and its error of sigma^2 / (2 s) of a pixel, 2e-8, is then below what is measured here.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from xraygen.config import DiffusionConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.paths import noise_path
from xraygen.diffusion.samplers import (
    ddim_invert,
    ddim_sample,
    ddpm_sample,
    dpmpp_sample,
    no_noise,
    unipc_sample,
)
from xraygen.diffusion.schedule import NoiseSchedule

PIXELS = 4
MEAN = np.array([0.3, -0.2, 0.1, 0.25])
SPECTRUM = np.array([0.04, 0.1, 0.25, 0.5])
BASIS = np.linalg.qr(np.array([[1.0, 1, 1, 1], [0, 1, 1, -2], [1, 0, -1, 0.5], [0.3, -1, 1, 1]]))[0]
COVARIANCE = (BASIS * SPECTRUM) @ BASIS.T

SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddpm": ddpm_sample,
    "ddim": ddim_sample,
    "ddim-1": partial(ddim_sample, eta=1.0),
    "dpmpp-1": partial(dpmpp_sample, order=1),
    "dpmpp": dpmpp_sample,
    "sde-1": partial(dpmpp_sample, order=1, sde=True),
    "sde": partial(dpmpp_sample, sde=True),
    "unipc-1": partial(unipc_sample, order=1),
    "unipc-2": unipc_sample,
    "unipc-3": partial(unipc_sample, order=3),
}
RANDOM = {"ddpm", "ddim-1", "sde-1", "sde"}
ORDERS = {
    "ddpm": (1, 0.12),
    "ddim": (1, 0.12),
    "ddim-1": (1, 0.12),
    "dpmpp-1": (1, 0.12),
    "dpmpp": (2, 0.12),
    "sde-1": (1, 0.12),
    "sde": (2, 0.12),
    "unipc-1": (2, 0.12),
    "unipc-2": (3, 0.12),
    "unipc-3": (4, 0.6),
}
"""Order of convergence, and how far the observed one may be from it at the step counts below.

UniPC-p has order p + 1 by its corrector (Zhao et al. 2023, theorem 3.1); UniPC-3 comes to its 4 slowly: 3.5, then 3.8.
The stochastic samplers' orders are those of the covariance, their weak orders. Lower orders at the chain's two ends do
not show: there x_0-hat stands almost still.
"""
COUNTS = (80, 160, 320)
"""Levels; UniPC-3's error changes sign between 20 and 60, so its order shows beyond."""


def diffusion_of(levels: int) -> GaussianDiffusion:
    lambdas = torch.linspace(10, -6, levels, dtype=torch.float64)
    schedule = NoiseSchedule.from_alphas_cumprod(torch.sigmoid(2 * lambdas))
    return GaussianDiffusion(schedule, DiffusionConfig(prediction_type="sample", variance_type="fixed_small"))


def best_denoiser(schedule: NoiseSchedule) -> Callable[[Tensor, Tensor], Tensor]:
    """E[x_0 | x_t] = mu + alpha Sigma (alpha^2 Sigma + sigma^2 I)^-1 (x_t - alpha mu), told timesteps."""
    levels = dict(zip(schedule.timesteps.tolist(), noise_path(schedule)[1:], strict=True))
    mean = torch.from_numpy(MEAN)

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        level = levels[int(t[0])]
        gains = level.alpha * SPECTRUM / (level.alpha**2 * SPECTRUM + level.sigma**2)
        gain = torch.from_numpy((BASIS * gains) @ BASIS.T)
        pixels: Tensor = mean + (x_t.flatten(1) - level.alpha * mean) @ gain
        return pixels.view_as(x_t)

    return model


def affine_chain(name: str, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chain as offset `(D,)`, response to x_T `(D, D)` and to its noises `(K D, D)`: all unit inputs, one batch."""
    diffusion, random = diffusion_of(levels), name in RANDOM
    inputs = torch.eye(PIXELS * (1 + levels * random) + 1, dtype=torch.float64)[:, 1:]  # the first row is 0
    blocks = inputs.view(len(inputs), -1, 1, 2, 2)  # (B, 1 + K, 1, 2, 2)

    def noise(step: int) -> Tensor:
        return blocks[:, 1 + step]

    model = best_denoiser(diffusion.schedule)
    images = SAMPLERS[name](model, diffusion, blocks[:, 0], noise if random else no_noise, clip=False)
    out = images.flatten(1).numpy()
    rows = out[1:] - out[0]
    return out[0], rows[:PIXELS], rows[PIXELS:]


@cache
def moment_errors(name: str, levels: int) -> tuple[float, float]:
    """By how much mean and covariance of the images miss the data's, the chain starting from the true q(x_T)."""
    level = noise_path(diffusion_of(levels).schedule)[-1]
    offset, response, noises = affine_chain(name, levels)
    mean = offset + level.alpha * MEAN @ response
    start = level.alpha**2 * COVARIANCE + level.sigma**2 * np.eye(PIXELS)
    covariance = response.T @ start @ response + noises.T @ noises
    return float(np.abs(mean - MEAN).max()), float(np.abs(covariance - COVARIANCE).max())


def observed_orders(errors: list[float]) -> list[float]:
    """How fast the errors at COUNTS fall; levels - 1 steps are of equal length in lambda, one more leads to sigma 0."""
    return [
        math.log(coarse / fine) / math.log((many - 1) / (few - 1))
        for (coarse, fine), (few, many) in zip(pairwise(errors), pairwise(COUNTS), strict=True)
    ]


each_sampler = pytest.mark.parametrize("name", SAMPLERS)


@each_sampler
def test_the_mean_of_the_data_is_kept_at_any_number_of_steps(name: str) -> None:
    # Every sampler maps alpha_s mu to alpha_t mu, since x_0-hat is mu there. Roundings of 1 - abar (2e-9 at the clean
    # end) are all that is left: they cost the posterior's coefficients 8 digits.
    tolerance = 1e-7 if name == "ddpm" else 1e-13
    for levels in (5, *COUNTS):
        assert moment_errors(name, levels)[0] < tolerance


@each_sampler
def test_the_covariance_converges_at_the_expected_order(name: str) -> None:
    order, slack = ORDERS[name]
    errors = [moment_errors(name, levels)[1] for levels in COUNTS]
    assert observed_orders(errors) == pytest.approx([order, order], abs=slack)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in RANDOM])
def test_a_deterministic_chain_becomes_the_exact_flow(
    reference: Callable[[str], ModuleType], name: str
) -> None:
    # x_0 - mu = sqrt(s / (alpha^2 s + sigma^2)) (x_T - alpha mu) along each axis: not only are the moments right.
    gaussian_data = reference("gaussian_data")
    starts, errors = np.random.default_rng(0).standard_normal((8, PIXELS)), []
    for levels in COUNTS:
        level = noise_path(diffusion_of(levels).schedule)[-1]
        offset, response, _ = affine_chain(name, levels)
        ends = ((level.alpha, level.sigma), (1.0, 0.0))
        exact = [gaussian_data.ode_map(*ends, start, MEAN, BASIS, SPECTRUM) for start in starts]
        errors.append(float(np.abs(offset + starts @ response - np.array(exact)).max()))
    order, slack = ORDERS[name]
    assert observed_orders(errors) == pytest.approx([order, order], abs=slack)


def test_a_higher_order_is_worth_a_digit_at_forty_steps() -> None:
    errors = {name: moment_errors(name, 40)[1] for name in SAMPLERS}
    assert errors["unipc-3"] < errors["unipc-2"] < errors["dpmpp"] < errors["ddim"] < errors["ddpm"]
    assert errors["dpmpp"] < errors["ddim"] / 5
    assert errors["sde"] < errors["ddpm"] / 5


def test_the_best_denoiser_is_the_reference_s(reference: Callable[[str], ModuleType]) -> None:
    gaussian_data, schedule = reference("gaussian_data"), diffusion_of(7).schedule
    x = np.random.default_rng(1).standard_normal(PIXELS)
    for step, level in enumerate(noise_path(schedule)[1:]):
        measured = best_denoiser(schedule)(torch.from_numpy(x).view(1, 1, 2, 2), torch.tensor([step]))
        expected = gaussian_data.optimal_denoiser(level.alpha, level.sigma, x, MEAN, BASIS, SPECTRUM)
        np.testing.assert_allclose(measured.flatten().numpy(), expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(gaussian_data.covariance(BASIS, SPECTRUM), COVARIANCE, rtol=0, atol=1e-15)


def test_inversion_of_the_data_converges_to_the_distribution_of_x_t() -> None:
    # The image of N(mu, Sigma) under the inverted chain: N(alpha mu, alpha^2 Sigma + sigma^2 I), at first order.
    units = torch.eye(PIXELS + 1, dtype=torch.float64)[:, 1:].view(-1, 1, 2, 2)
    means, covariances = [], []
    for levels in COUNTS:
        diffusion = diffusion_of(levels)
        level = noise_path(diffusion.schedule)[-1]
        out = ddim_invert(best_denoiser(diffusion.schedule), diffusion, units).flatten(1).numpy()
        response = out[1:] - out[0]
        exact = level.alpha**2 * COVARIANCE + level.sigma**2 * np.eye(PIXELS)
        means.append(float(np.abs(out[0] + MEAN @ response - level.alpha * MEAN).max()))
        covariances.append(float(np.abs(response.T @ COVARIANCE @ response - exact).max()))
    assert observed_orders(means) == pytest.approx([1, 1], abs=0.2)
    assert observed_orders(covariances) == pytest.approx([1, 1], abs=0.2)
