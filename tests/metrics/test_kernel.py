from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchmetrics.image.kid import poly_mmd

from xraygen.errors import ShapeError
from xraygen.metrics import kernel as module
from xraygen.metrics.kernel import (
    KernelDistance,
    clip_discrepancy,
    kernel_distance,
    subset_kernel_distance,
)

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


@pytest.mark.parametrize("distance", [kernel_distance, clip_discrepancy])
@pytest.mark.parametrize("rows_at_once", [1, 7, 64])
def test_neither_the_order_of_the_samples_nor_how_many_are_taken_at_once_changes_it(
    monkeypatch: pytest.MonkeyPatch,
    distance: Callable[[Features, Features], KernelDistance],
    rows_at_once: int,
) -> None:
    a, b = samples(64, 16, 0), samples(50, 16, 1, 0.2)
    at_once = distance(a, b)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", rows_at_once)
    generator = np.random.default_rng(2)
    found = distance(a[generator.permutation(64)], b[generator.permutation(50)])
    # The same sums of float64 in another order: some thousand terms leave 1e-13 of numbers near 1, a thousandfold in
    # CMMD; the interval is a root of differences of such sums.
    scale = 1000 if distance is clip_discrepancy else 1
    assert found == pytest.approx(at_once, rel=1e-9, abs=1e-12 * scale)
    assert at_once.high - at_once.low > 1e-3  # it would show


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


def unit(count: int, dims: int, seed: int, shift: float = 0.0) -> Features:
    drawn = samples(count, dims, seed, shift)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def gaussian_kernel(x: Features, y: Features) -> float:
    return float(np.exp(-((x - y) ** 2).sum() / (2 * 10.0**2)))


def test_cmmd_is_the_sum_over_pairs_of_the_gaussian_kernel_times_1000() -> None:
    a, b = unit(9, 6, 0), unit(12, 6, 1, 0.5)
    within = [
        np.mean([gaussian_kernel(x, y) for i, x in enumerate(z) for j, y in enumerate(z) if i != j])
        for z in (a, b)
    ]
    across = np.mean([gaussian_kernel(x, y) for x in a for y in b])
    # differences of numbers near 1 leave 1e-16 of them, a thousandfold
    assert clip_discrepancy(a, b).value == pytest.approx(1000 * (sum(within) - 2 * across), abs=1e-11)


def test_the_authors_estimator_of_cmmd_is_higher_by_what_the_docstring_says() -> None:
    """Theirs counts pairs of a sample with itself, and divides by N²."""
    a, b = unit(20, 6, 0), unit(20, 6, 1, 0.5)
    pairs = [[gaussian_kernel(x, y) for x in u for y in v] for u, v in ((a, a), (b, b), (a, b))]
    theirs = 1000 * (np.mean(pairs[0]) + np.mean(pairs[1]) - 2 * np.mean(pairs[2]))
    within = [(sum(of_pairs) - 20) / (20 * 19) for of_pairs in pairs[:2]]
    ours = clip_discrepancy(a, b).value
    assert theirs - ours == pytest.approx(1000 * (2 - sum(within)) / 20, rel=1e-9)


def test_subsets_share_no_sample_and_their_mean_is_the_estimate() -> None:
    a, b = samples(64, 5, 0), samples(50, 5, 1, 0.3)
    found = subset_kernel_distance(a, b, np.random.default_rng(7), size=16)
    generator = np.random.default_rng(7)
    first, second = generator.permutation(64), generator.permutation(50)
    estimates = [
        by_loops(a[first[start : start + 16]], b[second[start : start + 16]]) for start in (0, 16, 32)
    ]
    assert found.value == pytest.approx(np.mean(estimates), rel=1e-12)
    # 4.302652730: the 97.5 % quantile of Student's t with 2 degrees of freedom
    assert found.high - found.value == pytest.approx(
        4.302652730 * np.std(estimates, ddof=1) / np.sqrt(3), rel=1e-9
    )


def test_subsets_have_the_estimand_of_all_pairs() -> None:
    dims, shift = 8, 0.3
    near, far = np.zeros(dims), np.full(dims, shift)
    truth = expected_kernel(near, near) + expected_kernel(far, far) - 2 * expected_kernel(near, far)
    draws = [
        subset_kernel_distance(
            samples(200, dims, 2 * i), samples(200, dims, 2 * i + 1, shift), np.random.default_rng(i), size=20
        )
        for i in range(100)
    ]
    values = np.array([draw.value for draw in draws])
    # Within four standard errors of the mean of 100 draws.
    assert values.mean() == pytest.approx(truth, abs=4 * values.std() / 10)
    covered = np.mean([draw.low <= truth <= draw.high for draw in draws])
    # 95 % intervals of ten subsets; 100 draws leave a standard error of 2.2 %.
    assert covered >= 0.88


def test_too_few_samples_for_two_subsets_are_refused() -> None:
    with pytest.raises(ShapeError, match="at least 32 samples; given: 31 and 40"):
        subset_kernel_distance(np.zeros((31, 4)), np.zeros((40, 4)), np.random.default_rng(0), size=16)


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
