from pathlib import Path

import numpy as np
import pytest

from xraygen.audit.fidelity import choose, equal_count, reference_sets
from xraygen.audit.intervals import frechet_intervals
from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError


def test_the_smallest_set_decides_n() -> None:
    assert equal_count({"test": 30, "train": 200, "synthetic": 50}, None) == 30
    assert equal_count({"test": 30, "train": 200, "synthetic": 50}, 20) == 20


@pytest.mark.parametrize("wanted", [31, 7])
def test_an_n_that_cannot_be_is_refused_with_the_set_that_limits_it(wanted: int) -> None:
    with pytest.raises(UsageError, match=r"expected 8 to 30, the number of films in synthetic"):
        equal_count({"test": 40, "synthetic": 30}, wanted)


def test_a_set_of_seven_films_is_refused() -> None:
    with pytest.raises(UsageError, match="synthetic holds 7 films"):
        equal_count({"test": 40, "synthetic": 7}, None)


def test_chosen_rows_follow_the_seed_and_the_name_and_never_repeat() -> None:
    first = choose(100, 40, 0, "test")
    assert np.array_equal(first, choose(100, 40, 0, "test"))
    assert not np.array_equal(first, choose(100, 40, 0, "floor"))
    assert not np.array_equal(first, choose(100, 40, 1, "test"))
    assert len(set(first.tolist())) == 40


def test_the_floor_holds_training_films_only(real: Path) -> None:
    dataset = open_dataset(real)
    train = dataset.indices("train")
    floor = reference_sets(dataset, train, 20, 0)["real"]
    known = {image.tobytes() for image in dataset.gather(train)}
    assert len(floor.images) == 20
    assert {image.tobytes() for image in floor.images} <= known


def test_all_reference_sets_have_n_films_of_the_real_size(real: Path) -> None:
    dataset = open_dataset(real)
    shapes = {
        name: chosen.images.shape
        for name, chosen in reference_sets(dataset, dataset.indices("train"), 20, 0).items()
    }
    assert shapes == dict.fromkeys(["real", "blurred", "gaussian", "noise"], (20, 24, 24))


@pytest.mark.parametrize("dims", [6, 80], ids=["more-films-than-features", "fewer"])
def test_the_interval_covers_the_expected_distance_at_n(dims: int) -> None:
    spectrum = np.arange(1, dims + 1) ** -0.7
    rng = np.random.default_rng(0)
    found = []
    for seed in range(40):
        test, other = rng.standard_normal((2, 40, dims)) * spectrum
        found.append(frechet_intervals(test, {"this": 1.2 * other + 0.3 * spectrum}, seed)["this"])
    expected = np.mean([interval.value for interval in found])
    covered = np.mean([interval.low <= expected <= interval.high for interval in found])
    assert covered >= 0.8  # 95 % promised; 40 trials of 0.95 fall below 0.8 once in 2,000 times
    width = np.mean([interval.high - interval.low for interval in found])
    spread = np.std([interval.value for interval in found])
    assert width < 2 * 2.5 * 2.131 * spread  # and it does not cover by being endless


def test_the_same_set_twice_gets_the_same_interval() -> None:
    test, other = np.random.default_rng(0).standard_normal((2, 20, 5))
    intervals = frechet_intervals(test, {"a": other, "b": other}, 0)
    assert intervals["a"] == intervals["b"]


def test_a_set_equal_to_the_test_films_has_distance_0_within_its_interval() -> None:
    test = np.random.default_rng(0).standard_normal((20, 5))
    interval = frechet_intervals(test, {"this": test}, 0)["this"]
    assert interval.value == pytest.approx(0, abs=1e-10)
    assert interval.low == 0
