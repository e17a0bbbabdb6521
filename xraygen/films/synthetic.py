r"""Synthetic films as DICOM that says on every level that no patient is in it: SC, DX and multi-frame SC.

By pydicom: highdicom 0.28 has Secondary Capture of one frame but neither DX nor the multi-frame classes, and stamps
each object with the time of writing.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
)

from xraygen import __version__
from xraygen.errors import ShapeError
from xraygen.films.writers import code_item, hashed_uid, save_dicom

SERIES_DESCRIPTION = "SYNTHETIC, NOT FOR DIAGNOSIS"
SYNTHETIC_PATIENT = "SYNTHETIC-"
"""What every synthetic film's Patient ID begins with."""
_ISSUER = "xraygen"

Kind = Literal["sc", "dx"]
"""Secondary Capture, or Digital X-Ray For Presentation."""


@dataclass(frozen=True)
class SyntheticAttributes:
    """Where a synthetic film comes from: everything in its file besides the pixels follows from this.

    Args:
        set_id: Name of its set; films that share it, their kind and whether they are marked, share patient, study and
            series.
        derivation: How it was made, in one sentence, up to 1024 characters.
        created: What the clock fields say; taken as UTC if it says no time zone. Not the time of writing, so that a
            film repeats byte for byte.
        instance_number: Its number in the series.
        pixel_spacing_mm: Distance between rows and between columns, where it means anything; nominal.
        marked: Whether the word SYNTHETIC is in its pixels.
        comment: Image Comments, behind the warning.
        version: Version of xraygen that made the pixels, whichever writes the file.
    """

    set_id: str
    derivation: str
    created: datetime
    instance_number: int
    pixel_spacing_mm: tuple[float, float] | None = None
    marked: bool = False
    comment: str = ""
    version: str = __version__


def write_synthetic_dicom(
    path: Path, stored: NDArray[np.uint16], attributes: SyntheticAttributes, kind: Kind = "sc"
) -> None:
    """Write a synthetic film, marked as what it is; atomic, and repeatable to the byte.

    Args:
        path: File to write; missing folders are made.
        stored: uint16 [H, W], 0 black, 65535 white.
        attributes: Where the film comes from.
        kind: As which object.

    Raises:
        ShapeError: If the array is of another type or shape, or a DX has no pixel spacing.
    """
    save_dicom(path, synthetic_film(stored, attributes, kind), ExplicitVRLittleEndian)


def synthetic_film(stored: NDArray[np.uint16], attributes: SyntheticAttributes, kind: Kind = "sc") -> Dataset:
    """A synthetic film as a data set; arguments as `write_synthetic_dicom`.

    The marks of both kinds: Synthetic Data YES, Image Type DERIVED, Content Qualification RESEARCH, a Patient ID and
    Name that begin with SYNTHETIC, the descriptions of study and series, the derivation, and xraygen as contributing
    equipment.

    Source:
        DICOM PS3.3 A.8.1 (Secondary Capture), A.26 (DX), C.12.1 (SOP Common: Synthetic Data), C.7.5.1.1 (contributing
        equipment).
    """
    if stored.ndim != 2:
        raise ShapeError(
            f"A synthetic DICOM needs uint16 [H, W], and got {stored.dtype} {list(stored.shape)}."
        )
    dataset = _synthetic(stored, attributes, kind)
    if kind == "dx":
        _add_dx(dataset, attributes)
    else:
        dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.Modality = "OT"
        dataset.ConversionType = "SYN"
    return _named(dataset)


def write_synthetic_frames(
    path: Path, frames: NDArray[np.uint16], labels: Sequence[str], attributes: SyntheticAttributes
) -> None:
    """Write frames as one Multi-frame Grayscale Word Secondary Capture; atomic, and repeatable to the byte.

    Args:
        path: File to write; missing folders are made.
        frames: uint16 [F, H, W], 0 black, 65535 white.
        labels: What each frame is, up to 16 characters.
        attributes: Where they come from.

    Raises:
        ShapeError: If the array is of another type or shape, or the labels are not as many as the frames.

    Source:
        DICOM PS3.3 A.8.4, C.8.6.3 (SC Multi-frame Image), C.8.6.4 (SC Multi-frame Vector: Frame Label Vector).
    """
    if frames.ndim != 3 or len(labels) != len(frames):
        raise ShapeError(
            f"Frames need uint16 [F, H, W] with F labels, and got {frames.dtype} {list(frames.shape)}, {len(labels)}."
        )
    dataset = _synthetic(frames, attributes, "frames")
    dataset.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    dataset.Modality = "OT"
    dataset.ConversionType = "SYN"
    dataset.NumberOfFrames = len(frames)
    dataset.FrameIncrementPointer = Tag("FrameLabelVector")
    dataset.FrameLabelVector = [label[:16] for label in labels]
    _add_identity_display(dataset)
    save_dicom(path, _named(dataset), ExplicitVRLittleEndian)


