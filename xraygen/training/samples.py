"""Grids of samples that show, while a run trains, what it has learned so far."""

import torch
from torch import Tensor

from xraygen.config import RunConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.samplers import ddim_sample, no_noise
from xraygen.films.grids import tile
from xraygen.models.unet import UNet
from xraygen.ranges import Stored, model_to_stored
from xraygen.seeds import torch_generator

_COLUMNS = 8


def samples_of(ema: UNet, diffusion: GaussianDiffusion, config: RunConfig, device: torch.device) -> Tensor:
    """DDIM samples of the averaged network, from the same noise every time.

    Args:
        ema: Network with the averaged weights.
        diffusion: The run's diffusion.
        config: The run's configuration: `train.sample_count` images in `train.sample_steps` steps.
        device: Where the network lies.

    Returns:
        `(B, C, H, W)`, about [-1, 1], not clipped.
    """
    train = config.train
    generator = torch_generator(train.seed, "sample grid")
    x_t = torch.randn((train.sample_count, *config.data.shape), generator=generator).to(
        device, ema.conv_in.weight.dtype
    )
    steps = min(train.sample_steps, config.schedule.num_timesteps)
    return ddim_sample(ema, diffusion.with_variance("fixed_small").respace(steps), x_t, no_noise)


def as_picture(x: Tensor) -> Stored:
    """Samples `(B, C, H, W)` side by side: uint8, `[H, W]` for films and `[H, W, 3]` for colour."""
    return tile(model_to_stored(x.permute(0, 2, 3, 1).squeeze(-1), 8), _COLUMNS)
