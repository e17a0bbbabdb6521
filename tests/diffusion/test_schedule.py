from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from xraygen.config import ScheduleConfig
from xraygen.diffusion.schedule import NoiseSchedule, cosine_betas, linear_betas
from xraygen.errors import UsageError

SCHEDULES = {
    "paper": ScheduleConfig(),
    "cosine": ScheduleConfig(kind="cosine"),
    "short linear": ScheduleConfig(num_timesteps=7, beta_start=0.05, beta_end=0.4),
    "short cosine": ScheduleConfig(kind="cosine", num_timesteps=7),
}
PAPER = NoiseSchedule.from_config(SCHEDULES["paper"])

each_schedule = pytest.mark.parametrize("name", list(SCHEDULES))


@pytest.fixture(scope="module")
def ddpm(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("ddpm")


def slow_betas(ddpm: ModuleType, config: ScheduleConfig) -> np.ndarray:
    if config.kind == "cosine":
        return np.asarray(ddpm.cosine_betas(config.num_timesteps))
    return np.asarray(ddpm.linear_betas(config.num_timesteps, config.beta_start, config.beta_end))


@each_schedule
def test_betas_and_alphas_cumprod_equal_the_reference(ddpm: ModuleType, numerics: Any, name: str) -> None:
    schedule, betas = NoiseSchedule.from_config(SCHEDULES[name]), slow_betas(ddpm, SCHEDULES[name])
    numerics.check("schedules", schedule.betas, betas)
    numerics.check("schedules", schedule.alphas, 1 - betas)
    numerics.check("schedules", schedule.alphas_cumprod, ddpm.alphas_cumprod(betas))


@each_schedule
def test_posterior_variance_equals_the_reference(ddpm: ModuleType, name: str) -> None:
    schedule, betas = NoiseSchedule.from_config(SCHEDULES[name]), slow_betas(ddpm, SCHEDULES[name])
    expected = [ddpm.posterior_variance(betas, t) for t in range(len(betas))]
    np.testing.assert_allclose(schedule.posterior_variance.numpy(), expected, rtol=0, atol=1e-12)


@each_schedule
def test_signal_to_noise_ratio_equals_the_reference(ddpm: ModuleType, name: str) -> None:
    schedule, betas = NoiseSchedule.from_config(SCHEDULES[name]), slow_betas(ddpm, SCHEDULES[name])
    expected = [ddpm.snr(betas, t) for t in range(len(betas))]
    # Relative: it spans 12 decades, and 1 - abar cancels four digits at the clean end.
    np.testing.assert_allclose(schedule.snr.numpy(), expected, rtol=1e-11)


def test_the_papers_tables_have_the_published_values() -> None:
    assert float(PAPER.betas[0]) == 1e-4
    assert float(PAPER.betas[-1]) == 0.02
    assert float(PAPER.alphas_cumprod[-1]) == pytest.approx(4.0358e-05, abs=5e-10)
    assert float(PAPER.posterior_variance[1]) == pytest.approx(5.453e-05, abs=5e-9)
    assert float(PAPER.posterior_variance[0]) == 0


@pytest.mark.parametrize(
    ("t", "decibels"), [(125, 7.4), (250, 0.4), (375, -5.1), (500, -10.7), (625, -17.1), (750, -24.7)]
)
def test_the_papers_signal_to_noise_ratio_falls_as_published(t: int, decibels: float) -> None:
    # PAPER.md counts t from 1 and rounds to 0.1 dB; one step off would be 0.06 dB.
    measured = 10 * float(torch.log10(PAPER.snr[t - 1]))
    assert measured == pytest.approx(decibels, abs=0.0501)


def test_the_cosine_is_clipped_only_at_its_end() -> None:
    betas = cosine_betas(1000)
    assert float(betas[-1]) == 0.999
    assert (betas[:-1] < 0.999).all()


@each_schedule
def test_noise_only_grows(name: str) -> None:
    alphas_cumprod = NoiseSchedule.from_config(SCHEDULES[name]).alphas_cumprod
    assert (alphas_cumprod.diff() < 0).all()
    assert 0 < float(alphas_cumprod[-1]) < float(alphas_cumprod[0]) < 1


@each_schedule
def test_tables_are_float64_and_start_clean(name: str) -> None:
    schedule = NoiseSchedule.from_config(SCHEDULES[name])
    tables = [schedule.betas, schedule.alphas_cumprod, schedule.alphas_cumprod_prev, schedule.snr]
    assert {table.dtype for table in tables} == {torch.float64}
    assert float(schedule.alphas_cumprod_prev[0]) == 1
    assert torch.equal(schedule.alphas_cumprod_prev[1:], schedule.alphas_cumprod[:-1])


@each_schedule
def test_respacing_to_all_timesteps_is_the_identity(name: str) -> None:
    schedule = NoiseSchedule.from_config(SCHEDULES[name])
    respaced = schedule.respace(schedule.num_timesteps)
    assert torch.equal(respaced.betas, schedule.betas)
    assert torch.equal(respaced.timesteps, torch.arange(schedule.num_timesteps))


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50, 249, 500, 999])
def test_respaced_betas_reproduce_the_kept_alphas_cumprod(ddpm: ModuleType, steps: int) -> None:
    respaced = PAPER.respace(steps)
    kept = ddpm.alphas_cumprod(slow_betas(ddpm, SCHEDULES["paper"]))[respaced.timesteps.numpy()]
    np.testing.assert_allclose(ddpm.alphas_cumprod(respaced.betas.numpy()), kept, rtol=1e-11)
    np.testing.assert_allclose(respaced.alphas_cumprod.numpy(), kept, rtol=1e-11)


