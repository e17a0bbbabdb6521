"""What `generate` and `interpolate` write: the same pixels in every format, the same bytes every time."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pydicom
import pytest
import yaml
from monai.data import CSVDataset
from typer.testing import Result

from xraygen.config import RunConfig
from xraygen.dataset.natural import prepare_natural
from xraygen.errors import FilmError, UsageError
from xraygen.films.colour import read_colour
from xraygen.films.mark import marked
from xraygen.films.objects import ReadOptions
from xraygen.films.reader import read_film
from xraygen.synthesis.generate import generate
from xraygen.synthesis.images import FileFormat, image_path, images_of, settings_of_format
from xraygen.synthesis.interpolate import InterpolateSettings, interpolate
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.training.checkpoint import HASHES, newest_checkpoint
from xraygen.training.loop import train

FAST = SamplerSettings(sampler="ddim", steps=2, compute_batch=4)
FORMATS: list[FileFormat] = list(get_args(FileFormat))
Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def spaced_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_run`, trained on films that told their pixel spacing."""
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("runs") / "spaced"))
    origin = json.loads((run / "dataset.json").read_text())
    origin["settings"]["pixel_spacing_mm"] = [5.5, 6.25]
    (run / "dataset.json").write_text(json.dumps(origin))
    return run


@pytest.fixture(scope="module")
def sets(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[FileFormat, Path]:
    """Three seeds in every format."""
    folder = tmp_path_factory.mktemp("sets")
    for file_format in FORMATS:
        generate(tiny_run, folder / file_format, range(3), FAST, file_format=file_format, device="cpu")
    return {file_format: folder / file_format for file_format in FORMATS}


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_holds_the_same_film(sets: dict[FileFormat, Path], file_format: FileFormat) -> None:
    plain = read_film(image_path(sets["png"], 2, "png")).values
    films = images_of(sets[file_format], file_format)
    assert films == [image_path(sets[file_format], seed, file_format) for seed in range(3)]
    read = read_film(films[2]).values
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, marked(plain) if file_format == "dicom-dx" else plain)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_film_alone_in_another_set_has_the_same_bytes(
    tiny_run: Path, tmp_path: Path, sets: dict[FileFormat, Path], file_format: FileFormat
) -> None:
    generate(tiny_run, tmp_path / "alone", [2], FAST, file_format=file_format, device="cpu")
    alone = image_path(tmp_path / "alone", 2, file_format).read_bytes()
    assert alone == image_path(sets[file_format], 2, file_format).read_bytes()


