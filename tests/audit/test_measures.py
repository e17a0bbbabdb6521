from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xraygen.audit.fidelity import Comparison
from xraygen.audit.intervals import Interval
from xraygen.audit.measures import MEASURES, enough, in_features, in_pixels
from xraygen.metrics.kernel import kernel_distance
from xraygen.metrics.manifold import manifold

Features = NDArray[np.float64]
KEYS = ("this", "real", "blurred", "gaussian", "noise")
SHIFTS = dict(zip(KEYS, (0.5, 0.0, 0.8, 2.0, 9.0), strict=True))


def sets(images: NDArray[np.uint16] | None = None) -> dict[str, Comparison]:
    empty = np.zeros((0, 1, 1), np.uint16) if images is None else images
    return {key: Comparison(key, f"It is {key}.", empty, 16) for key in KEYS}


def measured(count: int) -> tuple[Features, dict[str, Features], dict[str, dict[str, Any]]]:
    rng = np.random.default_rng(0)
    test = rng.standard_normal((count, 4))
    features = {key: rng.standard_normal((count, 4)) + shift for key, shift in SHIFTS.items()}
    return test, features, in_features(test, features, sets(), "Space", 0)


def test_every_measure_is_held_beside_its_floor_and_ceiling_and_says_what_it_is() -> None:
    test, features, found = measured(40)
    assert set(found) == set(MEASURES) - {"intensity", "spectrum", "cmmd"}  # CMMD is of CLIP's features only
    for entry in found.values():
        assert set(entry["sets"]) == set(KEYS)
        assert entry["floor"] == entry["sets"]["real"]["value"]
        assert entry["ceiling"] == entry["sets"]["noise"]["value"]
        assert entry["count"] == 40
        assert "40" in entry["estimand"] or "population" in entry["estimand"]
    assert found["kid"]["value"] == kernel_distance(test, features["this"]).value
    assert found["recall"]["value"] == manifold(test, features["this"]).recall
    assert (found["fd"]["better"], found["coverage"]["better"]) == ("lower", "higher")


def test_what_is_worse_scores_worse() -> None:
    _, _, found = measured(40)
    for name in ("fd", "kid"):
        assert found[name]["floor"] < found[name]["value"] < found[name]["ceiling"], name
    for name in ("precision", "density", "coverage"):
        assert found[name]["ceiling"] == 0 < found[name]["floor"], name


def test_few_films_are_told_how_many_would_do() -> None:
    _, _, few = measured(10)
    _, _, many = measured(160)
    assert few["fd"]["enough"]["count"] > 10
    assert many["fd"]["enough"]["count"] < 160
    enough = few["fd"]["enough"]
    expected = 10 * (2 * enough["half_width"] / enough["gap"]) ** 2
    assert enough["count"] == int(np.ceil(expected))


def test_a_measure_that_finds_the_known_bad_sets_no_worse_says_so() -> None:
    rng = np.random.default_rng(1)
    test = rng.standard_normal((20, 4))
    features = {key: test + 1e-9 for key in KEYS} | {"real": rng.standard_normal((20, 4)) + 3}
    assert in_features(test, features, sets(), "Space", 0)["fd"]["enough"]["gap"] is None


def test_greys_and_spectra_of_sets() -> None:
    films = np.random.default_rng(0).integers(0, 65536, (16, 24, 24), dtype=np.uint16)
    both = sets(films) | {"this": Comparison("this", "Darker.", films // 2, 16)}
    found = in_pixels(films, 16, both, 0)
    assert found["intensity"]["value"] == pytest.approx(0.25, abs=0.01)
    assert found["spectrum"]["value"] == pytest.approx(10 * np.log10(4), abs=0.01)
    assert found["spectrum"]["floor"] == 0
    assert found["intensity"]["low"] < found["intensity"]["value"] < found["intensity"]["high"]


@pytest.mark.parametrize(
    ("numbers", "lower_is_better", "expected"),
    [
        # The wider half of 4 to 8 is 3; the Gaussian's 1 is no worse than the floor; N (2 · 3 / 4)² = 225.
        (((5, 4, 8), (2, 1, 3), (6, 0, 9), (1, 0, 2), (90, 0, 99)), True, (3, 4, 225)),
        # Quarters and eighths are exact: 100 (2 · 0.125 / 0.5)² = 25.
        (((0.5, 0.375, 0.5625), (0.75, 0.5, 1), (0.25, 0, 1), (1, 0, 1), (0, 0, 1)), False, (0.125, 0.5, 25)),
        # No known bad set is worse than the floor.
        (((5, 4, 8), (2, 1, 3), (2, 0, 9), (1, 0, 2), (0, 0, 99)), True, (3, None, None)),
        # Never none at all.
        (((5, 5, 5), (2, 1, 3), (6, 0, 9), (1, 0, 2), (90, 0, 99)), True, (0, 4, 1)),
    ],
    ids=["lower", "higher", "none worse", "no width"],
)
def test_how_many_films_would_do_by_hand(
    numbers: tuple[tuple[float, float, float], ...],
    lower_is_better: bool,
    expected: tuple[float | None, ...],
) -> None:
    intervals = {key: Interval(*number) for key, number in zip(KEYS, numbers, strict=True)}
    found = enough(intervals, 100, lower_is_better=lower_is_better)
    assert (found["half_width"], found["gap"], found["count"]) == expected


def test_phantoms_are_no_known_bad_set_since_the_dataset_may_hold_such() -> None:
    intervals = dict(
        zip(KEYS, (Interval(5, 4, 8), *(Interval(at, 0, 99) for at in (2, 6, 7, 90))), strict=True)
    )
    with_phantoms = intervals | {"phantoms": Interval(2.01, 0, 99)}  # as far as its floor, up to chance
    assert enough(with_phantoms, 100, lower_is_better=True) == enough(intervals, 100, lower_is_better=True)


@pytest.mark.parametrize("refused", ["this", "real"])
def test_a_refused_number_says_nothing_of_how_many_films_would_do(refused: str) -> None:
    intervals = {key: Interval(1, 0, 2) for key in KEYS} | {refused: None}
    found = enough(intervals, 100, lower_is_better=True)
    assert found == {"half_width": None, "gap": None, "count": None}
