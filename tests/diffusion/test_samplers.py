import math
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xraygen.config import DiffusionConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.samplers import ddim_sample, ddpm_sample, dpmpp_sample, no_noise, unipc_sample
from xraygen.diffusion.schedule import NoiseSchedule, linear_betas
from xraygen.errors import UsageError
from xraygen.seeds import torch_generator

PREDICTIONS = ("epsilon", "sample", "v_prediction")
VARIANCES = ("fixed_small", "fixed_large")
SHORT = (8, 0.02, 0.4)
"""A chain of eight steps, noisy enough (abar 0.13 at its end) that clipping acts in it."""
MEAN, STD = 0.1, 0.2
"""Gaussian data: +-1 lies 4.5 standard deviations away, so clipping touches 4 pixels in a million."""

SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddpm": ddpm_sample,
    "ddim": ddim_sample,
    "ddim-1": partial(ddim_sample, eta=1.0),
    "dpmpp": dpmpp_sample,
    "sde": partial(dpmpp_sample, sde=True),
    "unipc-1": partial(unipc_sample, order=1),
    "unipc-2": unipc_sample,
    "unipc-3": partial(unipc_sample, order=3),
}
RANDOM = {"ddpm", "ddim-1", "sde"}

each_sampler = pytest.mark.parametrize("name", SAMPLERS)
each_prediction = pytest.mark.parametrize("prediction_type", PREDICTIONS)
each_variance = pytest.mark.parametrize("variance_type", VARIANCES)
each_start = pytest.mark.parametrize("start", [None, 5, 1, 0])


@pytest.fixture(scope="module")
def ddpm(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("ddpm")


def diffusion_of(betas: tuple[int, float, float] = SHORT, **settings: object) -> GaussianDiffusion:
    schedule = NoiseSchedule.from_betas(linear_betas(*betas))
    return GaussianDiffusion(schedule, DiffusionConfig.model_validate(settings))


def draw(purpose: str | int, shape: tuple[int, ...] = (2, 1, 3, 5)) -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, "test", purpose), dtype=torch.float64)


def crooked(x_t: Tensor, t: Tensor) -> Tensor:
    """A model that no formula of diffusion could turn into something simple."""
    return torch.cos(2 * x_t + t.view(-1, 1, 1, 1))


def slow_eps(ddpm: ModuleType, abar: float, x: np.ndarray, told: int, prediction_type: str) -> np.ndarray:
    """The noise that `crooked` implies, by the schedule of one step: betas = [1 - abar]."""
    output: np.ndarray = np.cos(2 * x + told)
    one_step = np.array([1 - abar])
    if prediction_type == "epsilon":
        return output
    if prediction_type == "sample":
        return np.asarray(ddpm.eps_from_xstart(one_step, x, 0, output))
    return np.asarray(ddpm.eps_from_v(one_step, x, 0, output))


def gaussian_model(ddpm: ModuleType, diffusion: GaussianDiffusion) -> Callable[[Tensor, Tensor], Tensor]:
    """The best possible network for pixels N(MEAN, STD^2), which is told original timesteps."""
    full = ddpm.alphas_cumprod(ddpm.linear_betas(1000, 1e-4, 0.02))
    assert diffusion.config.prediction_type == "epsilon"

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        eps: Tensor = ddpm.gaussian_data_eps(float(full[int(t[0])]), x_t, MEAN, STD)
        return eps

    return model


@each_start
@each_variance
@each_prediction
def test_the_ancestral_chain_equals_the_reference(
    ddpm: ModuleType, numerics: Any, prediction_type: str, variance_type: str, start: int | None
) -> None:
    diffusion = diffusion_of(prediction_type=prediction_type, variance_type=variance_type)
    measured = ddpm_sample(crooked, diffusion, draw("x_T"), draw, start=start)
    betas, x = ddpm.linear_betas(*SHORT), draw("x_T").numpy()
    for t in reversed(range(8 if start is None else start + 1)):
        eps = slow_eps(ddpm, float(ddpm.alphas_cumprod(betas)[t]), x, t, prediction_type)
        x = ddpm.ancestral_step(betas, x, t, eps, draw(t).numpy(), variance_type)
    numerics.check("solvers", measured, x)


