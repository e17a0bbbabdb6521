import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import apply_rescale, apply_windowing

from xraygen.errors import FolderError, UsageError
from xraygen.films import phantom_files
from xraygen.films.phantom import (
    images_of,
    phantom_film,
    phantom_finding,
)
from xraygen.films.phantom_files import FileStyle, film_name, schedule, write_phantoms
from xraygen.progress import Progress


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "set"
    write_phantoms(folder, 41, 64, "dicom", seed=5)
    return folder


def films_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.dcm"))


def displayed(path: Path) -> np.ndarray:
    """By pydicom alone: stored values to light, 0 to 1."""
    dataset = pydicom.dcmread(path)
    values = apply_windowing(apply_rescale(dataset.pixel_array, dataset), dataset).astype(np.float64)
    unit: np.ndarray = (values - values.min()) / (values.max() - values.min())
    return 1 - unit if dataset.PhotometricInterpretation == "MONOCHROME1" else unit


def test_a_set_has_exactly_as_many_films_as_asked_for_with_several_of_some_patients(written: Path) -> None:
    films = films_of(written)
    assert len(films) == 41
    per_patient = [len(list(folder.glob("*.dcm"))) for folder in written.glob("patient-*")]
    assert set(per_patient) <= {1, 2, 3}
    assert max(per_patient) > 1


def test_labels_name_every_film_once_and_say_what_was_drawn(written: Path) -> None:
    with (written / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [
        film_name(*film, "dicom") for film in itertools.islice(schedule(5), 41)
    ]
    assert {written / row["path"] for row in rows} == set(films_of(written))
    for row in rows:
        patient = int(row["path"].split("/")[0].removeprefix("patient-"))
        assert (row["finding"], int(row["nodule_count"])) == phantom_finding(5, patient)


def test_pydicom_alone_displays_every_film_with_dark_lungs(written: Path) -> None:
    for path in films_of(written):
        light = displayed(path)
        assert np.median(light[20:36, 15:24]) < 0.75 * light[20:40, 30:34].mean(), path


def test_stored_values_are_the_films_own_in_every_encoding(written: Path) -> None:
    for patient, image in itertools.islice(schedule(5), 41):
        dataset = pydicom.dcmread(written / film_name(patient, image, "dicom"))
        pixels = phantom_film(5, patient, image, 64).pixels
        expected = 4095 - pixels if dataset.PresentationLUTShape == "INVERSE" else pixels
        np.testing.assert_array_equal(dataset.pixel_array, expected)


def test_a_set_has_the_variety_of_an_archive(written: Path) -> None:
    files = [pydicom.dcmread(path) for path in films_of(written)]
    assert {file.PhotometricInterpretation for file in files} == {"MONOCHROME1", "MONOCHROME2"}
    assert len({file.file_meta.TransferSyntaxUID for file in files}) == 4
    assert len({file.get("VOILUTFunction") for file in files}) >= 2
    assert len({float(file.RescaleSlope) for file in files}) == 2
    assert all(
        (file.PhotometricInterpretation == "MONOCHROME1") == (file.PresentationLUTShape == "INVERSE")
        for file in files
    )


def test_about_a_third_of_the_patients_are_monochrome1() -> None:
    inverted = sum(FileStyle.draw(0, patient).inverted for patient in range(600))
    assert 200 - 46 < inverted < 200 + 46  # four standard deviations of a binomial


def test_every_film_is_a_dx_image_of_an_obviously_artificial_patient(written: Path) -> None:
    for path in films_of(written):
        file = pydicom.dcmread(path)
        assert file.SOPClassUID == "1.2.840.10008.5.1.4.1.1.1.1"
        assert (file.BitsAllocated, file.BitsStored, file.HighBit) == (16, 12, 11)
        assert file.PatientID == f"PHANTOM-{path.parent.name.removeprefix('patient-')}"
        assert file.SyntheticData == "YES"
        assert file.ViewPosition in {"PA", "AP"}
        assert list(file.PatientOrientation) == ["L", "F"]
        assert file.PatientAge.endswith("Y")
        assert len(file.PatientAge) == 4


def test_uids_are_unique_per_film_and_repeat(written: Path, tmp_path: Path) -> None:
    uids = [pydicom.dcmread(path).SOPInstanceUID for path in films_of(written)]
    assert len(set(uids)) == 41
    write_phantoms(tmp_path / "again", 5, 64, "dicom", seed=5)
    for path in films_of(tmp_path / "again"):
        assert path.read_bytes() == (written / path.relative_to(tmp_path / "again")).read_bytes()


def test_a_png_set_holds_the_same_films_over_16_bits(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "set", 3, 32, "png", seed=5)
    pixels = np.asarray(Image.open(tmp_path / "set" / film_name(0, 0, "png")))
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels >> 4, phantom_film(5, 0, 0, 32).pixels)


