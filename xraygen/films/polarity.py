"""Whether a film of the chest looks like a negative, from its pixels alone.

What the threshold is worth on real films, and on films that it was not chosen on, is measured by
docs/measure_polarity.py and written in docs/concepts/display.md.

Frontal films only: lateral ones are not judged.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.films.display import Display, StoredValues

THRESHOLD = -0.2
"""Correlation with a chest below which a film is doubtful.

All films of Kermany (5,840) are found when turned over at -0.195 and above; of all real films none that is shown
correctly is below -0.165.
"""

_SAMPLES = 56
_CELLS = 8
SMALLEST_SIDE = 16
"""Shorter sides in pixels show no anatomy."""

_CHEST: NDArray[np.float64] = np.array(
    [
        [-3, -1, 1, 2, 2, 1, -1, -3],
        [-2, 0, 0, 2, 2, 0, 0, -2],
        [-1, 0, -2, 2, 2, -2, 0, -1],
        [-1, 0, -2, 2, 2, -2, 0, -1],
        [-1, 0, -2, 2, 2, -1, 0, -1],
        [-1, 0, -1, 2, 2, 0, 0, -1],
        [-1, 0, 1, 2, 2, 1, 0, -1],
        [-1, 1, 2, 2, 2, 2, 1, -1],
    ],
    dtype=np.float64,
)
"""A chest of 8 x 8 cells drawn by hand: air in the corners and at the sides, lungs, spine, heart and diaphragm."""


def may_be_negative(values: StoredValues, display: Display) -> bool:
    """Whether a frontal film of the chest, as it is displayed, is more likely a negative.

    Args:
        values: Stored values `[H, W]`.
        display: How they become light.

    Returns:
        Whether `displayed_correlation` is below THRESHOLD; False for a film with a side below SMALLEST_SIDE.
    """
    return min(values.shape) >= SMALLEST_SIDE and displayed_correlation(values, display) < THRESHOLD


def displayed_correlation(values: StoredValues, display: Display) -> float:
    """`chest_correlation` of a film of any size, of whose stored values `[H, W]` 56 x 56 are looked at."""
    rows, columns = (_sampled(side) for side in values.shape)
    sample = values[rows[:, None], columns].astype(np.float64)  # [56, 56]
    return chest_correlation(display.apply(sample))


@lru_cache(maxsize=64)
def _sampled(side: int) -> NDArray[np.intp]:
    """Which pixels of a side are looked at, `[56]`."""
    return ((np.arange(_SAMPLES) + 0.5) * side / _SAMPLES).astype(np.intp)


def chest_correlation(light: NDArray[np.floating[Any]]) -> float:
    """How much a film looks like a chest: Pearson's correlation of 8 x 8 cell means with a chest drawn by hand.

    Args:
        light: A regular sample of a displayed film, `[56, 56]`, [0, 1].

    Returns:
        -1 to 1; negative where air is bright and the middle dark; 0 for a film without contrast.
    """
    share = _SAMPLES // _CELLS
    cells = light.reshape(_CELLS, share, _CELLS, share).mean(axis=(1, 3), dtype=np.float64)  # [8, 8]
    cells, chest = cells - cells.mean(), _CHEST - _CHEST.mean()
    norm = float(np.sqrt((cells**2).sum() * (chest**2).sum()))
    return float((cells * chest).sum() / norm) if norm > 0 else 0.0