@each_start
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@each_prediction
def test_the_implicit_chain_equals_the_reference(
    ddpm: ModuleType, numerics: Any, prediction_type: str, eta: float, start: int | None
) -> None:
    diffusion = diffusion_of(prediction_type=prediction_type)
    noise = draw if eta else no_noise
    measured = ddim_sample(crooked, diffusion, draw("x_T"), noise, eta=eta, start=start)
    abars, x = ddpm.alphas_cumprod(ddpm.linear_betas(*SHORT)), draw("x_T").numpy()
    for t in reversed(range(8 if start is None else start + 1)):
        eps = slow_eps(ddpm, float(abars[t]), x, t, prediction_type)
        before = 1.0 if t == 0 else float(abars[t - 1])
        x = ddpm.ddim_step(float(abars[t]), before, x, eps, draw(t).numpy(), eta)
    numerics.check("solvers", measured, x)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_respaced_implicit_chain_equals_the_reference(
    ddpm: ModuleType, numerics: Any, eta: float
) -> None:
    respaced = diffusion_of(variance_type="fixed_small").respace(3)
    kept = [0, 4, 7]  # 0, 3.5 and 7; the half is rounded to the even number
    assert respaced.schedule.timesteps.tolist() == kept
    measured = ddim_sample(crooked, respaced, draw("x_T"), draw, eta=eta)
    abars, x = ddpm.alphas_cumprod(ddpm.linear_betas(*SHORT)), draw("x_T").numpy()
    for k in (2, 1, 0):
        eps = slow_eps(ddpm, float(abars[kept[k]]), x, kept[k], "epsilon")
        before = 1.0 if k == 0 else float(abars[kept[k - 1]])
        x = ddpm.ddim_step(float(abars[kept[k]]), before, x, eps, draw(k).numpy(), eta)
    numerics.check("solvers", measured, x)


@pytest.mark.parametrize("steps", [8, 3])
def test_the_implicit_chain_at_eta_one_is_the_ancestral_one(steps: int) -> None:
    # Song et al. 2021, sec. 4.1: with eq. 16 at eta 1 the process becomes DDPM's, with the posterior's variance.
    diffusion = diffusion_of(variance_type="fixed_small").respace(steps)
    ancestral = ddpm_sample(crooked, diffusion, draw("x_T"), draw)
    implicit = ddim_sample(crooked, diffusion, draw("x_T"), draw, eta=1.0)
    torch.testing.assert_close(implicit, ancestral, rtol=0, atol=1e-12)


@each_variance
def test_ancestral_sampling_with_the_best_denoiser_gives_the_data_back(
    ddpm: ModuleType, variance_type: str
) -> None:
    diffusion, count = diffusion_of((1000, 1e-4, 0.02), variance_type=variance_type), 64 * 256
    generator = torch_generator(0, "chain", variance_type)

    def noise(_: int) -> Tensor:
        return torch.randn(1, 1, 64, 256, generator=generator)

    images = ddpm_sample(gaussian_model(ddpm, diffusion), diffusion, noise(0), noise).double()
    # The moments of this chain are known without sampling: 0.10000 +- 0.19630 (small) or 0.20093 (large).
    mean, std = ddpm.ancestral_moments(ddpm.linear_betas(1000, 1e-4, 0.02), MEAN, STD, variance_type)
    # Four standard errors of 16,384 independent pixels: 0.0063 of the mean, 0.0044 of the deviation.
    assert float(images.mean()) == pytest.approx(mean, abs=4 * STD / math.sqrt(count))
    assert float(images.std()) == pytest.approx(std, abs=4 * STD / math.sqrt(2 * count))
    # And a thousand steps leave them within 2 % of the data's.
    assert mean == pytest.approx(MEAN, abs=1e-6)
    assert std == pytest.approx(STD, rel=0.02)


@pytest.mark.parametrize("steps", [5, 20, 100, 1000])
def test_the_implicit_sampler_with_the_best_denoiser_has_the_moments_known_without_sampling(
    ddpm: ModuleType, steps: int
) -> None:
    respaced = diffusion_of((1000, 1e-4, 0.02), variance_type="fixed_small").respace(steps)
    x_t = torch.linspace(-3, 3, 7, dtype=torch.float64).view(7, 1, 1, 1)
    images = ddim_sample(gaussian_model(ddpm, respaced), respaced, x_t, no_noise)
    abars = ddpm.alphas_cumprod(ddpm.linear_betas(1000, 1e-4, 0.02))[respaced.schedule.timesteps.numpy()]
    mean, std = ddpm.ddim_moments(abars, MEAN, STD)
    # Deterministic and affine, so each image is mean + std x_T: no Monte Carlo. 1000 steps of roundings.
    torch.testing.assert_close(images, mean + std * x_t, rtol=0, atol=1e-11)


