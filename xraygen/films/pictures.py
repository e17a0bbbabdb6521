"""Read one film from PNG, JPEG, TIFF or NIfTI: picture files, which are stored as they are to be seen.

Integers of 8 and 16 bits show their type's full range, those of TIFFs of other depths their bits' full range. PNG, JPEG
and TIFF are turned by their orientation.
NIfTI shows cal_min to cal_max where they are set; without them uint8 and uint16 show their full range, and other types
their robust percentiles (0.5 to 99.5).
A NIfTI film is turned so that columns go to the patient's left and rows to the feet; where the plane has no left-right
axis, columns go to the back, and where it has no head-feet axis, rows do. Without an orientation in the header the
first axis goes right and the second down.
"""

import gzip
import io
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
from nibabel import imageglobals
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from xraygen.errors import FilmError
from xraygen.films.claims import MAX_PIXELS, MAX_UNPACKED_BYTES, check_pixels
from xraygen.films.decoders import grey_of
from xraygen.films.dicom import FilmAttributes, StoredFilm
from xraygen.films.disk import unreadable
from xraygen.films.display import Display, Rescale, VoiKind, Window, robust_window, window_between

_GZIP = b"\x1f\x8b"
_NIFTI_1, _NIFTI_2 = b"n+1", b"n+2"
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLES = 258, 262, 277
_TIFF_WHITE_IS_ZERO, _TIFF_BLACK_IS_ZERO = _TIFF_GREY = (0, 1)
_ORIENTATION = 274
_PNG_DEPTH = 24  # where its header holds the bits of a sample
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
}


def picture_format(path: Path) -> str:
    """The format that a file's first bytes name: png, jpeg, tiff or nifti; "" for anything else.

    Raises:
        FilmError: `unreadable` where the file cannot be opened.
        OSError: If the disk or the machine fails.
    """
    try:
        with path.open("rb") as file:
            head = file.read(352)
        if head.startswith(_GZIP):
            with gzip.open(path) as file:
                head = file.read(352)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return "nifti" if path.name.lower().endswith(".nii.gz") else ""
    except OSError as error:
        raise unreadable(error) from error
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    return "nifti" if head[344:347] == _NIFTI_1 or head[4:7] == _NIFTI_2 else ""


