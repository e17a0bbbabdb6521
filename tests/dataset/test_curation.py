"""Which readable films stay out, why, and in which order; and those whose consent was withdrawn."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from imagecodecs import jpeg2k_encode
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from xraygen.dataset.curation import (
    CurationSettings,
    NearDuplicates,
    broken_rule,
    from_thumbnail,
    parse_thresholds,
    to_thumbnail,
)
from xraygen.dataset.exclusion_list import read_exclusions
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings, IngestSummary
from xraygen.dataset.manifest import read_rejected
from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError, XraygenError
from xraygen.films.phantom import phantom_film
from xraygen.films.transforms import PrepareSettings, prepare_film
from xraygen.seeds import numpy_generator


def phantom(patient: int) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.rint(phantom_film(0, patient, 0, 96).pixels * (255 / 4095)).astype(
        np.uint8
    )
    return pixels


def save(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Four phantoms, one of them three times, and one film for each rule."""
    folder = tmp_path / "in"
    for patient in range(4):
        save(folder / f"{patient}.png", phantom(patient))
    save(folder / "5-copy.png", phantom(1))
    Image.fromarray(phantom(2)).resize((88, 88)).save(folder / "6-again.jpg", quality=60)
    noise = numpy_generator(0, "blank").normal(120, 4, (96, 96)).astype(np.uint8)
    save(folder / "7-blank.png", noise)
    burnt = phantom(3)
    burnt[:70] = 255
    save(folder / "8-white.png", burnt)
    save(folder / "9-small.png", phantom(0)[:12, :40])
    return folder


@pytest.fixture
def large(settings: IngestSettings) -> IngestSettings:
    return replace(settings, prepare=PrepareSettings((64, 64), bits=8))


def reasons_of(folder: Path, settings: IngestSettings) -> dict[str, str]:
    """Reason by file name, read through the crosswalk."""
    paths = pd.read_csv(f"{settings.key}.crosswalk.csv", dtype=str).set_index("source")["path"]
    rejected = read_rejected(folder / "rejected.csv")
    return {
        Path(paths[source]).name: reason
        for source, reason in zip(rejected["source"], rejected["reason"], strict=True)
    }


def test_every_rule_has_its_reason_and_its_count(
    archive: Path, large: IngestSettings, tmp_path: Path
) -> None:
    summary = ingest([archive], tmp_path / "dataset", large)
    assert reasons_of(tmp_path / "dataset", large) == {
        "5-copy.png": "duplicate",
        "6-again.jpg": "near_duplicate",
        "7-blank.png": "blank",
        "8-white.png": "saturated",
        "9-small.png": "too_small",
    }
    assert summary.accepted == 4
    assert summary.rejected == dict.fromkeys(
        ("duplicate", "near_duplicate", "blank", "saturated", "too_small"), 1
    )
    assert open_dataset(tmp_path / "dataset").info.settings["curation"] == CurationSettings().to_json()


def test_each_threshold_lets_its_film_in(archive: Path, large: IngestSettings, tmp_path: Path) -> None:
    lax, _ = parse_thresholds(
        ["min_side_px=1", "max_magnification=9", "min_contrast=0", "max_white=1", "near_duplicate_bits=-1"]
    )
    summary = ingest([archive], tmp_path / "dataset", replace(large, curation=lax))
    assert (summary.accepted, summary.rejected) == (8, {"duplicate": 1})


def test_other_thresholds_are_another_dataset(archive: Path, large: IngestSettings, tmp_path: Path) -> None:
    ingest([archive], tmp_path / "dataset", large)
    with pytest.raises(UsageError, match="made from other files, settings"):
        ingest([archive], tmp_path / "dataset", replace(large, curation=CurationSettings(min_contrast=0.1)))


def test_a_near_duplicate_names_the_film_that_is_kept(
    archive: Path, large: IngestSettings, tmp_path: Path
) -> None:
    ingest([archive], tmp_path / "dataset", large)
    rejected = read_rejected(tmp_path / "dataset/rejected.csv").set_index("reason")
    detail = str(rejected.loc["near_duplicate", "detail"])
    paths = pd.read_csv(f"{large.key}.crosswalk.csv", dtype=str).set_index("path")["source"]
    assert detail.startswith(f"Nearly the same picture as {paths[str(archive / '2.png')]}, which is kept: ")


