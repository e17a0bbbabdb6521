"""RLE Lossless (DICOM PS3.5 annex G): one packed segment for each byte of a sample, the most significant first.

imagecodecs unpacks a segment (PackBits); putting the planes together in NumPy is a quarter quicker than its own decoder
of whole frames, and does not crash where the header lies.
"""

import struct
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from xraygen.errors import FilmError

_HEADER = struct.Struct("<16I")
_PADDING = 4096
"""Bytes that a plane may have beyond its pixels: zeros behind a segment unpack to a few."""


def decode_rle(
    frame: bytes, shape: tuple[int, int, int], container: np.dtype[Any]
) -> NDArray[np.integer[Any]]:
    """Put a frame's byte planes together.

    Args:
        frame: The header of 64 bytes, and the segments.
        shape: Samples per pixel, rows and columns.
        container: The little-endian integer type of one sample.

    Returns:
        `[rows, columns]` of one sample per pixel, else `[rows, columns, samples]`.

    Raises:
        FilmError: `decode_failed` or `truncated`.

    Source:
        DICOM PS3.5 G.3 (PackBits) and G.5 (header).
    """
    samples, rows, columns = shape
    count, size = rows * columns, container.itemsize
    values = np.empty((samples, count), f"<u{size}")
    room = bytearray(count + _PADDING)
    for plane, segment in enumerate(_segments(frame, samples * size)):
        sample, bits = values[plane // size], 8 * (size - 1 - plane % size)
        unpacked = _unpacked(segment, room, count)
        if plane % size == 0:
            np.left_shift(unpacked, bits, out=sample, dtype=sample.dtype)  # widened in the same pass
        else:
            sample |= unpacked.astype(sample.dtype) << bits if bits else unpacked
    pixels: NDArray[np.integer[Any]] = values.view(container).reshape(shape)
    return pixels[0] if samples == 1 else np.moveaxis(pixels, 0, -1)


def _segments(frame: bytes, planes: int) -> list[memoryview]:
    """One segment for each plane, as the header says where they begin."""
    header = _HEADER.unpack_from(frame) if len(frame) >= _HEADER.size else (0,) * 16
    offsets = [*header[1 : planes + 1], len(frame)]
    if header[0] != planes or offsets[0] < _HEADER.size or any(a >= b for a, b in pairwise(offsets)):
        raise _damaged()
    return [memoryview(frame)[start:stop] for start, stop in pairwise(offsets)]


def _unpacked(segment: memoryview, room: bytearray, count: int) -> NDArray[np.uint8]:
    """The first `count` bytes that a segment holds, unpacked into `room`."""
    try:
        length = len(imagecodecs.packbits_decode(segment, out=room))  # type: ignore[arg-type]  # takes any buffer
    except (RuntimeError, ValueError) as error:
        raise _damaged() from error
    if length < count:
        raise FilmError(
            "truncated",
            f"A plane of the RLE image has {length} bytes of {count}: the file is cut off; copy it again.",
        )
    return np.frombuffer(room, np.uint8, count)


def _damaged() -> FilmError:
    """The refusal of a frame that cannot be unpacked."""
    return FilmError("decode_failed", "The RLE image is damaged; export the film again.")
