"""The kernel distance (KID): how far apart two sets of features are, without bias at any number of samples.

N, M samples, F features. All in float64.
"""

import math
from typing import NamedTuple

import torch
from scipy.special import stdtrit
from torch import Tensor

from xraygen.errors import ShapeError
from xraygen.metrics.frechet import Array

_ROWS_AT_ONCE = 1024


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
    x, y = (torch.as_tensor(features, dtype=torch.float64) for features in (a, b))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 3:
        raise ShapeError(
            f"A kernel distance needs (N, F) and (M, F) of at least 3 samples; given: {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ShapeError("A kernel distance needs finite features, and some are not.")
    within_x, within_y = (_sums(z, z)[0] - _of_itself(z) for z in (x, y))  # (N,), (M,)
    across_x, across_y = _sums(x, y)  # (N,), (M,)
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


def _sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_j k(x_i, y_j) for each i, `(N,)`, and Σ_i for each j, `(M,)`, k = (xᵀy / F + 1)³, some rows at a time."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64)
    for block in torch.split(x, _ROWS_AT_ONCE):
        kernel = (block @ y.T / x.shape[1] + 1) ** 3  # (n, M)
        rows.append(kernel.sum(dim=1))
        columns += kernel.sum(dim=0)
    return torch.cat(rows), columns


def _of_itself(x: Tensor) -> Tensor:
    """k(x_i, x_i), `(N,)`: no pair of two samples."""
    return (x.square().sum(dim=1) / x.shape[1] + 1) ** 3


def _unbiased(within_x: Tensor, within_y: Tensor, across: Tensor, n: int, m: int) -> Tensor:
    """The estimator from sums over pairs."""
    return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2 * across / (n * m)


def _jackknife_variance(without: Tensor) -> float:
    """(n − 1) / n · Σ (θ_(i) − mean)², of the estimates without each sample, `(n,)`."""
    count = len(without)
    return float((count - 1) / count * (without - without.mean()).square().sum())