@pytest.mark.parametrize("steps", list(range(1, 61)))
def test_respacing_keeps_so_many_different_timesteps_and_the_last(steps: int) -> None:
    respaced = NoiseSchedule.from_betas(linear_betas(60, 1e-4, 0.02)).respace(steps)
    assert len(respaced.timesteps) == len(respaced.betas) == steps
    assert int(respaced.timesteps[-1]) == 59
    assert (respaced.timesteps.diff() > 0).all()


@pytest.mark.parametrize("steps", [2, 10, 50, 333])
def test_kept_timesteps_are_evenly_spaced_from_the_first(steps: int) -> None:
    timesteps = PAPER.respace(steps).timesteps
    assert int(timesteps[0]) == 0
    # Each is rounded to a whole step, by half a step at most.
    ideal = torch.linspace(0, 999, steps, dtype=torch.float64)
    assert float((timesteps - ideal).abs().max()) <= 0.5


def test_respacing_twice_still_tells_the_original_timesteps() -> None:
    twice = PAPER.respace(100).respace(10)
    assert twice.num_timesteps == 1000
    np.testing.assert_allclose(
        twice.alphas_cumprod.numpy(), PAPER.alphas_cumprod[twice.timesteps].numpy(), rtol=1e-12
    )


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_steps_that_the_schedule_does_not_have_are_refused(steps: int) -> None:
    with pytest.raises(UsageError, match=f"{steps} sampling steps .* expected 1 to 1000"):
        PAPER.respace(steps)


@pytest.mark.parametrize(
    "betas",
    [
        torch.tensor([0.1, 0.2]),
        torch.tensor([[0.1], [0.2]], dtype=torch.float64),
        torch.tensor([0.1, 1.01], dtype=torch.float64),
        torch.tensor([0.0, 0.1], dtype=torch.float64),
        torch.tensor([0.1, float("nan")], dtype=torch.float64),
    ],
    ids=["float32", "matrix", "above one", "zero", "nan"],
)
def test_betas_that_are_no_variances_are_refused(betas: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="every entry above 0 and up to 1"):
        NoiseSchedule.from_betas(betas)


def test_a_schedule_is_frozen() -> None:
    with pytest.raises(AttributeError, match="cannot assign"):
        PAPER.betas = torch.zeros(3, dtype=torch.float64)  # type: ignore[misc]  # what is under test


