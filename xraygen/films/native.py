"""Pixels as they lie in a file that compresses nothing, and the bits of each that count."""

import os
from io import BufferedReader
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from xraygen.errors import FilmError
from xraygen.films.disk import unreadable
from xraygen.films.elements import PixelFormat, integer_of, text_of

Integers = NDArray[np.integer[Any]]

PIXEL_DATA = 0x7FE00010
_BYTES_AT_ONCE = 2**18
"""What is read at once: its bits are looked at while a processor's second cache holds it."""


def left_in_file(dataset: Dataset, tag: int = PIXEL_DATA) -> RawDataElement | None:
    """An element that pydicom has found and not read; None where it has read it, or found none."""
    element = dataset.get_item(tag, keep_deferred=True) if tag in dataset else None
    waits = isinstance(element, RawDataElement) and element.value is None and element.length != 0
    return element if waits else None


def fetch(dataset: Dataset, element: RawDataElement, file: BufferedReader) -> None:
    """Read an element that was left in the file, as pydicom would have: as much of it as there is.

    Raises:
        FilmError: `unreadable`.
        OSError: If the disk or the machine fails.
    """
    try:
        file.seek(element.value_tell)
        dataset[element.tag] = element._replace(value=file.read(_bytes_of(element, file)))
    except OSError as error:
        raise unreadable(error) from error


def read_native(file: BufferedReader, element: RawDataElement, layout: PixelFormat) -> Integers:
    """Read the first frame of one channel, little-endian, from its file.

    Args:
        file: The file, open.
        element: Its Pixel Data, which `left_in_file` found.
        layout: Its Image Pixel module: one sample per pixel.

    Returns:
        Stored values `[rows, columns]`, as `stored_bits` gives them.

    Raises:
        FilmError: `truncated`, or `unreadable`.
        OSError: If the disk or the machine fails.
    """
    expected = layout.rows * layout.columns * layout.container.itemsize
    if (have := _bytes_of(element, file)) < expected:
        raise _too_short(have, expected)
    values: Integers = np.empty((layout.rows, layout.columns), layout.container)
    per_strip = max(1, _BYTES_AT_ONCE // values[0].nbytes)
    try:
        file.seek(element.value_tell)
        for row in range(0, layout.rows, per_strip):
            strip = values[row : row + per_strip]
            if (read := file.readinto(strip.data.cast("B"))) != strip.nbytes:  # it shrinks meanwhile
                raise _too_short(row * values[0].nbytes + read, expected)
            stored = stored_bits(strip, layout)
            if stored is not strip:
                strip[...] = stored
    except OSError as error:
        raise unreadable(error) from error
    return values


def decode_native(dataset: Dataset, data: bytes, layout: PixelFormat, *, big_endian: bool) -> Integers:
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
        raise _too_short(len(data), expected)
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


def stored_bits(values: Integers, layout: PixelFormat) -> Integers:
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


def _bytes_of(element: RawDataElement, file: BufferedReader) -> int:
    """How many bytes of an element there are, whatever it claims."""
    left: int = max(0, os.fstat(file.fileno()).st_size - element.value_tell)
    return min(int(element.length), left)


def _too_short(have: int, expected: int) -> FilmError:
    """The refusal of Pixel Data with fewer bytes than its rows and columns take."""
    return FilmError(
        "truncated", f"Pixel Data has {have} bytes of {expected}: the file is cut off; copy it again."
    )