def test_an_interrupted_set_is_finished_by_the_same_call(tmp_path: Path) -> None:
    folder, calls = tmp_path / "set", iter(range(3))

    def interrupt(progress: Progress) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(folder, 12, 16, "dicom", report=interrupt)
    assert not (folder / "labels.csv").exists()
    there = {path: path.stat().st_mtime_ns for path in films_of(folder)}
    assert 0 < len(there) < 12
    (folder / "patient-0000" / ".image-9.dcm.1.partial").write_bytes(b"half")
    summary = write_phantoms(folder, 12, 16, "dicom")
    assert (summary.made, summary.present) == (12 - len(there), len(there))
    assert all(path.stat().st_mtime_ns == time for path, time in there.items())
    assert not list(folder.rglob("*.partial"))
    assert len((folder / "labels.csv").read_text().splitlines()) == 13


def test_one_process_at_a_time_writes_a_set(tmp_path: Path) -> None:
    refusals = []

    def meanwhile(progress: Progress) -> None:
        with pytest.raises(FolderError, match="Another process is writing to") as caught:
            write_phantoms(tmp_path, 3, 16)
        refusals.append(caught)

    assert write_phantoms(tmp_path, 3, 16, report=meanwhile).made == 3
    assert len(refusals) == 4
    assert write_phantoms(tmp_path, 3, 16).present == 3


def test_a_set_can_grow_but_not_shrink_or_change(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    write_phantoms(folder, 3, 16, "dicom")
    assert write_phantoms(folder, 5, 16, "dicom").made == 2
    for count, size, seed in ((4, 16, 0), (5, 17, 0), (5, 16, 1)):
        with pytest.raises(UsageError, match="another folder"):
            write_phantoms(folder, count, size, "dicom", seed)
    assert len(films_of(folder)) == 5


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FolderError, match="something else"):
        write_phantoms(tmp_path, 3, 16)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_set_killed_at_its_very_start_is_finished_too(tmp_path: Path) -> None:
    # killed before the note of the settings got its name, a folder is still this run's and not someone else's
    (tmp_path / f".{phantom_files.SETTINGS_NAME}.4711.partial").write_text("{")
    assert write_phantoms(tmp_path, 2, 16).made == 2
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(("count", "size"), [(0, 64), (3, 8), (3, (64, 8))])
def test_an_impossible_set_is_refused_before_anything_is_written(
    tmp_path: Path, count: int, size: int | tuple[int, int]
) -> None:
    with pytest.raises(UsageError):
        write_phantoms(tmp_path / "set", count, size)
    assert not (tmp_path / "set").exists()


def test_a_film_is_the_same_whatever_the_count(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "few", 2, 16)
    write_phantoms(tmp_path / "many", 6, 16)
    for path in films_of(tmp_path / "few"):
        assert path.read_bytes() == (tmp_path / "many" / path.relative_to(tmp_path / "few")).read_bytes()


def test_progress_counts_up_to_all_films(tmp_path: Path) -> None:
    reports: list[Progress] = []
    write_phantoms(tmp_path / "set", 4, 16, report=reports.append)
    assert [report.done for report in reports] == [0, 1, 2, 3, 4]
    assert {report.total for report in reports} == {4}


def test_the_schedule_gives_whole_patients_in_order() -> None:
    films: Iterator[tuple[int, int]] = phantom_files.schedule(3)
    for patient in range(5):
        for image in range(images_of(3, patient)):
            assert next(films) == (patient, image)