def test_doubling_the_implicit_steps_halves_the_error_of_the_deviation(ddpm: ModuleType) -> None:
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    full = diffusion_of((1000, 1e-4, 0.02), variance_type="fixed_small")
    errors = []
    for steps in (50, 100, 200):
        respaced = full.respace(steps)
        low, high = ddim_sample(gaussian_model(ddpm, respaced), respaced, ends, no_noise).flatten().tolist()
        errors.append(STD - (high - low) / 2)
    # Euler's method is of first order; higher orders of 1 / 50 remain.
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.05)
    assert errors[2] / errors[1] == pytest.approx(0.5, abs=0.05)
    assert errors[2] < 0.05 * STD


@each_sampler
def test_a_random_chain_asks_for_the_noise_of_each_step_but_the_last_and_others_for_none(name: str) -> None:
    seen: list[int] = []

    def noise(step: int) -> Tensor:
        seen.append(step)
        return draw(step)

    SAMPLERS[name](crooked, diffusion_of(), draw("x_T"), noise)
    assert seen == ([7, 6, 5, 4, 3, 2, 1] if name in RANDOM else [])


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_a_random_chain_without_noise_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="Step 7 of this chain is random"):
        SAMPLERS[name](crooked, diffusion_of(), draw("x_T"), no_noise)


def test_ancestral_sampling_with_the_large_variance_is_refused_below_all_steps() -> None:
    full = diffusion_of(variance_type="fixed_large")
    with pytest.raises(UsageError, match="fixed_large holds only for all timesteps"):
        full.respace(7)
    images = ddpm_sample(crooked, full.with_variance("fixed_small").respace(7), draw("x_T"), draw)
    assert images.isfinite().all()


@each_sampler
@pytest.mark.parametrize("start", [None, 4])
def test_watch_sees_every_step_in_order_and_clipped(name: str, start: int | None) -> None:
    seen: list[tuple[int, float]] = []
    images = SAMPLERS[name](
        crooked,
        diffusion_of(),
        draw("x_T"),
        draw,
        start=start,
        watch=lambda step, pred_xstart: seen.append((step, float(pred_xstart.abs().max()))),
    )
    assert [step for step, _ in seen] == list(range(7 if start is None else start, -1, -1))
    assert max(largest for _, largest in seen) == 1  # otherwise nothing was clipped
    assert float(images.abs().max()) <= 1 + 1e-12  # the last mean is pred_xstart, up to a rounding


@each_sampler
def test_clipping_is_left_off_on_request_and_does_nothing_where_nothing_is_beyond(name: str) -> None:
    def largest(model: Callable[[Tensor, Tensor], Tensor], **settings: bool) -> tuple[float, Tensor]:
        seen: list[float] = []
        images = SAMPLERS[name](
            model,
            diffusion_of(prediction_type="sample"),
            draw("x_T"),
            draw,
            watch=lambda _, x: seen.append(float(x.abs().max())),
            **settings,
        )
        return max(seen), images

    assert largest(lambda x_t, t: 3 * crooked(x_t, t))[0] == 1
    assert 2 < largest(lambda x_t, t: 3 * crooked(x_t, t), clip=False)[0] <= 3
    assert torch.equal(largest(crooked)[1], largest(crooked, clip=False)[1])


@each_sampler
def test_an_image_is_the_same_alone_and_in_a_batch(name: str) -> None:
    together = SAMPLERS[name](crooked, diffusion_of(), draw("x_T"), draw)
    alone = SAMPLERS[name](crooked, diffusion_of(), draw("x_T")[1:], lambda step: draw(step)[1:])
    assert torch.equal(together[1:], alone)


@each_sampler
def test_the_network_is_told_the_original_timesteps_once_per_step(name: str) -> None:
    told: list[list[int]] = []

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        told.append(t.tolist())
        return x_t

    respaced = diffusion_of((1000, 1e-4, 0.02), variance_type="fixed_small").respace(4)
    SAMPLERS[name](model, respaced, draw("x_T"), draw)
    assert told == [[999, 999], [666, 666], [333, 333], [0, 0]]


@each_sampler
def test_sampling_needs_no_gradient_and_keeps_float32(name: str) -> None:
    weight = torch.ones((), requires_grad=True)
    images = SAMPLERS[name](
        lambda x_t, t: weight * crooked(x_t, t),
        diffusion_of(),
        draw("x_T").float(),
        lambda step: draw(step).float(),
    )
    assert images.dtype == torch.float32
    assert not images.requires_grad