def _content_of(path: Path) -> bytes:
    """All bytes at once: what decoders then raise is the file's fault. Pillow keeps some of a disk's errors quiet."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(error) from error


def read_picture(path: str | Path) -> StoredFilm:
    """Read a film from a picture file.

    Args:
        path: A PNG, JPEG, TIFF or NIfTI file (.nii or .nii.gz) with one grey picture.

    Returns:
        Stored values `[H, W]`: uint8 or uint16, or what the NIfTI file holds. Only the format's attributes are set.

    Raises:
        FilmError: unknown_format, truncated, too_large, colour, multi_frame, decode_failed or unreadable.
        OSError: If the disk or the machine fails.
    """
    path = Path(path)
    name = picture_format(path)
    if name == "nifti":
        return _read_nifti(path)
    if not name:
        raise FilmError("unknown_format", "The file is not a PNG, JPEG, TIFF or NIfTI picture; convert it.")
    content = _content_of(path)
    try:
        # Of odd EXIF and large films Pillow warns.
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as picture:
            values, inverted = _picture_values(picture, content, name)
            bits = _bits_of(picture, values, name)
    except (FilmError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise FilmError(
            "too_large",
            f"The {name.upper()} picture claims more pixels than any radiograph has, {MAX_PIXELS}.",
        ) from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        if isinstance(error, OSError) and not isinstance(error, UnidentifiedImageError):
            raise FilmError(
                "truncated", f"The {name.upper()} picture is cut off or damaged; copy it again."
            ) from error
        raise FilmError(
            "decode_failed", f"The {name.upper()} picture is damaged; export it again."
        ) from error
    return _full_range_film(np.ascontiguousarray(values), name, bits, inverted)


def _picture_values(picture: Image.Image, content: bytes, name: str) -> tuple[NDArray[Any], bool]:
    """Grey integers [H, W], and whether 0 is white in them."""
    if getattr(picture, "n_frames", 1) > 1:
        raise FilmError(
            "multi_frame", f"One film has one frame, and this {name.upper()} has several; split it."
        )
    check_pixels(picture.height, picture.width)
    if name == "tiff":
        tags = picture.tag_v2  # type: ignore[attr-defined]  # TIFF only
        if tags.get(_TIFF_SAMPLES, 1) == 1 and tags.get(_TIFF_PHOTOMETRIC) in _TIFF_GREY:
            inverted = bool(tags[_TIFF_PHOTOMETRIC] == _TIFF_WHITE_IS_ZERO)
            orientation = picture.getexif().get(_ORIENTATION)
            return _upright(_channels_to_grey(imagecodecs.tiff_decode(content)), orientation), inverted
    if picture.mode.startswith("I") or (name == "png" and content[_PNG_DEPTH] == 16):
        # Pillow cuts 16-bit colour to 8 bits.
        orientation = picture.getexif().get(_ORIENTATION) if _has_notes(content) else None
        return _upright(_channels_to_grey(imagecodecs.png_decode(content)), orientation), False
    if picture.mode == "CMYK":
        raise FilmError(
            "colour", "The picture is in colour (CMYK); expected one grey channel, or equal ones."
        )
    upright = ImageOps.exif_transpose(picture)
    grey = upright.mode in ("L", "LA", "1")
    return _channels_to_grey(np.asarray(upright.convert("L" if grey else "RGB"))), False


def _bits_of(picture: Image.Image, values: NDArray[Any], name: str) -> int:
    """How many bits of its type a picture uses: a TIFF may pack samples of 4, 10 or 12 bits, and says so."""
    held = values.dtype.itemsize * 8
    if name != "tiff":
        return held
    said = picture.tag_v2.get(_TIFF_BITS, held)  # type: ignore[attr-defined]  # TIFF only
    bits = int(said[0] if isinstance(said, tuple) else said)
    return bits if 1 < bits < held and values.max() < 2**bits else held


def _has_notes(png: bytes) -> bool:
    """Whether a PNG may say how it lies: to look behind its pixels, Pillow decodes them."""
    return any(chunk in png for chunk in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"))


def _upright(values: NDArray[Any], orientation: object) -> NDArray[Any]:
    """[H, W] as it is to be seen, of a picture whose row 0 and column 0 lie as TIFF 6.0 (p. 36) numbers it."""
    values = values.T if orientation in (5, 6, 7, 8) else values  # [H, W], swapped
    values = values[:, ::-1] if orientation in (2, 3, 6, 7) else values
    return values[::-1] if orientation in (3, 4, 7, 8) else values


def _channels_to_grey(values: NDArray[Any]) -> NDArray[Any]:
    """[H, W] of [H, W] or [H, W, C]; refuses colour and other types."""
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * np.uint8(255)
    if values.dtype not in (np.uint8, np.uint16) or values.ndim not in (2, 3):
        raise FilmError(
            "decode_failed", f"The picture holds {values.dtype}; expected 8 or 16 bits per pixel."
        )
    return values if values.ndim == 2 else grey_of(values)


def _full_range_film(values: NDArray[Any], name: str, bits: int, inverted: bool) -> StoredFilm:
    """A film whose bits' full range is [0, 1]."""
    levels = (0, 2**bits - 1)
    window = window_between(*map(float, levels))
    return _film(values, name, window, "full_range", bits=bits, inverted=inverted, levels=levels)


def _film(
    values: NDArray[Any],
    name: str,
    window: Window,
    kind: VoiKind,
    *,
    bits: int | None = None,
    modality: Rescale | None = None,
    inverted: bool = False,
    levels: tuple[int, int] | None = None,
    spacing: float | None = None,
) -> StoredFilm:
    """Values and window with their display and attributes."""
    display = Display(
        modality=modality or Rescale(),
        voi=window,
        voi_kind=kind,
        inverted=inverted,
        levels=levels,
    )
    attributes = FilmAttributes(
        format=name,
        rows=values.shape[0],
        columns=values.shape[1],
        bits_stored=bits or values.dtype.itemsize * 8,
        voi=kind,
        pixel_spacing_mm=spacing,
    )
    return StoredFilm(values, display, attributes)


