"""Many pictures as one, to be looked at."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraygen.atomic import atomic_file
from xraygen.ranges import Stored, largest_level

_GAP_PX = 2


def tile(images: Stored, bits: int, columns: int | None = None) -> NDArray[np.uint8]:
    """Lay pictures out row by row with a thin dark gap.

    Args:
        images: `[N, H, W]` or `[N, H, W, 3]`, stored levels.
        bits: Their depth.
        columns: Pictures per row; by default as square as N allows.

    Returns:
        One 8-bit picture `[H', W']` or `[H', W', 3]`.
    """
    count, height, width = images.shape[:3]
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    step_y, step_x = height + _GAP_PX, width + _GAP_PX
    sheet = np.zeros((rows * step_y - _GAP_PX, columns * step_x - _GAP_PX, *images.shape[3:]), np.uint8)
    for index, image in enumerate(images):
        y, x = index // columns * step_y, index % columns * step_x
        sheet[y : y + height, x : x + width] = np.rint(image.astype(np.float64) * (255 / largest_level(bits)))
    return sheet


def write_gif(path: Path, frames: Stored, bits: int, milliseconds: int = 120) -> None:
    """Write frames `[N, H, W]` as an endless GIF that runs forth and back, 8 bits, whole or absent."""
    shown = [Image.fromarray(tile(frame[None], bits)) for frame in frames]
    swing = [*shown, *shown[-2:0:-1]]
    with atomic_file(path) as aside:
        swing[0].save(
            aside, format="GIF", save_all=True, append_images=swing[1:], duration=milliseconds, loop=0
        )
