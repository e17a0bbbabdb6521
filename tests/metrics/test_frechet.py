from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from xraygen.errors import ShapeError
from xraygen.metrics.frechet import (
    frechet_distance,
    frechet_distance_of_features,
    frechet_distance_of_rows,
)

Reference = Callable[[str], ModuleType]


def samples(
    count: int, dims: int, *, seed: int = 0, scale: float = 1.0, shift: float = 0.0
) -> NDArray[np.float64]:
    spectrum = scale * np.arange(1, dims + 1) ** -0.5
    mixing = np.linalg.qr(np.random.default_rng(99).standard_normal((dims, dims)))[0]
    drawn = np.random.default_rng(seed).standard_normal((count, dims))
    return np.asarray(drawn * spectrum @ mixing + shift)


def test_two_gaussians_with_diagonal_covariances_have_the_closed_form() -> None:
    mean1, mean2 = np.array([0.0, 1.0, 2.0]), np.array([3.0, 1.0, 0.0])
    deviations1, deviations2 = np.array([1.0, 2.0, 0.5]), np.array([2.0, 2.0, 0.1])
    expected = ((mean1 - mean2) ** 2).sum() + ((deviations1 - deviations2) ** 2).sum()
    distance = frechet_distance(mean1, np.diag(deviations1**2), mean2, np.diag(deviations2**2))
    assert distance == pytest.approx(expected, rel=1e-14)  # a few roundings of float64


def test_turning_both_gaussians_alike_changes_nothing() -> None:
    a, b = samples(40, 5), samples(40, 5, seed=1, scale=2)
    turn = np.linalg.qr(np.random.default_rng(3).standard_normal((5, 5)))[0]
    turned = frechet_distance_of_features(a @ turn, b @ turn)
    assert turned == pytest.approx(frechet_distance_of_features(a, b), rel=1e-12)


@pytest.mark.parametrize(
    ("count1", "count2", "dims"),
    [(12, 12, 6), (9, 30, 6), (5, 5, 8), (4, 12, 8), (12, 4, 8)],
    ids=["full-rank", "full-rank-unequal", "singular", "singular-against-full", "full-against-singular"],
)
def test_it_agrees_with_arithmetic_of_60_digits(
    reference: Reference, count1: int, count2: int, dims: int
) -> None:
    a, b = samples(count1, dims), samples(count2, dims, seed=1, scale=1.3, shift=0.2)
    expected = reference("frechet").frechet_distance_of_features(a, b)
    assert frechet_distance_of_features(a, b) == pytest.approx(expected, rel=1e-9)


def test_covariance_form_agrees_with_the_reference(reference: Reference) -> None:
    rng = np.random.default_rng(0)
    roots = rng.standard_normal((2, 7, 7))
    cov1, cov2 = (root @ root.T for root in roots)
    mean1, mean2 = rng.standard_normal((2, 7))
    expected = reference("frechet").frechet_distance(mean1, cov1, mean2, cov2)
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected, rel=1e-9)


def test_sample_form_equals_covariance_form_where_covariances_are_singular() -> None:
    a, b = samples(10, 24), samples(14, 24, seed=1, scale=1.5)
    by_covariances = frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    # Rounding leaves eigenvalues of 1e-16 where 0 belongs, and the covariance form takes their roots.
    assert frechet_distance_of_features(a, b) == pytest.approx(by_covariances, rel=1e-6)


@pytest.mark.parametrize("dims", [4, 40], ids=["covariance-form", "sample-form"])
def test_order_of_the_samples_changes_nothing(dims: int) -> None:
    a, b = samples(20, dims), samples(20, dims, seed=1)
    shuffled = frechet_distance_of_features(a[::-1].copy(), b[np.random.default_rng(0).permutation(20)])
    assert shuffled == pytest.approx(frechet_distance_of_features(a, b), rel=1e-12)


@pytest.mark.parametrize("dims", [4, 40], ids=["covariance-form", "sample-form"])
def test_it_is_symmetric(dims: int) -> None:
    a, b = samples(20, dims), samples(15, dims, seed=1)
    there, back = frechet_distance_of_features(a, b), frechet_distance_of_features(b, a)
    assert there == pytest.approx(back, rel=1e-12)


@pytest.mark.parametrize("dims", [4, 40], ids=["covariance-form", "sample-form"])
def test_a_set_is_at_distance_0_from_itself_and_never_below(dims: int) -> None:
    a = samples(20, dims)
    assert 0 <= frechet_distance_of_features(a, a) < 1e-10


