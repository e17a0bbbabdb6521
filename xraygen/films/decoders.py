"""Stored integers from any transfer syntax that projection radiography uses, with permissively licensed decoders."""

import math
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID

from xraygen.errors import FilmError
from xraygen.films.claims import check_pixels, claimed_size
from xraygen.films.rle import decode_rle

Integers = NDArray[np.integer[Any]]

GREY_TOLERANCE = 8
"""Largest difference between the channels of a pixel that lossy compression leaves in a grey picture."""

_MOST_SAMPLES = 4

_NATIVE = {
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
}
_JPEG = {
    "1.2.840.10008.1.2.4.50",  # Baseline, process 1
    "1.2.840.10008.1.2.4.51",  # Extended, processes 2 and 4
    "1.2.840.10008.1.2.4.57",  # Lossless, process 14
    "1.2.840.10008.1.2.4.70",  # Lossless, process 14, selection value 1
}
_JPEG_LS = {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}
JPEG_2000 = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}
_HTJ2K = {"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"}
_RLE = "1.2.840.10008.1.2.5"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_END_OF_IMAGE = b"\xff\xd9"
"""JPEG, JPEG-LS and JPEG 2000 all end so, and none has these bytes inside its data."""
_HUFFMAN_TABLE, _START_OF_SCAN = b"\xff\xc4", b"\xff\xda"
_TAIL = 16
"""Where the end must be: writers pad after it, some with 0xFF."""


def text_of(dataset: Dataset, keyword: str) -> str:
    """An element's first value as upper-case text without spaces around it; "" where it is absent or damaged."""
    return raw_text_of(dataset, keyword).upper()


def raw_text_of(dataset: Dataset, keyword: str) -> str:
    """An element's first value as text; "" where it is absent or damaged."""
    return str(_first_value(dataset, keyword) or "").strip(" \0")


def number_of(dataset: Dataset, keyword: str) -> float | None:
    """An element's first value as a finite number; None where it is absent, empty or damaged."""
    value = _first_value(dataset, keyword)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def integer_of(dataset: Dataset, keyword: str, default: int) -> int:
    """An element's first value as an integer; `default` where it is absent, empty or damaged."""
    number = number_of(dataset, keyword)
    return default if number is None else int(number)


def _first_value(dataset: Dataset, keyword: str) -> Any:
    """The first of an element's values; None where there is none."""
    value = _whole_value(dataset, keyword)
    if isinstance(value, (str, bytes)) or not hasattr(value, "__getitem__"):
        return value
    return value[0] if len(value) else None


def _whole_value(dataset: Dataset, keyword: str) -> Any:
    """An element's value as pydicom converts it; None where it cannot."""
    tag = _tag_of(keyword)
    if tag not in dataset:
        return None
    try:
        return dataset[tag].value
    except Exception:  # noqa: BLE001 - pydicom raises many kinds for damaged values, and each means "no value"
        return None


@lru_cache(maxsize=256)
def _tag_of(keyword: str) -> BaseTag:
    """An element's tag; pydicom looks it up anew each time, and a film is asked for sixty elements."""
    return Tag(keyword)


