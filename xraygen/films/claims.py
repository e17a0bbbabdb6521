"""What a picture's header claims, before memory is taken for it."""

import struct
import zlib
from typing import BinaryIO

from xraygen.errors import FilmError

MAX_PIXELS = 2**26
"""8192 x 8192, three times the largest detectors: more is a damaged header, or a trap."""
SIZ = b"\xff\x4f\xff\x51"
"""JPEG 2000: start of code stream, image and tile size."""
LONGEST_BOX = 4096
"""Where a code stream has begun, also inside a JP2 file."""
MAX_UNPACKED_BYTES = 8 * MAX_PIXELS
"""What a packed file may become: eight bytes a pixel."""
_SYNTAX = b"\x02\0\x10\0UI"
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LONGEST_META = 2**16
_CHUNK = 2**20
_LONG = {b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"}
"""Value representations whose lengths have four bytes, behind two that are reserved (PS3.5 7.1.2)."""
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
    start = frame.find(SIZ, 0, LONGEST_BOX)
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


def check_unpacked(file: BinaryIO) -> str:
    """Refuse a deflated DICOM file that would unpack to more than a film, before anybody unpacks it into memory.

    Args:
        file: Any file, at its start; afterwards anywhere.

    Returns:
        The Transfer Syntax UID that its File Meta Information claims; "" where that is not known, or where the file may
        be a deflated one.

    Raises:
        FilmError: `too_large` beyond MAX_UNPACKED_BYTES.

    Source:
        DICOM PS3.5 A.5: all that follows the File Meta Information (PS3.10 7.1) is one raw deflate stream.
    """
    head = file.read(_LONGEST_META)
    if _DEFLATED not in head:
        return _claimed_syntax(head)
    at = 132 if head[128:132] == b"DICM" else 0
    while head[at : at + 2] == b"\x02\0" and at + 12 <= len(head):
        long = head[at + 4 : at + 6] in _LONG
        start, length = (at + 12, head[at + 8 : at + 12]) if long else (at + 8, head[at + 6 : at + 8])
        at = start + int.from_bytes(length, "little")
    file.seek(at)
    inflate, unpacked = zlib.decompressobj(-zlib.MAX_WBITS), 0
    packed = file.read(_CHUNK)
    try:
        while packed and not inflate.eof:
            unpacked += len(inflate.decompress(packed, _CHUNK))
            if unpacked > MAX_UNPACKED_BYTES:
                mebibytes = MAX_UNPACKED_BYTES >> 20
                raise FilmError(
                    "too_large", f"The file unpacks to more than {mebibytes} MiB; no radiograph does."
                )
            packed = inflate.unconsumed_tail or file.read(_CHUNK)
    except zlib.error:
        pass  # whoever reads it says so
    return ""


def _claimed_syntax(head: bytes) -> str:
    """Transfer Syntax UID (0002,0010), which File Meta Information has in Explicit VR Little Endian (PS3.10 7.1)."""
    at = head.find(_SYNTAX)
    start = at + len(_SYNTAX) + 2
    stop = start + int.from_bytes(head[start - 2 : start], "little")
    return head[start:stop].rstrip(b"\0 ").decode("ascii", "replace") if at >= 0 else ""
