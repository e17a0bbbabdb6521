"""Pixels to files: 8- and 16-bit PNG, NIfTI, and what every DICOM file of ours has in common."""

import gzip
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code

from xraygen import __version__
from xraygen.atomic import atomic_file
from xraygen.errors import ShapeError
from xraygen.ranges import Stored


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


def write_nifti(path: Path, stored: Stored, pixel_spacing_mm: tuple[float, float] | None = None) -> None:
    """Write a film as a gzipped NIfTI-1 file of one coronal plane, atomically and repeatable to the byte.

    The array is `[W, H, 1]`: its first axis goes to the patient's left, its second to the feet, its third to the back,
    as nibabel's `aff2axcodes` says of the affine: L, I, P. In the file's millimetres (right, front and up are positive)

        [-column   0      0   0]
        [   0      0     -1   0]
        [   0    -row     0   0]
        [   0      0      0   1]

    with the spacing of the columns and of the rows; without a spacing both are 1 and the file's unit is unknown.

    Args:
        path: File to write, ending in .nii.gz; missing folders are made.
        stored: uint8 or uint16 `[H, W]`, upright: columns to the patient's left, rows to the feet.
        pixel_spacing_mm: Distance between rows and between columns, where it means anything.

    Raises:
        ShapeError: If the array is of another type or shape.
    """
    if stored.ndim != 2 or stored.dtype not in (np.uint8, np.uint16) or stored.size == 0:
        raise ShapeError(
            f"A NIfTI film needs uint8 or uint16 [H, W], and got {stored.dtype} {list(stored.shape)}."
        )
    row, column = pixel_spacing_mm or (1.0, 1.0)
    affine = np.array([[-column, 0, 0, 0], [0, 0, -1, 0], [0, -row, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
    image = nibabel.Nifti1Image(np.ascontiguousarray(stored.T)[..., None], affine)  # [W, H, 1]
    image.header.set_xyzt_units("unknown" if pixel_spacing_mm is None else "mm")
    content = gzip.compress(image.to_bytes(), mtime=0)  # nibabel's own .nii.gz holds the time of writing
    with atomic_file(path) as aside:
        aside.write_bytes(content)


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
    content = dicom_bytes(dataset, transfer_syntax)
    with atomic_file(path) as aside:
        aside.write_bytes(content)


def dicom_bytes(dataset: Dataset, transfer_syntax: str) -> bytes:
    """A data set as the bytes of a DICOM file; gives it its file meta information."""
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
    return content.getvalue()


def code_item(code: Code) -> Dataset:
    """One item of a code sequence (PS3.3 section 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = (
        code.value,
        code.scheme_designator,
        code.meaning,
    )
    return item
