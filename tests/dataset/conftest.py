"""Folders of small films with patients in them."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.films.transforms import PrepareSettings

WriteDicom = Callable[..., Path]


def pixels(seed: int, bits: int = 12) -> NDArray[np.uint16]:
    """A small film unlike any other, uint16 [24, 20]."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 2**bits, (24, 20), dtype=np.uint16)


def write_dicom(path: Path, seed: int, patient: str = "", study: str = "", instance: str = "") -> Path:
    """A CR film as a modality writes it, identifiers and all."""
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.SOPClassUID = ComputedRadiographyImageStorage
    film.SOPInstanceUID = instance or generate_uid(entropy_srcs=[str(seed)])
    film.StudyInstanceUID = study
    film.PatientID = patient
    film.PatientName = "Mustermann^Erika"
    film.PatientBirthDate = "19470811"
    film.PatientSex = "F"
    film.PatientAge = "063Y"
    film.Modality = "CR"
    film.ViewPosition = "PA"
    film.Rows, film.Columns = 24, 20
    film.SamplesPerPixel = 1
    film.PhotometricInterpretation = "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
    film.PixelRepresentation = 0
    film.PixelSpacing = [0.2, 0.2]
    film.PixelData = pixels(seed).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    film.save_as(path, enforce_file_format=True)
    return path


def write_png(path: Path, seed: int) -> Path:
    """A 16-bit film."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, bits=16)).save(path)
    return path


def write_jpeg(path: Path, seed: int) -> Path:
    """An 8-bit film."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, bits=8).astype(np.uint8)).save(path)
    return path


def write_nifti(path: Path, seed: int) -> Path:
    """A film of the research kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(pixels(seed).astype(np.int16), np.eye(4)).to_filename(path)
    return path


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """12 usable films (9 DICOM of 4 patients, a PNG, a JPEG, a NIfTI), a copy of one, and 4 files of no use."""
    folder = tmp_path / "hospital"
    for patient in range(3):
        for film in range(3):
            identifier, study = f"PAT-{patient}-4711", f"1.2.276.0.7230010.{patient}.{film}"
            write_dicom(folder / f"ward/{identifier}/film{film}.dcm", 10 * patient + film, identifier, study)
    write_png(folder / "loose/Mustermann_Erika.png", 100)
    write_jpeg(folder / "loose/Jane_Doe.jpg", 101)
    write_nifti(folder / "loose/Max_Meier.nii.gz", 102)
    write_dicom(folder / "ward/copy-of-PAT-0.dcm", 0, "PAT-0-4711", "1.2.276.0.7230010.0.0")
    (folder / "ward/report of PAT-1-4711.txt").write_text("Erika Mustermann has a cold.")
    (folder / "ward/PAT-2-4711-broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "ward/PAT-3-4711-empty.dcm").touch()
    (folder / "ward/all.zip").write_bytes(b"PK\x03\x04 whatever")
    (folder / ".hidden.dcm").write_bytes(b"not seen")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> IngestSettings:
    """16-pixel images, read in this process, under a fixed key."""
    key = tmp_path / "fixed.key"
    key.write_bytes(bytes([1]) * 32)  # under which no split of the hospital's films is empty
    key.chmod(0o600)
    return IngestSettings(prepare=PrepareSettings((16, 16)), key=key, workers=0, split="0.5,0.25,0.25")


@pytest.fixture(name="write_dicom")
def _write_dicom() -> WriteDicom:
    """`write_dicom(path, seed, patient, study, instance)`."""
    return write_dicom


@pytest.fixture
def identifying() -> list[str]:
    """Words of the hospital's files that no DATASET may hold."""
    return [
        *(
            "PAT-0",
            "PAT-1",
            "PAT-2",
            "PAT-3",
            "4711",
            "1.2.276",
            "Mustermann",
            "Erika",
            "19470811",
            "Jane_Doe",
            "Max_Meier",
        ),
        *(
            "film0",
            "film1",
            "hospital",
            "ward",
            "loose",
            "report of",
            "copy-of",
            ".dcm",
            "/tmp",
            "Karl",
            "0815",
        ),
    ]
