"""The kernel distance (KID): how far apart two sets of features are, without bias at any number of samples.

N, M samples, F features. All in float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from xraygen.errors import ShapeError
from xraygen.metrics.frechet import Array

SUBSET_SIZE = 1000
"""Samples of each set in a subset, as in Bińkowski et al. 2018, sec. 4."""
CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0
"""Width of CMMD's kernel, and what its squared distance is multiplied by to be read."""

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class _Kernel:
    """k(x, y)."""

    of_pairs: Callable[[Tensor, Tensor], Tensor]
    """Of all pairs of `(n, F)` and `(M, F)`: `(n, M)`."""
    of_itself: Callable[[Tensor], Tensor]
    """k(x_i, x_i) of `(N, F)`: `(N,)`, no pair of two samples."""


def _squares(x: Tensor) -> Tensor:
    """|x_i|², `(N,)`."""
    return x.square().sum(dim=1)


def _gaussian_of_pairs(x: Tensor, y: Tensor) -> Tensor:
    """exp(−|x − y|² / (2 σ²))."""
    distances = torch.addmm(_squares(y), x, y.T, alpha=-2) + _squares(x)[:, None]
    return torch.exp(distances.clamp(min=0) / (-2 * CMMD_SIGMA**2))


_CUBIC = _Kernel(
    of_pairs=lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3,
    of_itself=lambda x: (_squares(x) / x.shape[1] + 1) ** 3,
)
_GAUSSIAN = _Kernel(of_pairs=_gaussian_of_pairs, of_itself=lambda x: torch.ones(len(x), dtype=x.dtype))


class KernelDistance(NamedTuple):
    """An estimate of the squared maximum mean discrepancy, with its 95 % interval."""

    value: float
    low: float
    high: float


def kernel_distance(a: Array, b: Array) -> KernelDistance:
    """KID: the squared maximum mean discrepancy under the kernel k(x, y) = (xᵀy / F + 1)³, estimated without bias.

    MMD² = mean_{i≠j} k(a_i, a_j) + mean_{i≠j} k(b_i, b_j) − 2 mean_{ij} k(a_i, b_j)

    The estimand is the distance of the two populations, so that it may be compared between sets of any size; an
    estimate may be below 0. The interval comes from the jackknife of both samples, each left out in turn, with
    Student's t for the smaller one: it says how far another draw of films would move the value.

    Args:
        a: `(N, F)`, N at least 3.
        b: `(M, F)`, M at least 3.

    Returns:
        The estimate and its 95 % interval.

    Raises:
        ShapeError: If the shapes do not fit together or a number is not finite.

    Source:
        Bińkowski et al. 2018, "Demystifying MMD GANs", sec. 4 (kernel) and eq. 4 (estimator); Arvesen 1969
        (jackknife of two samples).
    """
    return _discrepancy(*_prepared(a, b), _CUBIC)


def clip_discrepancy(a: Array, b: Array) -> KernelDistance:
    """CMMD: the squared maximum mean discrepancy of CLIP's embeddings under a Gaussian kernel, times 1,000.

    k(x, y) = exp(−|x − y|² / (2 σ²)), σ = 10; the estimator and its interval are `kernel_distance`'s. The authors' code
    takes the biased estimator instead (pairs of a sample with itself count, and 1 / N² stands for 1 / (N (N − 1))),
    which is higher by 1000 (2 − mean k within a − mean k within b) / N at N samples per set.

    Args:
        a: `(N, F)`, N at least 3; embeddings of length 1.
        b: `(M, F)`, M at least 3.

    Returns:
        The estimate and its 95 % interval.

    Raises:
        ShapeError: If the shapes do not fit together or a number is not finite.

    Source:
        Jayasumana et al. 2024, "Rethinking FID: Towards a Better Evaluation Metric for Image Generation", eq. 4 and
        sec. 5.
    """
    found = _discrepancy(*_prepared(a, b), _GAUSSIAN)
    return KernelDistance(*(CMMD_SCALE * number for number in found))


