"""The noise of each image: from its own seed and nothing else."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xraygen.devices import moved
from xraygen.seeds import numpy_generator

NOISE = "pcg64"
"""What a provenance calls the generator: another one would make other images of the same seeds."""


class SeededNoise:
    """One generator per image, so that an image is the same alone, in any batch and on any device.

    It is NumPy's, since torch's takes 32 bits of a seed: two images of a large set would have the same noise.

    Args:
        seeds: Seed of each image of the batch.
        shape: (C, H, W) of one image.
        device: Where the noise goes; it is drawn on the CPU.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device) -> None:
        self._generators = [numpy_generator(seed, "sampling") for seed in seeds]
        self._shape, self._device = shape, device

    def draw(self) -> Tensor:
        """The next standard normal noise of every image, `(B, C, H, W)`."""
        draws = [draw.standard_normal(self._shape, dtype=np.float32) for draw in self._generators]
        return moved(torch.from_numpy(np.stack(draws)), self._device)

    def __call__(self, step: int) -> Tensor:
        """As the samplers ask for it; the chain asks in a fixed order."""
        return self.draw()
