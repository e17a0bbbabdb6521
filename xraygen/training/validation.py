"""The averaged network's denoising loss on held-out and on training films: the same films, timesteps and noise always.

Held-out films that get harder to denoise than training films are the first sign that the latter are being learned by
heart, and it shows where the noise is of a certain strength: so the losses are told in bands of timesteps too.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from xraygen.dataset.store import Dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.guidance import told
from xraygen.models.unet import UNet
from xraygen.seeds import torch_generator
from xraygen.training.augmentation import no_labels
from xraygen.training.batches import Batch, as_model_input
from xraygen.training.conditions import TrainingConditions, conditions_of

HELD_FILMS = 256
_BANDS = 5


class Held(NamedTuple):
    """As many training films as held-out ones; film i of both has the same timestep and noise."""

    train: Batch
    validation: Batch | None
    """None where the DATASET holds no validation film."""


def held_films(
    dataset: Dataset, diffusion: GaussianDiffusion, seed: int, conditions: TrainingConditions | None = None
) -> Held:
    """Up to 256 films of either split, spread over it, with timesteps, noise and all that is known, on the CPU."""
    train, validation = dataset.indices("train"), dataset.indices("validation")
    count = min(HELD_FILMS, len(train), len(validation) or len(train))
    generator = torch_generator(seed, "validation")
    t = diffusion.draw_timesteps(count, generator)
    channels, (height, width) = dataset.info.channels, dataset.info.size
    noise = torch.randn((count, channels, height, width), generator=generator)
    keys = torch.zeros_like(t)  # without dropout they mean nothing
    chosen = [rows[:: len(rows) // count][:count] for rows in (train, validation) if len(rows)]
    batches = [
        Batch(
            as_model_input(dataset, rows), t, noise, keys, conditions_of(conditions, rows), no_labels(count)
        )
        for rows in chosen
    ]
    return Held(batches[0], batches[1] if len(validation) else None)


class Losses(NamedTuple):
    """Loss of each of the films that are held."""

    t: Tensor  # (N,), int64
    train: Tensor  # (N,)
    validation: Tensor | None  # (N,)

    @property
    def finite(self) -> bool:
        """Whether the averaged network is."""
        return all(bool(loss.isfinite().all()) for loss in (self.train, self.validation) if loss is not None)

    def entry(self) -> dict[str, Any]:
        """A line of the log: mean losses, their gap as a share of the training films' loss, and both per band.

        The bands hold equally many films each, so that none is empty however timesteps are drawn.
        """
        line: dict[str, Any] = {"train_loss": self.train.mean().item()}
        if self.validation is None:
            return line
        line["validation_loss"] = self.validation.mean().item()
        line["gap"] = line["validation_loss"] / line["train_loss"] - 1
        order = torch.argsort(self.t, stable=True)
        line["bands"] = [
            {
                "t": [int(self.t[band].min()), int(self.t[band].max())],
                "train_loss": self.train[band].mean().item(),
                "validation_loss": self.validation[band].mean().item(),
            }
            for band in torch.tensor_split(order, min(_BANDS, len(order)))
        ]
        return line


@torch.no_grad()
def held_losses(
    ema: UNet, diffusion: GaussianDiffusion, held: Held, size: int, device: torch.device
) -> Losses:
    """The averaged network's loss on each film that is held, computed `size` films at a time."""

    def of(batch: Batch) -> Tensor:
        parts = (part.to(device, ema.conv_in.weight.dtype) for part in batch.split(size))
        losses = [
            diffusion.training_losses(told(ema, part.condition), part.x_start, part.t, part.noise)
            for part in parts
        ]
        return torch.cat(losses).cpu()

    return Losses(held.train.t, of(held.train), None if held.validation is None else of(held.validation))
