"""Guidance against closed forms: networks whose two predictions are known, and Gaussian data whose score is."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from xraygen.config import DiffusionConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.guidance import guidance_interval, guided, told
from xraygen.diffusion.samplers import ddim_sample, dpmpp_sample, no_noise, unipc_sample
from xraygen.diffusion.schedule import NoiseSchedule, cosine_betas
from xraygen.errors import UsageError
from xraygen.seeds import torch_generator

SCHEDULE = NoiseSchedule.from_betas(cosine_betas(40))
PREDICTIONS = get_args(DiffusionConfig.model_fields["prediction_type"].annotation)
T = torch.tensor([0, 7, 20, 39])
CONDITION = torch.tensor([[1.0], [2.0], [0.0], [5.0]])


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, "test", "guidance"), dtype=torch.float64)


class Linear:
    """Predicts 2 x unconditionally and 3 x + c conditionally; the second half, if any, is -1 or c. Counts its calls."""

    def __init__(self, *, variance: bool = False) -> None:
        self.calls, self.variance = 0, variance

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self.calls += 1
        if condition is None:
            out, place = 2 * x_t, torch.full_like(x_t, -1)
        else:
            c = condition[:, 0].view(-1, 1, 1, 1).to(x_t.dtype)
            out, place = 3 * x_t + c, c.expand_as(x_t)
        return torch.cat([out, place], dim=1) if self.variance else out


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 1.5, 3.0])
def test_guidance_mixes_the_two_predictions(weight: float) -> None:
    x = draw(4, 1, 2, 2)
    out = guided(Linear(), CONDITION, weight)(x, T)
    c = CONDITION.view(-1, 1, 1, 1).double()
    torch.testing.assert_close(out, (2 + weight) * x + weight * c, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("weight", "calls"), [(0.0, 1), (1.0, 1), (0.5, 2), (3.0, 2)])
def test_the_network_is_asked_twice_only_where_it_must_be(weight: float, calls: int) -> None:
    model = Linear()
    guided(model, CONDITION, weight)(draw(4, 1, 2, 2), T)
    assert model.calls == calls


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_a_learned_variance_is_the_conditional_predictions(weight: float) -> None:
    x = draw(4, 1, 2, 2)
    out = guided(Linear(variance=True), CONDITION, weight)(x, T)
    plain = guided(Linear(), CONDITION, weight)(x, T)
    assert out.shape == (4, 2, 2, 2)
    assert torch.equal(out[:, :1], plain)
    assert torch.equal(out[:, 1:], CONDITION.view(-1, 1, 1, 1).double().expand_as(x))


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_outside_the_interval_the_weight_is_one(weight: float) -> None:
    x, model = draw(4, 1, 2, 2), Linear()
    out = guided(model, CONDITION, weight, (6.5, 20.0))(x, T)
    inside, outside = guided(Linear(), CONDITION, weight)(x, T), told(Linear(), CONDITION)(x, T)
    assert torch.equal(out[1:3], inside[1:3])
    assert torch.equal(out[[0, 3]], outside[[0, 3]])
    assert model.calls == 2
    guided(model, CONDITION, weight, (50.0, 60.0))(x, T)
    assert model.calls == 3  # outside: once


def test_no_conditions_at_all_are_nothing_told() -> None:
    x = draw(4, 1, 2, 2)
    assert torch.equal(told(Linear(), torch.empty(4, 0))(x, T), 2 * x)


class TwoGaussians:
    """The exact network for pixels from N(0, 1) unconditionally, and N(m, s^2) when told so."""

    def __init__(self, diffusion: GaussianDiffusion, mean: float, std: float) -> None:
        self.diffusion, self.mean, self.std = diffusion, mean, std

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        mean, std = (0.0, 1.0) if condition is None else (self.mean, self.std)
        schedule = self.diffusion.schedule
        if (
            self.diffusion.config.prediction_type == "edm"
        ):  # undo c_in, and find the step by what is told of it
            step = (schedule.sigmas.log() / 4 - t[:, None]).abs().argmin(dim=1)
            scale = (1 + schedule.sigmas[step].square()).sqrt()
            data = self.diffusion.config.sigma_data
            x_t = x_t * ((schedule.sigmas[step].square() + data**2).sqrt() / scale).view(-1, 1, 1, 1)
        else:
            step = t
        abar = schedule.alphas_cumprod[step].view(-1, 1, 1, 1)
        variance = abar * std**2 + 1 - abar
        x_start = mean + abar.sqrt() * std**2 / variance * (x_t - abar.sqrt() * mean)
        noise = (x_t - abar.sqrt() * x_start) / (1 - abar).sqrt()
        return self.diffusion.target(x_start, step, noise)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_guidance_means_the_same_whatever_the_network_predicts(prediction: str) -> None:
    diffusion = GaussianDiffusion(SCHEDULE, DiffusionConfig.model_validate({"prediction_type": prediction}))
    x_t, weight = draw(4, 1, 2, 2), 2.5
    model = TwoGaussians(diffusion, 0.4, 0.3)
    found = diffusion.denoise(guided(model, CONDITION, weight), x_t, T, clip=False)
    parts = [diffusion.denoise(told(model, condition), x_t, T, clip=False) for condition in (None, CONDITION)]
    # float64; sqrt(1 - abar) is smallest at t = 0 and costs the noise three digits there.
    torch.testing.assert_close(found, (1 - weight) * parts[0] + weight * parts[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", [ddim_sample, dpmpp_sample, unipc_sample])
def test_a_guided_chain_ends_where_the_guided_score_leads(prediction: str, sampler: object) -> None:
    """Equal variances: the guided score is that of N(w m, s^2), so the chain's images have the mean w m."""
    schedule = NoiseSchedule.from_betas(cosine_betas(400))
    diffusion = GaussianDiffusion(
        schedule,
        DiffusionConfig.model_validate({"prediction_type": prediction, "variance_type": "fixed_small"}),
    )
    model, weight, mean = TwoGaussians(diffusion, 0.2, 1.0), 2.0, 0.2
    x_t = draw(64, 1, 2, 2)
    chain = diffusion.respace(100)

    def sample(w: float) -> Tensor:
        network = guided(model, torch.zeros(64, 1), w)
        return sampler(network, chain, x_t, no_noise, clip=False)  # type: ignore[operator,no-any-return]

    # From one noise the ODE's images of N(w m, 1) and N(0, 1) differ by w m, but for the signal left at the last step.
    shift = (sample(weight) - sample(0.0)).mean().item()
    assert shift == pytest.approx(weight * mean, rel=0.02)  # discretisation: 100 steps


