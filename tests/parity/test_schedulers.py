"""Every sampler against the schedulers of diffusers and MONAI: each step, and whole chains.

States are float64. Their tables are float32; the `-tables` rows put ours into their scheduler objects, which leaves
only the arithmetic. What their definitions differ in is said below the table of docs/concepts/numerics.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from xraygen.config import DiffusionConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.samplers import (
    ddim_invert,
    ddim_sample,
    ddpm_sample,
    dpmpp_sample,
    no_noise,
    unipc_sample,
)
from xraygen.diffusion.schedule import NoiseSchedule, linear_betas
from xraygen.seeds import torch_generator

diffusers = pytest.importorskip("diffusers")
monai_schedulers = pytest.importorskip("monai.networks.schedulers")

# diffusers turns tensors into arrays by a way that NumPy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

T = 1000
FULL = NoiseSchedule.from_betas(linear_betas(T, 1e-4, 0.02))
BETAS = {"num_train_timesteps": T, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
CLIPPED = {"thresholding": True, "dynamic_thresholding_ratio": 1.0, "sample_max_value": 1.0}
"""What makes the multistep schedulers clip to [-1, 1], as they have no clip_sample."""
PREDICTIONS = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True)
class Case:
    """One of our samplers and its counterpart."""

    ours: Callable[..., Tensor]
    scheduler: str
    settings: dict[str, object]
    step: dict[str, object]
    takes_noise: str = ""
    any_timesteps: bool = False


CASES = {
    "ddpm": Case(
        ddpm_sample, "DDPMScheduler", {"variance_type": "fixed_small"}, {}, "generator", any_timesteps=True
    ),
    "ddpm-large": Case(
        ddpm_sample, "DDPMScheduler", {"variance_type": "fixed_large"}, {}, "generator", any_timesteps=True
    ),
    "ddim": Case(ddim_sample, "DDIMScheduler", {}, {"eta": 0.0, "use_clipped_model_output": True}),
    "ddim-1": Case(
        partial(ddim_sample, eta=1.0),
        "DDIMScheduler",
        {},
        {"eta": 1.0, "use_clipped_model_output": True},
        "variance_noise",
    ),
    "dpmpp": Case(
        dpmpp_sample,
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, **CLIPPED},
        {},
        any_timesteps=True,
    ),
    "sde-dpmpp": Case(
        partial(dpmpp_sample, sde=True),
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, **CLIPPED},
        {},
        "variance_noise",
        any_timesteps=True,
    ),
    "unipc-2": Case(unipc_sample, "UniPCMultistepScheduler", {"solver_order": 2, **CLIPPED}, {}),
    "unipc-3": Case(
        partial(unipc_sample, order=3), "UniPCMultistepScheduler", {"solver_order": 3, **CLIPPED}, {}
    ),
}
RUNS = [
    *((name, T, "epsilon") for name in CASES),
    *((name, 50, prediction) for name in CASES if name != "ddpm-large" for prediction in PREDICTIONS),
]
"""All steps, and 50 for every prediction type; the large variance holds for all steps only."""

OUR_TABLES = [(*run, True) for run in RUNS if run[0] in ("ddpm", "ddpm-large", "sde-dpmpp")]
"""Where their float32 tables cost a step more than 1e-5, it is shown that nothing else does."""


def network(x_t: Tensor, t: Tensor) -> Tensor:
    """A fixed, smooth, nonlinear network."""
    return 0.9 * torch.sin(x_t + 0.003 * t.view(-1, 1, 1, 1)) + 0.05 * x_t.flip(-1)


def noise_generator(step: int | str) -> torch.Generator:
    return torch_generator(0, "parity", step)


def draw(step: int | str) -> Tensor:
    return torch.randn((2, 1, 3, 4), generator=noise_generator(step), dtype=torch.float64)


def diffusion_of(name: str, steps: int, prediction_type: str) -> GaussianDiffusion:
    """Our timesteps where theirs can be given; else theirs ("trailing") as a schedule of ours."""
    config = DiffusionConfig.model_validate(
        {
            "prediction_type": prediction_type,
            "variance_type": "fixed_large" if name == "ddpm-large" else "fixed_small",
        }
    )
    if name in CASES and CASES[name].any_timesteps:
        return GaussianDiffusion(FULL.respace(steps), config)
    kept = torch.arange(T // steps, T + 1, T // steps) - 1
    schedule = NoiseSchedule.from_alphas_cumprod(FULL.alphas_cumprod[kept])
    return GaussianDiffusion(replace(schedule, timesteps=kept, num_timesteps=T), config)


def scheduler_of(name: str, diffusion: GaussianDiffusion, *, our_tables: bool) -> Any:
    """Theirs, on the same timesteps."""
    case, schedule = CASES[name], diffusion.schedule
    settings = {**BETAS, "prediction_type": diffusion.config.prediction_type, **case.settings}
    if not case.any_timesteps:
        settings["timestep_spacing"] = "trailing"
    scheduler = getattr(diffusers, case.scheduler)(**settings)
    downwards = schedule.timesteps.flip(0)
    if case.any_timesteps:
        scheduler.set_timesteps(timesteps=downwards.tolist())
    else:
        scheduler.set_timesteps(len(downwards))
    assert scheduler.timesteps.tolist() == downwards.tolist()
    if our_tables:
        scheduler.alphas_cumprod = FULL.alphas_cumprod
        if hasattr(scheduler, "sigmas"):  # of the steps taken, noisiest first, and the clean image
            scheduler.sigmas = torch.cat([schedule.sigmas.flip(0), torch.zeros(1, dtype=torch.float64)])
    return scheduler


def their_step(name: str, scheduler: Any, output: Tensor, told: int, x_t: Tensor, step: int) -> Tensor:
    case = CASES[name]
    noise: dict[str, object] = {}
    if case.takes_noise:
        noise[case.takes_noise] = {"generator": noise_generator, "variance_noise": draw}[case.takes_noise](
            step
        )
    moved: Tensor = scheduler.step(output, told, x_t, **case.step, **noise).prev_sample
    return moved


@cache
def our_chain(name: str, steps: int, prediction_type: str) -> tuple[list[Tensor], list[Tensor]]:
    """The states x_T ... x_0 of our chain (K + 1), and what the network said at each (K)."""
    states: list[Tensor] = []
    outputs: list[Tensor] = []

    def watched(x_t: Tensor, t: Tensor) -> Tensor:
        states.append(x_t)
        outputs.append(network(x_t, t))
        return outputs[-1]

    noise = draw if CASES[name].takes_noise else no_noise
    images = CASES[name].ours(watched, diffusion_of(name, steps, prediction_type), draw("x_T"), noise)
    return [*states, images], outputs


def each_of_own_size(ours: list[Tensor], theirs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Both lists, each pair divided by the largest of theirs, so that the error is relative step by step."""
    sizes = [their.abs().max() for their in theirs]
    return (
        torch.stack([our / size for our, size in zip(ours, sizes, strict=True)]),
        torch.stack([their / size for their, size in zip(theirs, sizes, strict=True)]),
    )


