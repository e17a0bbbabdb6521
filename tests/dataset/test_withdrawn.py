"""Films of the list of --exclude stay out with their copies, by whatever they are called, and no others do."""

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from xraygen.dataset import reading
from xraygen.dataset.exclusion import copies_of_withdrawn
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings, IngestSummary
from xraygen.dataset.journal import Journal, Outcome
from xraygen.dataset.manifest import read_rejected
from xraygen.dataset.store import open_dataset
from xraygen.films.phantom import phantom_film
from xraygen.progress import Progress

WriteDicom = Callable[..., Path]


def write_film(write_dicom: WriteDicom, path: Path, number: int, patient: str) -> None:
    """A phantom of 192 pixels, as a modality writes it."""
    film = pydicom.dcmread(write_dicom(path, number, patient))
    film.Rows, film.Columns, film.WindowCenter, film.WindowWidth = 192, 192, 2048, 4096
    film.PixelData = np.rint(phantom_film(0, number, 0, 192).pixels).astype(np.uint16).tobytes()
    film.save_as(path)


def write_copy(path: Path, number: int, size: int = 96) -> None:
    """The same phantom saved again, without a patient."""
    path.parent.mkdir(parents=True, exist_ok=True)
    light = phantom_film(0, number, 0, 192).pixels / 4095
    Image.fromarray(np.rint(light * 255).astype(np.uint8)).resize((size, size)).save(path)


def ingest_without(
    entries: Collection[str],
    sources: Collection[Path],
    out: Path,
    settings: IngestSettings,
    also_search: tuple[Path, ...] = (),
) -> IngestSummary:
    listed = out.with_name(f"{out.name}-list.txt")
    listed.write_text("\n".join(entries))
    return ingest([*sources], out, replace(settings, exclude=listed, also_search=also_search))


