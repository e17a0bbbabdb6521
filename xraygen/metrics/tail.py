"""How improbable a small distance is: the lower tail of a few hundred distances, fitted to be read beyond them.

m distances, of which n lie below the threshold u; x = log(u / d) are the exceedances of -log d, and x̄ their mean.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xraygen.seeds import numpy_generator

LARGEST_SHARE = 0.2
"""Part of the distances in the largest tail that is tried; each further one has three quarters of its distances."""
SMALLEST_TAIL = 30
"""Fewer distances below u leave x̄ uncertain by more than a fifth."""
LEAST_FILMS = 300
"""Distances that a tail takes: the smallest tail is then a tenth of them, and there are two larger ones to try."""
SIMULATIONS = 999
FALSE_DISCOVERIES = 0.05
"""Of the tails that are given up as of another form, the part that had it all the same, on average."""

Distances = NDArray[np.float64]
Form = Literal["exponential", "lighter", "heavier"]


@dataclass(frozen=True)
class Tail:
    """P(D ≤ d) = share · (1 + x / (n x̄))^(−n) with x = log(u / d), for d ≤ u."""

    threshold: float
    """u."""
    share: float
    """P(D ≤ u) = (n + 1) / (m + 1)."""
    scale: float
    """x̄."""
    films: int
    """n, how many distances were fitted."""
    shape: float
    """ξ of the generalised Pareto distribution with their mean and variance: 0 as fitted, below it lighter."""
    fit: float
    """Of simulated exponential tails, the part that is fitted no better (Anderson-Darling)."""
    form: Form
    """Which tail they have: the fitted one, a lighter one, which it bounds, or a heavier one, which it does not."""
    tried: int
    """How many larger tails were given up as of another form."""

    def p_value(self, distance: float) -> float:
        """P(D ≤ distance), for distances up to u."""
        if distance <= 0:
            return 0.0
        x = max(0.0, math.log(self.threshold / distance))
        return self.share * math.exp(-self.films * math.log1p(x / (self.films * self.scale)))

    def distance_at(self, p: float) -> float:
        """The distance whose p-value is p, for p up to `share`."""
        x = self.films * self.scale * math.expm1(math.log(self.share / p) / self.films)
        return self.threshold * math.exp(-x)


def fit_tail(null: Distances, seed: int = 0) -> Tail | None:
    """Peaks over threshold of −log distance: the exponential distribution, over a threshold that the fit chooses.

    Where distances to the nearest of many films have a density like d^(k−1) near 0, −log d has an exponential tail.
    Real distances have a tail that is lighter the more films it takes in. Where its hazard increases, as for ξ < 0, the
    logarithm of its survival is concave and crosses that of an exponential tail of the same mean once: far out it lies
    below, and the p-values are too large, which is cautious. A heavier tail, as that of held-out films with copies
    among them, is bounded by nothing.

    Tails of fewer and fewer films are tested for the exponential form; those that the rule of ForwardStop rejects
    are given up, and the first one after them is fitted: the largest that is not rejected. Where the smallest is
    rejected too it is fitted all the same, and `form` says what it is. The scale is estimated, and so is u; with both,
    P(D ≤ d) is the chance of one further distance, which is exact for an exponential tail: x / x̄ has an F distribution
    with 2 and 2 n degrees of freedom.

    Args:
        null: Distances of films that are no copies, `(m,)`, above 0.
        seed: Of the simulated tails.

    Returns:
        The tail, or None where there are fewer than LEAST_FILMS distances, one is 0, or the nearest are all equal.

    Source:
        Pickands 1975 (peaks over threshold); Bader, Yan & Zhang 2018, "Automated threshold selection for extreme value
        analysis via ordered goodness-of-fit tests", with G'Sell, Wager, Chouldechova & Tibshirani 2016 (ForwardStop).
    """
    ordered = np.sort(null)
    if len(ordered) < LEAST_FILMS or ordered[0] <= 0:
        return None
    candidates = [_exceedances(ordered, count) for count in _counts(len(ordered))]
    tails = [x for x in candidates if len(x) >= SMALLEST_TAIL and x[0] < x[-1]]  # equal ones have no variance
    if not tails:
        return None
    fits = [_goodness(x, seed) for x in tails]
    rejected = forward_stop(fits)
    chosen = min(rejected, len(tails) - 1)
    x = tails[chosen]
    scale = float(x.mean())
    shape = 0.5 * (1 - scale**2 / float(x.var(ddof=1)))
    return Tail(
        threshold=float(ordered[len(x)]),
        share=(len(x) + 1) / (len(ordered) + 1),
        scale=scale,
        films=len(x),
        shape=shape,
        fit=fits[chosen],
        form="exponential" if chosen == rejected else "lighter" if shape < 0 else "heavier",
        tried=chosen,
    )


def forward_stop(p_values: list[float]) -> int:
    """How many of the first hypotheses are rejected, in their order, with FALSE_DISCOVERIES wrong ones among them.

    k̂ = max { k : −(1 / k) Σ_{i ≤ k} log(1 − p_i) ≤ α }, G'Sell et al. 2016, eq. 4
    """
    with np.errstate(divide="ignore"):
        sums = np.cumsum(-np.log1p(-np.asarray(p_values)))
    held = np.flatnonzero(sums / np.arange(1, len(sums) + 1) <= FALSE_DISCOVERIES)
    return int(held[-1]) + 1 if len(held) else 0


def _counts(films: int) -> list[int]:
    """How many of the distances each tail has, falling."""
    counts, count = [], int(LARGEST_SHARE * films)
    while count >= SMALLEST_TAIL:
        counts.append(count)
        count = 3 * count // 4
    return counts


def _exceedances(ordered: Distances, count: int) -> Distances:
    """log(u / d) of the `count` least distances, or of fewer where some equal u; ascending, above 0."""
    threshold = ordered[count]
    below = ordered[: int(np.searchsorted(ordered, threshold))]
    x: Distances = np.log(threshold / below)[::-1]
    return x


def anderson_darling(x: Distances) -> Distances:
    """A² of samples against the exponential distribution of their mean.

    A² = −n − (1 / n) Σ_i (2 i − 1) (log(1 − exp(−x_i / x̄)) − x_{n+1−i} / x̄)

    Args:
        x: `(..., n)`, ascending, above 0.

    Returns:
        `(...)`; Stephens 1974, "EDF statistics for goodness of fit", case of an estimated scale.
    """
    n = x.shape[-1]
    z = x / x.mean(axis=-1, keepdims=True)
    terms = np.log(-np.expm1(-z)) - z[..., ::-1]  # (..., n)
    return np.asarray(-n - ((2 * np.arange(1, n + 1) - 1) * terms).sum(axis=-1) / n)


def _goodness(x: Distances, seed: int) -> float:
    """Part of simulated exponential samples that lie as far from their fit, each with a mean of its own."""
    as_far = int((_simulated(len(x), seed) >= anderson_darling(x)).sum())
    return (1 + as_far) / (1 + SIMULATIONS)


@lru_cache
def _simulated(n: int, seed: int) -> Distances:
    """A² of SIMULATIONS exponential samples of n; it knows no scale, so that one simulation does for all tails of n."""
    generator = numpy_generator(seed, "tail-fit", n)
    return anderson_darling(np.sort(generator.exponential(size=(SIMULATIONS, n)), axis=1))