@dataclass(frozen=True)
class PixelFormat:
    """The Image Pixel module: what the bytes of a frame mean (DICOM PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool

    @property
    def levels(self) -> tuple[int, int]:
        """Smallest and largest value that Bits Stored can hold."""
        if self.signed:
            return -(2 ** (self.bits_stored - 1)), 2 ** (self.bits_stored - 1) - 1
        return 0, 2**self.bits_stored - 1

    @property
    def container(self) -> np.dtype[Any]:
        """The little-endian integer type of one sample."""
        return np.dtype(f"<{'i' if self.signed else 'u'}{self.bits_allocated // 8}")


def pixel_format(dataset: Dataset) -> PixelFormat:
    """Read and check the Image Pixel module.

    Raises:
        FilmError: `no_pixels` without Rows and Columns, `too_large`, `multi_frame`, or `decode_failed` for impossible
            bits or samples.
    """
    rows, columns = integer_of(dataset, "Rows", 0), integer_of(dataset, "Columns", 0)
    if rows < 1 or columns < 1:
        raise FilmError(
            "no_pixels", "The DICOM object has no Rows and Columns; give files with an image in them."
        )
    check_pixels(rows, columns)
    frames = integer_of(dataset, "NumberOfFrames", 1)
    if frames > 1:
        raise FilmError(
            "multi_frame", f"One film has one frame, and this object has {frames}; split it first."
        )
    allocated = integer_of(dataset, "BitsAllocated", 0)
    stored = integer_of(dataset, "BitsStored", allocated)
    high_bit = integer_of(dataset, "HighBit", stored - 1)
    if allocated not in (8, 16, 32) or not 1 <= stored <= high_bit + 1 <= allocated:
        raise FilmError(
            "decode_failed",
            f"Bits Allocated {allocated}, Bits Stored {stored} and High Bit {high_bit} do not fit together; "
            "expected 8, 16 or 32 bits with the stored ones inside.",
        )
    samples = integer_of(dataset, "SamplesPerPixel", 1)
    if not 1 <= samples <= _MOST_SAMPLES:
        raise FilmError("decode_failed", f"Samples per Pixel is {samples}; expected 1, or 3 in colour.")
    signed = integer_of(dataset, "PixelRepresentation", 0) == 1
    return PixelFormat(rows, columns, samples, allocated, stored, high_bit, signed)


def decode(dataset: Dataset, syntax: UID, layout: PixelFormat | None = None) -> Integers:
    """The stored values of a film's one frame.

    Args:
        dataset: A parsed data set with its Pixel Data.
        syntax: Its Transfer Syntax UID.
        layout: Its Image Pixel module, where it has been read already.

    Returns:
        Integers `[rows, columns]` in the range of Bits Stored: sign-extended, without overlay bits, never scaled.

    Raises:
        FilmError: `no_pixels`, `too_large`, `truncated`, `multi_frame`, `colour`, `unsupported_syntax` or
            `decode_failed`.
    """
    layout = layout or pixel_format(dataset)
    data = _whole_value(dataset, "PixelData")
    if not isinstance(data, bytes) or not data:
        raise FilmError("no_pixels", "The DICOM object has no Pixel Data; give files with an image in them.")
    if str(syntax) in _NATIVE:
        values = _decode_native(dataset, data, layout, big_endian=str(syntax) == _BIG_ENDIAN)
    else:
        values = _decode_compressed(data, str(syntax), layout)
    _check_size(values.shape[:2], layout)
    return _stored_bits(_one_channel(values, text_of(dataset, "PhotometricInterpretation"), syntax), layout)


def _check_size(size: tuple[int, ...], layout: PixelFormat) -> None:
    """Refuse a compressed image of another size than the data set's."""
    if size != (layout.rows, layout.columns):
        raise FilmError(
            "decode_failed",
            f"The compressed image is {size[0]} x {size[1]} pixels, and Rows x Columns say "
            f"{layout.rows} x {layout.columns}; export the film again.",
        )


