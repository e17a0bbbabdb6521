"""The value ranges that images pass through, and the only functions that change them.

stored  uint8 or uint16, [0, 2^bits - 1]     images.npy, PNG, DICOM
unit    float32, [0, 1], 0 black             read_radiograph, metrics
model   float32, [-1, 1]                     diffusion and networks (Ho et al. 2020, sec. 3.3: x / 127.5 - 1)
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Stored = NDArray[np.uint8] | NDArray[np.uint16]


def largest_level(bits: int) -> int:
    """The stored value of white: 255, 4095, 65535."""
    return (1 << bits) - 1


def stored_to_unit(stored: Stored, bits: int) -> NDArray[np.float32]:
    """Stored levels to float32 [0, 1]."""
    return stored.astype(np.float32) / np.float32(largest_level(bits))


def unit_to_stored(unit: NDArray[np.floating], bits: int) -> Stored:
    """Float [0, 1] to the nearest stored level; what lies outside is clipped. uint8 up to 8 bits, else uint16."""
    levels = unit.astype(
        np.float64
    )  # one copy, eight bytes a pixel: of a thousand films that is half a gigabyte
    np.clip(levels, 0.0, 1.0, out=levels)
    levels *= largest_level(bits)
    np.rint(levels, out=levels)
    return levels.astype(np.uint8) if bits <= 8 else levels.astype(np.uint16)


def stored_to_model(stored: Stored, bits: int) -> Tensor:
    """Stored levels (any shape) to a float32 tensor in [-1, 1]."""
    return torch.from_numpy(stored_to_unit(stored, bits)) * 2 - 1


def model_to_stored(x: Tensor, bits: int) -> Stored:
    """Model range [-1, 1] to the nearest stored level; what lies outside is clipped."""
    return unit_to_stored(model_to_unit(x).numpy(), bits)


def model_to_unit(x: Tensor) -> Tensor:
    """Model range [-1, 1] to a float32 CPU tensor in [0, 1]; what lies outside is clipped."""
    return ((x.detach().float().cpu() + 1) / 2).clamp(0, 1)
