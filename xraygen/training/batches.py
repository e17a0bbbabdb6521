"""Which films, timesteps and noise each step sees: a function of the seed, the step and the place in the batch.

B images in a process's share, C channel, H, W sides.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.config import DataConfig
from xraygen.dataset.store import Dataset
from xraygen.devices import moved
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.ranges import stored_to_model
from xraygen.seeds import counted_bits, derive_seed, numpy_generator, torch_generator
from xraygen.training.augmentation import augmented, draw_labels, no_labels
from xraygen.training.conditions import TrainingConditions
from xraygen.training.resident import ResidentFilms


class Batch(NamedTuple):
    """One process's share of a training step."""

    x_start: Tensor  # (B, C, H, W), float32, [-1, 1]
    t: Tensor  # (B,), int64, [0, T - 1]
    noise: Tensor  # (B, C, H, W), float32
    dropout_keys: Tensor  # (B,), int64, any value
    condition: Tensor  # (B, F), float, as `xraygen.models.conditions` says; F = 0 where there are none
    augmentation: Tensor  # (B, A), float, as `xraygen.models.augmentation` says; A = 0 where there is none

    def split(self, size: int | None) -> Iterator["Batch"]:
        """Parts of at most `size` images; the whole where that is None."""
        parts = (torch.split(tensor, size or len(self.t)) for tensor in self)
        return (Batch(*part) for part in zip(*parts, strict=True))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        """On a device, without waiting for it."""
        of_type = (tensor.to(dtype=dtype if tensor.is_floating_point() else tensor.dtype) for tensor in self)
        return Batch(*(moved(tensor, device) for tensor in of_type))

    def augmented(self, config: DataConfig) -> "Batch":
        """The films as their labels say; those of a label of zeros, and all where there is none, are the same bits."""
        if self.augmentation.shape[1] == 0:
            return self
        return self._replace(x_start=augmented(self.x_start, self.augmentation, config))


@dataclass(frozen=True)
class Batches:
    """The order of the films and their noise, however often training is interrupted and whoever computes what.

    Attributes:
        dataset: Open DATASET.
        rows: Rows of it that are trained on, int64.
        batch_size: Images per step over all processes.
        diffusion: Draws the timesteps.
        seed: Seed of the run.
        data: The run's `data` section: flips and augmentations.
        resident: The films on the device, where they are held there.
        conditions: What the network is told of each film, if anything.
    """

    dataset: Dataset
    rows: NDArray[np.int64]
    batch_size: int
    diffusion: GaussianDiffusion
    seed: int
    data: DataConfig = field(default_factory=DataConfig)
    resident: ResidentFilms | None = None
    conditions: TrainingConditions | None = None

    def rows_at(self, step: int) -> NDArray[np.int64]:
        """Rows of the DATASET in step `step`, counted from 0: each epoch is one shuffle of all rows."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, len(self.rows))
        chosen = [
            _shuffle(self.seed, int(epoch), len(self.rows))[places[epochs == epoch]]
            for epoch in np.unique(epochs)
        ]
        rows: NDArray[np.int64] = self.rows[np.concatenate(chosen)]
        return rows

    def at(self, step: int, process: int = 0, processes: int = 1) -> Batch:
        """The share of one process in step `step`; all shares together do not depend on their number.

        Noise is drawn image by image, each from a generator of its own, so that a process draws its share alone. The
        films come as they are, with the labels of their augmentations: `Batch.augmented` does those on the device.
        """
        first, end = (self.batch_size * edge // processes for edge in (process, process + 1))
        share = slice(first, end)
        batch = self.rows_at(step)
        rows = batch[share]
        x_start = as_model_input(self.dataset, rows) if self.resident is None else self.resident.gather(rows)
        generator = torch_generator(self.seed, "batch", step)
        t = self.diffusion.draw_timesteps(self.batch_size, generator)[share]
        flipped = torch.rand(self.batch_size, generator=generator)[share] < 0.5
        noise = torch.empty(x_start.shape)
        for place in range(first, end):
            noise[place - first].normal_(generator=torch_generator(self.seed, "noise", step, place))
        if self.data.horizontal_flip:
            flipped = moved(flipped.view(-1, 1, 1, 1), x_start.device)  # (B, 1, 1, 1)
            x_start = torch.where(flipped, x_start.flip(-1), x_start)
        key = torch.tensor([derive_seed(self.seed, "dropout", step)])
        told = torch.empty(len(batch), 0) if self.conditions is None else self.conditions.at(step, batch)
        labels = no_labels(len(batch))
        if self.data.augment_probability:
            labels = draw_labels(self.data, len(batch), torch_generator(self.seed, "augmentation", step))
        keys = counted_bits(key, self.batch_size)[0, share]
        return Batch(x_start, t, noise, keys, told[share], labels[share])


@lru_cache(maxsize=4)
def _shuffle(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of one epoch; kept, since every step of the epoch asks for it."""
    return numpy_generator(seed, "order", epoch).permutation(count)


def as_model_input(dataset: Dataset, rows: NDArray[np.int64]) -> Tensor:
    """Rows of a DATASET as `(B, C, H, W)` float32 in [-1, 1]."""
    x = stored_to_model(dataset.gather(rows), dataset.info.bits)  # (B, H, W) or (B, H, W, 3)
    return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