@pytest.mark.parametrize("prediction", ["v_prediction", "edm"])
@pytest.mark.parametrize("steps", [40, 10])
def test_the_interval_of_noise_holds_the_steps_between(prediction: str, steps: int) -> None:
    diffusion = GaussianDiffusion(
        SCHEDULE,
        DiffusionConfig.model_validate({"prediction_type": prediction, "variance_type": "fixed_small"}),
    ).respace(steps)
    low, high = guidance_interval(diffusion, 0.3, 2.0)
    heard: list[Tensor] = []

    def listen(x_t: Tensor, t: Tensor) -> Tensor:
        heard.append(t)
        return x_t

    diffusion.model_output(listen, draw(steps, 1, 2, 2), torch.arange(steps))
    inside = (heard[0] > low) & (heard[0] <= high)
    sigmas = diffusion.schedule.sigmas
    assert torch.equal(inside, (sigmas > 0.3) & (sigmas <= 2.0))
    assert 0 < inside.sum() < steps


def test_an_interval_of_all_noise_is_unbounded_and_an_empty_one_refused() -> None:
    diffusion = GaussianDiffusion(SCHEDULE, DiffusionConfig())
    assert guidance_interval(diffusion, 0.0, math.inf) == (-math.inf, math.inf)
    with pytest.raises(UsageError, match="holds no step"):
        guidance_interval(diffusion, 1e-9, 2e-9)
