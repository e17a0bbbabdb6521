"""The grey-scale transformations of DICOM PS3.3, one pixel at a time, in Python floats. Slow and obvious."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Y_MIN, Y_MAX = 0.0, 1.0


def each(function: Callable[[float], float], values: NDArray[Any]) -> NDArray[np.float64]:
    """Apply a function of one number to every number."""
    result = np.empty(values.shape, dtype=np.float64)
    for index in np.ndindex(values.shape):
        result[index] = function(float(values[index]))
    return result


def linear(x: float, c: float, w: float) -> float:
    """C.11.2.1.2.1, the three lines of pseudo-code."""
    if x <= c - 0.5 - (w - 1) / 2:
        return Y_MIN
    if x > c - 0.5 + (w - 1) / 2:
        return Y_MAX
    return ((x - (c - 0.5)) / (w - 1) + 0.5) * (Y_MAX - Y_MIN) + Y_MIN


def linear_exact(x: float, c: float, w: float) -> float:
    """C.11.2.1.3.2, the three lines of pseudo-code."""
    if x <= c - w / 2:
        return Y_MIN
    if x > c + w / 2:
        return Y_MAX
    return ((x - c) / w + 0.5) * (Y_MAX - Y_MIN) + Y_MIN


def sigmoid(x: float, c: float, w: float) -> float:
    """C.11.2.1.3.1."""
    exponent = -4 * (x - c) / w
    if exponent > 700:  # exp would overflow; the quotient is 0 to the last digit
        return Y_MIN
    return (Y_MAX - Y_MIN) / (1 + math.exp(exponent)) + Y_MIN


def look_up(x: float, first: int, entries: Sequence[int]) -> float:
    """C.11.1.1.1 and C.11.2.1.1: below the first mapped value the first entry, above the last one the last."""
    if x < first:
        return float(entries[0])
    if x >= first + len(entries):
        return float(entries[-1])
    return float(entries[int(x) - first])


def rescale(x: float, slope: float, intercept: float) -> float:
    """C.11.1.1.2."""
    return slope * x + intercept


def percentile(values: NDArray[Any], percent: float) -> float:
    """The smallest value that at least `percent` per cent of the values do not exceed."""
    ordered = sorted(float(value) for value in values.ravel())
    rank = max(1, math.ceil(percent / 100 * len(ordered)))
    return ordered[rank - 1]


@dataclass(frozen=True, kw_only=True)
class Table:
    """An item of a Modality or VOI LUT Sequence."""

    first: int
    entries: tuple[int, ...]
    bits: int


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """All that a header says about the display of its stored values; None for what it leaves out."""

    photometric: str
    shape: str | None = None
    padding: int | None = None
    padding_limit: int | None = None
    modality: tuple[float, float] | Table | None = None  # slope and intercept
    window: tuple[float, float, str | None] | None = None  # centre, width, function
    voi_lut: Table | None = None


def displayed(stored: NDArray[Any], meaning: Meaning) -> NDArray[np.float64]:
    """PS3.4 N.2: modality, VOI, presentation, in this order; then padding black. Light in [0, 1]."""
    x = each(lambda value: modality_value(value, meaning), stored)
    inside = np.array([not is_padding(float(value), meaning) for value in stored.ravel()]).reshape(
        stored.shape
    )
    light = each(voi_of(x[inside], meaning), x)
    if is_shown_inverted(meaning):
        light = Y_MAX + Y_MIN - light
    return np.where(inside, light, 0.0)


def modality_value(stored: float, meaning: Meaning) -> float:
    """C.11.1: a Modality LUT or Rescale Slope and Intercept, or else the stored value."""
    if isinstance(meaning.modality, Table):
        return look_up(stored, meaning.modality.first, meaning.modality.entries)
    return stored if meaning.modality is None else rescale(stored, *meaning.modality)


def voi_of(inside: NDArray[np.float64], meaning: Meaning) -> Callable[[float], float]:
    """C.11.2: the VOI LUT, or else the window, or else (not in the standard) percentiles of unpadded pixels."""
    if meaning.voi_lut is not None:
        table = meaning.voi_lut
        return lambda x: look_up(x, table.first, table.entries) / (2**table.bits - 1)
    if meaning.window is not None:
        centre, width, function = meaning.window
        apply = {None: linear, "LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}[function]
        return lambda x: apply(x, centre, width)
    if inside.size == 0:
        return lambda x: 0.0
    low, high = percentile(inside, 0.5), percentile(inside, 99.5)
    if low == high:
        low, high = float(inside.min()), float(inside.max())
    return lambda x: linear_exact(
        x, (low + high) / 2, high - low if low < high else 1.0
    )  # grey where all is equal


def is_shown_inverted(meaning: Meaning) -> bool:
    """C.11.6.1.2 where there is a Presentation LUT Shape, else C.7.6.3.1.2: MONOCHROME1 shows its minimum white."""
    if meaning.shape is None:
        return meaning.photometric == "MONOCHROME1"
    return {"IDENTITY": False, "INVERSE": True}[meaning.shape]


def is_padding(stored: float, meaning: Meaning) -> bool:
    """C.7.5.1.1.2: the value, or the range from value to limit, whichever is the smaller."""
    if meaning.padding is None:
        return False
    limit = meaning.padding if meaning.padding_limit is None else meaning.padding_limit
    return min(meaning.padding, limit) <= stored <= max(meaning.padding, limit)


def attenuation(stored: float, relationship: str, sign: int, bits: int) -> float:
    """C.8.11.3.1.2: LIN values are proportional to X-ray intensity, LOG values to its logarithm; sign -1 turns over."""
    if relationship == "LOG":
        return -sign * stored
    top = 2**bits - 1
    intensity = stored if sign == 1 else top - stored
    return -math.log(max(intensity, 1) / top)
