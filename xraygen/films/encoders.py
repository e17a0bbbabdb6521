"""Pixels as transfer syntaxes hold them, for decoders to be tried and timed on: what xraygen writes is uncompressed."""

from collections.abc import Callable

import imagecodecs
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from xraygen.ranges import Stored


def pixel_data(stored: Stored, syntax: str) -> bytes:
    """Pixel Data (7FE0,0010) of a grey film in a transfer syntax.

    Args:
        stored: `(H, W)`: uint8 for JPEG baseline, uint16 of 16 bits for HTJ2K, of 12 bits for the others.
        syntax: UID, one of those below.

    Returns:
        The pixels themselves, or one encapsulated frame.

    Source:
        DICOM PS3.5 sec. 8.2 and A.4.
    """
    encoded = _ENCODERS[syntax](stored)
    return bytes(encapsulate([encoded])) if UID(syntax).is_encapsulated else encoded


def _rle(stored: Stored) -> bytes:
    rows, columns = stored.shape
    return bytes(
        RLELosslessEncoder.encode(
            stored,
            rows=rows,
            columns=columns,
            samples_per_pixel=1,
            bits_allocated=16,
            bits_stored=12,
            photometric_interpretation="MONOCHROME2",
            number_of_frames=1,
            pixel_representation=0,
        )
    )


def _jpeg_2000(stored: Stored) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, codecformat="j2k", bitspersample=12)
    )


_ENCODERS: dict[str, Callable[[Stored], bytes]] = {
    ExplicitVRLittleEndian: lambda x: x.tobytes(),
    RLELossless: _rle,
    JPEGBaseline8Bit: lambda x: bytes(imagecodecs.jpeg8_encode(x, level=95)),
    JPEGExtended12Bit: lambda x: bytes(imagecodecs.jpeg8_encode(x, level=95, bitspersample=12)),
    JPEGLosslessSV1: lambda x: bytes(imagecodecs.ljpeg_encode(x, bitspersample=12)),
    JPEGLSLossless: lambda x: bytes(imagecodecs.jpegls_encode(x)),
    JPEG2000Lossless: _jpeg_2000,
    HTJ2KLossless: lambda x: bytes(imagecodecs.htj2k_encode(x, reversible=True)),
}