@pytest.mark.parametrize(
    ("name", "steps", "prediction_type", "our_tables"), [*((*run, False) for run in RUNS), *OUR_TABLES]
)
def test_each_step_from_the_same_state_and_noise(
    numerics: Any, name: str, steps: int, prediction_type: str, *, our_tables: bool
) -> None:
    states, outputs = our_chain(name, steps, prediction_type)
    scheduler = scheduler_of(name, diffusion_of(name, steps, prediction_type), our_tables=our_tables)
    theirs = [
        their_step(name, scheduler, output, told, x_t, step)
        for x_t, output, told, step in zip(
            states, outputs, scheduler.timesteps.tolist(), range(steps - 1, -1, -1), strict=False
        )
    ]
    row = f"{name}-step-tables" if our_tables else f"{name}-step"
    numerics.check(row, *each_of_own_size(states[1:], theirs))


@pytest.mark.parametrize(("name", "steps", "prediction_type"), RUNS)
@pytest.mark.parametrize("our_tables", [False, True], ids=["their-tables", "our-tables"])
def test_whole_chains(
    numerics: Any, name: str, steps: int, prediction_type: str, *, our_tables: bool
) -> None:
    states, _ = our_chain(name, steps, prediction_type)
    scheduler = scheduler_of(name, diffusion_of(name, steps, prediction_type), our_tables=our_tables)
    x = draw("x_T")
    for step, told in zip(range(steps - 1, -1, -1), scheduler.timesteps.tolist(), strict=True):
        x = their_step(name, scheduler, network(x, torch.tensor([told])), told, x, step)
    assert float(x.std()) > 0.1
    numerics.check(f"{name}-chain-tables" if our_tables else f"{name}-chain", states[-1], x)


