"""Grids of samples that show, while a run trains, what it has learned so far."""

import torch
from torch import Tensor

from xraygen.config import RunConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.guidance import told
from xraygen.diffusion.samplers import ddim_sample, no_noise
from xraygen.films.grids import tile
from xraygen.models.unet import UNet
from xraygen.ranges import Stored, model_to_stored
from xraygen.seeds import torch_generator
from xraygen.training.conditions import TrainingConditions


def samples_of(
    ema: UNet,
    diffusion: GaussianDiffusion,
    config: RunConfig,
    device: torch.device,
    size: int,
    conditions: TrainingConditions | None = None,
) -> Tensor:
    """DDIM samples of the averaged network, from the same noise every time, in parts of `size`.

    Where the network is told conditions, as many of each category of the first of them, all from the same noise.

    Args:
        ema: Network with the averaged weights.
        diffusion: The run's diffusion.
        config: The run's configuration: `train.sample_count` images in `train.sample_steps` steps.
        device: Where the network lies.
        size: Images that go through it at once.
        conditions: What the network can be told.

    Returns:
        `(B, C, H, W)`, about [-1, 1], not clipped.
    """
    train = config.train
    generator = torch_generator(train.seed, "sample grid")
    x_t = torch.randn((train.sample_count, *config.data.shape), generator=generator)
    condition = torch.empty(train.sample_count, 0)  # (B, F)
    if conditions is not None:
        rows = conditions.for_grid(train.sample_count)
        each = train.sample_count // len(rows)
        x_t = x_t[:each].repeat(len(rows), 1, 1, 1)
        condition = rows.repeat_interleave(each, dim=0)
    steps = min(train.sample_steps, config.schedule.num_timesteps)
    diffusion = diffusion.with_variance("fixed_small").respace(steps)
    dtype = ema.conv_in.weight.dtype
    parts = zip(torch.split(x_t, size), torch.split(condition, size), strict=True)
    return torch.cat(
        [
            ddim_sample(told(ema, known.to(device)), diffusion, noise.to(device, dtype), no_noise)
            for noise, known in parts
        ]
    )


def as_picture(x: Tensor, conditions: TrainingConditions | None = None) -> Stored:
    """Samples `(B, C, H, W)` side by side: uint8, `[H, W]` for films and `[H, W, 3]` for colour.

    Where the network is told conditions, each line is a category of the first of them.
    """
    columns = None if conditions is None else len(x) // len(conditions.for_grid(len(x)))
    return tile(model_to_stored(x.permute(0, 2, 3, 1).squeeze(-1), 8), 8, columns)
