"""Which timesteps a shorter chain keeps, against slow searches, and what each choice is worth on Gaussian data."""

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from xraygen.config import DiffusionConfig, ScheduleConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.samplers import ddim_sample, dpmpp_sample, no_noise, unipc_sample
from xraygen.diffusion.schedule import NoiseSchedule, cosine_betas, linear_betas
from xraygen.diffusion.spacing import Spacing, kept_timesteps

SCHEDULES = {
    "linear": NoiseSchedule.from_betas(linear_betas(1000, 1e-4, 0.02)),
    "cosine": NoiseSchedule.from_betas(cosine_betas(1000)),
    "edm": NoiseSchedule.from_config(ScheduleConfig(kind="edm")),
    "zero terminal": NoiseSchedule.from_config(ScheduleConfig(zero_terminal_snr=True)),
    "short": NoiseSchedule.from_betas(linear_betas(12, 0.01, 0.5)),
}
COUNTS = (1, 2, 3, 5, 10, 20, 50, 100, 999)


def slow_places(abars: np.ndarray, spacing: str) -> list[float]:
    """Where each timestep lies on the axis in which the spacing takes equal steps."""
    sigmas = [math.inf if a == 0 else math.sqrt((1 - a) / a) for a in abars.tolist()]
    if spacing == "edm":
        return [sigma ** (1 / 7) for sigma in sigmas]
    return [math.inf if sigma == math.inf else math.log(sigma) for sigma in sigmas]


def slow_nearest(abars: np.ndarray, steps: int, spacing: str) -> list[int]:
    """For each wanted place the nearest timestep by looking at all, then whoever was asked for twice moves up."""
    places = slow_places(abars, spacing)
    noise_only = [len(places) - 1] if math.isinf(places[-1]) else []
    places = places[: len(places) - len(noise_only)]
    inner = steps - len(noise_only)
    first, last = places[0], places[-1]
    wanted = [last] if inner == 1 else [first + (last - first) * i / (inner - 1) for i in range(inner)]
    kept: list[int] = []
    for number, want in enumerate(wanted):
        nearest = min(range(len(places)), key=lambda t: abs(places[t] - want))
        while nearest in kept or (kept and nearest < kept[-1]):
            nearest += 1
        kept.append(min(nearest, len(places) - inner + number))
    return kept + noise_only


@pytest.mark.parametrize("steps", COUNTS)
@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize("name", SCHEDULES)
def test_each_timestep_is_kept_once_in_order_and_the_noisiest_always(
    name: str, spacing: Spacing, steps: int
) -> None:
    schedule = SCHEDULES[name]
    if steps > len(schedule.timesteps):
        pytest.skip("the schedule has fewer")
    kept = schedule.respace(steps, spacing).timesteps
    assert len(kept) == steps
    assert bool((kept.diff() > 0).all())
    assert int(kept[-1]) == schedule.num_timesteps - 1
    assert int(kept[0]) >= 0


@pytest.mark.parametrize("steps", [2, 5, 20, 100])
@pytest.mark.parametrize("spacing", ["log-snr", "edm"])
@pytest.mark.parametrize("name", ["linear", "cosine", "edm", "zero terminal"])
def test_equal_steps_of_noise_are_those_of_a_search_through_all_timesteps(
    name: str, spacing: Spacing, steps: int
) -> None:
    abars = SCHEDULES[name].alphas_cumprod
    assert kept_timesteps(abars, steps, spacing).tolist() == slow_nearest(abars.numpy(), steps, spacing)


def test_the_edm_schedule_in_its_own_spacing_is_uniform() -> None:
    edm = SCHEDULES["edm"]  # 27 steps of 37 timesteps, so that no wanted place lies half-way between two
    assert edm.respace(28, "edm").timesteps.tolist() == edm.respace(28, "uniform").timesteps.tolist()


def test_trailing_and_uniform_are_the_numbers_of_the_paper() -> None:
    linear = SCHEDULES["linear"]
    # Lin et al. 2024, table 2, counted from 1 there: T = 1000, 10 steps.
    assert linear.respace(10, "trailing").timesteps.tolist() == [100 * i - 1 for i in range(1, 11)]
    assert linear.respace(10, "uniform").timesteps.tolist() == [
        0,
        111,
        222,
        333,
        444,
        555,
        666,
        777,
        888,
        999,
    ]


SPECTRUM = 0.6 * torch.arange(1, 65, dtype=torch.float64) ** -2.2
"""Variances of 64 independent components, which fall like a film's power spectrum: from 0.6 to 6e-5."""
SOLVERS: dict[str, Callable[..., Tensor]] = {
    "ddim": ddim_sample,
    "dpm++": dpmpp_sample,
    "unipc": unipc_sample,
}


def error(name: str, spacing: Spacing, steps: int, schedule: str = "linear") -> float:
    """RMSE to the exact solution of the ODE from the same noise, which for Gaussian data is known.

    The flow keeps each component's number of standard deviations: x_0 = x_T sqrt(s / (abar_T s + 1 - abar_T)).
    """
    full = SCHEDULES[schedule]
    abars = full.alphas_cumprod

    def best(x_t: Tensor, t: Tensor) -> Tensor:
        a = abars[t].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * x_t / (a * SPECTRUM + 1 - a)  # E[eps | x_t]

    diffusion = GaussianDiffusion(full, DiffusionConfig(variance_type="fixed_small")).respace(steps, spacing)
    x_t = torch.randn((16, 1, 1, 64), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = x_t * (SPECTRUM / (abars[-1] * SPECTRUM + 1 - abars[-1])).sqrt()
    images = SOLVERS[name](best, diffusion, x_t, no_noise, clip=False)
    return float((images - exact).square().mean().sqrt())


@pytest.mark.parametrize("spacing", get_args(Spacing))
@pytest.mark.parametrize("name", SOLVERS)
def test_more_steps_come_closer_to_the_solution_in_every_spacing(name: str, spacing: Spacing) -> None:
    errors = [error(name, spacing, steps) for steps in (10, 20, 50, 200)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01  # of a range of 2, at 200 steps


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [10, 20])
def test_equal_steps_in_log_snr_are_the_best_of_the_spacings(name: str, steps: int) -> None:
    errors = {spacing: error(name, spacing, steps) for spacing in get_args(Spacing)}
    assert min(errors, key=errors.__getitem__) == "log-snr"


def test_twenty_steps_of_the_default_solver_lie_within_a_fifth_of_the_allowed_error() -> None:
    # 0.02 of [-1, 1] is allowed against the limit of many steps; uniform steps miss it, 0.023.
    assert error("dpm++", "log-snr", 20) < 0.004
    assert error("dpm++", "uniform", 20) > 0.02
