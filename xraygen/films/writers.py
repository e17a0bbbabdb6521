"""Pixels to image files: 16-bit PNG, and synthetic films as DICOM that says on every level that no patient is in it."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from xraygen import __version__
from xraygen.atomic import atomic_file
from xraygen.errors import ShapeError
from xraygen.ranges import Stored

SERIES_DESCRIPTION = "SYNTHETIC, NOT FOR DIAGNOSIS"
SYNTHETIC_PATIENT = "SYNTHETIC-"
"""What every synthetic film's Patient ID begins with."""
_ISSUER = "xraygen"


@dataclass(frozen=True)
class SyntheticAttributes:
    """Where a synthetic film comes from: everything in its file besides the pixels follows from this.

    Args:
        seed: Seed it was generated from.
        set_id: Name of its set; films that share it share patient, study and series.
        derivation: How it was made, in one sentence, up to 1024 characters.
        created: When its set was begun; taken as UTC if it says no time zone. Not the time of writing, so that a film
            repeats byte for byte.
        pixel_spacing_mm: Side of a pixel, where it means anything.
        instance_number: Its number in the series.
    """

    seed: int
    set_id: str
    derivation: str
    created: datetime
    pixel_spacing_mm: float | None
    instance_number: int


def write_png(path: Path, stored: Stored, text: Mapping[str, str] | None = None) -> None:
    """Write a PNG atomically: grey with 8 or 16 bits as the array has them, or RGB with 8.

    Args:
        path: File to write; missing folders are made.
        stored: uint8 or uint16 [H, W], or uint8 [H, W, 3].
        text: Key words and values for the file's text chunks.

    Raises:
        ShapeError: If the array is of another type or shape.
    """
    grey = stored.ndim == 2 and stored.dtype in (np.uint8, np.uint16)
    colour = stored.ndim == 3 and stored.shape[2] == 3 and stored.dtype == np.uint8
    if stored.size == 0 or not (grey or colour):
        raise ShapeError(
            f"A PNG needs uint8 or uint16 [H, W], or uint8 [H, W, 3], and got {stored.dtype} {list(stored.shape)}."
        )
    chunks = PngInfo()
    for word, value in (text or {}).items():
        chunks.add_itxt(word, value)
    with atomic_file(path) as aside:
        Image.fromarray(np.ascontiguousarray(stored)).save(aside, format="PNG", pnginfo=chunks)


def write_synthetic_dicom(path: Path, stored: NDArray[np.uint16], attributes: SyntheticAttributes) -> None:
    """Write a synthetic film as a Secondary Capture image, marked as what it is; atomic, and repeatable to the byte.

    The marks: Synthetic Data YES, Image Type DERIVED, Conversion Type SYN, Content Qualification RESEARCH, a Patient ID
    and Name that begin with SYNTHETIC, the series' description, the derivation and xraygen as contributing equipment.

    Args:
        path: File to write; missing folders are made.
        stored: uint16 [H, W], 0 black, 65535 white.
        attributes: Where the film comes from.

    Raises:
        ShapeError: If the array is of another type or shape.

    Source:
        DICOM PS3.3 A.8.1 (Secondary Capture), C.12.1 (SOP Common: Synthetic Data), C.7.5.1.1 (contributing equipment).
    """
    if stored.ndim != 2 or stored.dtype != np.uint16 or stored.size == 0:
        raise ShapeError(
            f"A synthetic DICOM needs uint16 [H, W], and got {stored.dtype} {list(stored.shape)}."
        )
    dataset = Dataset()
    pixels = np.ascontiguousarray(stored, dtype="<u2").tobytes()
    fingerprint = hashlib.sha256(pixels).hexdigest()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = hashed_uid("synthetic", str(stored.shape), fingerprint, repr(attributes))
    dataset.SyntheticData = "YES"
    _add_whose(dataset, attributes)
    _add_how(dataset, attributes)
    H, W = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = H, W
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    if attributes.pixel_spacing_mm is not None:
        dataset.PixelSpacing = [f"{attributes.pixel_spacing_mm:.6g}"] * 2
    # LINEAR maps [c - w/2, c - 1 + w/2] (PS3.3 C.11.2.1.2.1), here all levels
    dataset.WindowCenter, dataset.WindowWidth = "32768", "65536"
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    save_dicom(path, dataset, ExplicitVRLittleEndian)