def names_of_excluded(dataset: Path, settings: IngestSettings) -> set[str]:
    crosswalk = pd.read_csv(f"{settings.key}.crosswalk.csv", dtype=str)
    rejected = read_rejected(dataset / "rejected.csv")
    sources = rejected.loc[rejected["reason"] == "excluded", "source"]
    return {Path(path).name for path in crosswalk.loc[crosswalk["source"].isin(sources), "path"]}


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("copy", ["a.png", "c.png"])
def test_a_copy_that_was_saved_again_goes_with_the_withdrawn_film(
    copy: str, earlier: bool, settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    folder = tmp_path / "f"
    write_film(write_dicom, folder / "b.dcm", 0, "P1")
    write_copy(folder / copy, 0)
    write_copy(folder / f"again-{copy}", 0, size=64)
    write_copy(folder / "other.png", 1)
    if earlier:
        assert ingest([folder], tmp_path / "earlier", settings).rejected == {"near_duplicate": 2}
    summary = ingest_without(["P1"], [folder], tmp_path / "dataset", settings)
    assert (summary.accepted, summary.rejected) == (1, {"excluded": 3})
    assert names_of_excluded(tmp_path / "dataset", settings) == {"b.dcm", copy, f"again-{copy}"}
    assert not (tmp_path / "dataset/overview-rejected.png").exists()
    ingest([folder / "other.png"], tmp_path / "alone", settings)
    images, alone = (open_dataset(tmp_path / name).images for name in ("dataset", "alone"))
    np.testing.assert_array_equal(images, alone)


def test_a_copy_of_a_film_that_is_named_by_its_place_may_be_wanted(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_film(write_dicom, tmp_path / "f/b.dcm", 0, "P1")
    write_copy(tmp_path / "f/a.png", 0)
    summary = ingest_without(["b.dcm"], [tmp_path / "f"], tmp_path / "dataset", settings)
    assert (summary.accepted, summary.rejected) == (1, {"excluded": 1})


@pytest.mark.parametrize("order", ["abc", "cba"])
def test_a_film_without_a_patient_goes_with_the_study_of_a_withdrawn_one(
    order: str, settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """But no other patient's film, should the study have been told of two."""
    for name, number, patient in zip(order, range(3), ["P1", "", "P2"], strict=True):
        path = tmp_path / f"f/{name}.dcm"
        write_film(write_dicom, path, number, patient)
        film = pydicom.dcmread(path)
        film.StudyInstanceUID = "1.2.3"
        film.save_as(path)
    summary = ingest_without(["P1"], [tmp_path / "f"], tmp_path / "dataset", settings)
    assert (summary.accepted, summary.rejected) == (1, {"excluded": 2})
    assert names_of_excluded(tmp_path / "dataset", settings) == {f"{order[0]}.dcm", f"{order[1]}.dcm"}
    summary = ingest_without([f"{order[0]}.dcm"], [tmp_path / "f"], tmp_path / "other", settings)
    assert summary.rejected == {"excluded": 1}


def test_a_copy_that_another_rule_keeps_out_shows_no_picture(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_film(write_dicom, tmp_path / "f/b.dcm", 0, "P1")
    write_copy(tmp_path / "f/a.png", 0, size=80)
    write_copy(tmp_path / "f/c.png", 1)
    picky = replace(settings, curation=replace(settings.curation, min_side_px=90))
    ingest([tmp_path / "f"], tmp_path / "all", picky)
    assert (tmp_path / "all/overview-rejected.png").exists()
    summary = ingest_without(["P1"], [tmp_path / "f"], tmp_path / "dataset", picky)
    assert summary.rejected == {"excluded": 2}
    assert not (tmp_path / "dataset/overview-rejected.png").exists()


@pytest.mark.parametrize("left", ["a.png", "moved.png"])
def test_a_film_whose_patient_an_earlier_dataset_knew_is_withdrawn(
    left: str, settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """From a copy, which is gone."""
    write_film(write_dicom, tmp_path / "f/b.dcm", 0, "P1")
    write_copy(tmp_path / "f/a.png", 0)
    write_copy(tmp_path / "f/other.png", 1)
    ingest([tmp_path / "f"], tmp_path / "work/earlier", settings)
    (tmp_path / "f/b.dcm").unlink()
    (tmp_path / "f/a.png").rename(tmp_path / "f" / left)
    summary = ingest_without(["P1"], [tmp_path / "f"], tmp_path / "new", settings, (tmp_path / "work",))
    assert (summary.accepted, summary.rejected) == (1, {"excluded": 1})
    assert summary.made_with_excluded == (str(tmp_path / "work/earlier"),)


def test_copies_of_copies_go_in_whatever_order_they_come(tmp_path: Path) -> None:
    def outcome(source: str, bits: int, **more: object) -> dict[str, Any]:
        """A film whose look differs from the withdrawn one's in the first bits."""
        look = np.packbits(np.arange(256) < bits).tobytes().hex()
        return {"source": source, "image_id": f"I{source}", "perceptual": look, **more}

    films: list[Outcome] = [
        outcome("withdrawn", 0, reason="excluded", withdrawn=True),
        outcome("copy", 16),
        outcome("of-copy", 32, reason="near_duplicate", like="copy"),
        {**outcome("same-pixels", 200), "image_id": "Iof-copy"},
        outcome("other", 49, reason="blank"),
        outcome("by-place", 48, reason="excluded", withdrawn=False),
        {"source": "unreadable", "reason": "unreadable"},
    ]
    for number, order in enumerate(permutations(films[:5])):
        journal = Journal(tmp_path / f"{number}")
        journal.folder.mkdir()
        journal.write(0, [], [*films[5:], *order], (8, 8))
        assert copies_of_withdrawn(journal, 16) == {"copy", "of-copy", "same-pixels"}
    assert copies_of_withdrawn(journal, -1) == set()


class KilledError(Exception):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("films", [1, 2, 3, 4, 5])
def test_a_killed_ingest_leaves_the_same_films_out(
    films: int,
    settings: IngestSettings,
    tmp_path: Path,
    write_dicom: WriteDicom,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "_FILMS_PER_SHARD", 1)
    for name, number in (("a", 0), ("c", 0), ("d", 1), ("e", 2)):
        write_copy(tmp_path / f"f/{name}.png", number)
    write_film(write_dicom, tmp_path / "f/b.dcm", 0, "P1")
    entries = ["P1", "nobody"]
    ingest_without(entries, [tmp_path / "f"], tmp_path / "at-once", settings)

    def kill(progress: Progress) -> None:
        if progress.done >= films:
            raise KilledError

    asked = replace(settings, exclude=tmp_path / "at-once-list.txt")
    with pytest.raises(KilledError):
        ingest([tmp_path / "f"], tmp_path / "dataset", asked, kill)
    summary = ingest([tmp_path / "f"], tmp_path / "dataset", asked)
    assert (summary.accepted, summary.rejected) == (2, {"excluded": 3})
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("at-once", "dataset")
    )
    assert one == other


def test_ordinary_paths_name_films(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `find f -name` prints them, as they stand in the shell's folder, and through a link."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c", "d", "sub/e", "sub/f"):
        write_dicom(tmp_path / f"f/{name}.dcm", ord(name[-1]), f"P{name[-1]}")
    (tmp_path / "link").symlink_to("f")
    entries = ["f/a.dcm", "./f/b.dcm", str(tmp_path / "f/c.dcm"), "link/sub/../sub/e.dcm", "./sub/f.dcm"]
    summary = ingest_without(entries, [Path("f")], tmp_path / "dataset", settings)
    assert (summary.rejected, summary.notes) == ({"excluded": 5}, summary.notes[:1])
    assert not any("--exclude" in note for note in summary.notes)
    assert names_of_excluded(tmp_path / "dataset", settings) == {f"{name}.dcm" for name in "abcef"}


def test_a_path_names_no_other_film_of_its_name(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, folder in enumerate(("f", "f/sub", "g")):
        write_dicom(tmp_path / folder / "a.dcm", number, f"P{number}")
    summary = ingest_without(["./f/sub/a.dcm"], [Path("f"), Path("g")], tmp_path / "dataset", settings)
    assert (summary.accepted, summary.rejected) == (2, {"excluded": 1})


@pytest.mark.parametrize("together", [False, True])
def test_a_source_holds_whatever_other_sources_there_are(
    together: bool, settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """It is made of the path below the folder that all sources share."""
    for number in range(3):
        write_dicom(tmp_path / f"f/{number}.dcm", number, f"P{number}")
        write_dicom(tmp_path / f"g/{number}.dcm", 3 + number, f"P{3 + number}")
    first, second = [tmp_path / "f"], [tmp_path / "f", tmp_path / "g"]
    if together:
        first, second = second, first
    ingest(first, tmp_path / "work/earlier", settings)
    called = open_dataset(tmp_path / "work/earlier").manifest["source"][1]
    summary = ingest_without([called], second, tmp_path / "new", settings, (tmp_path / "work",))
    assert names_of_excluded(tmp_path / "new", settings) == {"1.dcm"}
    assert summary.rejected == {"excluded": 1}
    assert summary.made_with_excluded == (str(tmp_path / "work/earlier"),)


def test_lines_that_name_no_film_are_counted_and_not_told(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for number in range(3):
        write_dicom(tmp_path / f"f/{number}.dcm", number, f"P{number}", f"1.2.{number}")
    entries = ["patient,comment", "# Mustermann", "P1,said no", "1.2.1", "Mustermann,letter", "f/0.dcm", ""]
    for _ in range(2):  # also when the DATASET is there already
        summary = ingest_without(entries, [tmp_path / "f"], tmp_path / "dataset", settings)
        assert summary.rejected == {"excluded": 1}
        (note,) = (note for note in summary.notes if "--exclude" in note)
        assert "no film that could be read: 2;" in note
        assert not any(word in note for word in ("Mustermann", "letter", "0.dcm"))
    told = open_dataset(tmp_path / "dataset").info.settings
    assert told["exclude_lines_without_film"] == 2


def test_films_of_the_same_relative_name_are_not_mixed_up(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for number, tree in enumerate("AB"):
        for film in range(2):
            write_dicom(tmp_path / f"{tree}/{film}.dcm", 10 * number + film, f"P-{tree}{film}")
        ingest([tmp_path / tree], tmp_path / f"work/o{tree}", settings)
    named = open_dataset(tmp_path / "work/oA").manifest["image_id"][0]
    summary = ingest_without([named], [tmp_path / "B"], tmp_path / "new", settings, (tmp_path / "work",))
    assert summary.rejected == {}
    assert summary.made_with_excluded == (str(tmp_path / "work/oA"),)
    summary = ingest_without(["P-B0"], [tmp_path / "B"], tmp_path / "newer", settings, (tmp_path / "work",))
    assert summary.rejected == {"excluded": 1}
    assert summary.made_with_excluded == (str(tmp_path / "work/oB"),)


def test_a_film_that_is_gone_is_found_by_its_path(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_dicom(tmp_path / f"f/{number}.dcm", number, f"P{number}")
    ingest([tmp_path / "f"], tmp_path / "work/earlier", settings)
    ingest([tmp_path / "f/2.dcm"], tmp_path / "work/other", settings)
    (tmp_path / "f/1.dcm").unlink()
    summary = ingest_without(["f/1.dcm"], [tmp_path / "f"], tmp_path / "new", settings, (tmp_path / "work",))
    assert summary.rejected == {}
    assert summary.made_with_excluded == (str(tmp_path / "work/earlier"),)