def subset_kernel_distance(
    a: Array, b: Array, generator: np.random.Generator, size: int = SUBSET_SIZE
) -> KernelDistance:
    """KID of sets too large for all pairs: the mean over disjoint random subsets, each sample in one at most.

    Each subset's estimate is without bias, and so is their mean; the subsets share no sample, so that its standard
    error is theirs over √n, with Student's t of n − 1 degrees of freedom. The estimand is that of `kernel_distance`,
    the interval is wider, and the cost grows with N and not with N².

    Args:
        a: `(N, F)`; a memory map will do.
        b: `(M, F)`.
        generator: Chooses the subsets.
        size: Samples of each set in a subset, at least 3.

    Returns:
        The mean and its 95 % interval.

    Raises:
        ShapeError: If the smaller set holds fewer than two subsets, the shapes do not fit, or a number is not finite.

    Source:
        Bińkowski et al. 2018, sec. 4, whose subsets may overlap.
    """
    subsets = min(len(a), len(b)) // size
    if subsets < 2:
        raise ShapeError(
            f"Subsets of {size} need sets of at least {2 * size} samples; given: {len(a)} and {len(b)}."
        )
    first, second = (generator.permutation(len(features)) for features in (a, b))
    estimates = []
    for start in range(0, subsets * size, size):
        rows = (np.sort(order[start : start + size]) for order in (first, second))  # sorted: kinder to a disk
        x, y = _prepared(*(features[chosen] for features, chosen in zip((a, b), rows, strict=True)))
        estimates.append(float(_estimate(x, y, _CUBIC)))
    value = float(np.mean(estimates))
    spread = float(stdtrit(subsets - 1, 0.975) * np.std(estimates, ddof=1) / math.sqrt(subsets))
    return KernelDistance(value, value - spread, value + spread)


def _prepared(a: Array, b: Array) -> tuple[Tensor, Tensor]:
    """Both in float64, if they have a distance."""
    x, y = (torch.as_tensor(features, dtype=torch.float64) for features in (a, b))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 3:
        raise ShapeError(
            f"A kernel distance needs (N, F) and (M, F) of at least 3 samples; given: {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ShapeError("A kernel distance needs finite features, and some are not.")
    return x, y


def _discrepancy(x: Tensor, y: Tensor, kernel: _Kernel) -> KernelDistance:
    """The estimate with its jackknife interval."""
    within_x, within_y = (_sums(z, z, kernel)[0] - kernel.of_itself(z) for z in (x, y))  # (N,), (M,)
    across_x, across_y = _sums(x, y, kernel)  # (N,), (M,)
    across = across_x.sum()
    value = _unbiased(within_x.sum(), within_y.sum(), across, len(x), len(y))
    without_x = _unbiased(
        within_x.sum() - 2 * within_x, within_y.sum(), across - across_x, len(x) - 1, len(y)
    )  # (N,)
    without_y = _unbiased(
        within_x.sum(), within_y.sum() - 2 * within_y, across - across_y, len(x), len(y) - 1
    )  # (M,)
    quantile = float(stdtrit(min(len(x), len(y)) - 1, 0.975))
    spread = quantile * math.sqrt(_jackknife_variance(without_x) + _jackknife_variance(without_y))
    return KernelDistance(float(value), float(value) - spread, float(value) + spread)


def _estimate(x: Tensor, y: Tensor, kernel: _Kernel) -> Tensor:
    """The estimate alone."""
    within_x, within_y = ((_sums(z, z, kernel)[0] - kernel.of_itself(z)).sum() for z in (x, y))
    return _unbiased(within_x, within_y, _sums(x, y, kernel)[0].sum(), len(x), len(y))


def _sums(x: Tensor, y: Tensor, kernel: _Kernel) -> tuple[Tensor, Tensor]:
    """Σ_j k(x_i, y_j) for each i, `(N,)`, and Σ_i for each j, `(M,)`, some rows at a time."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64)
    for block in torch.split(x, _ROWS_AT_ONCE):
        values = kernel.of_pairs(block, y)  # (n, M)
        rows.append(values.sum(dim=1))
        columns += values.sum(dim=0)
    return torch.cat(rows), columns


def _unbiased(within_x: Tensor, within_y: Tensor, across: Tensor, n: int, m: int) -> Tensor:
    """The estimator from sums over pairs."""
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)


def _jackknife_variance(without: Tensor) -> float:
    """(n − 1) / n · Σ (θ_(i) − mean)², of the estimates without each sample, `(n,)`."""
    count = len(without)
    return float((count - 1) / count * (without - without.mean()).square().sum())