def _synthetic(stored: NDArray[np.uint16], attributes: SyntheticAttributes, kind: str) -> Dataset:
    """What all kinds have in common."""
    if stored.dtype != np.uint16 or stored.size == 0:
        raise ShapeError(
            f"A synthetic DICOM needs uint16 pixels, and got {stored.dtype} {list(stored.shape)}."
        )
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SyntheticData = "YES"
    _add_whose(dataset, attributes, kind)
    _add_how(dataset, attributes)
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    # LINEAR maps [c - w/2, c - 1 + w/2] (PS3.3 C.11.2.1.2.1), here all levels
    dataset.WindowCenter, dataset.WindowWidth = "32768", "65536"
    if attributes.pixel_spacing_mm is not None:
        dataset.ImagerPixelSpacing = [f"{spacing:.6g}" for spacing in attributes.pixel_spacing_mm]
    dataset.PixelData = np.ascontiguousarray(stored, dtype="<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def _add_dx(dataset: Dataset, attributes: SyntheticAttributes) -> None:
    """What a DX For Presentation has besides (PS3.3 C.8.11)."""
    if attributes.pixel_spacing_mm is None:
        raise ShapeError("A DX image needs a pixel spacing above 0 (PS3.3 C.8.11.4), and got none.")
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.ImageType = ["DERIVED", "SECONDARY", ""]
    dataset.AnatomicRegionSequence = [code_item(Code("816094009", "SCT", "Chest"))]
    dataset.ImageLaterality = "U"
    dataset.PositionerType = ""
    dataset.DetectorType = ""
    dataset.AcquisitionContextSequence = []
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1  # a low stored value, black, means many X-rays
    _add_identity_display(dataset)


def _add_identity_display(dataset: Dataset) -> None:
    """Stored values are presentation values."""
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape = "IDENTITY"


def _add_whose(dataset: Dataset, attributes: SyntheticAttributes, kind: str) -> None:
    """Patient, study and series: nobody's, and the same for a whole set."""
    set_id = attributes.set_id
    dataset.PatientName = "SYNTHETIC^XRAYGEN"
    dataset.PatientID = (SYNTHETIC_PATIENT + set_id)[:64]
    dataset.IssuerOfPatientID = _ISSUER
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    created = _utc(attributes.created)
    dataset.TimezoneOffsetFromUTC = "+0000"
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = f"{created:%Y%m%d}"
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = f"{created:%H%M%S}"
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = f"{created:%Y%m%d}", f"{created:%H%M%S}"
    dataset.StudyInstanceUID = hashed_uid("synthetic", "study", set_id)
    # a series has one modality, and a film with and without its mark are not two films of one series
    dataset.SeriesInstanceUID = hashed_uid("synthetic", "series", set_id, kind, str(attributes.marked))
    dataset.StudyID = set_id[:16]
    dataset.StudyDescription = SERIES_DESCRIPTION
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = SERIES_DESCRIPTION
    dataset.InstanceNumber = attributes.instance_number


def _add_how(dataset: Dataset, attributes: SyntheticAttributes) -> None:
    """How the film was made, by what, and what it may not be used for."""
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.ContentQualification = "RESEARCH"
    dataset.DerivationDescription = attributes.derivation[:1024]
    dataset.ImageComments = "; ".join(filter(None, (SERIES_DESCRIPTION, attributes.comment)))
    # YES is for text that identifies the patient and the date (PS3.3 C.7.6.1.1); the mark identifies nobody
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.BodyPartExamined = "CHEST"
    dataset.PatientOrientation = ["L", "F"]
    dataset.Manufacturer = _ISSUER
    dataset.ManufacturerModelName = _ISSUER
    dataset.SoftwareVersions = attributes.version
    equipment = Dataset()
    equipment.Manufacturer = _ISSUER
    equipment.ManufacturerModelName = _ISSUER
    equipment.SoftwareVersions = attributes.version
    equipment.ContributionDateTime = f"{_utc(attributes.created):%Y%m%d%H%M%S}+0000"
    equipment.ContributionDescription = "Generated the whole image"
    equipment.PurposeOfReferenceCodeSequence = [code_item(Code("109102", "DCM", "Processing Equipment"))]
    dataset.ContributingEquipmentSequence = [equipment]


def _named(dataset: Dataset) -> Dataset:
    """The data set with an instance UID that follows from all the rest of it, pixels and attributes."""
    content = io.BytesIO()
    dataset.save_as(content, implicit_vr=False, little_endian=True)
    dataset.SOPInstanceUID = hashed_uid("synthetic", hashlib.sha256(content.getbuffer()).hexdigest())
    return dataset


def _utc(moment: datetime) -> datetime:
    """The same moment in UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
