"""The grey-scale transformations of DICOM PS3.3, one pixel at a time, in Python floats. Slow and obvious."""

import math
from collections.abc import Callable, Sequence
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
