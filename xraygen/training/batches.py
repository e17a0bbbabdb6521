"""Which images, timesteps and noise each training step sees: a function of the seed and the step alone."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.dataset.store import Dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.ranges import stored_to_model
from xraygen.seeds import numpy_generator, torch_generator


class Batch(NamedTuple):
    """One process's share of a training step."""

    x_start: Tensor  # (B, C, H, W), float32, [-1, 1]
    t: Tensor  # (B,), int64, [0, T - 1]
    noise: Tensor  # (B, C, H, W), float32


@dataclass(frozen=True)
class Batches:
    """The order of the data and its noise, the same however often training is interrupted.

    Attributes:
        dataset: Open DATASET.
        rows: Rows of it that are trained on, int64.
        batch_size: Images per step over all processes.
        diffusion: Draws the timesteps.
        seed: Seed of the run.
        flip: Flip each image left to right with probability one half.
    """

    dataset: Dataset
    rows: NDArray[np.int64]
    batch_size: int
    diffusion: GaussianDiffusion
    seed: int
    flip: bool = False

    def rows_at(self, step: int) -> NDArray[np.int64]:
        """Rows of the DATASET in step `step`, counted from 0: each epoch is one shuffle of all rows."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, len(self.rows))
        shuffled = {
            epoch: numpy_generator(self.seed, "order", int(epoch)).permutation(self.rows)
            for epoch in np.unique(epochs)
        }
        return np.array([shuffled[epoch][place] for epoch, place in zip(epochs, places, strict=True)])

    def at(self, step: int, process: int = 0, processes: int = 1) -> Batch:
        """The share of one process in step `step`; all shares together do not depend on their number."""
        share = slice(self.batch_size * process // processes, self.batch_size * (process + 1) // processes)
        x_start = as_model_input(self.dataset, self.rows_at(step)[share])
        generator = torch_generator(self.seed, "batch", step)
        t = self.diffusion.draw_timesteps(self.batch_size, generator)[share]
        flipped = torch.rand(self.batch_size, generator=generator)[share] < 0.5
        noise = torch.randn((self.batch_size, *x_start.shape[1:]), generator=generator)[share]
        if self.flip:
            x_start = torch.where(flipped.view(-1, 1, 1, 1), x_start.flip(-1), x_start)
        return Batch(x_start, t, noise)


def as_model_input(dataset: Dataset, rows: NDArray[np.int64]) -> Tensor:
    """Rows of a DATASET as `(B, C, H, W)` float32 in [-1, 1]."""
    x = stored_to_model(dataset.gather(rows), dataset.info.bits)  # (B, H, W) or (B, H, W, 3)
    return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()
