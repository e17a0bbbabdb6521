"""JPEG 2000 at half or a quarter of its size: several times quicker where a small picture is wanted, by choice.

What comes is the low-pass band of the image's own wavelet transform, not a mean of 2 x 2 or 4 x 4 pixels: see
docs/concepts/display.md for how far the two are apart.
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import UID

from xraygen.films.claims import LONGEST_BOX, SIZ, claimed_size
from xraygen.films.decoders import JPEG_2000, only_frame
from xraygen.films.elements import PixelFormat
from xraygen.films.native import Integers

Detail = Literal["full", "half", "quarter"]
LEVELS: dict[Detail, int] = {"full": 0, "half": 1, "quarter": 2}
"""How often the size is halved."""


@dataclass(frozen=True)
class Coarse:
    """How coarsely a film may be decoded.

    Args:
        levels: How often its size may be halved.
        at_least: Height and width that must be left, as the data set counts rows and columns, whichever way it lies.
    """

    levels: int
    at_least: tuple[int, int]


def decode_coarsely(dataset: Dataset, syntax: UID, layout: PixelFormat, coarse: Coarse) -> Integers | None:
    """Decode a JPEG 2000 film at a fraction of its size.

    Args:
        dataset: A parsed data set with its Pixel Data.
        syntax: Its Transfer Syntax UID.
        layout: Its Image Pixel module.
        coarse: The least that must be left.

    Returns:
        Unsigned integers `[rows / 2^n, columns / 2^n]`, rounded up, of Bits Stored; None where this cannot be: another
        transfer syntax, a small or padded film, colour, signed values, too few levels or a damaged file. Decode those
        in full.

    Source:
        ITU-T T.800 annex B.5 (resolution levels).
    """
    levels = _levels_for(layout, coarse)
    plain = layout.samples == 1 and not layout.signed and layout.high_bit + 1 == layout.bits_stored
    if str(syntax) not in JPEG_2000 or not plain or not levels or "PixelPaddingValue" in dataset:
        return None
    frame = only_frame(dataset.PixelData)
    if claimed_size(frame) != (layout.rows, layout.columns) or _depth(frame) != layout.bits_stored:
        return None
    try:
        with Image.open(io.BytesIO(frame), formats=["JPEG2000"]) as picture:
            picture.reduce = levels  # type: ignore[method-assign,assignment]  # this format's own meaning of the name
            shifted = np.asarray(picture)
    except (OSError, SyntaxError, ValueError):
        return None
    kind = np.uint8 if layout.bits_stored <= 8 else np.uint16
    if shifted.dtype != kind or shifted.shape != _size_at(layout, levels):
        return None
    # Pillow shifts the values up until they fill the type.
    return shifted >> (8 * shifted.itemsize - layout.bits_stored)


def _levels_for(layout: PixelFormat, coarse: Coarse) -> int:
    """The most levels that leave both sides long enough, 0 where none do."""
    for levels in range(coarse.levels, 0, -1):
        size = _size_at(layout, levels)
        # Pillow rounds to the nearest, the standard up; where they differ, Pillow would cut off a line.
        agrees = all(
            (side + 2**levels // 2) // 2**levels == left
            for side, left in zip((layout.rows, layout.columns), size, strict=True)
        )
        if agrees and min(size) >= max(coarse.at_least):
            return levels
    return 0


def _size_at(layout: PixelFormat, levels: int) -> tuple[int, int]:
    """Rows and columns of a resolution level: halved, rounded up, `levels` times."""
    return -(-layout.rows // 2**levels), -(-layout.columns // 2**levels)


def _depth(frame: bytes) -> int | None:
    """Bits of an unsigned code stream of one component; None for any other (ITU-T T.800, A.5.1)."""
    start = frame.find(SIZ, 0, LONGEST_BOX)
    if start < 0 or len(frame) < start + 43:
        return None
    components, depth = int.from_bytes(frame[start + 40 : start + 42], "big"), frame[start + 42]
    return depth + 1 if components == 1 and depth < 0x80 else None
