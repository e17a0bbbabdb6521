"""Films that were corrected in place: neither is an older DATASET taken for theirs, nor are old and new mixed."""

import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from xraygen.dataset import reading
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError
from xraygen.progress import Progress


@pytest.fixture
def films(tmp_path: Path, write_dicom: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reading, "_FILMS_PER_SHARD", 2)
    for number in range(6):
        write_dicom(tmp_path / f"in/{number}.dcm", number, f"P{number}")
    return tmp_path / "in"


def correct(path: Path) -> None:
    """Another patient and other pixels in a file of the same size."""
    size, film = path.stat().st_size, pydicom.dcmread(path)
    film.PatientID, film.PixelData = "P9", film.pixel_array[::-1].tobytes()
    film.save_as(path)
    assert path.stat().st_size == size


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kill(progress: Progress) -> None:
    if progress.done == 4:
        raise KeyboardInterrupt


def test_a_film_corrected_in_place_is_not_taken_for_the_old_one(
    films: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    """Before, the DATASET "was complete already", with the old patient and the old pixels."""
    ingest([films], tmp_path / "dataset", settings)
    before = contents(tmp_path / "dataset")
    correct(films / "1.dcm")
    with pytest.raises(UsageError, match=r"^films were written anew since .*dataset was made of them"):
        ingest([films], tmp_path / "dataset", settings)
    assert contents(tmp_path / "dataset") == before
    ingest([films], tmp_path / "new", settings)
    assert list(open_dataset(tmp_path / "new").images[1].flat) != list(
        open_dataset(tmp_path / "dataset").images[1].flat
    )


def test_films_corrected_after_a_kill_are_read_anew(
    films: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    """Before, those that had been read stayed as they were, beside new ones."""
    with pytest.raises(KeyboardInterrupt):
        ingest([films], tmp_path / "dataset", settings, kill)
    correct(films / "1.dcm")
    ingest([films], tmp_path / "dataset", settings)
    ingest([films], tmp_path / "at-once", settings)
    assert contents(tmp_path / "dataset") == contents(tmp_path / "at-once")


def test_films_that_were_moved_with_their_times_are_the_same(
    films: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        ingest([films], tmp_path / "dataset", settings, kill)
    moved, seen = films.rename(tmp_path / "moved"), list[int]()
    ingest([moved], tmp_path / "dataset", settings, lambda progress: seen.append(progress.done))
    assert seen == [5, 6]
    assert ingest([moved], tmp_path / "dataset", settings).already_done


def test_an_archive_s_own_checksums_tell(films: Path, settings: IngestSettings, tmp_path: Path) -> None:
    def pack() -> Path:
        with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
            for path in sorted(films.iterdir()):
                archive.write(path, path.name)
        return tmp_path / "films.zip"

    ingest([pack()], tmp_path / "dataset", settings)
    os.utime(tmp_path / "films.zip", (0, 0))  # as a browser that saved it a second time
    assert ingest([tmp_path / "films.zip"], tmp_path / "dataset", settings).already_done
    correct(films / "1.dcm")
    with pytest.raises(UsageError, match="were written anew"):
        ingest([pack()], tmp_path / "dataset", settings)


def test_a_dataset_of_before_the_times_were_known_is_complete(
    films: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([films], tmp_path / "dataset", settings)
    info = tmp_path / "dataset/dataset.json"
    lines = info.read_text().splitlines(keepends=True)
    info.write_text("".join(line for line in lines if '"states"' not in line).replace('",\n  },', '"\n  },'))
    assert "states" not in open_dataset(tmp_path / "dataset").info.settings
    assert ingest([films], tmp_path / "dataset", replace(settings, workers=0)).already_done
