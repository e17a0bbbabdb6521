"""What a picture's header claims, before memory is taken for it."""

import struct

from xraygen.errors import FilmError

MAX_PIXELS = 2**26
"""8192 x 8192, three times the largest detectors: more is a damaged header, or a trap."""
SIZ = b"\xff\x4f\xff\x51"
"""JPEG 2000: start of code stream, image and tile size."""
_LONGEST_BOX = 4096
"""Where a code stream has begun, also inside a JP2 file."""
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""JPEG's SOF0 to SOF15 and JPEG-LS's SOF55."""


def check_pixels(rows: int, columns: int) -> None:
    """Refuse a picture before memory is taken for it.

    Raises:
        FilmError: `too_large` beyond MAX_PIXELS.
    """
    if rows * columns > MAX_PIXELS:
        raise FilmError(
            "too_large",
            f"The file claims {rows} x {columns} pixels; no radiograph has more than {MAX_PIXELS}.",
        )


def claimed_size(frame: bytes) -> tuple[int, int] | None:
    """Height and width in the header of a compressed image, which its decoder would take memory for; None if unknown.

    Args:
        frame: A JPEG, JPEG-LS, JPEG 2000 or HTJ2K code stream.

    Source:
        ITU-T T.81 B.2.2 (frame header), T.87 C.2.2 (JPEG-LS), T.800 A.5.1 (image and tile size).
    """
    start = frame.find(SIZ, 0, _LONGEST_BOX)
    if start >= 0 and len(frame) >= start + 24:
        right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
        return max(0, bottom - top), max(0, right - left)
    at = 2
    while at + 9 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker in _FRAME_HEADERS:
            height, width = struct.unpack_from(">2H", frame, at + 5)
            return height, width
        # Fill bytes stand alone; segments say how long they are.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
