"""The multistep solvers and the inversion against their re-derivation in NumPy, evaluation by evaluation."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xraygen.config import DiffusionConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.paths import Level, noise_path
from xraygen.diffusion.samplers import (
    ddim_sample,
    ddpm_sample,
    dpmpp_sample,
    no_noise,
    unipc_sample,
)
from xraygen.diffusion.schedule import NoiseSchedule, cosine_betas, linear_betas, rescale_zero_terminal_snr
from xraygen.diffusion.solvers import exponential_moments, midpoint_slope, sde_coefficients, unipc_weights
from xraygen.errors import UsageError
from xraygen.seeds import torch_generator

PREDICTIONS = ("epsilon", "sample", "v_prediction")
LINEAR = NoiseSchedule.from_betas(linear_betas(12, 0.01, 0.5))
SCHEDULES = {
    "linear": LINEAR,
    "respaced": NoiseSchedule.from_betas(linear_betas(1000, 1e-4, 0.02)).respace(7),
    "cosine": NoiseSchedule.from_betas(cosine_betas(9)),
    "fine": NoiseSchedule.from_betas(linear_betas(300, 1e-4, 0.05)),
    "two": NoiseSchedule.from_betas(linear_betas(12, 0.01, 0.5)).respace(2),
    "one": NoiseSchedule.from_betas(linear_betas(12, 0.01, 0.5)).respace(1),
}
NO_SIGNAL = NoiseSchedule.from_alphas_cumprod(rescale_zero_terminal_snr(LINEAR.alphas_cumprod))
"""Zero terminal SNR: the last step holds no image, so lambda is -inf there."""

each_prediction = pytest.mark.parametrize("prediction_type", PREDICTIONS)
each_schedule = pytest.mark.parametrize("name", SCHEDULES)
each_order = pytest.mark.parametrize("order", [1, 2, 3])
each_start = pytest.mark.parametrize("start", [11, 5, 1, 0])


@pytest.fixture(scope="module")
def solvers(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("solvers")


def integral_over_step(h: float, x_start: Callable[[float], float]) -> float:
    """h * integral of exp(-(1 - u) h) x_start(u) over u in [0, 1], by 40 nodes of Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    return float(
        sum(
            w / 2 * h * math.exp(-(1 - (1 + u) / 2) * h) * x_start((1 + u) / 2)
            for u, w in zip(nodes.tolist(), weights.tolist(), strict=True)
        )
    )


def diffusion_of(schedule: NoiseSchedule, prediction_type: str = "epsilon") -> GaussianDiffusion:
    settings = {"prediction_type": prediction_type, "variance_type": "fixed_small"}
    return GaussianDiffusion(schedule, DiffusionConfig.model_validate(settings))


def draw(purpose: str | int) -> Tensor:
    generator = torch_generator(0, "solvers", purpose)
    return torch.randn((2, 1, 2, 3), generator=generator, dtype=torch.float64)


