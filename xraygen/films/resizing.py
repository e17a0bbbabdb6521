"""Bring pictures to another size: by area means where a side shrinks, by lines between pixels where it grows."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixelwise = Callable[[NDArray[Any]], NDArray[Any]]

_PIXELS_PER_STRIP = 2**18
"""What is worked on at once: it stays in a processor's second cache."""


def size_inside(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """The largest height and width of `shape`'s aspect ratio that fit into `size`, rounded to pixels."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    height, width = (max(1, round(side * scale)) for side in shape[:2])
    return min(height, size[0]), min(width, size[1])


def crop_to_aspect(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The largest central part of `[H, W]` with the aspect ratio of `size`, to the nearest pixel."""
    height, width = size_inside(size, (image.shape[0], image.shape[1]))
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def resize(
    image: NDArray[Any],
    size: tuple[int, int],
    through: Pixelwise = np.asarray,
    largest: int | None = None,
) -> NDArray[np.float32]:
    """Resize by exact area means along sides that shrink, and linearly along sides that grow.

    Args:
        image: Numbers `[H, W]`.
        size: Height and width to reach, at least 1.
        through: What is done to each pixel before; it sees some rows at a time, which is quicker than all at once.
        largest: The largest integer in `image`, where it is known without looking.

    Returns:
        float32 `[height, width]` in the range of what `through` gives. The mean is preserved where no side grows.
    """
    rows = _resize_rows(image, size[0], through, largest)  # [height, W]
    width = image.shape[1]
    if width % size[1] == 0:
        share = width // size[1]
        weights = np.full((share, 1), 1 / share, dtype=np.float32)
        return (rows.reshape(-1, share) @ weights).reshape(size)  # [height, width]
    return np.ascontiguousarray(_resize_rows(np.ascontiguousarray(rows.T), size[1]).T)  # [height, width]


def _resize_rows(
    image: NDArray[Any], count: int, through: Pixelwise = np.asarray, largest: int | None = None
) -> NDArray[np.float32]:
    """[H, W] -> [count, W]; each new row mixes the few old rows below it, so the weights are a band."""
    height, width = image.shape
    resized = np.empty((count, width), dtype=np.float32)
    if height % count == 0:  # whole numbers of pixels: several times faster than the bands
        share = height // count
        per_strip = max(1, _PIXELS_PER_STRIP // (share * width))
        for row in range(0, count, per_strip):
            strip = through(image[row * share : (row + per_strip) * share])
            kind = _type_of_sums(strip.dtype, share, largest)
            total = np.add.reduce(strip.reshape(-1, share, width), axis=1, dtype=kind)
            np.divide(total, np.float32(share), out=resized[row : row + per_strip])
        return resized
    bands = _area_bands(height, count) if count < height else _linear_bands(height, count)
    per_strip = max(1, _PIXELS_PER_STRIP * count // (height * width))
    for first in range(0, count, per_strip):
        mine = bands[first : first + per_strip]
        top, bottom = mine[0][0], mine[-1][0] + len(mine[-1][1])
        strip = through(image[top:bottom]).astype(np.float32)
        for row, (start, weights) in enumerate(mine, first):
            np.matmul(weights, strip[start - top : start - top + len(weights)], out=resized[row])
    return resized


@lru_cache(maxsize=64)
def _type_of_sums(kind: np.dtype[Any], share: int, largest: int | None) -> type[np.generic]:
    """The quickest type that holds the sum of `share` pixels; small integers add up several times faster."""
    if kind not in (np.uint8, np.uint16):
        return np.float32
    held = int(np.iinfo(kind).max)
    return np.uint16 if min(held, held if largest is None else largest) * share < 2**16 else np.float32


Band = tuple[int, NDArray[np.float32]]


@lru_cache(maxsize=64)
def _area_bands(old: int, new: int) -> list[Band]:
    """For each new pixel: the first old pixel that it covers, and the share of it that each old pixel fills."""
    bands = []
    for pixel in range(new):
        # Edges as whole multiples of 1/new of an old pixel: exact at every ratio.
        low, high = pixel * old, (pixel + 1) * old
        start, stop = low // new, -(-high // new)
        covered = np.diff(np.clip(np.arange(start, stop + 1) * new, low, high))
        bands.append((start, (covered / old).astype(np.float32)))
    return bands


@lru_cache(maxsize=64)
def _linear_bands(old: int, new: int) -> list[Band]:
    """For each new pixel: the two old pixels beside its centre, and their linear weights; edges are held."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    starts = np.minimum(centres.astype(np.int64), max(old - 2, 0))
    return [
        (int(start), np.array([1 - (centre - start), centre - start], dtype=np.float32)[: min(old, 2)])
        for start, centre in zip(starts, centres, strict=True)
    ]
