import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from xraygen.dataset.store import open_dataset
from xraygen.errors import FilmError, UsageError
from xraygen.films.reader import read_film
from xraygen.films.writers import write_png
from xraygen.synthesis.interpolate import InterpolateSettings, Mode, interpolate
from xraygen.synthesis.sampling import SamplerSettings

FAST = SamplerSettings(sampler="ddim", steps=10, compute_batch=5)
MODES: list[Mode] = ["paper", "shared-noise"]


def frames(path: Path) -> np.ndarray:
    return np.stack([read_film(frame).values for frame in sorted((path / "frames").iterdir())])


@pytest.mark.parametrize("mode", MODES)
def test_swapping_the_ends_mirrors_the_path(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, mode: Mode
) -> None:
    settings = InterpolateSettings(mode=mode, timestep=12, frames=5)
    a, b = f"{tiny_dataset}#1", f"{tiny_dataset}#9"
    interpolate(tiny_run, a, b, tmp_path / "there", settings, FAST, device="cpu")
    interpolate(tiny_run, b, a, tmp_path / "back", settings, FAST, device="cpu")
    difference = frames(tmp_path / "there").astype(int) - frames(tmp_path / "back")[::-1].astype(int)
    assert abs(difference).max() <= 2  # of 65535: 1 - lambda and lambda round differently in float32


@pytest.mark.parametrize("mode", MODES)
def test_at_timestep_zero_the_ends_come_back(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, mode: Mode
) -> None:
    settings = InterpolateSettings(mode=mode, timestep=0, frames=3)
    full = SamplerSettings(sampler="ddpm", compute_batch=3)
    interpolate(
        tiny_run, f"{tiny_dataset}#1", f"{tiny_dataset}#9", tmp_path / "out", settings, full, device="cpu"
    )
    images = open_dataset(tiny_dataset).images
    ends = frames(tmp_path / "out")[[0, -1]].astype(float)
    error = abs(ends - images[[1, 9]].astype(float)).mean() / 65535
    assert error < 0.03  # the cosine schedule of 20 steps leaves a noise of sigma 0.1 at t = 0, in [-1, 1]


def test_a_film_file_and_its_dataset_row_are_prepared_alike(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    images = open_dataset(tiny_dataset).images
    write_png(tmp_path / "film.png", np.asarray(images[1]))
    settings = InterpolateSettings(timestep=10, frames=2)
    b = f"{tiny_dataset}#9"
    interpolate(tiny_run, str(tmp_path / "film.png"), b, tmp_path / "file", settings, FAST, device="cpu")
    interpolate(tiny_run, f"{tiny_dataset}#1", b, tmp_path / "row", settings, FAST, device="cpu")
    assert np.array_equal(frames(tmp_path / "file"), frames(tmp_path / "row"))


def test_a_path_has_its_strip_its_gif_and_its_description(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = InterpolateSettings(timestep=10, frames=5)
    interpolate(
        tiny_run, f"{tiny_dataset}#1", f"{tiny_dataset}#9", tmp_path / "out", settings, FAST, device="cpu"
    )
    with Image.open(tmp_path / "out" / "strip.png") as strip:
        assert strip.size == (7 * 16 + 6 * 2, 16)  # both films and five frames, two pixels apart
    with Image.open(tmp_path / "out" / "path.gif") as gif:
        assert len(list(ImageSequence.Iterator(gif))) == 8  # forth and back
    told = json.loads((tmp_path / "out" / "path.json").read_text())
    assert [frame["lambda"] for frame in told["frames"]] == [0, 0.25, 0.5, 0.75, 1]
    assert told["personal_data"] is True


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        ("nowhere.png", "There is no file nowhere.png"),
        ("{data}#48", "rows 0 to 47"),
        ("{data}", "There is no file"),
    ],
)
def test_a_wrong_end_is_one_sentence(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, end: str, sentence: str
) -> None:
    film = end.format(data=tiny_dataset)
    with pytest.raises(UsageError, match=sentence):
        interpolate(
            tiny_run,
            film,
            f"{tiny_dataset}#1",
            tmp_path / "out",
            InterpolateSettings(timestep=1),
            FAST,
            device="cpu",
        )


def test_a_file_that_is_no_film_is_refused(tiny_run: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_text("not a film")
    with pytest.raises(FilmError):
        interpolate(
            tiny_run,
            str(tmp_path / "film.dcm"),
            f"{tiny_dataset}#1",
            tmp_path / "out",
            InterpolateSettings(timestep=1),
            FAST,
            device="cpu",
        )


def test_a_timestep_outside_the_schedule_names_its_end(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    row = f"{tiny_dataset}#1"
    with pytest.raises(UsageError, match="expected 0 to 19"):
        interpolate(
            tiny_run, row, row, tmp_path / "out", InterpolateSettings(timestep=20), FAST, device="cpu"
        )
