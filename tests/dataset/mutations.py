"""Small valid films in every encoding, and what damage, haste and malice make of them: seeded, so that each can be had
again."""

import gzip
import io
import re
import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import config as pydicom_config
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.valuerep import VR

Values = NDArray[np.uint16]
Random = np.random.Generator
Mutation = Callable[[Random, bytes], bytes]

_NUMBERS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation",
            "PlanarConfiguration", "PixelPaddingValue", "PixelPaddingRangeLimit")  # fmt: skip
_LIES = (0, 1, 2, 7, 8, 12, 16, 17, 31, 32, 33, 255, 256, 4095, 32767, 32768, 65534, 65535)
_TEXTS = ("", " ", "1", "-1", "1e308", "NaN", "inf", "PA", "\\", "1\\2\\3", "x" * 300, "MONOCHROME1", "RGB", "YBR_FULL",
          "YBR_FULL_422", "PALETTE COLOR", "SIGMOID", "F\\P", "\0\0", "ä€", "9" * 400, "-0")  # fmt: skip


def _rle(values: Values) -> bytes:
    """RLE Lossless with literal runs: two byte planes (PS3.5 annex G)."""
    planes = []
    for plane in (values >> 8, values & 0xFF):
        content = plane.astype(np.uint8).tobytes()
        runs = [content[at : at + 128] for at in range(0, len(content), 128)]
        packed = b"".join(bytes([len(run) - 1]) + run for run in runs)
        planes.append(packed + b"\0" * (len(packed) % 2))
    return struct.pack("<16I", 2, 64, 64 + len(planes[0]), *[0] * 13) + b"".join(planes)


ENCODERS: dict[str, tuple[str, Callable[[Values], bytes | bytearray]]] = {
    "implicit": (uid.ImplicitVRLittleEndian, lambda values: values.tobytes()),
    "explicit": (uid.ExplicitVRLittleEndian, lambda values: values.tobytes()),
    "deflated": (uid.DeflatedExplicitVRLittleEndian, lambda values: values.tobytes()),
    "big-endian": (uid.ExplicitVRBigEndian, lambda values: values.byteswap().tobytes()),
    "rle": (uid.RLELossless, _rle),
    "baseline": (uid.JPEGBaseline8Bit, lambda values: imagecodecs.jpeg8_encode((values >> 4).astype(np.uint8))),
    "extended": (uid.JPEGExtended12Bit, lambda values: imagecodecs.jpeg8_encode(values, bitspersample=12)),
    "lossless": (
        uid.JPEGLossless,
        lambda values: imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=12, predictor=4),
    ),
    "lossless-sv1": (uid.JPEGLosslessSV1, lambda values: imagecodecs.ljpeg_encode(values, bitspersample=12)),
    "jpeg-ls": (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
    "jpeg-2000": (
        uid.JPEG2000Lossless,
        lambda values: imagecodecs.jpeg2k_encode(values, level=0, codecformat="J2K", bitspersample=12),
    ),
    "htj2k": (uid.HTJ2KLossless, imagecodecs.htj2k_encode),
}  # fmt: skip
PICTURES = ("png", "jpeg", "tiff", "nii", "nii.gz")


def valid_films() -> dict[str, bytes]:
    """Encoding -> the content of a film of 24 x 20 pixels; all are accepted."""
    films = {name: _dicom(index, *ENCODERS[name]) for index, name in enumerate(ENCODERS)}
    return films | {name: _picture(100 + index, name) for index, name in enumerate(PICTURES)}


def _pixels(seed: int) -> Values:
    values = np.random.default_rng(seed).integers(0, 4096, (24, 20), dtype=np.uint16)
    values[0, :2] = 0, 4095
    return values


def _dicom(seed: int, syntax: str, encode: Callable[[Values], bytes | bytearray]) -> bytes:
    """A CR film with a window, a VOI LUT, nested sequences and overlays."""
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    film = Dataset()
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = uid.UID(syntax)
    film.SOPClassUID, film.SOPInstanceUID = uid.ComputedRadiographyImageStorage, f"1.2.3.{seed}"
    film.PatientID, film.PatientAge, film.PatientSex = f"patient {seed}", "063Y", "F"
    film.Modality, film.ViewPosition, film.PatientOrientation = "CR", "PA", ["L", "F"]
    film.Rows, film.Columns, film.SamplesPerPixel = 24, 20, 1
    film.PhotometricInterpretation, film.PixelSpacing = "MONOCHROME2", [0.2, 0.2]
    film.BitsAllocated, film.BitsStored, film.HighBit = 8 if bits == 8 else 16, bits, bits - 1
    film.PixelRepresentation, film.PixelPaddingValue = 0, 0
    film.WindowCenter, film.WindowWidth = [2048, 100], [4096, 50]
    if seed % 3 == 0:
        table = Dataset()
        table.LUTDescriptor, table.LUTData = [256, 0, 12], np.arange(0, 4096, 16, dtype=np.uint16).tobytes()
        film.VOILUTSequence = Sequence([table])
    inner, outer = Dataset(), Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator = "399348003", "SCT"
    outer.ViewModifierCodeSequence = Sequence([inner])
    film.ViewCodeSequence = Sequence([outer])
    content = bytes(encode(_pixels(seed)))
    compressed = film.file_meta.TransferSyntaxUID.is_encapsulated
    film.PixelData = encapsulate([content]) if compressed else content
    film["PixelData"].VR = VR.OB if compressed else VR.OW
    return _saved(film)


