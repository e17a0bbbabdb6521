"""How improbable a small distance is: the lower tail of a few hundred distances, fitted to be read beyond them.

m distances, of which n lie below the threshold u.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xraygen.seeds import numpy_generator

TAIL_SHARE = 0.1
"""Part of the distances that is fitted."""
SMALLEST_TAIL = 30
"""Fewer distances below u leave the scale uncertain by more than a fifth."""
SIMULATIONS = 199
LEAST_FIT = 0.05
"""Below, the goodness of fit says that the tail is another one."""

Distances = NDArray[np.float64]


@dataclass(frozen=True)
class Tail:
    """P(D ≤ d) = share · (1 + ξ x / σ)^(−1/ξ) with x = log(u / d), for d ≤ u."""

    threshold: float
    """u."""
    share: float
    """P(D ≤ u)."""
    shape: float
    """ξ, at least 0; 0 is exponential."""
    scale: float
    """σ."""
    films: int
    """n, how many distances were fitted."""
    fit: float
    """Of simulated tails, the part that is fitted no better (Cramér-von Mises); small where the form is wrong."""

    def p_value(self, distance: float) -> float:
        """P(D ≤ distance), for distances up to u."""
        if distance <= 0:
            return 0.0
        x = max(0.0, math.log(self.threshold / distance))
        return self.share * float(_survival(np.array([x]), self.shape, self.scale)[0])

    def distance_at(self, p: float) -> float:
        """The distance whose p-value is p, for p up to `share`."""
        left = math.log(self.share / p)
        x = self.scale * (left if self.shape == 0 else math.expm1(self.shape * left) / self.shape)
        return self.threshold * math.exp(-x)


def fit_tail(null: Distances, seed: int = 0) -> Tail | None:
    """Peaks over threshold of −log distance: the generalised Pareto distribution by probability-weighted moments.

    Where distances to the nearest of many films have a density like d^(k−1) near 0, −log d has an exponential tail.
    A fitted ξ below 0 would give a distance beyond which nothing is possible, which no few hundred films can know: it
    is set to 0, which errs towards larger p-values.

    Args:
        null: Distances of films that are no copies, `(m,)`, above 0.
        seed: Of the simulated tails.

    Returns:
        The tail, or None where fewer than SMALLEST_TAIL distances lie in it, or all are equal.

    Source:
        Pickands 1975 (peaks over threshold); Hosking & Wallis 1987, eq. 6 (moments).
    """
    ordered = np.sort(null)
    count = int(TAIL_SHARE * len(ordered))
    if count < SMALLEST_TAIL or ordered[0] <= 0:
        return None
    threshold = float(ordered[count])
    x = np.log(threshold / ordered[:count])[::-1]  # ascending
    if x[-1] <= 0:
        return None
    shape, scale = _moments(x)
    return Tail(threshold, count / len(ordered), shape, scale, count, _goodness(x, shape, scale, seed))


def _moments(x: Distances) -> tuple[float, float]:
    """ξ and σ from ascending exceedances."""
    n = len(x)
    first = float(x.mean())
    second = float((x * (n - 1 - np.arange(n)) / (n - 1)).mean())  # E x (1 − F)
    shape = 2 - first / (first - 2 * second)
    if not 0 < shape < 0.9:
        return 0.0, first
    return shape, 2 * first * second / (first - 2 * second)


def _survival(x: Distances, shape: float, scale: float) -> Distances:
    """P(X > x)."""
    survival: Distances = np.exp(-x / scale) if shape == 0 else (1 + shape * x / scale) ** (-1 / shape)
    return survival


def _distance(x: Distances, shape: float, scale: float) -> float:
    """Cramér-von Mises statistic of ascending exceedances."""
    n = len(x)
    expected = (2 * np.arange(1, n + 1) - 1) / (2 * n)
    return float(((1 - _survival(x, shape, scale) - expected) ** 2).sum() + 1 / (12 * n))


def _goodness(x: Distances, shape: float, scale: float, seed: int) -> float:
    """Part of simulated tails, each fitted anew, that lie as far from their fit: the parametric bootstrap."""
    generator = numpy_generator(seed, "tail-fit")
    found = _distance(x, shape, scale)
    as_far = 0
    for _ in range(SIMULATIONS):
        left = generator.exponential(size=len(x))
        drawn = np.sort(scale * (left if shape == 0 else np.expm1(shape * left) / shape))
        as_far += _distance(drawn, *_moments(drawn)) >= found
    return (1 + as_far) / (1 + SIMULATIONS)
