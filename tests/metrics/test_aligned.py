import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, rotate, zoom

from xraygen.errors import ShapeError
from xraygen.metrics.aligned import LEAST_CONTRAST, SIDE_PX, SIGMA_PX, nearest_aligned, normalise

Light = NDArray[np.float64]
SIDE = 96


def films(count: int, seed: int = 0) -> Light:
    """Smooth blobs, as anatomy is, with a common shape."""
    rng = np.random.default_rng(seed)
    grid = rng.standard_normal((count, 13, 13)) + 2 * np.random.default_rng(99).standard_normal((13, 13))
    return np.asarray(0.5 + 0.08 * np.stack([zoom(one, SIDE / 13, order=3) for one in grid])).clip(0.05, 0.95)


def stored(light: Light) -> NDArray[np.uint16]:
    return np.asarray(np.rint(light.clip(0, 1) * 65535), dtype=np.uint16)


TRAIN = films(40)
NULL = nearest_aligned(stored(films(30, 1)), 16, stored(TRAIN), 16)[0].min()


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("exact", TRAIN),
        ("mirrored", TRAIN[:, :, ::-1]),
        ("shifted", np.roll(TRAIN, (5, -3), (1, 2))),
        ("brightened", 0.8 * TRAIN + 0.1),
        ("gamma", TRAIN**1.4),
        ("noise", TRAIN + 0.02 * np.random.default_rng(2).standard_normal(TRAIN.shape)),
        ("turned", rotate(TRAIN, 3, (1, 2), reshape=False, mode="nearest")),
    ],
)
def test_a_changed_copy_is_nearer_than_any_other_film_and_finds_its_original(
    name: str, changed: Light
) -> None:
    distance, index = nearest_aligned(stored(changed[:8]), 16, stored(TRAIN), 16)
    assert index.tolist() == list(range(8)), name
    assert distance.max() < 0.6 * NULL
    if name in ("exact", "mirrored"):
        assert distance.max() < 1e-5  # float32


def test_brightness_and_contrast_of_each_neighbourhood_are_those_of_scipy() -> None:
    fine = np.random.default_rng(4).random((3, 2 * SIDE_PX, 2 * SIDE_PX))
    x = fine.reshape(3, SIDE_PX, 2, SIDE_PX, 2).mean(axis=(2, 4))
    mean, square = (
        gaussian_filter(of, SIGMA_PX, mode="nearest", truncate=3, axes=(1, 2)) for of in (x, x * x)
    )
    expected = (x - mean) / np.sqrt(square - mean**2 + LEAST_CONTRAST**2)
    found = normalise(torch.from_numpy(fine.astype(np.float32))).numpy()
    assert found == pytest.approx(expected, abs=2e-5)  # float32, and a variance that is a difference


def test_a_film_does_not_depend_on_the_others() -> None:
    query = stored(films(40, 3))
    all_at_once, rows = nearest_aligned(query, 16, stored(TRAIN), 16)
    alone, row = nearest_aligned(query[37:38], 16, stored(TRAIN), 16)
    assert alone[0] == pytest.approx(all_at_once[37], abs=1e-5)  # float32, in other orders of summation
    assert row[0] == rows[37]


def test_flat_films_are_like_nothing() -> None:
    flat = np.full((2, 32, 32), 20_000, np.uint16)
    distance, _ = nearest_aligned(flat, 16, stored(TRAIN), 16)
    assert distance.tolist() == pytest.approx([1, 1], abs=0.05)


@pytest.mark.parametrize(("query", "reference"), [((4, 4), (2, 4, 4)), ((2, 4, 4), (0, 4, 4))])
def test_what_is_no_stack_of_films_is_refused(query: tuple[int, ...], reference: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="Aligned neighbours"):
        nearest_aligned(np.zeros(query, np.uint16), 16, np.zeros(reference, np.uint16), 16)


def test_within_one_stack_no_film_is_its_own_neighbour() -> None:
    stack = stored(np.concatenate([TRAIN, TRAIN[35:36, :, ::-1]]))  # more films than one block holds
    distance, index = nearest_aligned(stack, 16, stack, 16, same=True)
    assert (index != np.arange(len(stack))).all()
    assert (index[35], index[40]) == (40, 35)
    assert distance[[35, 40]].max() < 1e-5  # float32
    assert np.delete(distance, [35, 40]).min() > 0.5 * NULL


def test_a_film_alone_in_its_stack_has_no_neighbour() -> None:
    one = stored(TRAIN[:1])
    with pytest.raises(ShapeError, match="M >= 2"):
        nearest_aligned(one, 16, one, 16, same=True)