def _picture(seed: int, kind: str) -> bytes:
    """A 16-bit picture; JPEG has 8."""
    values = _pixels(seed)
    if kind.startswith("nii"):
        content: bytes = nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)).to_bytes()
        return gzip.compress(content) if kind == "nii.gz" else content
    file = io.BytesIO()
    Image.fromarray((values >> 4).astype(np.uint8) if kind == "jpeg" else values).save(file, kind)
    return file.getvalue()


def _saved(film: Dataset) -> bytes:
    """A data set's file, written without a check."""
    file = io.BytesIO()
    with pydicom_config.disable_value_validation():
        film.save_as(file, enforce_file_format=True)
    return file.getvalue()


def mutant(seed: int, films: dict[str, bytes]) -> tuple[str, bytes]:
    """The encoding and the content of mutant number `seed`: one film under one to three mutations."""
    random = np.random.default_rng(seed)
    name = list(films)[seed % len(films)]
    content = films[name]
    mutations = [*_ON_BYTES, *(_ON_ELEMENTS if name in ENCODERS else ())]
    for _ in range(int(random.integers(1, 4))):
        content = mutations[int(random.integers(len(mutations)))](random, content)
    return name, content


def _flip(random: Random, content: bytes) -> bytes:
    """Up to 16 bytes become others, anywhere."""
    changed = bytearray(content)
    for at in random.integers(0, len(changed), int(random.integers(1, 17))) if changed else ():
        changed[at] = int(random.integers(256))
    return bytes(changed)


def _flip_header(random: Random, content: bytes) -> bytes:
    """As `_flip`, among the first bytes after a DICOM preamble, where lengths and types stand."""
    start = 128 if content[128:132] == b"DICM" else 0
    return content[:start] + _flip(random, content[start : start + 400]) + content[start + 400 :]