@pytest.mark.parametrize(
    ("count1", "count2", "dims"),
    [(40, 33, 6), (10, 50, 24), (50, 10, 24)],
    ids=["covariance-form", "sample-form", "sample-form-turned"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reading_a_few_rows_at_a_time_from_disk_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count1: int, count2: int, dims: int, dtype: type
) -> None:
    stored: NDArray[np.floating[Any]] = samples(count1, dims, shift=3.0).astype(dtype)
    b = samples(count2, dims, seed=1, scale=1.3)
    expected = frechet_distance_of_features(stored.astype(np.float64), b)
    np.save(tmp_path / "a.npy", stored)
    monkeypatch.setattr("xraygen.metrics.frechet._ROWS_AT_ONCE", 7)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    assert frechet_distance_of_features(mapped, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dims", [4, 40], ids=["covariance-form", "sample-form"])
def test_it_takes_arrays_that_run_backwards_across_or_cannot_be_written(dims: int) -> None:
    a, b = samples(20, dims), samples(20, dims, seed=1)
    expected = frechet_distance_of_features(a, b)
    locked = b.copy()
    locked.flags.writeable = False
    for first in (a[::-1], np.asfortranarray(a), np.repeat(a, 2, axis=0)[::2]):
        assert frechet_distance_of_features(first, locked) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dims", [4, 40], ids=["covariance-form", "sample-form"])
def test_what_it_is_given_stays_as_it_is(dims: int) -> None:
    a, b = samples(20, dims), samples(20, dims, seed=1)
    covs = np.cov(a.T), np.cov(b.T)
    kept = [array.copy() for array in (a, b, *covs)]
    frechet_distance_of_features(a, b)
    frechet_distance(a.mean(0), covs[0], b.mean(0), covs[1])
    for array, before in zip((a, b, *covs), kept, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("dead", ["constant", "repeated"])
def test_many_features_and_one_that_tells_nothing_agree_with_sqrtm(dead: str) -> None:
    a, b = samples(700, 300), samples(650, 300, seed=1, scale=1.3, shift=0.2)
    if dead == "constant":  # its covariance has no Cholesky factor
        a[:, 17] = b[:, 17] = 0.3
    else:  # by rounding alone it has one
        a[:, 17], b[:, 17] = a[:, 200], b[:, 200]
    root = sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()
    expected -= 2 * np.trace(root)
    assert frechet_distance_of_features(a, b) == pytest.approx(
        expected, rel=1e-6
    )  # √ε of sqrtm where it is singular


def test_a_shift_alone_costs_its_square() -> None:
    a = samples(30, 50)
    assert frechet_distance_of_features(a, a + 2.0) == pytest.approx(50 * 4.0, rel=1e-12)


def test_it_takes_tensors() -> None:
    a, b = samples(20, 4), samples(20, 4, seed=1)
    by_tensors = frechet_distance_of_features(torch.from_numpy(a), torch.from_numpy(b))
    assert by_tensors == frechet_distance_of_features(a, b)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "at least two samples"),
        (np.zeros((5, 3)), np.zeros((5, 4)), r"\(N, F\) and \(M, F\)"),
        (np.zeros(5), np.zeros((5, 4)), r"\(N, F\) and \(M, F\)"),
        (np.full((5, 3), np.nan), np.zeros((5, 3)), "finite"),
        (np.zeros((5, 3)), np.full((5, 3), np.inf), "finite"),
    ],
)
def test_features_that_have_no_distance_are_refused(
    a: NDArray[np.float64], b: NDArray[np.float64], words: str
) -> None:
    with pytest.raises(ShapeError, match=words):
        frechet_distance_of_features(a, b)


def test_moments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="means"):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(3), np.eye(2))


@pytest.mark.parametrize("dims", [12, 40, 100], ids=["more-rows-than-features", "some", "fewer"])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_of_rows_is_that_of_the_rows(dims: int, shift: float) -> None:
    a, b = samples(60, dims, shift=shift), samples(50, dims, seed=1, scale=2, shift=shift)
    distance = frechet_distance_of_rows(a, b)
    rng = np.random.default_rng(2)
    for rows_a, rows_b in ((60, 50), (45, 30), (20, 41), (2, 3)):
        first, second = rng.permutation(60)[:rows_a], rng.permutation(50)[:rows_b]
        expected = frechet_distance_of_features(a[first], b[second])
        # other orders of summation; what the shift adds is lost in the features themselves, 1e3 · 2^-53 of each
        assert distance(first, second) == pytest.approx(expected, rel=1e-10)


def test_of_rows_refuses_what_the_distance_refuses() -> None:
    with pytest.raises(ShapeError, match=r"\(N, F\) and \(M, F\)"):
        frechet_distance_of_rows(samples(9, 4), samples(9, 5))
    with pytest.raises(ShapeError, match="finite"):
        frechet_distance_of_rows(samples(9, 40), np.full((9, 40), np.nan))
