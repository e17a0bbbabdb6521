"""Whether a film of the chest looks like a negative, from its pixels alone.

Measured on real films, all shown correctly, and on the same films turned over:

| films | number | false alarms | found when turned over |
|---|---|---|---|
| paediatric (Kermany), 224 px | 5,840 | 0 | 5,839 |
| adult, four of five AP (Hannover), 640 px | 243 | 0 | 236 |
| the same patients, 1024 px | 92 | 0 | 88 |
| adult (NIH), 64 px | 1,000 | 0 | 998 |
| adult originals, 1000 to 2000 px | 13 | 0 | 13 |
| chest DICOMs | 4 | 0 | 4 |

They are frontal films; lateral ones are not judged.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.films.display import Display, StoredValues

THRESHOLD = -0.2
"""Correlation with a chest below which a film is doubtful; no correct film of the table is below it."""

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
        values: Stored values `[H, W]`; 56 x 56 of them are looked at.
        display: How they become light.

    Returns:
        Whether `chest_correlation` is below THRESHOLD; False for a film with a side below SMALLEST_SIDE.
    """
    if min(values.shape) < SMALLEST_SIDE:
        return False
    rows, columns = (((np.arange(_SAMPLES) + 0.5) * side / _SAMPLES).astype(np.intp) for side in values.shape)
    sample = values[np.ix_(rows, columns)].astype(np.float64)  # [56, 56]
    return chest_correlation(display.apply(sample)) < THRESHOLD


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
