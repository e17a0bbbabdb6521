"""The Fréchet distance between two sets of features: how far apart two Gaussians fitted to them are.

N, M samples, F features. All in float64: in float32 a distance is wrong in its third digit. Samples are read some rows
at a time, so that a set that does not fit into memory may be a memory map.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import blas, lapack
from torch import Tensor

from xraygen.errors import ShapeError

Array = NDArray[np.floating[Any]] | Tensor
Rows = NDArray[np.int64]

_ROWS_AT_ONCE = 2048
_MOST_ROWS_PER_FEATURE = 2
"""Of more, products of all pairs would take more memory than they save time."""


def frechet_distance(mean1: Array, cov1: Array, mean2: Array, cov2: Array) -> float:
    """Squared 2-Wasserstein (Fréchet) distance between two Gaussians.

    d² = |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½)

    The symmetric product has the eigenvalues of Σ₁Σ₂ and can neither become complex nor need an epsilon.

    Args:
        mean1: Mean of the first Gaussian, `(F,)`.
        cov1: Its covariance, `(F, F)`, symmetric positive semi-definite.
        mean2: Mean of the second, `(F,)`.
        cov2: Its covariance, `(F, F)`.

    Returns:
        The squared distance, at least 0, in squared units of the features.

    Raises:
        ShapeError: If the shapes do not fit together or a number is not finite.

    Source:
        Dowson & Landau 1982, eq. 4; as a distance between image sets: Heusel et al. 2017, eq. 6.

    Example:
        >>> frechet_distance(np.zeros(2), np.eye(2), np.array([3.0, 0.0]), 4 * np.eye(2))
        11.0
    """
    first, second = _float64(mean1), _float64(mean2)
    sigma1, sigma2 = _float64(cov1), _float64(cov2)
    dims = (len(first), len(first)) if first.ndim == 1 else None
    if first.shape != second.shape or sigma1.shape != dims or sigma2.shape != dims:
        raise ShapeError(
            f"Two Gaussians need means (F,) and covariances (F, F); given: {tuple(first.shape)}, "
            f"{tuple(sigma1.shape)}, {tuple(second.shape)}, {tuple(sigma2.shape)}."
        )
    return _of_moments((first, sigma1), (second, sigma2))


def frechet_distance_of_features(a: Array, b: Array) -> float:
    """Fréchet distance between the Gaussians fitted to two sets of features.

    With at least as many samples as features it works on the covariances. With fewer these are singular, and it
    works on the samples: for centred X (N, F), Y (M, F) with Σ = XᵀX / (N − 1),

    tr (Σ₁^½ Σ₂ Σ₁^½)^½ = ‖X Yᵀ‖_* / √((N − 1)(M − 1))      (sum of the singular values)

    which is exact, better conditioned, and quicker by the cube of F / N.

    Args:
        a: One set, `(N, F)`, N >= 2.
        b: The other, `(M, F)`, M >= 2.

    Returns:
        The squared distance, at least 0. Its expectation falls as N and M grow: compare at equal N only.

    Raises:
        ShapeError: If the sets do not fit together, hold fewer than two samples or a number that is not finite.

    Source:
        Heusel et al. 2017, eq. 6; unbiased covariances (N − 1), as in its authors' code.
    """
    _check_features(a, b)
    if min(len(a), len(b)) >= a.shape[1]:
        return _of_moments(_moments(a), _moments(b))
    (mean1, x), (mean2, y) = _mean_and_short(a), _mean_and_short(b)
    overlap = torch.linalg.svdvals(x @ y.T).sum()
    return _combine((mean1 - mean2).square().sum(), x.square().sum() + y.square().sum(), overlap)


def frechet_distance_of_rows(a: Array, b: Array) -> Callable[[Rows, Rows], float]:
    """`frechet_distance_of_features` of some rows of either set, for many choices of rows.

    With fewer rows than features, X Yᵀ of all rows is made once, and the rows of a choice are read from it: less their
    means, since those of a choice are not those of all.

    (X_r − 1 μ_rᵀ)(Y_s − 1 μ_sᵀ)ᵀ = C (X Yᵀ)_rs C,  C = 1 − 11ᵀ / n

    Args:
        a: One set, `(N, F)`.
        b: The other, `(M, F)`.

    Returns:
        Takes rows of `a`, int64 `(n,)`, and of `b`, `(m,)`, without repeats, n and m >= 2; gives the squared distance.

    Raises:
        ShapeError: As for `frechet_distance_of_features`; also by what is returned.
    """
    _check_features(a, b)
    dims = a.shape[1]

    def anew(first: Rows, second: Rows) -> float:
        return frechet_distance_of_features(a[first], b[second])

    if max(len(a), len(b)) > _MOST_ROWS_PER_FEATURE * dims:
        return anew
    (centre_a, x), (centre_b, y) = map(_centred, (a, b))  # (N, F), (M, F)
    products = x @ y.T  # (N, M)

    def from_products(first: Rows, second: Rows) -> float:
        if min(len(first), len(second)) >= dims:
            return anew(first, second)
        (mean1, trace1), (mean2, trace2) = _mean_and_trace(x, first), _mean_and_trace(y, second)
        chosen = products[torch.from_numpy(first)][:, torch.from_numpy(second)]  # (n, m)
        chosen -= chosen.mean(dim=0)
        chosen -= chosen.mean(dim=1, keepdim=True)
        overlap = torch.linalg.svdvals(chosen).sum() / math.sqrt((len(first) - 1) * (len(second) - 1))
        return _combine((centre_a + mean1 - centre_b - mean2).square().sum(), trace1 + trace2, overlap)

    return from_products


def _check_features(a: Array, b: Array) -> None:
    """Two sets in one space, each with a covariance."""
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"Two sets of features must be (N, F) and (M, F); given: {tuple(a.shape)} and {tuple(b.shape)}."
        )
    if min(len(a), len(b)) < 2:
        raise ShapeError(f"A covariance needs at least two samples; given: {len(a)} and {len(b)}.")


def _centred(features: Array) -> tuple[Tensor, Tensor]:
    """Mean `(F,)`, and the rows less it."""
    rows = _float64(features)
    mean = rows.mean(dim=0)
    return mean, rows - mean


def _mean_and_trace(x: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
    """Mean `(F,)` and trace of the covariance of some rows of `(N, F)`, whose numbers are small."""
    chosen = torch.zeros(len(x), dtype=torch.float64)
    chosen[torch.from_numpy(rows)] = 1.0
    mean = chosen @ x / len(rows)
    squares = chosen @ x.square().sum(dim=1) - len(rows) * mean.square().sum()
    return mean, squares / (len(rows) - 1)


def _of_moments(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """The distance between two Gaussians, each a mean `(F,)` and the lower triangle of a covariance `(F, F)`."""
    (mean1, sigma1), (mean2, sigma2) = first, second
    overlap = torch.linalg.eigvalsh(_inner(sigma1, sigma2)).clamp(min=0).sqrt().sum()
    return _combine((mean1 - mean2).square().sum(), sigma1.trace() + sigma2.trace(), overlap)


def _inner(sigma1: Tensor, sigma2: Tensor) -> Tensor:
    """A matrix `(F, F)` with the eigenvalues of Σ₁^½ Σ₂ Σ₁^½. Of all three the lower triangle counts.

    It is UΣ₂Uᵀ with any factor Σ₁ = UᵀU: with Cholesky's, in half the arithmetic of two products, or, where Σ₁ is
    singular, with the one that its eigenvectors make. LAPACK goes by columns: to it a lower triangle is an upper one.
    """
    factor, failed = lapack.dpotrf(sigma1.numpy().T)
    if failed:
        values, vectors = torch.linalg.eigh(sigma1)
        root: Tensor = vectors * values.clamp(min=0).sqrt()
        return root.T @ (sigma2.tril() + sigma2.tril(-1).T) @ root
    inner, _ = lapack.dsygst(sigma2.numpy().T, factor, itype=2)
    return torch.from_numpy(inner.T)


def _moments(features: Array) -> tuple[Tensor, Tensor]:
    """Mean `(F,)` and the lower triangle of the unbiased covariance `(F, F)`.

    Rows are centred before they are squared, or large means would cost digits. BLAS's `syrk` makes the half of the
    product that counts, which torch does not offer.
    """
    mean = _mean(features)
    scatter = np.zeros((len(mean), len(mean)), order="F")
    room = torch.empty(min(len(features), _ROWS_AT_ONCE), len(mean), dtype=torch.float64)
    for block in _blocks(features):
        centred = torch.sub(block, mean, out=room[: len(block)])
        scatter = blas.dsyrk(1.0, centred.numpy().T, beta=1.0, c=scatter, overwrite_c=1)
    scatter /= len(features) - 1
    return mean, torch.from_numpy(scatter.T)


def _mean_and_short(features: Array) -> tuple[Tensor, Tensor]:
    """Mean, and a factor x `(min(N, F), F)` of the covariance xᵀx.

    With more samples than features it is the R of QR, since Q drops out of the singular values; R of R and more rows is
    R of all.
    """
    mean = _mean(features)
    short = torch.empty(0, len(mean), dtype=torch.float64)
    for block in _blocks(features):
        rows = block - mean
        short = torch.cat([short, rows]) if len(short) else rows
        if len(short) > len(mean):
            short = torch.linalg.qr(short, mode="r").R
    return mean, short.div_(math.sqrt(len(features) - 1))


def _mean(features: Array) -> Tensor:
    """`(F,)`, float64."""
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for block in _blocks(features):
        total += block.sum(dim=0, dtype=torch.float64)
    return _float64(total / len(features))  # finite only where all rows are


def _blocks(features: Array) -> Iterator[Tensor]:
    """Some rows at a time, as they are stored."""
    for start in range(0, len(features), _ROWS_AT_ONCE):
        block = features[start : start + _ROWS_AT_ONCE]
        if isinstance(block, Tensor):
            yield block.detach().cpu()
        else:  # torch takes no array that runs backwards, and warns of one that is open for reading only
            yield torch.from_numpy(np.require(block, requirements=["C", "W"]))


def _combine(shift: Tensor, traces: Tensor, overlap: Tensor) -> float:
    """The three terms; rounding may leave −1e-13 for equal sets, and a distance is not negative."""
    return max(0.0, float(shift + traces - 2 * overlap))


def _float64(values: Array) -> Tensor:
    """As a float64 tensor of finite numbers."""
    tensor = torch.as_tensor(values).detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(tensor).all()):
        raise ShapeError("A Fréchet distance needs finite numbers, and there is NaN or infinity among them.")
    return tensor
