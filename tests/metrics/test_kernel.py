import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.image.kid import poly_mmd

from xraygen.errors import ShapeError
from xraygen.metrics.kernel import kernel_distance

Features = NDArray[np.float64]


def samples(count: int, dims: int, seed: int, shift: float = 0.0) -> Features:
    return np.random.default_rng(seed).standard_normal((count, dims)) + shift


def by_loops(a: Features, b: Features) -> float:
    def k(x: Features, y: Features) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    n, m = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_a + within_b - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def test_it_is_the_sum_over_pairs_and_its_interval_the_jackknife_of_both_samples() -> None:
    a, b = samples(9, 4, 0), samples(12, 4, 1, 0.5)
    found = kernel_distance(a, b)
    assert found.value == pytest.approx(by_loops(a, b), rel=1e-12)
    variance = 0.0  # times the 97.5 % quantile of Student's t with 8 degrees of freedom, 2.306004135
    for first in (True, False):
        count = len(a if first else b)
        left_out = np.array(
            [
                by_loops(np.delete(a, i, 0), b) if first else by_loops(a, np.delete(b, i, 0))
                for i in range(count)
            ]
        )
        variance += (count - 1) / count * ((left_out - left_out.mean()) ** 2).sum()
    assert found.high - found.value == pytest.approx(2.306004135 * np.sqrt(variance), rel=1e-9)
    assert found.value - found.low == pytest.approx(2.306004135 * np.sqrt(variance), rel=1e-9)


def test_it_agrees_with_torchmetrics() -> None:
    a, b = samples(64, 16, 0), samples(64, 16, 1, 0.2)
    theirs = poly_mmd(torch.as_tensor(a), torch.as_tensor(b), degree=3, gamma=None, coef=1.0)
    # The same sums in another order, in float64.
    assert kernel_distance(a, b).value == pytest.approx(float(theirs), rel=1e-10)


def expected_kernel(mean1: Features, mean2: Features) -> float:
    """E (xᵀy / F + 1)³ of x ~ N(mean1, I), y ~ N(mean2, I), from the first three moments of both."""
    dims, eye = len(mean1), np.eye(len(mean1))

    def third(mean: Features) -> Features:
        cube = np.einsum("i,j,k->ijk", mean, mean, mean)
        mixed = np.einsum("ij,k->ijk", eye, mean)
        return np.asarray(cube + mixed + mixed.transpose(0, 2, 1) + mixed.transpose(2, 0, 1))

    first = mean1 @ mean2 / dims
    second = ((eye + np.outer(mean1, mean1)) * (eye + np.outer(mean2, mean2))).sum() / dims**2
    return float(1 + 3 * first + 3 * second + (third(mean1) * third(mean2)).sum() / dims**3)


def test_its_mean_over_many_draws_is_the_populations_distance() -> None:
    dims, shift = 8, 0.3
    near, far = np.zeros(dims), np.full(dims, shift)
    truth = expected_kernel(near, near) + expected_kernel(far, far) - 2 * expected_kernel(near, far)
    draws = [
        kernel_distance(samples(100, dims, 2 * i), samples(100, dims, 2 * i + 1, shift)) for i in range(400)
    ]
    values = np.array([draw.value for draw in draws])
    # Within four standard errors of the mean of 400 draws.
    assert values.mean() == pytest.approx(truth, abs=4 * values.std() / 20)
    covered = np.mean([draw.low <= truth <= draw.high for draw in draws])
    # 95 % intervals; 400 draws leave a standard error of 1.1 %, and values of a skewed distribution a little more.
    assert 0.90 <= covered <= 0.98


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((2, 4)), np.zeros((9, 4))),
        (np.zeros((9, 4)), np.zeros((9, 5))),
        (np.zeros(9), np.zeros((9, 1))),
        (np.full((9, 4), np.nan), np.zeros((9, 4))),
    ],
    ids=["too-few", "other-features", "one-axis", "not-a-number"],
)
def test_what_has_no_distance_is_refused(a: Features, b: Features) -> None:
    with pytest.raises(ShapeError, match="A kernel distance needs"):
        kernel_distance(a, b)
