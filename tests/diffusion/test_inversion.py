"""DDIM inversion: equal to its re-derivation, and the way back is as exact as iterations and steps allow."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from xraygen.config import DiffusionConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.paths import noise_path
from xraygen.diffusion.samplers import ddim_invert, ddim_sample, no_noise
from xraygen.diffusion.schedule import NoiseSchedule, linear_betas, rescale_zero_terminal_snr
from xraygen.errors import UsageError
from xraygen.seeds import torch_generator

SHORT = NoiseSchedule.from_betas(linear_betas(12, 0.01, 0.5))
LONG = NoiseSchedule.from_betas(linear_betas(1000, 1e-4, 0.02))
NO_SIGNAL = NoiseSchedule.from_alphas_cumprod(rescale_zero_terminal_snr(SHORT.alphas_cumprod))
IMAGES = torch.randn((2, 1, 2, 3), generator=torch_generator(0, "inversion"), dtype=torch.float64).clamp(
    -1, 1
)


def diffusion_of(schedule: NoiseSchedule, prediction_type: str) -> GaussianDiffusion:
    settings = {"prediction_type": prediction_type, "variance_type": "fixed_small"}
    return GaussianDiffusion(schedule, DiffusionConfig.model_validate(settings))


def crooked(x_t: Tensor, t: Tensor) -> Tensor:
    """A model that no formula of diffusion could turn into something simple."""
    return torch.cos(2 * x_t + t.view(-1, 1, 1, 1))


@pytest.mark.parametrize("stop", [11, 5, 1, 0])
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("clip", [False, True])
def test_inversion_equals_the_reference(
    reference: Callable[[str], ModuleType], *, clip: bool, iterations: int, stop: int
) -> None:
    abars = SHORT.alphas_cumprod.numpy()[stop::-1]
    alphas, sigmas = np.append(np.sqrt(abars), 1.0), np.append(np.sqrt(1 - abars), 0.0)

    def denoise(x: np.ndarray, i: int) -> np.ndarray:
        estimate: np.ndarray = (x - sigmas[i] * np.cos(2 * x + stop - i)) / alphas[i]
        return estimate.clip(-1, 1) if clip else estimate

    states = reference("solvers").ddim_invert(denoise, alphas, sigmas, IMAGES.numpy(), iterations)
    measured = ddim_invert(
        crooked, diffusion_of(SHORT, "epsilon"), IMAGES, stop=stop, iterations=iterations, clip=clip
    )
    np.testing.assert_allclose(measured.numpy(), states[-1], rtol=0, atol=1e-12 * np.abs(states).max())


def two_bumps(schedule: NoiseSchedule) -> Callable[[Tensor, Tensor], Tensor]:
    """E[x_0 | x_t] for pixels that are +-0.5 with a standard deviation of 0.3: the best denoiser, and not affine."""
    levels = dict(zip(schedule.timesteps.tolist(), noise_path(schedule)[1:], strict=True))

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        level = levels[int(t[0])]
        variance = (0.3 * level.alpha) ** 2 + level.sigma**2
        bump = level.sigma**2 * 0.5 * torch.tanh(0.5 * level.alpha / variance * x_t)
        pred_xstart: Tensor = (0.3**2 * level.alpha * x_t + bump) / variance
        return pred_xstart

    return model


def round_trip_error(schedule: NoiseSchedule, iterations: int) -> float:
    diffusion, model = diffusion_of(schedule, "sample"), two_bumps(schedule)
    noise = ddim_invert(model, diffusion, IMAGES, iterations=iterations)
    back = ddim_sample(model, diffusion, noise, no_noise, clip=False)
    return float((back - IMAGES).abs().max())


def test_inversion_to_pure_noise_and_back_is_exact() -> None:
    assert round_trip_error(NO_SIGNAL, 1) > 0.1
    assert round_trip_error(NO_SIGNAL, 50) < 1e-13


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_the_error_of_the_round_trip_falls_with_the_steps_to_the_power_of_the_iterations(
    iterations: int,
) -> None:
    errors = [round_trip_error(LONG.respace(steps), iterations) for steps in (50, 100, 200)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(iterations, abs=0.1)


def test_more_iterations_make_the_round_trip_exact() -> None:
    errors = [round_trip_error(LONG.respace(25), iterations) for iterations in (1, 2, 5, 10, 20)]
    assert errors[0] > 0.1  # the usual inversion is off by a twentieth of the grey scale
    assert all(later < earlier / 4 for earlier, later in pairwise(errors))
    assert errors[-1] < 1e-12


def test_inversion_watches_every_step_upwards_and_evaluates_no_more_than_asked() -> None:
    seen: list[int] = []
    asked: list[int] = []

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t[0]))
        return crooked(x_t, t)

    diffusion = diffusion_of(SHORT, "epsilon")
    ddim_invert(model, diffusion, IMAGES, iterations=3, watch=lambda step, _: seen.append(step))
    assert seen == list(range(12))
    assert asked == [step for step in range(12) for _ in range(3)]


def test_an_image_is_inverted_the_same_alone_and_in_a_batch() -> None:
    together = ddim_invert(crooked, diffusion_of(SHORT, "epsilon"), IMAGES, iterations=2)
    alone = ddim_invert(crooked, diffusion_of(SHORT, "epsilon"), IMAGES[1:], iterations=2)
    assert torch.equal(together[1:], alone)


@pytest.mark.parametrize(
    ("invert", "message"),
    [
        (partial(ddim_invert, iterations=0), "asked for 0 iterations"),
        (partial(ddim_invert, stop=12), "Step 12 of the chain was asked for; expected 0 to 11"),
    ],
)
def test_what_cannot_be_inverted_is_refused(invert: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        invert(crooked, diffusion_of(SHORT, "epsilon"), IMAGES)
