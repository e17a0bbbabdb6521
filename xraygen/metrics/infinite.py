"""The Fréchet distance of infinitely many films, from the way in which that of N films falls with 1/N.

N samples per set, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xraygen.errors import ShapeError
from xraygen.metrics.frechet import Array, Rows, frechet_distance_of_rows

POINTS = 8
"""Smaller numbers of samples at which the distance is taken, evenly spaced in 1/N from 1.25 / N to 4 / N."""
REPEATS = 4
"""Random subsamples per point."""
SMALLEST_COUNT = 32
"""Below, N / 4 films have no covariance worth the name."""
MOST_BEND = 0.05
"""Largest part of the distance at N by which a parabola may end elsewhere than the line."""
MOST_SCATTER = 0.1
"""Largest standard error of the line's end, as a part of the distance at N."""


@dataclass(frozen=True)
class Extrapolation:
    """FD(N) ≈ value + slope / N."""

    value: float | None
    """At N = ∞; None where the line does not fit."""
    standard_error: float
    """Of the line's end, from the scatter about it alone."""
    slope: float
    """Fall with 1/N."""
    bend: float
    """How far a parabola through the same points ends from the line."""
    refused: str
    """Why there is no value; empty where there is one."""


def frechet_at_infinity(a: Array, b: Array, generator: np.random.Generator) -> Extrapolation:
    """Extrapolate the Fréchet distance to infinitely many samples.

    The bias of FD is a power series in 1/N whose first term rules once N is well above the number of directions that
    the features really spread in: FD(N) = FD(∞) + slope / N. The line goes through FD(N) and is fitted to distances of
    random subsamples of N / 4 to 0.8 N samples, weighted by 1 / (1/n − 1/N), to which their variance is
    proportional.

    It is refused, rather than given wrongly, where

    * N is below SMALLEST_COUNT;
    * a parabola through the same points ends more than MOST_BEND · FD(N), and more than three times its own standard
      error, away from the line: the second term matters;
    * the points scatter so much that the standard error of the line's end is above MOST_SCATTER · FD(N);
    * the line ends below zero by more than twice its standard error, since no distance does.

    Args:
        a: `(N, F)`.
        b: `(M, F)`; the smaller of N and M counts, and as many samples of the other set are drawn.
        generator: Chooses the subsamples.

    Returns:
        The end of the line, or why it has none.

    Raises:
        ShapeError: As for `frechet_distance_of_features`.

    Source:
        Chong & Forsyth 2020, "Effectively Unbiased FID and Inception Score", sec. 4.1; the rules of refusal are ours.
    """
    count = min(len(a), len(b))
    if count < SMALLEST_COUNT:
        return Extrapolation(None, 0.0, 0.0, 0.0, f"N = {count} is below {SMALLEST_COUNT}")
    distance = frechet_distance_of_rows(a, b)
    at_count = distance(_some(a, count, generator), _some(b, count, generator))
    sizes = [round(count / share) for share in np.linspace(1.25, 4, POINTS) for _ in range(REPEATS)]
    distances = [distance(_some(a, size, generator), _some(b, size, generator)) for size in sizes]
    return fit(count, at_count, sizes, distances)


def fit(count: int, at_count: float, sizes: Sequence[int], distances: Sequence[float]) -> Extrapolation:
    """The line through distances at 1/n, and whether it may be believed.

    Args:
        count: N.
        at_count: FD(N).
        sizes: n of each subsample, below N.
        distances: FD of each subsample.

    Raises:
        ShapeError: If there are fewer than five subsamples, or one is not smaller than N.
    """
    if len(sizes) < 5 or len(sizes) != len(distances) or max(sizes) >= count:
        raise ShapeError(
            f"A 1/N fit needs distances of at least five subsamples of fewer than {count}; given: "
            f"{len(sizes)} numbers and {len(distances)} distances."
        )
    x = count / np.asarray(sizes, dtype=np.float64) - 1  # in units of 1/N
    y = np.asarray(distances, dtype=np.float64) - at_count
    (slope, _), error = _least_squares(x, y, 1)
    (first, second), doubt = _least_squares(x, y, 2)
    end = at_count - slope
    gap = abs(first - second - slope)  # of the parabola's end at x = -1 from the line's
    refused = ""
    if gap > max(MOST_BEND * at_count, 3 * doubt):
        refused = "the distance does not fall as 1/N: a parabola through the same points ends elsewhere"
    elif error > MOST_SCATTER * at_count:
        refused = "the distances of subsamples scatter too much for a line"
    elif end < -2 * error:
        refused = "the line ends below zero"
    return Extrapolation(None if refused else max(0.0, end), error, count * slope, gap, refused)


def _some(features: Array, count: int, generator: np.random.Generator) -> Rows:
    """`count` random rows."""
    return generator.permutation(len(features))[:count]


def _least_squares(
    x: NDArray[np.float64], y: NDArray[np.float64], degree: int
) -> tuple[tuple[float, float], float]:
    """Coefficients of x and x² (0 where the degree is 1), and the standard error of the value at x = −1."""
    root = 1 / np.sqrt(x)
    design = np.stack([x, x**2][:degree], axis=1) * root[:, None]  # (points, degree)
    solution = np.linalg.lstsq(design, y * root)[0]
    residual = y * root - design @ solution
    variance = float(residual @ residual) / (len(x) - degree)
    end = np.array([-1.0, 1.0])[:degree]
    error = float(np.sqrt(variance * end @ np.linalg.inv(design.T @ design) @ end))
    return (float(solution[0]), float(solution[1]) if degree == 2 else 0.0), error