class Crooked:
    """A model that no formula of diffusion could turn into something simple; it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[np.ndarray] = []

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.asked.append(x_t.numpy().copy())
        return torch.cos(2 * x_t + t.view(-1, 1, 1, 1))


class Reference:
    """The same model for the references: a path, noisiest first, and its clipped estimate of x_0."""

    def __init__(
        self, schedule: NoiseSchedule, prediction_type: str, start: int, *, clip: bool = True
    ) -> None:
        abars = schedule.alphas_cumprod.numpy()[start::-1]
        self.alphas, self.sigmas = np.append(np.sqrt(abars), 1.0), np.append(np.sqrt(1 - abars), 0.0)
        self.told = schedule.timesteps.tolist()[start::-1]
        self.prediction_type, self.clip = prediction_type, clip
        self.asked: list[np.ndarray] = []

    def __call__(self, x: np.ndarray, i: int) -> np.ndarray:
        self.asked.append(x)
        alpha, sigma = float(self.alphas[i]), float(self.sigmas[i])
        output: np.ndarray = np.cos(2 * x + self.told[i])
        if self.prediction_type == "epsilon":
            output = (x - sigma * output) / alpha
        elif self.prediction_type == "v_prediction":
            output = alpha * x - sigma * output
        return output.clip(-1, 1) if self.clip else output


def agree(
    numerics: Any, measured: Tensor, model: Crooked, expected: np.ndarray, reference: Reference
) -> None:
    """Every state at which the network was asked, and the images, relative to the largest value."""
    assert len(model.asked) == len(reference.asked)
    largest = max(np.abs(state).max() for state in [*reference.asked, expected])
    numerics.check(
        "solvers", np.stack(model.asked) / largest, np.stack(reference.asked) / largest, absolute=True
    )
    numerics.check("solvers", measured.numpy() / largest, expected / largest, absolute=True)


@each_schedule
@each_prediction
@pytest.mark.parametrize("order", [1, 2])
def test_dpmpp_equals_the_reference_at_every_step(
    numerics: Any, solvers: ModuleType, order: int, prediction_type: str, name: str
) -> None:
    schedule, model = SCHEDULES[name], Crooked()
    slow = Reference(schedule, prediction_type, len(schedule.timesteps) - 1)
    chain = {1: solvers.ddim, 2: solvers.dpmpp_2m}[order]
    expected = chain(slow, slow.alphas, slow.sigmas, draw("x_T").numpy())[-1]
    measured = dpmpp_sample(
        model, diffusion_of(schedule, prediction_type), draw("x_T"), no_noise, order=order
    )
    agree(numerics, measured, model, expected, slow)


@each_schedule
@each_prediction
def test_sde_dpmpp_equals_the_reference_at_every_step(
    numerics: Any, solvers: ModuleType, prediction_type: str, name: str
) -> None:
    schedule, model = SCHEDULES[name], Crooked()
    last = len(schedule.timesteps) - 1
    slow = Reference(schedule, prediction_type, last)
    noises = [draw(i).numpy() for i in range(last, -1, -1)]
    expected = solvers.sde_dpmpp_2m(slow, slow.alphas, slow.sigmas, draw("x_T").numpy(), noises)[-1]
    measured = dpmpp_sample(model, diffusion_of(schedule, prediction_type), draw("x_T"), draw, sde=True)
    agree(numerics, measured, model, expected, slow)


@each_schedule
@each_prediction
@each_order
def test_unipc_equals_the_reference_at_every_step(
    numerics: Any, solvers: ModuleType, order: int, prediction_type: str, name: str
) -> None:
    schedule, model = SCHEDULES[name], Crooked()
    slow = Reference(schedule, prediction_type, len(schedule.timesteps) - 1)
    expected = solvers.unipc(slow, slow.alphas, slow.sigmas, draw("x_T").numpy(), order)[-1]
    measured = unipc_sample(
        model, diffusion_of(schedule, prediction_type), draw("x_T"), no_noise, order=order
    )
    agree(numerics, measured, model, expected, slow)


@each_start
def test_a_chain_that_starts_inside_the_schedule_equals_the_reference(
    numerics: Any, solvers: ModuleType, start: int
) -> None:
    model, slow = Crooked(), Reference(LINEAR, "epsilon", start)
    expected = solvers.unipc(slow, slow.alphas, slow.sigmas, draw("x_T").numpy(), 3)[-1]
    measured = unipc_sample(model, diffusion_of(LINEAR), draw("x_T"), no_noise, order=3, start=start)
    agree(numerics, measured, model, expected, slow)
    model, slow = Crooked(), Reference(LINEAR, "epsilon", start)
    expected = solvers.dpmpp_2m(slow, slow.alphas, slow.sigmas, draw("x_T").numpy())[-1]
    measured = dpmpp_sample(model, diffusion_of(LINEAR), draw("x_T"), no_noise, start=start)
    agree(numerics, measured, model, expected, slow)


# Zero terminal SNR


@pytest.mark.parametrize("prediction_type", ["sample", "v_prediction"])
@pytest.mark.parametrize("solver", ["dpmpp", "sde", "unipc-1", "unipc-2", "unipc-3"])
def test_a_chain_from_pure_noise_equals_the_reference(
    numerics: Any, solvers: ModuleType, solver: str, prediction_type: str
) -> None:
    diffusion, model = diffusion_of(NO_SIGNAL, prediction_type), Crooked()
    slow, x = Reference(NO_SIGNAL, prediction_type, 11), draw("x_T")
    path = (slow, slow.alphas, slow.sigmas, x.numpy())
    assert slow.alphas[0] == 0
    if solver == "dpmpp":
        expected, measured = solvers.dpmpp_2m(*path)[-1], dpmpp_sample(model, diffusion, x, no_noise)
    elif solver == "sde":
        expected = solvers.sde_dpmpp_2m(*path, [draw(i).numpy() for i in range(11, -1, -1)])[-1]
        measured = dpmpp_sample(model, diffusion, x, draw, sde=True)
    else:
        order = int(solver[-1])
        expected = solvers.unipc(*path, order)[-1]
        measured = unipc_sample(model, diffusion, x, no_noise, order=order)
    agree(numerics, measured, model, expected, slow)
    assert measured.isfinite().all()


@pytest.mark.parametrize(
    ("sample", "fresh", "tolerance"),
    [
        (partial(ddim_sample, eta=0.0), False, 1e-15),
        (partial(ddim_sample, eta=1.0), True, 1e-7),  # sqrt(1 - abar - sigma^2), the root of a rounding
        (ddpm_sample, True, 1e-15),
        (dpmpp_sample, False, 1e-15),
        (partial(dpmpp_sample, sde=True), True, 1e-15),
        (unipc_sample, False, 1e-15),
    ],
    ids=["ddim", "ddim-1", "ddpm", "dpmpp", "sde", "unipc"],
)
def test_the_first_step_from_pure_noise_keeps_or_redraws_the_noise(
    sample: Callable[..., Tensor], tolerance: float, *, fresh: bool
) -> None:
    # With alpha_s = 0 every first-order step is x_t = alpha_t x_0 + sigma_t eps, eps being the state itself or fresh.
    model, x = Crooked(), draw("x_T")
    sample(model, diffusion_of(NO_SIGNAL, "sample"), x, draw)
    level = noise_path(NO_SIGNAL)[11]
    expected = level.alpha * torch.cos(2 * x + 11) + level.sigma * (draw(11) if fresh else x)
    np.testing.assert_allclose(model.asked[1], expected.numpy(), rtol=0, atol=tolerance)


def test_little_signal_at_the_end_is_nearly_none() -> None:
    # The weight of the evaluation at lambda -> -inf falls like 1 / |lambda|: 1e-3 of a difference at most 2.
    abars = NO_SIGNAL.alphas_cumprod.clone()
    limit = dpmpp_sample(Crooked(), diffusion_of(NO_SIGNAL, "sample"), draw("x_T"), no_noise)
    abars[-1] = 1e-300
    nearly = diffusion_of(NoiseSchedule.from_alphas_cumprod(abars), "sample")
    almost = dpmpp_sample(Crooked(), nearly, draw("x_T"), no_noise)
    slope = midpoint_slope(*reversed(noise_path(nearly.schedule)[-3:]))
    assert 0 < slope < 2e-3
    # Later steps carry it on without blowing it up.
    torch.testing.assert_close(almost, limit, rtol=0, atol=0.01)


# Coefficients


@pytest.mark.parametrize("h", [1e-6, 1e-3, 0.1, 0.999, 1.001, 3.0, 30.0])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_moments_are_the_integrals_at_every_step_size(n: int, h: float) -> None:
    integral = integral_over_step(h, lambda u: u**n)
    assert exponential_moments(h, 3)[n - 1] == pytest.approx(integral, rel=1e-13, abs=0)


@pytest.mark.parametrize("ratios", [[-1.3, 1.0], [-0.7, -1.9], [-0.9, -2.1, 1.0]])
@pytest.mark.parametrize("h", [0.01, 0.5, 4.0])
def test_unipc_integrates_polynomials_exactly(h: float, ratios: list[float]) -> None:
    # x_0-hat(lambda_s + u h) = u + 2 u^2 (- u^3): differences at the points times weights must give its integral.
    powers = (1.0, 2.0, -1.0)[: len(ratios)]

    def x_start(u: float) -> float:
        return sum(factor * u ** (n + 1) for n, factor in enumerate(powers))

    weights = unipc_weights(h, ratios)
    found = sum(weight * x_start(ratio) for weight, ratio in zip(weights, ratios, strict=True))
    assert found == pytest.approx(integral_over_step(h, x_start), rel=1e-12)


@pytest.mark.parametrize("ratio", [-1.5, 1.0])
def test_a_single_point_of_unipc_takes_one_half(ratio: float) -> None:
    assert unipc_weights(0.3, [ratio]) == pytest.approx([0.5 * (1 - math.exp(-0.3)) / ratio], rel=1e-14)


def test_the_noise_of_the_sde_keeps_the_variance_of_the_path() -> None:
    # Data of one value: x_s = alpha_s x_0 + sigma_s eps must become alpha_t x_0 + sigma_t eps.
    for target, source in pairwise(noise_path(LINEAR)):
        a, b, c = sde_coefficients(source, target)
        assert a * source.alpha + b == pytest.approx(target.alpha, rel=1e-14)
        assert (a * source.sigma) ** 2 + c**2 == pytest.approx(target.sigma**2, rel=1e-13)


def test_the_path_ends_at_the_clean_image() -> None:
    path = noise_path(LINEAR)
    assert len(path) == 13
    assert path[0] == Level(1.0, 0.0)
    assert path[0].log_snr == math.inf
    assert noise_path(NO_SIGNAL)[-1].log_snr == -math.inf
    assert path[3].log_snr == pytest.approx(0.5 * math.log(float(LINEAR.snr[2])), rel=1e-14)


# What the samplers are to each other


@each_schedule
def test_first_order_dpmpp_is_ddim(name: str) -> None:
    diffusion = diffusion_of(SCHEDULES[name])
    ddim = ddim_sample(Crooked(), diffusion, draw("x_T"), no_noise)
    dpmpp = dpmpp_sample(Crooked(), diffusion, draw("x_T"), no_noise, order=1)
    torch.testing.assert_close(dpmpp, ddim, rtol=0, atol=1e-12)


@each_schedule
def test_first_order_sde_dpmpp_is_the_ancestral_sampler(name: str) -> None:
    diffusion = diffusion_of(SCHEDULES[name])
    ancestral = ddpm_sample(Crooked(), diffusion, draw("x_T"), draw)
    dpmpp = dpmpp_sample(Crooked(), diffusion, draw("x_T"), draw, order=1, sde=True)
    torch.testing.assert_close(dpmpp, ancestral, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("sample", "settings"),
    [(dpmpp_sample, {}), (dpmpp_sample, {"sde": True}), *((unipc_sample, {"order": k}) for k in (1, 2, 3))],
    ids=["dpmpp", "sde", "unipc-1", "unipc-2", "unipc-3"],
)
def test_the_images_are_the_last_pred_xstart(
    sample: Callable[..., Tensor], settings: dict[str, object]
) -> None:
    seen: list[Tensor] = []
    images = sample(
        Crooked(), diffusion_of(LINEAR), draw("x_T"), draw, watch=lambda _, x: seen.append(x), **settings
    )
    assert torch.equal(images, seen[-1])


# What is refused


@pytest.mark.parametrize(
    ("sample", "settings", "message"),
    [
        (dpmpp_sample, {"order": 3}, r"dpm\+\+ was asked for order 3; expected 1 or 2"),
        (unipc_sample, {"order": 0}, "unipc was asked for order 0; expected 1, 2 or 3"),
        (unipc_sample, {"start": 12}, "Step 12 of the chain was asked for; expected 0 to 11"),
        (dpmpp_sample, {"start": -1}, "Step -1 of the chain was asked for; expected 0 to 11"),
        (ddim_sample, {"start": 12}, "Step 12 of the chain was asked for; expected 0 to 11"),
        (ddpm_sample, {"start": 12}, "Step 12 of the chain was asked for; expected 0 to 11"),
        (dpmpp_sample, {"sde": True}, "Step 11 of this chain is random"),
    ],
)
def test_what_cannot_be_sampled_is_refused(
    sample: Callable[..., Tensor], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        sample(Crooked(), diffusion_of(LINEAR), draw("x_T"), no_noise, **settings)