def _flip_bit(random: Random, content: bytes) -> bytes:
    """One bit changes."""
    changed = bytearray(content)
    if changed:
        changed[int(random.integers(len(changed)))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def _truncate(random: Random, content: bytes) -> bytes:
    return content[: int(random.integers(len(content) + 1))]


def _drop(random: Random, content: bytes) -> bytes:
    """A piece out of the middle goes missing."""
    start = int(random.integers(len(content) + 1))
    return content[:start] + content[start + int(random.integers(64)) :]


def _repeat(random: Random, content: bytes) -> bytes:
    """A piece comes twice."""
    start = int(random.integers(len(content) + 1))
    return content[: start + int(random.integers(200))] + content[start:]


def _enlarge(random: Random, content: bytes) -> bytes:
    """A length or size somewhere becomes enormous."""
    at = int(random.integers(len(content) + 1))
    huge = [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"\xff\xff", b"\xfe\xff\xff\xff"]
    piece = huge[int(random.integers(len(huge)))]
    return content[:at] + piece + content[at + len(piece) :]


def _elements(change: Callable[[Random, Dataset], None]) -> Mutation:
    """A mutation of the data set instead of its bytes; what no longer parses, or cannot be written, stays as it is."""

    def mutate(random: Random, content: bytes) -> bytes:
        try:
            with pydicom_config.disable_value_validation():
                film = dcmread(io.BytesIO(content), force=True)
                change(random, film)
                return _saved(film)
        except Exception:  # noqa: BLE001 - whatever pydicom makes of a mutant's mutant
            return content

    return mutate


@_elements
def _lie(random: Random, film: Dataset) -> None:
    """A number of the Image Pixel module is wrong."""
    for keyword in random.choice(_NUMBERS, int(random.integers(1, 4)), replace=False):
        setattr(film, str(keyword), int(random.choice(_LIES)))


@_elements
def _claim_everything(random: Random, film: Dataset) -> None:
    """65535 x 65535 pixels, also in the compressed image's own header."""
    film.Rows = film.Columns = 65535
    if film.file_meta.TransferSyntaxUID.is_encapsulated and random.random() < 0.7:
        claim = struct.pack(">2H", 65535, 65535)
        film.PixelData = film.PixelData.replace(struct.pack(">2H", 24, 20), claim).replace(
            struct.pack(">2I", 20, 24), struct.pack(">2I", 65535, 65535)
        )


@_elements
def _lose_an_element(random: Random, film: Dataset) -> None:
    for tag in random.permutation(np.array(list(film.keys()), np.int64))[: int(random.integers(1, 4))]:
        del film[int(tag)]


@_elements
def _garble(random: Random, film: Dataset) -> None:
    """An element that is read holds text that does not belong there."""
    names = ["WindowCenter", "WindowWidth", "VOILUTFunction", "RescaleSlope", "RescaleIntercept", "PatientOrientation",
             "PhotometricInterpretation", "PresentationLUTShape", "NumberOfFrames", "ViewPosition", "PatientAge",
             "PixelSpacing", "SOPClassUID", "Modality", "PatientID", "BodyPartExamined", "Rows"]  # fmt: skip
    film.add_new(str(random.choice(names)), "LO", str(random.choice(_TEXTS)))


@_elements
def _nest(random: Random, film: Dataset) -> None:
    """Sequences in sequences, some of them the ones that are read."""
    item = Dataset()
    keyword = str(
        random.choice(["ViewCodeSequence", "VOILUTSequence", "ModalityLUTSequence", "AnatomicRegionSequence"])
    )
    for _ in range(int(random.integers(1, 8))):
        outer = Dataset()
        setattr(outer, keyword, Sequence([item]))
        item = outer
    setattr(film, keyword, Sequence([item]))


def _dig(random: Random, content: bytes) -> bytes:
    """Up to 5000 sequences inside one another, with or without their ends, before a film's pixels."""
    depth = int(random.integers(1, 5000))
    sequence = random.choice([0x00540220, 0x00283010, 0x00091010])  # View Code, VOI LUT, private
    start = (
        struct.pack("<2H", sequence >> 16, sequence & 0xFFFF)
        + b"SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    )
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    at = max(0, content.find(b"\xe0\x7f\x10\x00"))
    return content[:at] + depth * start + int(random.integers(2)) * depth * end + content[at:]


def _lie_about_a_length(random: Random, content: bytes) -> bytes:
    """An element with an explicit VR says that it is longer or shorter than it is."""
    places = [found.span() for found in re.finditer(rb"US|DS|CS|UI|LO|IS|AS|SH|SQ|OW|OB", content)]
    if not places:
        return content
    start, at = places[int(random.integers(len(places)))]
    long = content[start:at] in (b"SQ", b"OW", b"OB")
    lie = struct.pack(
        "<2xI" if long else "<H", int(random.choice(_LIES)) * (1 + 65535 * long * int(random.integers(2)))
    )
    return content[:at] + lie + content[at + len(lie) :]


@_elements
def _bend_a_table(random: Random, film: Dataset) -> None:
    """A look-up table whose descriptor lies."""
    table = Dataset()
    table.LUTDescriptor = [int(random.choice(_LIES)) for _ in range(int(random.integers(0, 5)))]
    table.LUTData = random.bytes(2 * int(random.integers(0, 300)))
    setattr(film, str(random.choice(["VOILUTSequence", "ModalityLUTSequence"])), Sequence([table]))


@_elements
def _swap_syntax(random: Random, film: Dataset) -> None:
    """The transfer syntax is another one's, or none's."""
    syntaxes = [syntax for syntax, _ in ENCODERS.values()] + [
        "1.2.3",
        "",
        uid.MPEG2MPML,
        "1.2.840.10008.1.2.4.94",
    ]
    film.file_meta.TransferSyntaxUID = uid.UID(str(random.choice(syntaxes)))


@_elements
def _cut_pixels(random: Random, film: Dataset) -> None:
    """Pixel Data of another length, or with other bytes in the compressed image."""
    content: Any = film.PixelData
    film.PixelData = [_truncate, _drop, _repeat, _flip, _enlarge][int(random.integers(5))](random, content)


_ON_BYTES: tuple[Mutation, ...] = (_flip, _flip_header, _flip_bit, _truncate, _drop, _repeat, _enlarge)
_ON_ELEMENTS: tuple[Mutation, ...] = (_lie, _claim_everything, _lose_an_element, _garble, _nest, _bend_a_table, _lie,
                                      _swap_syntax, _cut_pixels, _cut_pixels, _dig, _lie_about_a_length)  # fmt: skip
