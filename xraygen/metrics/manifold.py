"""Precision, recall, density and coverage: whether two sets of features lie on one manifold, each drawn as balls.

N real and M synthetic samples, F features. Exact: every pair of samples is compared, in float64, block by block.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.errors import ShapeError
from xraygen.metrics.frechet import Array, Rows

PRECISION_K = 3
"""Neighbours that set the balls of precision and recall, as in Kynkäänniemi et al. 2019."""
COVERAGE_K = 5
"""Neighbours that set the balls of density and coverage, as in Naeem et al. 2020."""
SMALLEST_COUNT = COVERAGE_K + 1
"""A fifth neighbour needs five others."""

_ROWS_AT_ONCE = 1024
_MOST_PAIRED = 4096
"""Samples of a set, of which the distances of all pairs take 134 MB."""

Block = tuple[int, Tensor]
"""The number of the first row, and squared distances of rows to all of the other set, `(n, M)`."""


@dataclass(frozen=True)
class Manifold:
    """Four numbers about one pair of sets."""

    precision: float
    """Share of synthetic samples that lie within a ball around a real one, [0, 1]."""
    recall: float
    """Share of real samples that lie within a ball around a synthetic one, [0, 1]."""
    density: float
    """How many real balls a synthetic sample lies in, over k: 1 is expected of real samples; at least 0."""
    coverage: float
    """Share of real balls with a synthetic sample within, [0, 1]."""


@dataclass(frozen=True, eq=False)
class Balls:
    """Distance of each sample to its neighbours of the same set, squared, `(N,)`."""

    precision: Tensor
    """To the PRECISION_K-th."""
    coverage: Tensor
    """To the COVERAGE_K-th."""


def manifold(real: Array, synthetic: Array) -> Manifold:
    """Improved precision and recall, density and coverage.

    With B(x) the closed ball around x that reaches to its k-th nearest neighbour within its own set,

    precision = mean_j [ y_j in some B(x_i) ]        recall = mean_i [ x_i in some B(y_j) ]               (k = 3)
    density = mean_j #{ i: y_j in B(x_i) } / k       coverage = mean_i [ some y_j in B(x_i) ]             (k = 5)

    Args:
        real: x, `(N, F)`, N at least 6.
        synthetic: y, `(M, F)`, M at least 6.

    Returns:
        The four. Each depends on N and M: compare at equal numbers only.

    Raises:
        ShapeError: If the shapes do not fit together, a set is too small, or a number is not finite.

    Source:
        Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric", eq. 1 and 2; Naeem et al. 2020, "Reliable
        Fidelity and Diversity Metrics for Generative Models", eq. 3 and 4.
    """
    x, y = _prepared(real, synthetic)
    return _compare(_blocks(x, y), _balls(_blocks(x, x)), _balls(_blocks(y, y)))


def manifold_of_rows(real: Array, synthetic: Array) -> Callable[[Rows, Rows], Manifold]:
    """`manifold` of some rows of either set, for many choices of rows: distances of all pairs are made once.

    Args:
        real: x, `(N, F)`.
        synthetic: y, `(M, F)`.

    Returns:
        Takes rows of x, int64 `(n,)`, and of y, `(m,)`, without repeats, n and m at least 6.

    Raises:
        ShapeError: As for `manifold`.
    """
    x, y = _prepared(real, synthetic)
    if max(len(x), len(y)) > _MOST_PAIRED:
        return lambda first, second: manifold(x[first], y[second])
    within_x, within_y, across = (
        torch.cat([squares for _, squares in _blocks(a, b)]) for a, b in ((x, x), (y, y), (x, y))
    )

    def of_rows(first: Rows, second: Rows) -> Manifold:
        r, s = torch.from_numpy(first), torch.from_numpy(second)
        of_x, of_y = _balls([(0, within_x[r][:, r])]), _balls([(0, within_y[s][:, s])])
        return _compare([(0, across[r][:, s])], of_x, of_y)

    return of_rows


def _prepared(real: Array, synthetic: Array) -> tuple[Tensor, Tensor]:
    """As float64 tensors in one space, that have neighbours."""
    x, y = (torch.as_tensor(features).detach().to(torch.float64) for features in (real, synthetic))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < SMALLEST_COUNT:
        raise ShapeError(
            f"A manifold needs features (N, F) and (M, F) of at least {SMALLEST_COUNT} samples; given: "
            f"{tuple(x.shape)} and {tuple(y.shape)}."
        )
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ShapeError("A manifold needs finite features, and there is NaN or infinity among them.")
    return x, y


def _balls(blocks: Iterable[Block]) -> Balls:
    """From the distances of a set to itself, which it overwrites."""
    three, five = [], []
    for start, squares in blocks:
        rows = torch.arange(len(squares))
        squares[rows, start + rows] = torch.inf  # a sample is no neighbour of itself
        smallest = squares.topk(COVERAGE_K, dim=1, largest=False).values  # (n, 5), ascending
        three.append(smallest[:, PRECISION_K - 1])
        five.append(smallest[:, COVERAGE_K - 1])
    return Balls(torch.cat(three), torch.cat(five))


def _compare(blocks: Iterable[Block], of_x: Balls, of_y: Balls) -> Manifold:
    """From the distances of x to y."""
    within = torch.zeros(len(of_y.precision), dtype=torch.bool)
    density = torch.zeros(len(of_y.precision), dtype=torch.int64)
    recalled, covered = [], []
    for start, squares in blocks:  # (n, M)
        rows = slice(start, start + len(squares))
        within |= (squares <= of_x.precision[rows, None]).any(dim=0)
        inside = squares <= of_x.coverage[rows, None]
        density += inside.sum(dim=0)
        covered.append(inside.any(dim=1))
        recalled.append((squares <= of_y.precision).any(dim=1))
    return Manifold(
        precision=float(within.double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(density.double().mean() / COVERAGE_K),
        coverage=float(torch.cat(covered).double().mean()),
    )


def realism(real: Array, synthetic: Array) -> NDArray[np.float64]:
    """How deep each synthetic sample lies within the real ones: above 1 inside a ball, below 1 outside of all.

    R(y_j) = max_i r_i / ‖y_j − x_i‖, with r_i the radius of B(x_i) (k = 3), over the half of the balls with r_i at most
    their median

    Args:
        real: x, `(N, F)`, N at least 6.
        synthetic: y, `(M, F)`, M at least 6.

    Returns:
        float64 `(M,)`, at least 0; infinity where y_j equals an x_i.

    Raises:
        ShapeError: If the shapes do not fit together, a set is too small, or a number is not finite.

    Source:
        Kynkäänniemi et al. 2019, eq. 3 and the text below it.
    """
    x, y = _prepared(real, synthetic)
    squares = _balls(_blocks(x, x)).precision
    kept = squares <= squares.median()
    x, squares = x[kept], squares[kept]
    best = torch.zeros(len(y), dtype=torch.float64)
    for start, found in _blocks(x, y):  # (n, M)
        ratio = squares[start : start + len(found), None] / found  # 0 / 0 where a ball has no radius
        best = torch.maximum(best, ratio.nan_to_num(nan=torch.inf, posinf=torch.inf).amax(dim=0))
    return np.asarray(best.sqrt().numpy(), dtype=np.float64)


def _blocks(x: Tensor, y: Tensor) -> Iterator[Block]:
    """Squared distances of some rows of x to all of y, `(n, M)`, with the number of the first row."""
    centre = y.mean(dim=0)  # small numbers lose fewer digits in the product
    others = y - centre
    squares_y = others.square().sum(dim=1)  # (M,)
    for start in range(0, len(x), _ROWS_AT_ONCE):
        rows = x[start : start + _ROWS_AT_ONCE] - centre
        squares = torch.addmm(squares_y, rows, others.T, alpha=-2)  # (n, M)
        squares += rows.square().sum(dim=1, keepdim=True)
        yield start, squares.clamp_(min=0)
