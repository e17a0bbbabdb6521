"""What the pixels of one film say: contrast, saturation, likeness, the exposed rectangle, and burned-in characters.

Light is float, [0, 1], 0 black, as `xraygen.films.display` makes it. Nothing here proves that a film is clean: a
detector that finds no text has found no text.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.filters import gaussian
from skimage.measure import label, regionprops
from skimage.morphology import dilation, opening

from xraygen.errors import UsageError

Light = NDArray[np.float32]

HASH_BITS = 256
_COARSE_SIDE = 32
"""Blocks a side, of which contrast and hash are made; of a film's own means both are the film's."""
_CONTRAST_PERCENTILES = (1.0, 99.0)
_END = 1 / 255
"""Light nearer than this to 0 or 1 was cut off."""

_RECTANGLE_SIDE = 512
_FLAT = 0.03
_STEP = 0.08
_STEP_SHARE = 0.5
_EDGE_REACH = 3
_LEAST_KEPT = 0.5

_TEXT_SIDE = 2048
_STROKE_PX = (7, 17)
_CHARACTER_PX = (6, 96)
_SHARPNESS = 0.2
_FILLED = 0.15
_WIDEST = 1.6


@dataclass(frozen=True)
class TextRule:
    """What burned-in text is; how much is found and how often in vain is in docs/how-to/curation.md."""

    contrast: float = 0.12
    """How much brighter or darker than its ground a stroke is at least, of the light's [0, 1]."""
    characters: int = 4
    """How many characters stand side by side at least."""

    def __post_init__(self) -> None:
        if not 0 < self.contrast < 1:
            raise UsageError(f"text_contrast {self.contrast}: expected a number between 0 and 1.")
        if self.characters < 1:
            raise UsageError(f"text_characters {self.characters}: expected 1 or more.")


PRINT = TextRule()
"""A printed word."""


@dataclass(frozen=True)
class Look:
    """How one image looks, in numbers that curation's rules compare."""

    contrast: float
    """Range of the light of coarse blocks, [0, 1]; noise averages out of it."""
    black: float
    """Share of pixels cut off at black, [0, 1]; borders that are wholly black do not count."""
    white: float
    """Share of pixels cut off at white, [0, 1]."""
    perceptual: bytes
    """32 bytes that hardly change when the film is saved again; see `perceptual_hash`."""


def look_at(light: Light) -> Look:
    """Measure an image of any size.

    Args:
        light: `[H, W]`, [0, 1], black borders allowed.
    """
    inside = without_black_borders(light)
    coarse = _area_means(light, (_COARSE_SIDE, _COARSE_SIDE)) if min(light.shape) >= _COARSE_SIDE else light
    return Look(
        contrast=coarse_contrast(coarse if inside.shape == light.shape else inside),
        black=np.count_nonzero(inside <= _END) / inside.size,
        white=np.count_nonzero(inside >= 1 - _END) / inside.size,
        perceptual=perceptual_hash(coarse).tobytes(),
    )


def without_black_borders(light: Light) -> Light:
    """The smallest rectangle that holds all that is not black; the whole where all is black."""
    if all(edge.any() for edge in (light[0], light[-1], light[:, 0], light[:, -1])):
        return light
    rows, columns = np.flatnonzero(light.any(axis=1)), np.flatnonzero(light.any(axis=0))
    if not len(rows):
        return light
    return light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def coarse_contrast(light: Light) -> float:
    """Range between the 1st and 99th percentile of the means of up to 32 x 32 blocks."""
    height, width = light.shape
    coarse = _area_means(light, (min(height, _COARSE_SIDE), min(width, _COARSE_SIDE)))
    ordered = np.sort(coarse, axis=None)
    ranks = np.array(_CONTRAST_PERCENTILES) / 100 * (ordered.size - 1)
    low, high = np.interp(
        ranks, np.arange(ordered.size), ordered
    )  # as np.percentile, without its two hundred steps
    return float(high - low)


def perceptual_hash(light: Light) -> NDArray[np.uint8]:
    """Signs of the 256 lowest frequencies of a film's cosine transform, but for the mean.

    Args:
        light: `[H, W]`; sides below 32 pixels leave less to compare.

    Returns:
        32 bytes. A factor or an offset of the light changes no sign, and saving at another size or quality few.

    Source:
        Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", sec. 3.2 (DCT based); signs
        instead of a comparison with the median, and 256 bits instead of 64, since chest films are much alike.
    """
    small = _area_means(light, (_COARSE_SIDE, _COARSE_SIDE)).astype(np.float64)  # [32, 32]
    coefficients = _cosines() @ small @ _cosines().T  # [32, 32]
    return np.packbits(coefficients.ravel()[_low_frequencies()] > 0)


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    """Row k is frequency k of the DCT-II, up to a factor: cos(pi k (2 n + 1) / 2 N)."""
    n = np.arange(_COARSE_SIDE)
    return np.cos(np.pi * np.outer(n, 2 * n + 1) / (2 * _COARSE_SIDE))


@lru_cache(maxsize=1)
def _low_frequencies() -> NDArray[np.intp]:
    """Flat indices of the 256 lowest frequencies by the sum of both, without the mean."""
    vertical, horizontal = np.mgrid[:_COARSE_SIDE, :_COARSE_SIDE]
    return np.argsort(((vertical + horizontal) * _COARSE_SIDE + vertical).ravel(), kind="stable")[
        1 : HASH_BITS + 1
    ]


