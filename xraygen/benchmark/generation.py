"""Films by ours and by diffusers' pipeline: the same network, steps and batch, in turns; and what is not network."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from xraygen.benchmark.contenders import Contender, autocast_to
from xraygen.benchmark.turns import Times, take_turns
from xraygen.config import DiffusionConfig, ModelConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.samplers import ddim_sample, no_noise
from xraygen.diffusion.schedule import NoiseSchedule, linear_betas
from xraygen.models.unet import UNet, for_inference
from xraygen.progress import Report, silent
from xraygen.seeds import torch_generator
from xraygen.synthesis.arithmetic import Precision, evaluated

STEPS = 10
OUTSIDE = "xraygen, without its network"

Task = Callable[[], object]


def generation_tasks(
    config: ModelConfig, batch: int, precision: Precision, present: Sequence[Contender], device: torch.device
) -> dict[str, Task]:
    """What takes turns: ours, ours with a network that costs nothing, and diffusers' DDIMPipeline where it is there.

    Args:
        config: The network.
        batch: Films made together.
        precision: float32, or bfloat16 by autocast: as `generate` does it, and around diffusers' pipeline.
        present: The networks; those of other libraries than diffusers have no pipeline that users run.
        device: Where.
    """
    betas = linear_betas(1000, 1e-4, 0.02)
    diffusion = GaussianDiffusion(
        NoiseSchedule.from_betas(betas), DiffusionConfig(variance_type="fixed_small")
    )
    chain = diffusion.respace(STEPS)
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = (batch, config.in_channels, height, width)
    x_t = torch.randn(shape, generator=torch_generator(0, "benchmark", "generation")).to(device)

    def ours(model: Callable[[Tensor, Tensor], Tensor]) -> Task:
        timed = evaluated(model, precision, device)
        return lambda: ddim_sample(timed, chain, x_t, no_noise)

    tasks: dict[str, Task] = {OUTSIDE: ours(lambda x, t: x)}
    for contender in present:
        contender.network.eval()
        if isinstance(contender.network, UNet):
            for_inference(contender.network)
            tasks[contender.name] = ours(contender.predict)
        elif contender.name == "diffusers":
            tasks[contender.name] = _pipeline(contender, batch, precision, device)
    return tasks


def measure_generation(
    tasks: dict[str, Task], rounds: int, device: torch.device, *, label: str, report: Report = silent
) -> dict[str, Times]:
    """Seconds per batch of films; each task is run once before."""
    for task in tasks.values():
        task()
    return take_turns(tasks, rounds, device, label=label, report=report)


def _pipeline(contender: Contender, batch: int, precision: str, device: torch.device) -> Task:
    from diffusers import DDIMPipeline, DDIMScheduler  # noqa: PLC0415 - an extra

    pipeline: Any = DDIMPipeline(unet=contender.network, scheduler=DDIMScheduler(num_train_timesteps=1000))
    pipeline.set_progress_bar_config(disable=True)

    def make() -> object:
        generator = torch.Generator("cpu").manual_seed(0)
        with autocast_to(precision, device):
            return pipeline(
                batch_size=batch, generator=generator, num_inference_steps=STEPS, output_type="np"
            )

    return make