def hashed_uid(*parts: str) -> str:
    """A UID that follows from `parts` alone: their SHA-256 as an RFC 9562 version 8 UUID under 2.25.

    Source:
        DICOM PS3.5 B.2.
    """
    number = int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:16], "big")
    number = number & ~(0xF << 76) | 8 << 76
    number = number & ~(0x3 << 62) | 2 << 62
    return f"2.25.{number}"


def save_dicom(path: Path, dataset: Dataset, transfer_syntax: str) -> None:
    """Write a DICOM file atomically, with nothing in its header that depends on when or where it is written."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = hashed_uid("xraygen", "implementation")
    meta.ImplementationVersionName = f"XRAYGEN_{__version__}"[:16]
    dataset.file_meta = meta
    content = io.BytesIO()  # by way of memory, since pydicom writes a traceback into the error of a full disk
    dataset.save_as(content, enforce_file_format=True, implicit_vr=None, little_endian=None)
    with atomic_file(path) as aside:
        aside.write_bytes(content.getbuffer())


def code_item(code: Code) -> Dataset:
    """One item of a code sequence (PS3.3 section 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = (
        code.value,
        code.scheme_designator,
        code.meaning,
    )
    return item


def _add_whose(dataset: Dataset, attributes: SyntheticAttributes) -> None:
    """Patient, study and series: nobody's, and the same for a whole set."""
    dataset.PatientName = "SYNTHETIC^XRAYGEN"
    dataset.PatientID = (SYNTHETIC_PATIENT + attributes.set_id)[:64]
    dataset.IssuerOfPatientID = _ISSUER
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    created = _utc(attributes.created)
    dataset.TimezoneOffsetFromUTC = "+0000"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = f"{created:%Y%m%d}"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = f"{created:%H%M%S}"
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = f"{created:%Y%m%d}", f"{created:%H%M%S}"
    dataset.StudyInstanceUID = hashed_uid("synthetic", "study", attributes.set_id)
    dataset.SeriesInstanceUID = hashed_uid("synthetic", "series", attributes.set_id)
    dataset.StudyID = attributes.set_id[:16]
    dataset.StudyDescription = SERIES_DESCRIPTION
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""
    dataset.Modality = "OT"
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = SERIES_DESCRIPTION
    dataset.InstanceNumber = attributes.instance_number


def _add_how(dataset: Dataset, attributes: SyntheticAttributes) -> None:
    """How the film was made, by what, and what it may not be used for."""
    dataset.ConversionType = "SYN"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.ContentQualification = "RESEARCH"
    dataset.DerivationDescription = attributes.derivation[:1024]
    dataset.ImageComments = f"{SERIES_DESCRIPTION}; seed {attributes.seed}"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.BodyPartExamined = "CHEST"
    dataset.PatientOrientation = ["L", "F"]
    dataset.Manufacturer = _ISSUER
    dataset.ManufacturerModelName = _ISSUER
    dataset.SoftwareVersions = __version__
    equipment = Dataset()
    equipment.Manufacturer = _ISSUER
    equipment.ManufacturerModelName = _ISSUER
    equipment.SoftwareVersions = __version__
    equipment.ContributionDateTime = f"{_utc(attributes.created):%Y%m%d%H%M%S}+0000"
    equipment.ContributionDescription = "Generated the whole image"
    equipment.PurposeOfReferenceCodeSequence = [code_item(Code("109102", "DCM", "Processing Equipment"))]
    dataset.ContributingEquipmentSequence = [equipment]


def _utc(moment: datetime) -> datetime:
    """The same moment in UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
