"""Stored integers from any transfer syntax that projection radiography uses, with permissively licensed decoders."""

import struct
import sys
from collections.abc import Callable
from io import BufferedReader
from typing import Any

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID

from xraygen.errors import FilmError
from xraygen.films.claims import claimed_size
from xraygen.films.elements import PixelFormat, pixel_format, text_of, value_of
from xraygen.films.native import Integers, decode_native, fetch, left_in_file, read_native, stored_bits
from xraygen.films.rle import decode_rle

GREY_TOLERANCE = 8
"""Largest difference between the channels of a pixel that lossy compression leaves in a grey picture."""

LITTLE_ENDIAN = {
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
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
_BYTES = (None, "OB", "OW", "OF", "OD", "OL", "OV", "UN")
"""Value representations that pydicom hands out as bytes; None is what Implicit VR says of any."""
_BIG_ENDIAN = "1.2.840.10008.1.2.2"  # Explicit VR Big Endian
_DEFLATED = "1.2.840.10008.1.2.1.99"  # Deflated Explicit VR Little Endian
_NATIVE = LITTLE_ENDIAN | {_BIG_ENDIAN, _DEFLATED}
_END_OF_IMAGE = b"\xff\xd9"
"""JPEG, JPEG-LS and JPEG 2000 all end so, and none has these bytes inside its data."""
_HUFFMAN_TABLE, _START_OF_SCAN = b"\xff\xc4", b"\xff\xda"
_TAIL = 16
"""Where the end must be: writers pad after it, some with 0xFF."""


def decode(
    dataset: Dataset, syntax: UID, layout: PixelFormat | None = None, file: BufferedReader | None = None
) -> Integers:
    """The stored values of a film's one frame.

    Args:
        dataset: A parsed data set with its Pixel Data.
        syntax: Its Transfer Syntax UID.
        layout: Its Image Pixel module, where it has been read already.
        file: Its file, open, where the Pixel Data may have been left when it was parsed.

    Returns:
        Integers `[rows, columns]` in the range of Bits Stored: sign-extended, without overlay bits, never scaled.

    Raises:
        FilmError: `no_pixels`, `too_large`, `truncated`, `multi_frame`, `colour`, `unsupported_syntax` or
            `decode_failed`.
    """
    layout = layout or pixel_format(dataset)
    photometric = text_of(dataset, "PhotometricInterpretation")
    waiting = left_in_file(dataset)
    if file is not None and waiting is not None:
        one = layout.samples == 1 and photometric != "YBR_FULL_422" and waiting.VR in _BYTES
        if one and str(syntax) in LITTLE_ENDIAN:
            return _one_channel(read_native(file, waiting, layout), photometric, syntax)
        fetch(dataset, waiting, file)
    data = value_of(dataset, "PixelData")
    if not isinstance(data, bytes) or not data:
        raise FilmError("no_pixels", "The DICOM object has no Pixel Data; give files with an image in them.")
    if str(syntax) in _NATIVE:
        values = decode_native(dataset, data, layout, big_endian=str(syntax) == _BIG_ENDIAN)
    else:
        values = _decode_compressed(data, str(syntax), layout)
    _check_size(values.shape[:2], layout)
    return stored_bits(_one_channel(values, photometric, syntax), layout)


def _check_size(size: tuple[int, ...], layout: PixelFormat) -> None:
    """Refuse a compressed image of another size than the data set's."""
    if size != (layout.rows, layout.columns):
        raise FilmError(
            "decode_failed",
            f"The compressed image is {size[0]} x {size[1]} pixels, and Rows x Columns say "
            f"{layout.rows} x {layout.columns}; export the film again.",
        )


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
