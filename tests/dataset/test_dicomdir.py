"""The index of a CD, and one that points elsewhere."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

from xraygen.dataset.dicomdir import referenced_files
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.sources import list_sources

PYDICOMS = Path(pydicom.__file__).parent / "data/test_files/dicomdirtests"
WriteDicom = Callable[..., Path]


def write_index(folder: Path, identifiers: Sequence[list[str] | str], name: str = "DICOMDIR") -> Path:
    """A DICOMDIR that refers to these files, and to nothing in a record of a patient."""
    records = [Dataset()]
    for identifier in identifiers:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE"
        with warnings.catch_warnings(action="ignore"):  # pydicom knows what is no File ID
            record.ReferencedFileID = identifier
        records.append(record)
    index = Dataset()
    index.file_meta = FileMetaDataset()
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index.DirectoryRecordSequence = records
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore"):
        index.save_as(folder / name, enforce_file_format=True)
    return folder / name


def seen(sources: list[str | Path]) -> dict[str, str]:
    return {str(file.name): file.refusal.reason if file.refusal else "" for file in list_sources(sources)}


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """Two films of which the index knows one, and one that is missing."""
    for name in ("IM1", "IM2"):
        (tmp_path / "disc/DICOM").mkdir(parents=True, exist_ok=True)
        (tmp_path / "disc/DICOM" / name).write_bytes(b"a film")
    return write_index(tmp_path / "disc", [["DICOM", "IM1"], ["DICOM", "GONE"]])


def test_an_index_stands_for_its_files_and_the_missing_are_seen(disc: Path) -> None:
    assert seen([disc]) == {"DICOM/GONE": "", "DICOM/IM1": ""}
    assert seen([disc.parent]) == {"DICOM/GONE": "", "DICOM/IM1": "", "DICOM/IM2": ""}


def test_a_disc_that_the_system_shows_in_lower_case_is_read(disc: Path) -> None:
    (disc.parent / "DICOM/IM1").rename(disc.parent / "DICOM/im1")
    (disc.parent / "DICOM/IM2").unlink()
    (disc.parent / "DICOM").rename(disc.parent / "dicom")
    assert seen([disc.rename(disc.with_name("dicomdir"))]) == {"dicom/GONE": "", "dicom/im1": ""}
    assert seen([disc.parent]) == {"dicom/GONE": "", "dicom/im1": ""}


@pytest.mark.parametrize(
    "identifier", [["..", "key"], ["DICOM", "..", "..", "key"], "/key", "../key", ["LINK", "key"]]
)
def test_files_outside_the_indexs_folder_are_refused(disc: Path, identifier: list[str] | str) -> None:
    (disc.parent.parent / "key").write_text("secret")
    (disc.parent / "LINK").symlink_to(disc.parent.parent)
    write_index(disc.parent, [identifier])
    assert list(seen([disc]).values()) == ["unsafe_path"]


def test_a_file_that_is_no_index_is_read_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_text("no index")
    assert referenced_files(tmp_path / "DICOMDIR") is None
    assert seen([tmp_path]) == {"DICOMDIR": ""}


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_index_leads_nowhere_else(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    content = bytearray((PYDICOMS / "DICOMDIR").read_bytes())
    for place in generator.integers(len(content), size=generator.integers(1, 60)):
        content[place] = generator.integers(256)
    (tmp_path / "DICOMDIR").write_bytes(content[: generator.integers(len(content))] if seed % 3 else content)
    files = referenced_files(tmp_path / "DICOMDIR") or {}
    assert all(path.is_relative_to(tmp_path) and ".." not in path.parts for path in files)
    assert len(list_sources([tmp_path])) == max(1, len(files))


def test_a_circle_of_links_on_a_disc_is_refused(disc: Path) -> None:
    (disc.parent / "LOOP").symlink_to("LOOP")
    assert seen([write_index(disc.parent, [["LOOP", "IM1"]])]) == {"LOOP/IM1": "unsafe_path"}


@pytest.mark.parametrize(
    ("cut", "names"),
    [(0, {"IM1", "GONE"}), (1, {"IM1", "GON"}), (40, {"IM1"}), (90, None), (140, None)],
)
def test_an_index_that_is_cut_off_ends(disc: Path, cut: int, names: set[str] | None) -> None:
    """What it names before the cut is read; a name cut short is that of a file that is missing."""
    content = disc.read_bytes()
    disc.write_bytes(content[: len(content) - cut])
    files = referenced_files(disc)
    if names is None:
        assert files is None
    else:
        assert files == {disc.parent / "DICOM" / name: None for name in names}


def test_missing_files_and_those_outside_are_rejected_with_a_reason(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(tmp_path / "disc/IM1", 1, "P1")
    index = write_index(tmp_path / "disc", ["IM1", "GONE", ["..", "IM9"]])
    summary = ingest([index], tmp_path / "dataset", settings)
    assert (summary.seen, summary.accepted) == (3, 1)
    assert summary.rejected == {"unreadable": 1, "unsafe_path": 1}


@pytest.mark.parametrize("name", ["DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-implicit", "DICOMDIR-reordered"])
def test_real_indices_are_read(name: str) -> None:
    index = PYDICOMS / name
    files = referenced_files(index)
    assert files is not None
    assert len(files) == 31
    assert set(files.values()) == {None}
    assert index.parent / "77654033/CR1/6154" in files