def test_the_first_in_the_order_of_paths_stays(archive: Path, large: IngestSettings, tmp_path: Path) -> None:
    (archive / "6-again.jpg").rename(archive / "0-again.jpg")
    ingest([archive], tmp_path / "dataset", large)
    assert reasons_of(tmp_path / "dataset", large)["2.png"] == "near_duplicate"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("contrast=1", "NAME=NUMBER, NAME being one of min_side_px"),
        ("min_contrast", "expected NAME=NUMBER"),
        ("min_contrast=much", "much is not the number"),
        ("min_side_px=1.5", "1.5 is not the number"),
        ("min_side_px=0", "1 or more"),
        ("max_magnification=inf", "a number above 0"),
        ("max_magnification=1e999", "a number above 0"),
        ("max_magnification=nan", "a number above 0"),
        ("max_white=1.5", "from 0 to 1"),
        ("max_black=nan", "from 0 to 1"),
        ("near_duplicate_bits=200", r"-1 \(none\) to 64"),
        ("text_contrast=0", "text_contrast 0.0: expected a number between 0 and 1"),
        ("text_contrast=nan", "between 0 and 1"),
        ("text_characters=0", "text_characters 0: expected 1 or more"),
        ("text_colour=1", "NAME being one of .*, text_contrast, text_characters"),
    ],
)
def test_a_threshold_that_is_none_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        parse_thresholds([text])


def test_magnification_is_limited_and_black_borders_are_not_saturated(tmp_path: Path) -> None:
    film = phantom(0)
    film[:40] = 0
    path = save(tmp_path / "film.png", film)
    prepare = PrepareSettings((64, 64))
    assert broken_rule(prepare_film(path, prepare), CurationSettings(max_black=0.3), prepare) is None
    big = PrepareSettings((400, 400))
    broken = broken_rule(prepare_film(path, big), CurationSettings(), big)
    assert broken is not None
    assert broken[0] == "too_small"
    assert "96x96" in broken[1]


@pytest.mark.parametrize("bits", [0, 5, 16, 40])
def test_the_index_finds_what_comparing_all_pairs_finds(bits: int) -> None:
    generator = numpy_generator(0, "hashes", bits)
    centres = generator.integers(0, 2, (40, 256), dtype=np.uint8)
    hashes = []
    for _ in range(400):
        flipped = centres[generator.integers(40)].copy()
        flipped[generator.permutation(256)[: generator.integers(0, 45)]] ^= 1
        hashes.append(flipped)
    index, found, expected = NearDuplicates(bits), [], []
    for number, one in enumerate(hashes):
        near = [
            (f"{j}", int((hashes[j] != one).sum())) for j in range(number) if (hashes[j] != one).sum() <= bits
        ]
        expected.append(near[0] if near else None)
        found.append(index.first_near(np.packbits(one).tobytes()))
        index.add(np.packbits(one).tobytes(), f"{number}")
    assert found == expected
    assert any(found)
    assert len(index) == 400


def test_the_index_grows_beyond_its_first_room() -> None:
    index = NearDuplicates(3)
    hashes = numpy_generator(0, "many").integers(0, 256, (3000, 32), dtype=np.uint8)
    for number, one in enumerate(hashes):
        index.add(one.tobytes(), f"{number}")
    assert index.first_near(hashes[2999].tobytes()) == ("2999", 0)


def test_a_thumbnail_is_a_small_copy() -> None:
    light = np.full((200, 100), 0.5, np.float32)
    small = from_thumbnail(to_thumbnail(light))
    assert small.shape == (96, 96)
    assert set(small[:, 24:72].ravel()) <= {127, 128}
    assert small[:, :24].max() == small[:, 72:].max() == 0