# DDIM inversion


def inverse_of(steps: int) -> tuple[GaussianDiffusion, Any]:
    diffusion = diffusion_of("ddim-invert", steps, "epsilon")
    scheduler = diffusers.DDIMInverseScheduler(**BETAS, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == diffusion.schedule.timesteps.tolist()
    return diffusion, scheduler


@pytest.mark.parametrize("steps", [T, 50])
def test_each_step_of_the_inversion(numerics: Any, steps: int) -> None:
    diffusion, scheduler = inverse_of(steps)
    states: list[Tensor] = []

    def watched(x_t: Tensor, t: Tensor) -> Tensor:
        states.append(x_t)
        return network(x_t, t)

    states.append(ddim_invert(watched, diffusion, draw("x_0").clamp(-1, 1)))
    theirs = [
        scheduler.step(network(x, torch.tensor([told])), told, x).prev_sample
        for x, told in zip(states, scheduler.timesteps.tolist(), strict=False)
    ]
    numerics.check("ddim-invert-step", *each_of_own_size(states[1:], theirs))


@pytest.mark.parametrize("steps", [T, 50])
@pytest.mark.parametrize("our_tables", [False, True], ids=["their-tables", "our-tables"])
def test_the_whole_inversion(numerics: Any, steps: int, *, our_tables: bool) -> None:
    diffusion, scheduler = inverse_of(steps)
    x = draw("x_0").clamp(-1, 1)
    noisy = ddim_invert(network, diffusion, x)
    if our_tables:
        scheduler.alphas_cumprod = FULL.alphas_cumprod
    for told in scheduler.timesteps.tolist():
        x = scheduler.step(network(x, torch.tensor([told])), told, x).prev_sample
    numerics.check("ddim-invert-chain-tables" if our_tables else "ddim-invert-chain", noisy, x)


# MONAI, at all steps: with fewer its DDPM still steps from t to t - 1


@pytest.mark.parametrize("our_tables", [False, True], ids=["their-tables", "our-tables"])
@pytest.mark.parametrize(("name", "variance_type"), [("ddpm", "fixed_small"), ("ddpm-large", "fixed_large")])
def test_each_ancestral_step_of_monai(
    numerics: Any, name: str, variance_type: str, *, our_tables: bool
) -> None:
    scheduler = monai_schedulers.DDPMScheduler(
        T, schedule="linear_beta", beta_start=1e-4, beta_end=0.02, variance_type=variance_type
    )
    if our_tables:
        scheduler.betas, scheduler.alphas = FULL.betas, FULL.alphas
        scheduler.alphas_cumprod = FULL.alphas_cumprod
    states, outputs = our_chain(name, T, "epsilon")
    theirs = [
        scheduler.step(output, step, x_t, generator=noise_generator(step))[0]
        for x_t, output, step in zip(states, outputs, range(T - 1, -1, -1), strict=False)
    ]
    row = "monai-ddpm-step-tables" if our_tables else "monai-ddpm-step"
    numerics.check(row, *each_of_own_size(states[1:], theirs))


def test_each_implicit_step_of_monai(numerics: Any) -> None:
    # It keeps the network's eps where x_0 was clipped, so nothing is clipped here.
    diffusion = diffusion_of("ddim", T, "v_prediction")
    scheduler = monai_schedulers.DDIMScheduler(
        T,
        schedule="linear_beta",
        beta_start=1e-4,
        beta_end=0.02,
        clip_sample=False,
        prediction_type="v_prediction",
    )
    states: list[Tensor] = []

    def watched(x_t: Tensor, t: Tensor) -> Tensor:
        states.append(x_t)
        return network(x_t, t)

    states.append(ddim_sample(watched, diffusion, draw("x_T"), no_noise, clip=False))
    theirs = [
        scheduler.step(network(x_t, torch.tensor([step])), step, x_t)[0]
        for x_t, step in zip(states, range(T - 1, -1, -1), strict=False)
    ]
    numerics.check("monai-ddim-step", *each_of_own_size(states[1:], theirs))