def exposed_rectangle(light: Light) -> tuple[slice, slice]:
    """Rows and columns inside the collimator's borders; all of them where there is any doubt.

    A border is a band along an edge that is flat and ends in a straight step: at least half of the next line differs.
    Air beside the body is flat too, but ends in the body's curve. A tilted border stays, and so does one that leaves
    less than half of a side.

    Args:
        light: `[H, W]`, [0, 1], at full size; it is looked at in steps of pixels, so the result errs outwards.
    """
    step = max(1, min(light.shape) // _RECTANGLE_SIDE)
    rows = _between_bands(light[::step, ::step], light.shape[0], step)
    columns = _between_bands(light[rows][::step, ::step].T, light.shape[1], step)
    return rows, columns


def _between_bands(few: Light, length: int, step: int) -> slice:
    """The lines between the borders at both ends, `few` being every `step`-th of `length` lines."""
    first, last = _band(few), len(few) - _band(few[::-1])
    lines = slice(max(0, (first - 1) * step + 1), min(length, last * step))
    return lines if lines.stop - lines.start >= _LEAST_KEPT * length else slice(0, length)


def _band(light: Light) -> int:
    """Number of first rows that are a collimator's border, 0 if they are none."""
    low, high = np.percentile(light, [2, 98], axis=1)  # [H]
    level = float(np.median(light[0]))
    flat = (high - low < 2 * _FLAT) & (abs(np.median(light, axis=1) - level) < _FLAT)
    count = int(np.argmin(flat)) if not flat.all() else 0
    beyond = light[count : count + _EDGE_REACH]
    if not count or not len(beyond):
        return 0
    differs = (abs(beyond - level) > _STEP).any(axis=0)
    return count if differs.mean() >= _STEP_SHARE else 0


def has_text(light: Light, rule: TextRule = PRINT) -> bool:
    """Whether a line of burned-in characters was found; False is no proof that there is none.

    Args:
        light: `[H, W]`, [0, 1], at full size; a small copy has no strokes left.
        rule: What counts as one.

    Example:
        Single letters, such as the lead markers L and R, do not count, nor does handwriting.
    """
    scale = min(1.0, _TEXT_SIDE / max(light.shape))
    light = _area_means(light, (max(1, round(light.shape[0] * scale)), max(1, round(light.shape[1] * scale))))
    return any(
        _longest_line(turned) >= rule.characters
        for boxes in _characters(light, rule.contrast)
        for turned in (boxes, boxes[:, [2, 3, 0, 1]])  # upright, and by a quarter
    )


def _area_means(light: Light, size: tuple[int, int]) -> Light:
    """[H, W] -> [size], where no side grows; a growing one repeats its pixels."""
    if light.shape == size:
        return light.astype(np.float32)
    shown = Image.fromarray(np.ascontiguousarray(light, dtype=np.float32))
    return np.asarray(shown.resize(size[::-1], Image.Resampling.BOX))


def _characters(light: Light, least_contrast: float) -> list[NDArray[np.int64]]:
    """Boxes [n, 4] (top, bottom, left, right) of what may be characters, for each polarity and stroke width."""
    sharpness = np.hypot(*np.gradient(gaussian(light, 0.5)))
    found = []
    for picture in (light, 1 - light):
        for stroke in _STROKE_PX:
            contrast = picture - opening(picture, np.ones((stroke, stroke)))
            # Half of the nearest peak: what smoothing has put between two letters does not join them.
            strokes = contrast > np.maximum(least_contrast, dilation(contrast, np.ones((stroke, stroke))) / 2)
            found.append(_boxes(strokes, contrast, sharpness))
    return found


def _boxes(strokes: NDArray[np.bool_], contrast: Light, sharpness: Light) -> NDArray[np.int64]:
    """Boxes of connected strokes with a character's size and proportions and a printed edge."""
    boxes = []
    for region in regionprops(label(strokes, connectivity=2)):
        rows, columns = region.slice
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if not _CHARACTER_PX[0] <= max(height, width) <= _CHARACTER_PX[1]:
            continue
        mine = region.image
        if mine.mean() < _FILLED:
            continue
        peak = float(np.percentile(contrast[rows, columns][mine], 90))
        if float(np.percentile(sharpness[rows, columns][mine], 75)) >= _SHARPNESS * peak:
            boxes.append((rows.start, rows.stop, columns.start, columns.stop))
    return np.array(boxes, dtype=np.int64).reshape(-1, 4)


def _longest_line(boxes: NDArray[np.int64]) -> int:
    """How many boxes stand side by side on one line, at most."""
    heights, widths = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    boxes = boxes[(heights >= _CHARACTER_PX[0]) & (widths <= _WIDEST * heights)]
    boxes = boxes[np.argsort(boxes[:, 2], kind="stable")]
    lengths = np.ones(len(boxes), dtype=np.int64)  # of the line that ends in each box
    for index, (top, bottom, left, _) in enumerate(boxes):
        before = boxes[:index]
        height, heights = bottom - top, before[:, 1] - before[:, 0]
        overlap = np.minimum(bottom, before[:, 1]) - np.maximum(top, before[:, 0])
        gap = left - before[:, 3]
        beside = (
            (overlap >= 0.6 * np.maximum(height, heights))
            & (np.maximum(height, heights) <= 1.6 * np.minimum(height, heights))
            & (gap >= -0.2 * height)
            & (gap <= 0.9 * height)
        )
        lengths[index] += max(lengths[:index][beside], default=0)
    return int(lengths.max(initial=0))