def test_clock_fields_are_the_checkpoints_time_or_the_one_that_is_asked_for(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    os.utime(newest_checkpoint(run).folder / HASHES, (1_700_000_000, 1_700_000_000))
    generate(run, tmp_path / "1", [0], FAST, file_format="dicom", device="cpu")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    generate(run, tmp_path / "2", [0], FAST, file_format="dicom", device="cpu")
    first, second = (pydicom.dcmread(tmp_path / name / "images" / "0.dcm") for name in "12")
    assert (first.StudyDate, first.StudyTime) == ("20231114", "221320")
    assert (second.StudyDate, second.StudyTime) == ("19700102", "000000")
    assert generate(run, tmp_path / "1", [0], FAST, file_format="dicom", device="cpu").present == 1


@pytest.mark.parametrize(("file_format", "keyword"), [("dicom", "--mark"), ("dicom-dx", "--no-mark")])
def test_the_mark_is_a_choice_that_the_provenance_tells(
    tiny_run: Path,
    tmp_path: Path,
    sets: dict[FileFormat, Path],
    xraygen_cli: Cli,
    file_format: str,
    keyword: str,
) -> None:
    out = tmp_path / "out"
    words = ("--seeds", 2, "--sampler", "ddim", "--steps", 2, "--batch-size", 4, "--device", "cpu")
    result = xraygen_cli("generate", tiny_run, "--out", out, "--format", file_format, keyword, *words)
    assert result.exit_code == 0, result.stderr
    plain = read_film(image_path(sets["png"], 2, "png")).values
    wanted = keyword == "--mark"
    np.testing.assert_array_equal(
        read_film(out / "images" / "2.dcm").values, marked(plain) if wanted else plain
    )
    told = json.loads((out / "provenance.json").read_text())
    assert told["settings"].get("mark", False) is wanted
    assert ("upper left corner" in (out / "README.md").read_text()) is wanted
    assert pydicom.dcmread(out / "images" / "2.dcm").BurnedInAnnotation == "NO"


def test_the_pixel_spacing_of_the_training_films_reaches_every_file(spaced_run: Path, tmp_path: Path) -> None:
    for file_format in FORMATS:
        generate(spaced_run, tmp_path / file_format, [0], FAST, file_format=file_format, device="cpu")
    for name in ("dicom", "dicom-dx"):
        film = pydicom.dcmread(tmp_path / name / "images" / "0.dcm")
        assert list(film.ImagerPixelSpacing) == [5.5, 6.25]
        assert "spacing nominal: the median of the training films" in film.DerivationDescription
    assert read_film(tmp_path / "nifti" / "images" / "0.nii.gz").attributes.pixel_spacing_mm == 5.5
    assert "nominal 5.5 x 6.25 mm" in (tmp_path / "png" / "README.md").read_text()


def test_where_no_spacing_is_known_sc_says_none_and_dx_says_that_it_is_assumed(
    sets: dict[FileFormat, Path],
) -> None:
    assert "ImagerPixelSpacing" not in pydicom.dcmread(sets["dicom"] / "images" / "0.dcm")
    film = pydicom.dcmread(sets["dicom-dx"] / "images" / "0.dcm")
    assert list(film.ImagerPixelSpacing) == [26.875, 26.875]  # 430 mm / 16
    assert "assumed and not measured" in film.DerivationDescription


def test_colour_has_neither_dicom_nor_a_mark(tiny_run: Path) -> None:
    for file_format, mark in (("dicom", None), ("nifti", None), ("png", True)):
        with pytest.raises(UsageError, match="colour"):
            settings_of_format(tiny_run, file_format, mark, (3, 32, 32))  # type: ignore[arg-type] # of a loop


def test_metadata_loads_with_monai(sets: dict[FileFormat, Path]) -> None:
    rows = CSVDataset(str(sets["png"] / "metadata.csv"))
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert all((sets["png"] / row["file_name"]).is_file() for row in rows)


_LOAD = """
import sys
import numpy as np
from datasets import load_dataset
images = load_dataset("imagefolder", data_dir=sys.argv[1], cache_dir=sys.argv[2], split="train")
np.savez(sys.argv[2] + "/read.npz", seeds=images["seed"], images=[np.asarray(image) for image in images["image"]])
"""


def test_metadata_loads_with_hugging_face(sets: dict[FileFormat, Path], tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="Hugging Face datasets, 170 MB with its Arrow, is not installed")
    # in a process of its own, since it leaves files open
    subprocess.run([sys.executable, "-c", _LOAD, str(sets["png"]), str(tmp_path)], check=True)
    read = np.load(tmp_path / "read.npz")
    assert read["seeds"].tolist() == [0, 1, 2]
    for seed, image in enumerate(read["images"]):
        np.testing.assert_array_equal(image, read_film(image_path(sets["png"], seed, "png")).values)


@pytest.mark.parametrize("file_format", FORMATS)
def test_metadata_follows_the_rule_of_hugging_faces_imagefolder(
    sets: dict[FileFormat, Path], file_format: FileFormat
) -> None:
    """metadata.csv in the folder, a column file_name with paths relative to it, of files that are there."""
    header, *rows = (sets[file_format] / "metadata.csv").read_text().splitlines()
    assert header.split(",")[0] == "file_name"
    assert all((sets[file_format] / row.split(",")[0]).is_file() for row in rows)


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_card_has_the_front_matter_of_the_hub(
    sets: dict[FileFormat, Path], file_format: FileFormat
) -> None:
    card = (sets[file_format] / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["license"] == "unknown"
    assert {"synthetic", "chest-x-ray", "not-for-diagnosis"} <= set(told["tags"])
    assert told["size_categories"] == ["n<1K"]
    assert "not audited" in text
    assert (sets[file_format] / "preview.png").is_file()


def test_a_path_becomes_a_multi_frame_object_of_the_same_frames(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    ends, way = (f"{tiny_dataset}#1", f"{tiny_dataset}#9"), InterpolateSettings(timestep=10, frames=3)
    for name in ("1", "2"):
        interpolate(tiny_run, *ends, tmp_path / name, way, FAST, file_format="dicom", device="cpu")
    film = pydicom.dcmread(tmp_path / "1" / "path.dcm")
    frames = [read_film(path).values for path in sorted((tmp_path / "1" / "frames").iterdir())]
    np.testing.assert_array_equal(film.pixel_array, frames)
    # as ingest reads it: by choice, and else not at all
    first = read_film(tmp_path / "1" / "path.dcm", ReadOptions(frames="first"))
    np.testing.assert_array_equal(first.values, frames[0])
    with pytest.raises(FilmError, match="this object has 3"):
        read_film(tmp_path / "1" / "path.dcm")
    assert list(film.FrameLabelVector) == ["lambda 0", "lambda 0.5", "lambda 1"]
    assert "personal data" in film.ImageComments
    assert (tmp_path / "1" / "path.dcm").read_bytes() == (tmp_path / "2" / "path.dcm").read_bytes()


@pytest.fixture(scope="module")
def series(tiny_run: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One path as a series, twice."""
    ends, way = (f"{tiny_dataset}#1", f"{tiny_dataset}#9"), InterpolateSettings(timestep=10, frames=3)
    folders = [tmp_path_factory.mktemp("series") / "path" for _ in range(2)]
    for folder in folders:
        interpolate(tiny_run, *ends, folder, way, FAST, file_format="dicom-series", device="cpu")
    return folders


def test_a_path_becomes_a_series_numbered_along_it(series: list[Path]) -> None:
    files, again = (sorted((folder / "series").iterdir()) for folder in series)
    assert [file.name for file in files] == ["frame-000.dcm", "frame-001.dcm", "frame-002.dcm"]
    assert not (series[0] / "path.dcm").exists()
    films = [pydicom.dcmread(file) for file in files]
    frames = [read_film(path).values for path in sorted((series[0] / "frames").iterdir())]
    for number, (file, film, frame, lam) in enumerate(
        zip(files, films, frames, ("0", "0.5", "1"), strict=True)
    ):
        np.testing.assert_array_equal(film.pixel_array, frame)
        np.testing.assert_array_equal(read_film(file).values, frame)  # as ingest reads it, without any choice
        assert film.InstanceNumber == number + 1
        assert film[0x0008, 0x001C].value == "YES"
        assert film.SeriesDescription == "SYNTHETIC, NOT FOR DIAGNOSIS"
        assert f"lambda {lam}, between two patients' films: personal data" in film.ImageComments
    assert len({(film.StudyInstanceUID, film.SeriesInstanceUID) for film in films}) == 1
    assert len({film.SOPInstanceUID for film in films}) == 3
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian's package dicom3tools)"
)
def test_every_file_of_a_series_passes_dciodvfy(series: list[Path]) -> None:
    for path in (series[0] / "series").iterdir():
        told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=True)
        errors = [line for line in told.stderr.splitlines() if line.startswith("Error")]
        assert len(errors) == 1
        assert "(0x0008,0x001c)" in errors[0]


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian's package dicom3tools)"
)
@pytest.mark.parametrize("file_format", ["dicom", "dicom-dx"])
def test_every_file_of_a_set_passes_dciodvfy(sets: dict[FileFormat, Path], file_format: FileFormat) -> None:
    for path in images_of(sets[file_format], file_format):
        told = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=True)
        errors = [line for line in told.stderr.splitlines() if line.startswith("Error")]
        assert len(errors) == 1
        assert "(0x0008,0x001c)" in errors[0]


def test_a_set_in_colour_has_a_preview_and_a_card_of_no_film(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    dataset = prepare_natural(tmp_path / "images.npz", tmp_path / "dataset", (16, 16))
    train(tiny_config("data.channels=3", "train.max_steps=2"), dataset, tmp_path / "run", device="cpu")
    settings = SamplerSettings("ddim", 2, compute_batch=2)
    generate(tmp_path / "run", tmp_path / "set", [3, 4], settings, device="cpu")
    assert read_colour(tmp_path / "set" / "images" / "3.png").shape == (16, 16, 3)
    assert read_colour(tmp_path / "set" / "preview.png").shape == (16, 34, 3)
    card = (tmp_path / "set" / "README.md").read_text()
    assert "# Synthetic natural images" in card
    assert "chest" not in card
