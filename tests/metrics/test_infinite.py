import numpy as np
import pytest
from numpy.typing import NDArray

from xraygen.errors import ShapeError
from xraygen.metrics.frechet import frechet_distance, frechet_distance_of_features
from xraygen.metrics.infinite import Extrapolation, fit, frechet_at_infinity

Features = NDArray[np.float64]
DIMS = 16
SPREAD = np.arange(1, DIMS + 1) ** -0.5
SHIFT = 0.5 * SPREAD


def draw(count: int, seed: int) -> tuple[Features, Features]:
    a, b = np.random.default_rng(seed).standard_normal((2, count, DIMS))
    return a * SPREAD, 1.3 * b * SPREAD + SHIFT


TRUTH = frechet_distance(np.zeros(DIMS), np.diag(SPREAD**2), SHIFT, np.diag((1.3 * SPREAD) ** 2))


def test_it_is_nearer_to_the_closed_form_than_the_distance_at_n() -> None:
    plain, infinite = [], []
    for seed in range(30):
        a, b = draw(200, seed)
        plain.append(frechet_distance_of_features(a, b))
        found = frechet_at_infinity(a, b, np.random.default_rng(seed)).value
        if found is not None:
            infinite.append(found)
    assert len(infinite) >= 27
    bias = abs(np.mean(infinite) - TRUTH)
    assert bias < 0.1 * abs(np.mean(plain) - TRUTH) + 3 * np.std(infinite) / np.sqrt(30)
    assert np.mean(plain) > 1.05 * TRUTH  # and there was a bias to remove


SIZES = [250, 300, 400, 500, 600, 800]


def at(size: int, end: float, slope: float, curve: float = 0.0) -> float:
    return end + slope / size + curve / size**2


def fitted(end: float, slope: float, curve: float = 0.0, scatter: float = 0.0) -> Extrapolation:
    distances = [at(size, end, slope, curve) + scatter * (-1) ** place for place, size in enumerate(SIZES)]
    return fit(1000, at(1000, end, slope, curve), SIZES, distances)


def test_a_line_is_found_again() -> None:
    found = fitted(7, 900)
    assert found.value == pytest.approx(7, rel=1e-12)
    assert found.slope == pytest.approx(900, rel=1e-12)
    assert found.refused == ""


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"end": 7, "slope": 900, "curve": 6e6}, "does not fall as 1/N"),
        ({"end": -1, "slope": 3000}, "ends below zero"),
        ({"end": 7, "slope": 100, "scatter": 6}, "scatter too much"),
    ],
    ids=["curved", "below-zero", "scattered"],
)
def test_what_is_no_line_has_no_value(shape: dict[str, float], words: str) -> None:
    found = fitted(**shape)
    assert found.value is None
    assert words in found.refused


def test_fewer_films_than_directions_are_refused() -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 40, 400))
    assert frechet_at_infinity(a, b, np.random.default_rng(0)).value is None


def test_few_films_are_refused() -> None:
    a, b = draw(31, 0)
    assert frechet_at_infinity(a, b, np.random.default_rng(0)).refused == "N = 31 is below 32"


def test_too_few_points_are_refused() -> None:
    with pytest.raises(ShapeError, match="five"):
        fit(100, 1.0, [50, 60], [1.0, 2.0])
