from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from xraygen.audit.fidelity import Comparison, choose, equal_count, phantom_set, reference_sets
from xraygen.audit.intervals import frechet_intervals
from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError
from xraygen.films.phantom import phantom_film


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
    assert shapes == dict.fromkeys(["real", "blurred", "gaussian", "phantoms", "noise"], (20, 24, 24))


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


@pytest.fixture(scope="module")
def upright(
    tmp_path_factory: pytest.TempPathFactory,
    textures: Callable[..., NDArray[np.uint16]],
    make_dataset: Callable[..., Path],
) -> tuple[NDArray[np.float64], dict[str, Comparison]]:
    """40 training films of 48 x 32 px in [0, 1], and the reference sets of 20."""
    splits = ["train"] * 40 + ["validation"] * 4 + ["test"] * 20
    folder = make_dataset(tmp_path_factory.mktemp("upright") / "dataset", textures(64, 3, (48, 32)), splits)
    dataset = open_dataset(folder)
    train = dataset.indices("train")
    return dataset.gather(train) / 65535, reference_sets(dataset, train, 20, 0)


def in_unit(chosen: Comparison) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = chosen.images / (2.0**chosen.bits - 1)
    return unit


def test_the_blurred_set_is_the_floor_through_a_gaussian_of_a_32nd_of_the_height(
    upright: tuple[NDArray[np.float64], dict[str, Comparison]],
) -> None:
    _, sets = upright
    sharp, soft = in_unit(sets["real"]), in_unit(sets["blurred"])
    expected = gaussian_filter(sharp, sigma=(0, 1.5, 1.5), truncate=8)
    # Beyond 5 px, where ours ends, lie 2.5e-4 of the kernel on either axis, and films differ there by less than 0.3.
    away = (slice(None), slice(12, -12), slice(12, -12))
    np.testing.assert_allclose(soft[away], expected[away], rtol=0, atol=1.5e-4)
    assert np.abs(sharp[away] - expected[away]).max() > 0.01  # it is a blur that can be seen
    assert "1.5 px" in sets["blurred"].description


def test_the_gaussian_has_mean_and_covariance_of_all_training_films(
    upright: tuple[NDArray[np.float64], dict[str, Comparison]],
) -> None:
    """In the 39 directions in which 40 films differ, scaled by their spread, the draws are standard normal."""
    films, sets = upright
    drawn, floor = (in_unit(sets[name]).reshape(20, -1) for name in ("gaussian", "real"))
    mean = films.reshape(40, -1).mean(axis=0)
    _, spread, directions = np.linalg.svd(films.reshape(40, -1) - mean, full_matrices=False)
    scores = (drawn - mean) @ directions[:39].T / (spread[:39] / np.sqrt(39))  # (20, 39)
    assert scores.mean() == pytest.approx(0, abs=5 / np.sqrt(scores.size))
    assert scores.var() == pytest.approx(1, abs=5 * np.sqrt(2 / scores.size))
    spread_of_pixels = films.reshape(40, -1).std(axis=0, ddof=1)
    assert (np.abs(drawn.mean(axis=0) - mean) < 5 * spread_of_pixels / np.sqrt(20)).all()

    def left_over(centred: NDArray[np.float64], among: NDArray[np.float64]) -> float:
        """Share of the draws that no mixture of these films is."""
        weights, *_ = np.linalg.lstsq(among.T, centred.T, rcond=None)
        return float(np.linalg.norm(centred.T - among.T @ weights) / np.linalg.norm(centred))

    assert left_over(drawn - mean, films.reshape(40, -1) - mean) < 1e-3  # 16 bits, and hardly a pixel clipped
    assert left_over(drawn - mean, np.vstack([floor, mean]) - mean) > 0.03  # the floor's 20 are not enough
    assert "40 training films" in sets["gaussian"].description


def test_the_noise_is_uniform_and_its_own_in_every_film(
    upright: tuple[NDArray[np.float64], dict[str, Comparison]],
) -> None:
    grain = in_unit(upright[1]["noise"])
    # The variance of u is 1/12 and that of (u - 1/2)² is 1/180: five standard errors of each mean.
    assert grain.mean() == pytest.approx(0.5, abs=5 * np.sqrt(1 / 12 / grain.size))
    assert grain.var() == pytest.approx(1 / 12, abs=5 * np.sqrt(1 / 180 / grain.size))
    correlations = np.corrcoef(grain.reshape(20, -1)) - np.eye(20)
    assert np.abs(correlations).max() < 5 / np.sqrt(48 * 32)


def test_the_phantoms_are_films_of_as_many_patients_that_a_dataset_of_phantoms_does_not_hold() -> None:
    phantoms = phantom_set(6, (32, 40), seed=0)
    found = in_unit(phantoms)
    assert found.shape == (6, 32, 40)
    assert np.abs(np.corrcoef(found.reshape(6, -1)) - np.eye(6)).max() < 0.999  # six chests, none twice
    theirs = np.stack([phantom_film(0, patient, 0, (32, 40)).pixels / 4095 for patient in range(6)])
    assert all(np.abs(mine - other).max() > 0.1 for mine in found for other in theirs)
    # The same kind of film all the same: their means differ by less than their films do, 4 standard errors of six.
    spread = theirs.std(axis=0, ddof=1).mean()
    assert np.abs(found.mean(axis=0) - theirs.mean(axis=0)).mean() < 4 * spread / np.sqrt(6)
    again = phantom_set(4, (32, 40), seed=0)
    assert np.array_equal(again.images, phantoms.images[:4])  # more films of the same, whatever N is
    assert not np.array_equal(phantom_set(4, (32, 40), seed=1).images, again.images)


@pytest.mark.parametrize("size", [(256, 320), (12, 24)])
def test_phantoms_are_drawn_at_most_so_fine_and_resized(size: tuple[int, int]) -> None:
    """128 px are as much as time allows, and with less than 16 there are none."""
    drawn = (128, 160) if size[0] > 128 else (16, 32)
    large, small = (phantom_set(2, asked, seed=0) for asked in (size, drawn))
    assert f"drawn with {drawn[0]}x{drawn[1]} px and resized" in large.description
    assert "resized" not in small.description
    if (
        size[0] > 128
    ):  # twice as fine, linearly: the mean of 2 x 2 is 1/8, 3/4, 1/8 of the drawn pixels, either way
        means, pixels = in_unit(large).reshape(2, 128, 2, 160, 2).mean(axis=(2, 4)), in_unit(small)
        rows = pixels[:, :-2] / 8 + pixels[:, 1:-1] * 3 / 4 + pixels[:, 2:] / 8
        expected = rows[:, :, :-2] / 8 + rows[:, :, 1:-1] * 3 / 4 + rows[:, :, 2:] / 8
        # Both are stored with 16 bits.
        np.testing.assert_allclose(means[:, 1:-1, 1:-1], expected, rtol=0, atol=2 / 65535)
