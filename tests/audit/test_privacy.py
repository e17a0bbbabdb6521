from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xraygen.audit.privacy import Neighbours, find_neighbours, privacy_report

Features = dict[str, NDArray[Any]]


@pytest.fixture
def features() -> Features:
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal((count, 8))
        for name, count in (("synthetic", 30), ("train", 200), ("test", 99))
    }


def report_of(features: Features, **changes: NDArray[Any]) -> tuple[Neighbours, dict[str, Any]]:
    space = find_neighbours("space", "Space", **{**features, **changes})
    names = [f"images/{row}.png" for row in range(len(space.distance))]
    return space, privacy_report([space], names, [f"train-{row}" for row in range(200)])


def test_a_copied_training_film_is_the_first_suspect_with_its_training_film(features: Features) -> None:
    synthetic = features["synthetic"].copy()
    synthetic[4] = features["train"][123]
    _, report = report_of(features, synthetic=synthetic)
    first = report["suspects"][0]
    assert (first["file_name"], first["train_image_id"]) == ("images/4.png", "train-123")
    assert first["distance"] == 0
    assert first["p_value"] == pytest.approx(1 / 100)


def test_a_near_copy_is_a_suspect(features: Features) -> None:
    synthetic = features["synthetic"].copy()
    synthetic[4] = features["train"][123] + 0.01
    _, report = report_of(features, synthetic=synthetic)
    assert "images/4.png" in [suspect["file_name"] for suspect in report["suspects"]]


def test_p_values_count_the_test_films_that_are_as_near(features: Features) -> None:
    space, _ = report_of(features)
    expected = [(1 + (space.null <= distance).sum()) / 100 for distance in space.distance]
    assert space.p_values.tolist() == pytest.approx(expected)


def test_films_of_other_patients_are_suspects_as_seldom_as_announced() -> None:
    rng = np.random.default_rng(1)
    counts, announced = [], []
    for _ in range(60):
        synthetic, test = rng.standard_normal((2, 40, 4))
        space = find_neighbours("s", "S", synthetic=synthetic, train=rng.standard_normal((50, 4)), test=test)
        counts.append(len(space.suspects))
        announced.append(space.expected_by_chance)
    assert np.mean(announced) == pytest.approx(40 / 41)
    assert np.mean(counts) == pytest.approx(40 / 41, abs=0.6)  # 60 trials of a count with deviation 1.4


def test_test_films_that_equal_training_films_are_left_out_and_told(features: Features) -> None:
    test = features["test"].copy()
    test[:3] = features["train"][:3]
    synthetic = features["synthetic"].copy()
    synthetic[0] = features["train"][9]
    space, report = report_of(features, test=test, synthetic=synthetic)
    assert (report["leaks"], report["null_films"]) == (3, 96)
    assert space.suspects[0] == 0


def test_a_film_suspect_in_two_spaces_is_listed_once(features: Features) -> None:
    synthetic = features["synthetic"].copy()
    synthetic[4] = features["train"][123]
    copied = {**features, "synthetic": synthetic}
    spaces = [find_neighbours(name, name, **copied) for name in ("first", "second")]
    report = privacy_report(spaces, [str(row) for row in range(30)], [str(row) for row in range(200)])
    listed = [suspect for suspect in report["suspects"] if suspect["file_name"] == "4"]
    assert [suspect["features"] for suspect in listed] == ["first"]
    assert report["expected_by_chance"] == pytest.approx(2 * 30 / 100)


def test_every_synthetic_film_is_told_its_nearest_training_film(features: Features) -> None:
    _, report = report_of(features)
    gaps = np.linalg.norm(features["synthetic"][:, None] - features["train"][None], axis=2)  # (30, 200)
    assert [entry["file_name"] for entry in report["nearest"]] == [f"images/{row}.png" for row in range(30)]
    assert [entry["train_image_id"] for entry in report["nearest"]] == [
        f"train-{row}" for row in gaps.argmin(axis=1)
    ]
    assert [entry["distance"] for entry in report["nearest"]] == pytest.approx(
        gaps.min(axis=1).tolist(), rel=1e-6
    )
