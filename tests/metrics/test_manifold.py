from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from xraygen.errors import ShapeError
from xraygen.metrics import manifold as module
from xraygen.metrics.manifold import manifold, manifold_of_rows

Reference = Callable[[str], ModuleType]
Features = NDArray[np.float64]
NAMES = ("precision", "recall", "density", "coverage")


def samples(count: int, dims: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> Features:
    return scale * np.random.default_rng(seed).standard_normal((count, dims)) + shift


@pytest.mark.parametrize("rows_at_once", [7, 1024], ids=["in-blocks", "at-once"])
@pytest.mark.parametrize(
    ("real", "synthetic"),
    [
        (samples(40, 3, 0), samples(40, 3, 1)),
        (samples(31, 5, 0), samples(44, 5, 1, shift=0.8)),
        (samples(25, 2, 0), samples(18, 2, 1, scale=0.3)),
        (samples(20, 4, 0) + 1e4, samples(20, 4, 1, scale=3) + 1e4),
        (samples(6, 2, 0), samples(6, 2, 1)),
        (samples(20, 4, 0), samples(20, 4, 1, shift=100)),
    ],
    ids=["equal", "shifted", "narrow", "wide-and-far-from-0", "fewest", "disjoint"],
)
def test_it_agrees_with_loops(
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
    real: Features,
    synthetic: Features,
    rows_at_once: int,
) -> None:
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", rows_at_once)
    found = manifold(real, synthetic)
    for name in NAMES:
        # Counts over counts: equal but for the rounding of a quotient.
        assert getattr(found, name) == pytest.approx(
            getattr(reference("manifold"), name)(real, synthetic), abs=1e-12
        )


def test_order_of_the_samples_changes_nothing() -> None:
    real, synthetic = samples(50, 4, 0), samples(60, 4, 1, shift=0.5)
    shuffle = np.random.default_rng(2).permutation(60)
    assert manifold(real[::-1].copy(), synthetic[shuffle]) == manifold(real, synthetic)


def test_coverage_of_films_like_the_real_ones_is_what_is_expected_of_them() -> None:
    """1 − Π_{j=1}^{k} (N − j) / (2N − j) for N = M, in any space (Naeem et al. 2020, lemma 2)."""
    count, k = 50, 5
    missed = np.prod([(count - j) / (2 * count - j) for j in range(1, k + 1)])
    found = [manifold(samples(count, 3, 2 * i), samples(count, 3, 2 * i + 1)) for i in range(200)]
    coverage = np.array([one.coverage for one in found])
    # Within four standard errors of the mean of 200 draws.
    assert coverage.mean() == pytest.approx(1 - missed, abs=4 * coverage.std() / np.sqrt(200))
    density = np.array([one.density for one in found])
    assert density.mean() == pytest.approx(1, abs=4 * density.std() / np.sqrt(200) + 0.02)


def test_one_repeated_film_is_precise_and_covers_nothing() -> None:
    real = samples(60, 3, 0)
    found = manifold(real, real[[7]].repeat(60, axis=0))
    assert found.precision == 1
    assert found.recall == pytest.approx(1 / 60)  # the ball of a set without spread is a point
    assert found.coverage < 0.4


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((5, 4)), np.zeros((9, 4))),
        (np.zeros((9, 4)), np.zeros((9, 5))),
        (np.zeros(9), np.zeros((9, 1))),
        (np.zeros((9, 4)), np.full((9, 4), np.nan)),
    ],
    ids=["too-few", "other-features", "one-axis", "not-a-number"],
)
def test_what_has_no_manifold_is_refused(a: Features, b: Features) -> None:
    with pytest.raises(ShapeError, match="manifold"):
        manifold(a, b)


@pytest.mark.parametrize("most_paired", [10, 4096], ids=["anew", "from-one-matrix"])
def test_of_rows_is_that_of_the_rows(monkeypatch: pytest.MonkeyPatch, most_paired: int) -> None:
    monkeypatch.setattr(module, "_MOST_PAIRED", most_paired)
    real, synthetic = samples(40, 5, 0), samples(30, 5, 1, shift=0.8)
    of_rows = manifold_of_rows(real, synthetic)
    rng = np.random.default_rng(2)
    for _ in range(3):  # the matrix is not spoilt by a choice
        first, second = rng.permutation(40)[:25], rng.permutation(30)[:20]
        assert of_rows(first, second) == manifold(real[first], synthetic[second])  # shares of few samples