def ward(folder: Path, write_dicom: Callable[..., Path]) -> Path:
    """Six films: three patients, two studies each."""
    for number in range(6):
        write_dicom(
            folder / f"film{number}.dcm", number, f"PAT-{number // 2}", f"1.2.{number}", f"1.2.3.{number}"
        )
    return folder


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("PAT-1", {2, 3}),
        ("1.2.4", {4}),
        ("1.2.3.5", {5}),
        ("film0.dcm", {0}),
        ("# PAT-0\n\n PAT-2 \nPAT-1;withdrawn on Monday", {2, 3, 4, 5}),
        ("PAT", set()),
    ],
)
def test_the_list_keeps_films_out_by_patient_study_film_or_path(
    entry: str, expected: set[int], settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    folder = ward(tmp_path / "in", write_dicom)
    listed = tmp_path / "list.txt"
    listed.write_text(entry)
    summary = ingest([folder], tmp_path / "dataset", replace(settings, exclude=listed))
    assert summary.rejected == ({"excluded": len(expected)} if expected else {})
    assert reasons_of(tmp_path / "dataset", settings).keys() == {f"film{number}.dcm" for number in expected}
    text = b"".join(path.read_bytes() for path in (tmp_path / "dataset").iterdir())
    assert b"PAT-" not in text
    assert not (tmp_path / "dataset/overview-rejected.png").exists()


@pytest.mark.parametrize("column", ["image_id", "source"])
@pytest.mark.parametrize("form", ["{}", "{},no_orientation"])
def test_the_list_knows_films_by_what_the_dataset_calls_them(
    column: str, form: str, settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    folder = ward(tmp_path / "in", write_dicom)
    ingest([folder], tmp_path / "first", settings)
    called = open_dataset(tmp_path / "first").manifest[column]
    (tmp_path / "list.txt").write_text("\n".join([f"{column},flag", *map(form.format, called[[1, 4]])]))
    asked = replace(settings, exclude=tmp_path / "list.txt", also_search=(tmp_path,))
    summary = ingest([folder], tmp_path / "second", asked)
    assert summary.rejected == {"excluded": 2}
    kept = open_dataset(tmp_path / "second").manifest[column]
    assert list(kept) == list(called[[0, 2, 3, 5]])
    assert names_after(summary, tmp_path) == ["first"]


@pytest.mark.parametrize("column", ["image_id", "source"])
def test_a_film_that_is_gone_is_found_by_what_the_dataset_calls_it(
    column: str, settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    folder = ward(tmp_path / "in", write_dicom)
    ingest([folder], tmp_path / "first", settings)
    (tmp_path / "list.txt").write_text(open_dataset(tmp_path / "first").manifest[column][1])
    (folder / "film1.dcm").unlink()
    asked = replace(settings, exclude=tmp_path / "list.txt", also_search=(tmp_path,))
    summary = ingest([folder], tmp_path / "second", asked)
    assert (summary.accepted, names_after(summary, tmp_path)) == (5, ["first"])


@pytest.mark.parametrize("anonymous", ["a.dcm", "c.dcm"])
@pytest.mark.parametrize(("entry", "left"), [("PAT-1", 1), ("1.2.3.1", 1), ("b.dcm", 2)])
def test_identical_films_are_withdrawn_with_the_patients_whatever_they_are_called(
    entry: str,
    left: int,
    anonymous: str,
    settings: IngestSettings,
    tmp_path: Path,
    write_dicom: Callable[..., Path],
) -> None:
    """Named by its place alone, one copy stays out and the others are judged as ever."""
    write_dicom(tmp_path / "in/b.dcm", 0, "PAT-1", instance="1.2.3.1")
    write_dicom(tmp_path / "in" / anonymous, 0)
    write_dicom(tmp_path / "in/d.dcm", 0)
    write_dicom(tmp_path / "in/e.dcm", 1, "PAT-2")
    (tmp_path / "list.txt").write_text(entry)
    summary = ingest(
        [tmp_path / "in"], tmp_path / "dataset", replace(settings, exclude=tmp_path / "list.txt")
    )
    assert summary.rejected == ({"excluded": 3} if left == 1 else {"excluded": 1, "duplicate": 1})
    assert (tmp_path / "dataset/overview-rejected.png").exists() == (left == 2)
    ingest([tmp_path / "in/e.dcm"], tmp_path / "alone", settings)
    images, alone = open_dataset(tmp_path / "dataset").images, open_dataset(tmp_path / "alone").images
    assert len(images) == left
    np.testing.assert_array_equal(images[-1:], alone)


def test_nothing_is_left_of_a_withdrawn_film_and_its_copy(
    settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    write_dicom(tmp_path / "in/a.dcm", 0)
    write_dicom(tmp_path / "in/b.dcm", 0, "PAT-1")
    (tmp_path / "list.txt").write_text("PAT-1")
    with pytest.raises(XraygenError, match="none of the 2 files could be used"):
        ingest([tmp_path / "in"], tmp_path / "dataset", replace(settings, exclude=tmp_path / "list.txt"))


def test_the_patient_of_the_labels_is_withdrawn_too(
    settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    """A film has a number of the trial, the CSV that of the hospital."""
    folder = ward(tmp_path / "in", write_dicom)
    (tmp_path / "labels.csv").write_text("path,patient,study\nfilm1.dcm,4711,\nfilm2.dcm,,9.9\nfilm3.dcm,,\n")
    (tmp_path / "list.txt").write_text("4711\n9.9")
    asked = replace(settings, labels=tmp_path / "labels.csv", exclude=tmp_path / "list.txt")
    ingest([folder], tmp_path / "dataset", asked)
    assert reasons_of(tmp_path / "dataset", settings) == dict.fromkeys(("film1.dcm", "film2.dcm"), "excluded")


@pytest.mark.parametrize("lent", [False, True])
def test_an_image_id_is_withdrawn_however_coarsely_its_film_is_decoded(
    lent: bool, settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    """Also where an archive lends the films: by their UIDs, in another folder each time."""
    folder = ward(tmp_path / "in", write_dicom)
    film = pydicom.dcmread(folder / "film1.dcm")
    waves = np.add.outer(np.sin(np.arange(96) / 9), np.cos(np.arange(64) / 7))
    levels = np.rint((waves + 2) * 1000).astype(np.uint16)
    film.PixelData = encapsulate([jpeg2k_encode(levels, level=0, codecformat="J2K", bitspersample=12)])
    film.file_meta.TransferSyntaxUID = JPEG2000Lossless
    film.Rows, film.Columns, film.WindowCenter, film.WindowWidth = 96, 64, 2048, 4096
    film.save_as(folder / "film1.dcm")
    if lent:
        (folder / "film1.dcm").rename(folder / "1.2.3.1.dcm")
    quarter = replace(settings, prepare=replace(settings.prepare, jpeg_2000="quarter"))
    ingest([folder], tmp_path / "full", settings)
    ingest([folder], tmp_path / "quarter", quarter)
    (named,) = {*open_dataset(tmp_path / "full").manifest["image_id"]} - {
        *open_dataset(tmp_path / "quarter").manifest["image_id"]
    }
    if lent:
        folder = folder.rename(tmp_path / "another")
    (tmp_path / "list.txt").write_text(named)
    summary = ingest([folder], tmp_path / "new", replace(quarter, exclude=tmp_path / "list.txt"))
    assert summary.rejected == {"excluded": 1}


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\x00"])
def test_a_list_of_nothing_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(UsageError, match="--exclude"):
        read_exclusions(tmp_path / "list")


def test_searching_without_a_list_is_wrong_usage(settings: IngestSettings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--also-search"):
        replace(settings, also_search=(tmp_path,))


def write_run(folder: Path, content: str, weights: str) -> None:
    (folder / "checkpoints/step-1").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"content_sha256": content}))
    (folder / "config.yaml").write_text("")
    (folder / "checkpoints/step-1/hashes.json").write_text(json.dumps({"ema.safetensors": weights}))


def write_origin(folder: Path, weights: str) -> None:
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text(json.dumps({"checkpoint": {"step": 1, "ema_sha256": weights}}))


def names_after(summary: IngestSummary, root: Path) -> list[str]:
    return [str(Path(folder).relative_to(root)) for folder in summary.made_with_excluded]


@pytest.mark.parametrize("entry", ["PAT-1", "1.2.2", "1.2.3.2", "film2.dcm"])
def test_what_was_made_with_withdrawn_films_is_named(
    entry: str, settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    folder, work = ward(tmp_path / "in", write_dicom), tmp_path / "work"
    write_dicom(tmp_path / "elsewhere/film9.dcm", 9, "PAT-9", "1.2.9", "1.2.3.9")
    ingest([folder, tmp_path / "elsewhere"], work / "old", settings)  # where films have other names
    ingest([folder / "film0.dcm"], work / "other", settings)
    write_run(work / "run", open_dataset(work / "old").info.content_sha256, "aa")
    write_run(work / "other-run", open_dataset(work / "other").info.content_sha256, "bb")
    write_origin(work / "sets/synthetic", "aa")
    write_origin(work / "sets/innocent", "bb")
    (tmp_path / "list.txt").write_text(entry)
    searching = replace(settings, exclude=tmp_path / "list.txt", also_search=(work,))
    for _ in range(2):  # also when the DATASET is there already
        summary = ingest([folder], tmp_path / "new", searching)
        assert names_after(summary, work) == ["old", "run", "sets/synthetic"]
