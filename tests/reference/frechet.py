"""Fréchet distance in slow, obvious arithmetic of 60 digits (mpmath), written from Dowson & Landau 1982."""

from typing import Any

import mpmath


def frechet_distance(mean1: Any, cov1: Any, mean2: Any, cov2: Any) -> float:
    """|m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2), by the eigenvalues of the product C1 C2."""
    with mpmath.workdps(60):
        first, second = mpmath.matrix(mean1.tolist()), mpmath.matrix(mean2.tolist())
        sigma1, sigma2 = mpmath.matrix(cov1.tolist()), mpmath.matrix(cov2.tolist())
        shift = sum((first[i] - second[i]) ** 2 for i in range(len(first)))
        traces = sum(sigma1[i, i] + sigma2[i, i] for i in range(len(first)))
        eigenvalues = mpmath.eig(sigma1 * sigma2, left=False, right=False)
        overlap = sum(mpmath.sqrt(abs(mpmath.re(value))) for value in eigenvalues)
        return float(shift + traces - 2 * overlap)


def frechet_distance_of_features(a: Any, b: Any) -> float:
    """The same from samples, with means and covariances (divisor N - 1) in 60 digits."""
    with mpmath.workdps(60):
        return frechet_distance(*_moments(a), *_moments(b))


def _moments(samples: Any) -> tuple[Any, Any]:
    rows = [[mpmath.mpf(float(value)) for value in row] for row in samples]
    count, dims = len(rows), len(rows[0])
    mean = [sum(row[j] for row in rows) / count for j in range(dims)]
    cov = [
        [sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in rows) / (count - 1) for j in range(dims)]
        for i in range(dims)
    ]
    return mpmath.matrix(mean), mpmath.matrix(cov)
