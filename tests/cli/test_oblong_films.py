"""Films that are wider than high, through every verb: their shape, and what is up and left in them, is kept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from PIL import Image

from xraygen.dataset.store import open_dataset

Cli = Callable[..., Result]
HEIGHT, WIDTH, COUNT = 16, 24, 16
MIRRORS = ((0,), (1,), (0, 1))


def film(number: int) -> NDArray[np.uint16]:
    """Twice as large, with a bright disc up and left of the middle; film 0 is square."""
    y, x = np.mgrid[: 2 * HEIGHT, : 2 * (HEIGHT if number == 0 else WIDTH)]
    distance = np.hypot(y - 9 - number % 4, x - 13 - number // 4)
    return np.asarray(8000 + 50000 / (1 + np.exp(distance - 6)), dtype=np.uint16)


def expected(number: int) -> NDArray[np.float64]:
    """The means of 2 x 2 pixels, with black at both sides of the square film."""
    whole = film(number).astype(np.float64)
    means = whole.reshape(HEIGHT, 2, -1, 2).mean(axis=(1, 3))
    missing = (WIDTH - means.shape[1]) // 2
    return np.pad(means, [(0, 0), (missing, missing)])


def read(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as picture:
        return np.asarray(picture, dtype=np.float64)


def likeness(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


@pytest.fixture(scope="module")
def way(xraygen_cli: Cli, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """films, dataset, run, synthetic and path."""
    folder = tmp_path_factory.mktemp("oblong")
    films, dataset, run = folder / "films", folder / "dataset", folder / "run"
    films.mkdir()
    for number in range(COUNT):
        Image.fromarray(film(number)).save(films / f"{number:02d}.png")
    (folder / "key").write_bytes(bytes(32))  # the key decides who comes into which split
    changes = (*tiny, "model.patch_size=2", f"data.image_size=[{HEIGHT},{WIDTH}]", "train.batch_size=4",
               "train.max_steps=40", "train.save_every=40", "train.learning_rate=2e-3", "train.warmup_steps=0",
               "train.sample_every=40", "train.sample_count=2")  # fmt: skip
    settings = [word for change in changes for word in ("--set", change)]
    commands: list[list[object]] = [
        ["ingest", films, "--out", dataset, "--size", f"{HEIGHT}x{WIDTH}", "--split", "0.9,0,0.1", "--workers", 0,
         "--key", folder / "key", "--curate", "near_duplicate_bits=-1"],
        ["train", "--config", "cxr-64", "--data", dataset, "--out", run, *settings, "--device", "cpu"],
        ["generate", run, "--out", folder / "synthetic", "--seeds", "0-7", "--steps", 5, "--device", "cpu"],
        ["interpolate", run, films / "02.png", films / "15.png", "--out", folder / "path", "--timestep", 1,
         "--frames", 3, "--features", "pixels", "--device", "cpu"],
    ]  # fmt: skip
    for command in commands:
        result = xraygen_cli(*command)
        assert result.exit_code == 0, (command[0], result.output)
    return folder


def test_the_dataset_holds_every_film_in_its_aspect_and_orientation(way: Path) -> None:
    images = open_dataset(way / "dataset").images.astype(np.float64)
    assert images.shape == (COUNT, HEIGHT, WIDTH)
    films = np.stack([expected(number) for number in range(COUNT)])
    apart = np.abs(images[:, None] - films).max(axis=(2, 3))  # (images, films)
    assert sorted(apart.argmin(axis=1)) == list(range(COUNT))
    assert apart.min(axis=1).max() <= 1  # rounding


def test_what_is_generated_is_wide_and_lies_as_the_films_do(way: Path) -> None:
    pictures = [read(path) for path in sorted((way / "synthetic" / "images").glob("*.png"))]
    assert [picture.shape for picture in pictures] == [(HEIGHT, WIDTH)] * 8
    mean, films = np.mean(pictures, axis=0), np.mean([expected(number) for number in range(COUNT)], axis=0)
    # After 40 steps they are noisy still; a mirrored disc is one elsewhere.
    assert likeness(mean, films) > 0.3 + max(likeness(mean, np.flip(films, mirror)) for mirror in MIRRORS)
    (grid,) = (way / "run" / "samples").iterdir()
    assert read(grid).shape == (HEIGHT, 2 * WIDTH + 2)  # two samples side by side, with a gap


def test_a_path_begins_and_ends_with_the_films_as_they_lie(way: Path) -> None:
    frames = [read(path) for path in sorted((way / "path" / "frames").iterdir())]
    assert [frame.shape for frame in frames] == [(HEIGHT, WIDTH)] * 3
    for frame, number in ((frames[0], 2), (frames[-1], 15)):
        mirrored = max(likeness(frame, np.flip(expected(number), mirror)) for mirror in MIRRORS)
        assert likeness(frame, expected(number)) > 0.3 + mirrored