def _read_nifti(path: Path) -> StoredFilm:
    """One plane of a NIfTI file, turned upright."""
    content = _content_of(path)
    try:
        content = _unzipped(content) if content.startswith(_GZIP) else content
        kind = nibabel.Nifti2Image if content[4:7] == _NIFTI_2 else nibabel.Nifti1Image
        with _silence():
            image: Any = kind.from_bytes(content)
        if math.prod(image.shape) * image.get_data_dtype().itemsize > len(content):
            raise EOFError
        stored = np.asarray(image.dataobj.get_unscaled())
        stored = stored.astype(stored.dtype.newbyteorder("="))
    except FilmError:
        raise
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise FilmError("truncated", "The NIfTI file is cut off or damaged; copy it again.") from error
    except Exception as error:
        raise FilmError("decode_failed", "The NIfTI file is damaged; export it again.") from error
    values, row_axis = _upright_plane(stored, image)
    if values.dtype.kind not in "iuf":
        raise FilmError("colour", f"The NIfTI file holds {values.dtype.kind} data; expected grey numbers.")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise FilmError("decode_failed", "The NIfTI file holds NaN or infinite pixels; export it again.")
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    modality = Rescale(float(slope), float(intercept))
    window, kind = _nifti_window(values, image.header, modality)
    levels = None
    if values.dtype.kind in "iu":
        levels = (int(np.iinfo(values.dtype).min), int(np.iinfo(values.dtype).max))
    spacing = float(image.header["pixdim"][1 + row_axis])
    return _film(
        values,
        "nifti",
        window,
        kind,
        modality=modality,
        levels=levels,
        spacing=spacing if spacing > 0 else None,
    )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep nibabel from telling stderr about every header that it mends."""
    before, imageglobals.logger.disabled = imageglobals.logger.disabled, True
    try:
        yield
    finally:
        imageglobals.logger.disabled = before


def _unzipped(content: bytes) -> bytes:
    """The content of a .gz, of which a few bytes can claim gigabytes."""
    with gzip.open(io.BytesIO(content)) as file:
        unzipped = file.read(MAX_UNPACKED_BYTES + 1)
    if len(unzipped) > MAX_UNPACKED_BYTES:
        raise FilmError(
            "too_large",
            f"The NIfTI file unpacks to more than {MAX_UNPACKED_BYTES // 2**20} MiB; no radiograph does.",
        )
    return unzipped


def _nifti_window(values: NDArray[Any], header: Any, modality: Rescale) -> tuple[Window, VoiKind]:
    """cal_min to cal_max, or the type's full range, or robust percentiles."""
    low, high = float(header["cal_min"]), float(header["cal_max"])
    if np.isfinite([low, high]).all() and high > low:
        return window_between(low, high), "linear_exact"
    if values.dtype in (np.uint8, np.uint16):
        ends = modality(np.array([0.0, np.iinfo(values.dtype).max]))
        return window_between(float(ends.min()), float(ends.max())), "full_range"
    return robust_window(values, modality), "percentiles"


def _upright_plane(stored: NDArray[Any], image: Any) -> tuple[NDArray[Any], int]:
    """[H, W] as displayed, and which of the file's axes became the rows."""
    axes = [axis for axis, length in enumerate(stored.shape) if length > 1][:3]
    spatial = [axis for axis in axes if axis < 3]
    for axis in range(min(3, stored.ndim)):  # a film may be one pixel wide
        if len(spatial) < 2 and axis not in spatial:
            spatial = sorted([*spatial, axis])
    if len(spatial) != 2 or len(axes) > 2 or any(axis > 2 for axis in axes):
        raise FilmError(
            "multi_frame",
            f"The NIfTI file has shape {stored.shape}; expected one plane: two axes longer than 1.",
        )
    across, down = spatial
    plane = np.moveaxis(stored, (down, across), (0, 1)).reshape(
        stored.shape[down], stored.shape[across]
    )  # [H, W]
    if int(image.header["sform_code"]) == 0 and int(image.header["qform_code"]) == 0:
        return np.ascontiguousarray(plane), down
    codes = aff2axcodes(image.affine)
    across_code, down_code = str(codes[across]), str(codes[down])
    if across_code in "SI" or down_code in "LR":
        plane, across_code, down_code, down = plane.T, down_code, across_code, across
    plane = plane[:, ::-1] if across_code in "RA" else plane
    plane = plane[::-1] if down_code in "SA" else plane
    return np.ascontiguousarray(plane), down
