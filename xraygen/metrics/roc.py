"""The area under the ROC curve, and how sure it is where several films are of one patient.

N films, m of them positive and n negative. All that is said of uncertainty goes by way of each film's influence on the
area, which is linear: differences, means over classifiers and means over classes have intervals of the same kind.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NORMAL = 1.959964
"""97.5 % quantile of the standard normal."""

Scores = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Clusters = NDArray[np.int64]


class Area(NamedTuple):
    """A number in [0, 1] and its 95 % interval."""

    value: float
    low: float
    high: float


class Influence(NamedTuple):
    """An area, and what each film adds to its error."""

    area: float
    of_film: NDArray[np.float64]  # (N,)


def area_under_curve(scores: Scores, positive: Mask) -> float:
    """How often a positive film scores above a negative one; ties count half.

    Args:
        scores: `(N,)`.
        positive: `(N,)`; both kinds must occur.
    """
    return float(_placements(scores, positive)[positive].mean())


def influence(scores: Scores, positive: Mask, clusters: Clusters) -> Influence:
    """The area, and each film's influence on it.

    A film's placement V is the share of the other kind that it is on the right side of. The squared influences, summed
    within patients first, add up to the variance of the area: with one film per patient DeLong's, to the last digit.

    Args:
        scores: `(N,)`.
        positive: `(N,)`; both kinds must occur in at least two clusters.
        clusters: Patient of each film, `(N,)`.

    Source:
        DeLong et al. 1988, eq. 4 to 6; Obuchowski 1997, eq. 3, for clusters.
    """
    V = _placements(scores, positive)
    area = float(V[positive].mean())
    of_film = np.empty(len(V))
    for kind in (positive, ~positive):
        count, groups = int(kind.sum()), len(np.unique(clusters[kind]))
        of_film[kind] = (V[kind] - area) / count * math.sqrt(groups / (groups - 1))
    return Influence(area, of_film)


def clustered_error(of_film: NDArray[np.float64], clusters: Clusters) -> float:
    """Standard error of an area, a difference or a mean of areas, from the films' influences on it.

    Args:
        of_film: `(N,)`, of `influence`, or a linear combination of such.
        clusters: Patient of each film, `(N,)`.
    """
    _, code = np.unique(clusters, return_inverse=True)
    return float(np.sqrt(np.square(np.bincount(code, weights=of_film)).sum()))


def area_interval(value: float, standard_error: float, positive: int, negative: int) -> Area:
    """95 % interval of an area, which stays within [0, 1] and is open at neither end.

    Wilson's, with as many independent films as the standard error speaks of, A (1 - A) / SE², and at most as many as
    two exponential distributions leave: near 1 a standard error is too good to be true, and at 1 there is none. Where
    patients have several films, that makes intervals near 1 wider than they need be.

    Args:
        value: A.
        standard_error: Of A.
        positive: Patients with positive films, m.
        negative: Patients with negative films, n.

    Source:
        Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", part 2,
        method 5, with DeLong's variance where that is larger.
    """
    A, N = value, (positive + negative) / 2
    largest = positive * negative / (1 + max(N - 1, 0) * ((1 - A) / (2 - A) + A / (1 + A)))
    n = min(largest, A * (1 - A) / standard_error**2) if 0 < A < 1 and standard_error > 0 else largest
    return wilson(A, n)


def wilson(share: float, count: float) -> Area:
    """95 % interval of a share of `count` independent films (Wilson 1927)."""
    square = NORMAL**2 / count
    centre = (share + square / 2) / (1 + square)
    half = NORMAL / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return Area(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def _placements(scores: Scores, positive: Mask) -> NDArray[np.float64]:
    """Share of the other kind below each positive film, and above each negative one; ties count half. `(N,)`."""
    V = np.empty(len(scores))
    for kind, sign in ((positive, 1), (~positive, -1)):
        others = np.sort(sign * scores[~kind])
        own = sign * scores[kind]
        below, up_to = np.searchsorted(others, own, "left"), np.searchsorted(others, own, "right")
        V[kind] = (below + up_to) / 2 / len(others)
    return V
