"""Training films that stay on the device: one copy before the first step instead of one in each."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.dataset.store import Dataset
from xraygen.devices import moved
from xraygen.ranges import largest_level

_LARGEST_SHARE = 0.25
"""Of the device's free memory, what films may take where the configuration leaves it open."""
_LOW_16_BITS = 0xFFFF


@dataclass(frozen=True)
class ResidentFilms:
    """The films of one split on a device, as they are stored.

    Attributes:
        rows: Their rows in the DATASET, int64, ascending.
        films: uint8 or, for uint16, the same bits as int16, which every device can gather: `(N, H, W)` or
            `(N, H, W, 3)`.
        bits: White is stored as 2^bits - 1.
    """

    rows: NDArray[np.int64]
    films: Tensor
    bits: int

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        """Rows of the DATASET as `(B, C, H, W)` float32 in [-1, 1] on the device, bit for bit `stored_to_model`'s."""
        places = moved(torch.from_numpy(np.searchsorted(self.rows, rows)), self.films.device)
        levels = self.films[places].to(torch.int32)  # (B, H, W) or (B, H, W, 3)
        if self.films.dtype == torch.int16:
            levels &= _LOW_16_BITS
        x = levels.to(torch.float32) / largest_level(self.bits) * 2 - 1
        return x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2).contiguous()


def resident_films(
    dataset: Dataset, rows: NDArray[np.int64], device: torch.device, choice: bool | Literal["auto"]
) -> ResidentFilms | None:
    """Put films on the device if that is asked for, or if it is left open and they take a quarter of it at most.

    Args:
        dataset: Open DATASET.
        rows: Rows that are trained on.
        device: Where the network lies.
        choice: `train.data_on_device`.

    Returns:
        None where each step gathers from the memory map instead, which on a CPU is as quick.
    """
    if choice == "auto":
        size = len(rows) * dataset.images[0].nbytes
        choice = device.type == "cuda" and size <= _LARGEST_SHARE * torch.cuda.mem_get_info(device)[0]
    if not choice:
        return None
    rows = np.sort(rows)
    films = dataset.gather(rows)
    stored = torch.from_numpy(films.view(np.int16) if films.dtype == np.uint16 else films)
    return ResidentFilms(rows, stored.to(device), dataset.info.bits)