@pytest.fixture(scope="module")
def slow(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("schedules")


@pytest.mark.parametrize("steps", [7, 1000])
def test_the_sigmoid_equals_the_reference(slow: ModuleType, numerics: Any, steps: int) -> None:
    schedule = NoiseSchedule.from_config(ScheduleConfig(kind="sigmoid", num_timesteps=steps))
    numerics.check("schedules", schedule.betas, slow.sigmoid_betas(steps))


@pytest.mark.parametrize("steps", [2, 18, 1000])
def test_the_levels_of_edm_equal_the_reference(slow: ModuleType, numerics: Any, steps: int) -> None:
    schedule = NoiseSchedule.from_config(ScheduleConfig(kind="edm", num_timesteps=steps))
    sigmas = slow.edm_sigmas(steps)
    numerics.check("schedules", schedule.alphas_cumprod, slow.edm_abars(sigmas))
    # sigma = 0.002 is found again from 1 - alphas_cumprod = 4e-6, of which float64 keeps ten digits.
    np.testing.assert_allclose(schedule.sigmas.numpy(), sigmas, rtol=1e-9)


def test_edm_over_fewer_steps_is_edm_of_fewer_steps(slow: ModuleType) -> None:
    whole = NoiseSchedule.from_config(ScheduleConfig(kind="edm", num_timesteps=961))
    np.testing.assert_allclose(whole.respace(17).sigmas.numpy(), slow.edm_sigmas(17), rtol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("size", [32, 64, 256, 1024])
def test_the_shift_equals_the_reference(slow: ModuleType, numerics: Any, kind: str, size: int) -> None:
    plain = ScheduleConfig.model_validate({"kind": kind, "image_size": size})
    shifted = NoiseSchedule.from_config(plain.model_copy(update={"reference_size": 64}))
    before = NoiseSchedule.from_config(plain)
    expected = slow.resolution_shift(before.alphas_cumprod.numpy(), size, 64)
    numerics.check("schedules", shifted.alphas_cumprod, expected)
    # Twice the side, a quarter of the signal-to-noise ratio; 1e-9 as 1 - alphas_cumprod cancels.
    np.testing.assert_allclose((shifted.snr / before.snr).numpy(), (64 / size) ** 2, rtol=1e-9)


def test_the_shift_of_an_oblong_goes_by_its_area() -> None:
    oblong = NoiseSchedule.from_config(ScheduleConfig(reference_size=64, image_size=(256, 64)))
    square = NoiseSchedule.from_config(ScheduleConfig(reference_size=64, image_size=128))
    assert torch.equal(oblong.betas, square.betas)


@pytest.mark.parametrize("kind", ["linear", "cosine", "sigmoid"])
def test_zero_terminal_snr_equals_the_reference(slow: ModuleType, numerics: Any, kind: str) -> None:
    plain = ScheduleConfig.model_validate({"kind": kind})
    rescaled = NoiseSchedule.from_config(plain.model_copy(update={"zero_terminal_snr": True}))
    expected = slow.zero_terminal_snr(NoiseSchedule.from_config(plain).betas.numpy())
    numerics.check("schedules", rescaled.betas, expected)
    assert float(rescaled.betas[-1]) == 1
    assert float(rescaled.alphas_cumprod[-1]) == 0
    assert float(rescaled.respace(5).alphas_cumprod[-1]) == 0


def test_a_schedule_that_loses_the_image_too_early_is_refused() -> None:
    with pytest.raises(UsageError, match="Only the last step"):
        NoiseSchedule.from_betas(torch.tensor([0.1, 1.0, 0.5], dtype=torch.float64))


def test_alphas_cumprod_that_rise_are_refused() -> None:
    with pytest.raises(UsageError, match="falls from entry to entry"):
        NoiseSchedule.from_alphas_cumprod(torch.tensor([0.5, 0.6], dtype=torch.float64))
