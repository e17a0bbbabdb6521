"""The denoising loss of held-out films: the same films, timesteps and noise every time."""

import torch

from xraygen.dataset.store import Dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.models.unet import UNet
from xraygen.seeds import torch_generator
from xraygen.training.batches import Batch, as_model_input

_VALIDATION_IMAGES = 256


def fixed_batch(dataset: Dataset, diffusion: GaussianDiffusion, seed: int) -> Batch | None:
    """Up to 256 validation films spread over the split, with their timesteps and noise; None if there are none."""
    rows = dataset.indices("validation")
    if len(rows) == 0:
        return None
    rows = rows[:: max(1, len(rows) // _VALIDATION_IMAGES)][:_VALIDATION_IMAGES]
    generator = torch_generator(seed, "validation")
    x_start = as_model_input(dataset, rows)
    t = diffusion.draw_timesteps(len(rows), generator)
    noise = torch.randn(x_start.shape, generator=generator)
    return Batch(x_start, t, noise, torch.zeros_like(t))  # without dropout the keys mean nothing


@torch.no_grad()
def validation_loss(ema: UNet, diffusion: GaussianDiffusion, batch: Batch, size: int) -> float:
    """The averaged network's mean loss on a fixed batch, computed `size` images at a time."""
    losses = [diffusion.training_losses(ema, part.x_start, part.t, part.noise) for part in batch.split(size)]
    return torch.cat(losses).mean().item()
