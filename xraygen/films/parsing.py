"""From a file to the elements of a DICOM data set that matter here, or a refusal that says what the file is."""

from io import BufferedReader
from pathlib import Path

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from xraygen.errors import FilmError
from xraygen.films.claims import check_unpacked
from xraygen.films.decoders import LITTLE_ENDIAN
from xraygen.films.disk import unreadable
from xraygen.films.native import PIXEL_DATA, fetch, left_in_file

_TAGS = [Tag(keyword) for keyword in (
    "SOPClassUID", "SOPInstanceUID", "Modality", "PresentationIntentType", "PatientID", "PatientSex", "PatientAge",
    "StudyInstanceUID", "AccessionNumber", "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition",
    "ViewCodeSequence", "PatientOrientation", "BurnedInAnnotation", "PixelIntensityRelationship",
    "PixelIntensityRelationshipSign", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "ModalityLUTSequence", "RescaleSlope",
    "RescaleIntercept", "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "PresentationLUTShape",
    "PixelData",
)]  # fmt: skip
"""What is read; as tags, since pydicom would look up each keyword again for every film."""

UNDEFINED_LENGTH = 0xFFFFFFFF
_LARGE = 2**18
"""Bytes of an element beyond which it stays in the file: pixels are read strip by strip, see `read_native`."""


def open_film(path: Path) -> BufferedReader:
    """The file, open for as long as it is read: what lies at its path may become another."""
    try:
        return path.open("rb")
    except OSError as error:
        raise unreadable(error) from error


def parse(file: BufferedReader) -> tuple[Dataset, UID]:
    """The elements that matter, and the transfer syntax; large Pixel Data that nothing compresses stay in the file."""
    marked = False
    try:
        marked = file.read(132)[128:] == b"DICM"
        file.seek(0)
        plain = check_unpacked(file) in LITTLE_ENDIAN
        dataset = _elements(file, _LARGE if plain else None)
        if plain and not _can_stay(dataset):
            dataset = _elements(file, None)
        for element in _left(dataset):
            if element.tag != PIXEL_DATA:
                fetch(dataset, element, file)
    except FilmError:
        raise
    except EOFError as error:
        raise cut_off() from error
    except OSError as error:
        raise unreadable(error) from error
    except Exception as error:
        raise _unparseable(marked) from error
    if not marked and not ({"Rows", "SOPClassUID", "Modality"} & set(dataset.dir())):
        raise _unparseable(marked)
    return dataset, _syntax_of(dataset)


def _elements(file: BufferedReader, larger_stay: int | None) -> Dataset:
    """What a file holds of _TAGS; of elements with more bytes than that, only where they lie."""
    file.seek(0)
    return pydicom.dcmread(file, force=True, specific_tags=_TAGS, defer_size=larger_stay)


def _left(dataset: Dataset) -> list[RawDataElement]:
    """The elements that were left in the file."""
    return [element for tag in set(dataset.keys()) if (element := left_in_file(dataset, tag)) is not None]


def _can_stay(dataset: Dataset) -> bool:
    """Whether what was left can be read from the file as it is: where nothing is compressed, and has a length."""
    return _syntax_of(dataset) in LITTLE_ENDIAN and all(
        element.length != UNDEFINED_LENGTH for element in _left(dataset)
    )


def _syntax_of(dataset: Dataset) -> UID:
    """The transfer syntax; that of files without File Meta Information."""
    return UID(str(dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)))


def cut_off() -> FilmError:
    """The refusal of a file that ends early."""
    return FilmError("truncated", "The file ends inside an element: it is cut off; copy it again.")


def ends_early(path: Path) -> bool:
    """Whether a file stops inside an element: pydicom leaves that element out, or shortens it, without a word."""
    try:
        dataset = pydicom.dcmread(path, force=True, defer_size=1024)
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
        if not dataset.keys():  # what pydicom makes of a compressed film without its end
            return True
        last = dataset.get_item(max(dataset.keys()))
        if syntax == DeflatedExplicitVRLittleEndian or not isinstance(last, RawDataElement):
            return False
        end: int = last.value_tell + last.length
        return last.length != UNDEFINED_LENGTH and end != path.stat().st_size
    except Exception:  # noqa: BLE001 - only asked about files that are refused already
        return False


def _unparseable(marked: bool) -> FilmError:
    """The refusal of bytes that are no DICOM data set."""
    if marked:
        return FilmError(
            "truncated", "The file starts as DICOM and cannot be parsed: it is damaged; copy it again."
        )
    return FilmError("not_dicom", "The file is not DICOM (no DICM mark, no known element); check the export.")
