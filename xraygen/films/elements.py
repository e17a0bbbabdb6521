"""What one element of a DICOM data set says, damaged as it may be, and the elements that describe its pixels."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from xraygen.errors import FilmError
from xraygen.films.claims import check_pixels

_MOST_SAMPLES = 4


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
    value = value_of(dataset, keyword)
    if isinstance(value, (str, bytes)) or not hasattr(value, "__getitem__"):
        return value
    return value[0] if len(value) else None


def value_of(dataset: Dataset, keyword: str) -> Any:
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