def _decode_native(dataset: Dataset, data: bytes, layout: PixelFormat, *, big_endian: bool) -> Integers:
    """Uncompressed samples, [rows, columns] or [rows, columns, samples] (PS3.5 8.1)."""
    subsampled = text_of(dataset, "PhotometricInterpretation") == "YBR_FULL_422"
    if subsampled and (layout.samples != 3 or layout.columns % 2):
        raise FilmError(
            "decode_failed",
            "YBR_FULL_422 needs three samples per pixel and an even number of columns; export the film again.",
        )
    count = layout.rows * layout.columns * (2 if subsampled else layout.samples)
    expected = count * layout.container.itemsize
    if len(data) < expected:
        raise FilmError(
            "truncated",
            f"Pixel Data has {len(data)} bytes of {expected}: the file is cut off; copy it again.",
        )
    if big_endian and layout.bits_allocated == 8 and dataset["PixelData"].VR == "OW":
        # PS3.5 A.3: OW words are swapped even where they hold two 8-bit samples.
        data = np.frombuffer(data[: len(data) // 2 * 2], "<u2").byteswap().tobytes()
        count = min(count, len(data))
    container = layout.container.newbyteorder(">") if big_endian else layout.container
    values: Integers = np.frombuffer(data, container, count=count)
    if big_endian:
        values = values.astype(layout.container)
    if layout.samples == 1:
        return values.reshape(layout.rows, layout.columns)
    if subsampled:  # Y0 Y1 Cb Cr for each pair of pixels (PS3.3 C.7.6.3.1.2)
        pairs = values.reshape(layout.rows, layout.columns // 2, 4)
        both = np.stack([pairs[..., [0, 2, 3]], pairs[..., [1, 2, 3]]], axis=2)  # [rows, columns / 2, 2, 3]
        return both.reshape(layout.rows, layout.columns, 3)
    if integer_of(dataset, "PlanarConfiguration", 0) == 1:
        return np.moveaxis(values.reshape(layout.samples, layout.rows, layout.columns), 0, -1)
    return values.reshape(layout.rows, layout.columns, layout.samples)


def _decode_compressed(data: bytes, syntax: str, layout: PixelFormat) -> Integers:
    """Decode the one encapsulated frame (PS3.5 A.4)."""
    decoder = _decoder(syntax)
    frame = only_frame(data)
    if decoder is None:
        return decode_rle(frame, (layout.samples, layout.rows, layout.columns), layout.container)
    if _END_OF_IMAGE not in frame[-_TAIL:]:
        raise FilmError("truncated", "The compressed image has no end: the file is cut off; copy it again.")
    size = claimed_size(frame)
    if size is not None:
        _check_size(size, layout)
    try:
        values = np.asarray(decoder(frame))
    except (RuntimeError, ValueError, TypeError, MemoryError) as error:
        raise FilmError(
            "decode_failed",
            f"The compressed image is damaged ({type(error).__name__}); export the film again.",
        ) from error
    if values.ndim not in (2, 3) or values.dtype.kind not in "iu":
        raise FilmError("decode_failed", "The compressed image does not hold one picture of integers.")
    return values


def _decoder(syntax: str) -> Callable[[bytes], Any] | None:
    """The decoder of one frame; None for RLE, which needs to be told its size."""
    if syntax == _RLE:
        return None
    for syntaxes, decoder in (
        (_JPEG, _decode_jpeg),
        (_JPEG_LS, imagecodecs.jpegls_decode),
        (JPEG_2000, imagecodecs.jpeg2k_decode),
        (_HTJ2K, _decode_htj2k),
    ):
        if syntax in syntaxes:
            return decoder
    raise FilmError(
        "unsupported_syntax",
        f"{_name_of(syntax)} is not one of projection radiography; convert the film to Explicit VR Little Endian.",
    )


def _name_of(syntax: str) -> str:
    """A transfer syntax of the standard by its name; any other text may name a patient."""
    name: str = UID(syntax).name
    return "The film's transfer syntax" if name == syntax else f"Transfer syntax {name}"


def _decode_jpeg(frame: bytes) -> Any:
    """Baseline, extended and lossless JPEG of 2 to 16 bits; libjpeg-turbo first, as it knows them all."""
    try:
        return imagecodecs.jpeg8_decode(frame)
    except imagecodecs.Jpeg8Error:
        if _HUFFMAN_TABLE not in frame.partition(_START_OF_SCAN)[0]:
            raise  # the other decoder takes the table for granted, and crashes
        # Lossless files of old scanners with odd Huffman tables or precisions.
        return imagecodecs.ljpeg_decode(frame)


def _decode_htj2k(frame: bytes) -> Any:
    """HTJ2K; imagecodecs tells Python's last resort of an error half-way, and returns what its memory held before."""
    failures: list[Any] = []
    hook = sys.unraisablehook
    sys.unraisablehook = failures.append
    try:
        values = imagecodecs.htj2k_decode(frame)
    finally:
        sys.unraisablehook = hook
    if failures:
        raise RuntimeError
    return values


def only_frame(data: bytes) -> bytes:
    """Join the fragments of the one frame."""
    try:
        frames = list(generate_frames(data, number_of_frames=1))
    except (ValueError, EOFError, IndexError, struct.error) as error:
        raise FilmError(
            "truncated",
            "The compressed Pixel Data ends before its last fragment: the file is cut off; copy it again.",
        ) from error
    if len(frames) != 1:
        raise FilmError(
            "multi_frame", f"One film has one frame, and this object has {len(frames)}; split it first."
        )
    frame: bytes = frames[0]
    return frame


def _one_channel(values: Integers, photometric: str, syntax: UID) -> Integers:
    """[H, W] of a film that is grey, [H, W, C] or not; refuses colour."""
    if photometric == "PALETTE COLOR":
        raise FilmError("colour", "The film has a colour palette; expected one grey channel.")
    if values.ndim == 2:
        return values
    uncompressed = str(syntax) in _NATIVE or str(syntax) == _RLE
    if uncompressed and photometric.startswith("YBR"):
        middle = (int(np.iinfo(values.dtype).max) + 1) // 2
        if (np.abs(values[..., 1:].astype(np.int64) - middle) > GREY_TOLERANCE).any():
            raise FilmError("colour", "The film is in colour; expected one grey channel, or equal ones.")
        return values[..., 0]
    return grey_of(values)


def grey_of(values: Integers) -> Integers:
    """The grey in a picture of three channels that is grey in fact.

    Args:
        values: Integers `[H, W, C]`; channels beyond the third are ignored.

    Returns:
        Integers `[H, W]`, same type: the luma of ITU-R BT.601, which is the common value where channels are equal.

    Raises:
        FilmError: `colour` where channels differ by more than GREY_TOLERANCE (of 255).
    """
    if values.shape[-1] < 3:
        return values[..., 0]
    red, green, blue = (values[..., channel].astype(np.int64) for channel in range(3))
    tolerance = GREY_TOLERANCE * max(1, int(np.iinfo(values.dtype).max) // 255)
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    if spread.max() > tolerance:
        raise FilmError("colour", "The picture is in colour; expected one grey channel, or equal ones.")
    luma: Integers = ((299 * red + 587 * green + 114 * blue + 500) // 1000).astype(values.dtype)
    return luma


def _stored_bits(values: Integers, layout: PixelFormat) -> Integers:
    """Keep Bits Stored below High Bit, and extend the sign (PS3.5 8.1.1): overlays and rubbish may sit above them."""
    low, high = layout.levels
    shift = layout.high_bit + 1 - layout.bits_stored
    above_low = not layout.signed or values.min() >= low
    if shift == 0 and above_low and values.max() <= high:
        return (
            values if values.dtype.itemsize * 8 <= layout.bits_allocated else values.astype(layout.container)
        )
    bits: Integers = values.astype(np.int64) >> shift & (2**layout.bits_stored - 1)
    if layout.signed:
        sign = 2 ** (layout.bits_stored - 1)
        bits = (bits ^ sign) - sign
    stored: Integers = bits.astype(layout.container)
    return stored
