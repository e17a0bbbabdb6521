"""Every combination of what a film's header and encoding can say, against the standard worked out pixel by pixel.

Per transfer syntax: 2 photometric interpretations x 3 Presentation LUT Shapes x 4 bits stored x 2 signs x 3 kinds of
padding x 5 VOI forms x 3 modalities = 2,160 films of 8 x 8 pixels. Lossy syntaxes hold fewer, of values without sign:
270 films of JPEG, which has 8 or 12 bits, 1,080 of JPEG 2000, and 540 of JPEG-LS and of HTJ2K, whose encoders here know
8 or 16. Of 16 syntaxes that makes 26,460 films: `make slow` checks all, and the tests of every day every 23rd.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from types import ModuleType
from typing import Any

import imagecodecs
import jpeg_ls
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder

from xraygen.films.dicom import read_radiograph
from xraygen.seeds import numpy_generator

Values = NDArray[Any]
SIDE = 8
NEAR = 2
"""The largest error of a near-lossless value."""
TOLERANCE = 1.3e-7
"""Light is float64 arithmetic, rounded once to float32 in [0, 1] (6e-8); 1 - light of a table is rounded likewise."""

PHOTOMETRICS = ["MONOCHROME1", "MONOCHROME2"]
SHAPES = [None, "IDENTITY", "INVERSE"]
BITS = [8, 10, 12, 16]
SIGNED = [False, True]
PADDINGS = ["absent", "value", "range"]
VOIS = ["none", "LINEAR", "LINEAR_EXACT", "SIGMOID", "lut"]
MODALITIES = ["none", "rescale", "lut"]


@dataclass(frozen=True)
class Codec:
    """How one transfer syntax holds pixels: `encode(values, bits)` gives the bytes of the one frame."""

    syntax: str
    encode: Callable[[Values, int], bytes]
    bits: tuple[int, ...] = tuple(BITS)
    signed: tuple[bool, ...] = tuple(SIGNED)
    decode: Callable[[bytes, int], Values] | None = None  # what a lossy syntax leaves of the values


def as_unsigned(values: Values, bits: int) -> Values:
    """The stored bits of a two's complement, for codecs that have no sign."""
    unsigned: Values = (values.astype(np.int64) & (2**bits - 1)).astype(f"u{values.dtype.itemsize}")
    return unsigned


def encode_rle(values: Values, bits: int) -> bytes:
    return RLELosslessEncoder.encode(  # type: ignore[no-any-return]  # pydicom is not typed here
        values,
        encoding_plugin="pydicom",
        rows=SIDE,
        columns=SIDE,
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=values.dtype.itemsize * 8,
        bits_stored=bits,
        pixel_representation=int(values.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2",
    )


def encode_jpeg_ls(values: Values, bits: int) -> bytes:
    return bytes(imagecodecs.jpegls_encode(as_unsigned(values, bits)))


def encode_jpeg_2000(values: Values, bits: int) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="J2K", bitspersample=bits))


def encode_htj2k(values: Values, bits: int) -> bytes:
    return bytes(imagecodecs.htj2k_encode(as_unsigned(values, bits)))


def encode_jpeg_lossless(values: Values, bits: int) -> bytes:
    unsigned = as_unsigned(values, bits)
    return bytes(imagecodecs.jpeg8_encode(unsigned, lossless=True, bitspersample=bits, predictor=4))


def encode_jpeg_lossless_sv1(values: Values, bits: int) -> bytes:
    return bytes(imagecodecs.ljpeg_encode(as_unsigned(values, bits), bitspersample=bits))


def encode_jpeg(values: Values, bits: int) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values, level=95, bitspersample=bits))


def encode_jpeg_ls_near(values: Values, bits: int) -> bytes:
    return bytes(imagecodecs.jpegls_encode(values, level=NEAR))


def encode_lossy_jpeg_2000(values: Values, bits: int) -> bytes:
    lossy = imagecodecs.jpeg2k_encode(
        values, level=100, codecformat="J2K", bitspersample=bits, reversible=False
    )
    return bytes(lossy)


def encode_lossy_htj2k(values: Values, bits: int) -> bytes:
    return bytes(imagecodecs.htj2k_encode(values, level=2**-10, reversible=False))


def decode_jpeg(data: bytes, bits: int) -> Values:
    """By Pillow's libjpeg-turbo; it knows no 12 bits."""
    if bits == 12:
        return np.asarray(imagecodecs.jpeg8_decode(data))
    return np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]))


def decode_jpeg_ls(data: bytes, bits: int) -> Values:
    """By the CharLS of pyjpegls."""
    return np.asarray(jpeg_ls.decode(np.frombuffer(data, np.uint8)))


def decode_htj2k(data: bytes, bits: int) -> Values:
    """By our own OpenJPH; a test below compares it with OpenJPEG, which rounds otherwise."""
    return np.asarray(imagecodecs.htj2k_decode(data))


def decode_jpeg_2000(data: bytes, bits: int) -> Values:
    """By Pillow's OpenJPEG, which decodes HTJ2K, too; Pillow shifts the values up until they fill the type."""
    shifted = np.asarray(Image.open(io.BytesIO(data), formats=["JPEG2000"]))
    return shifted >> (8 * shifted.itemsize - bits)


CODECS: Mapping[str, Codec] = {
    "implicit": Codec(uid.ImplicitVRLittleEndian, lambda values, _: values.tobytes()),
    "explicit": Codec(uid.ExplicitVRLittleEndian, lambda values, _: values.tobytes()),
    "big-endian": Codec(uid.ExplicitVRBigEndian, lambda values, _: values.byteswap().tobytes()),
    "deflated": Codec(uid.DeflatedExplicitVRLittleEndian, lambda values, _: values.tobytes()),
    "rle": Codec(uid.RLELossless, encode_rle),
    "jpeg-lossless": Codec(uid.JPEGLossless, encode_jpeg_lossless),
    "jpeg-lossless-sv1": Codec(uid.JPEGLosslessSV1, encode_jpeg_lossless_sv1),
    "jpeg-ls": Codec(uid.JPEGLSLossless, encode_jpeg_ls),
    "jpeg-2000": Codec(uid.JPEG2000Lossless, encode_jpeg_2000),
    "htj2k": Codec(uid.HTJ2KLossless, encode_htj2k),
    "htj2k-rpcl": Codec(uid.HTJ2KLosslessRPCL, encode_htj2k),  # as OpenJPH orders packets; see a test below
    "jpeg-baseline": Codec(uid.JPEGBaseline8Bit, encode_jpeg, (8,), (False,), decode_jpeg),
    "jpeg-extended": Codec(uid.JPEGExtended12Bit, encode_jpeg, (12,), (False,), decode_jpeg),
    "jpeg-ls-near": Codec(uid.JPEGLSNearLossless, encode_jpeg_ls_near, (8, 16), (False,), decode_jpeg_ls),
    "jpeg-2000-lossy": Codec(uid.JPEG2000, encode_lossy_jpeg_2000, tuple(BITS), (False,), decode_jpeg_2000),
    "htj2k-lossy": Codec(uid.HTJ2K, encode_lossy_htj2k, (8, 16), (False,), decode_htj2k),
}
FILMS = {
    "jpeg-baseline": 270,
    "jpeg-extended": 270,
    "htj2k-lossy": 540,
    "jpeg-ls-near": 540,
    "jpeg-2000-lossy": 1080,
}
"""Of each syntax that cannot hold all 2,160."""


def stored_values(bits: int, signed: bool) -> Values:
    """64 values with both ends of the range, its middle, and neighbours."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    values = numpy_generator(0, "combination", bits, int(signed)).integers(low, high + 1, (SIDE, SIDE))
    values[0] = [low, low, low + 1, low + 2, high - 2, high - 1, high, high]
    values[1, :3] = (low + high) // 2 + np.arange(3)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")


def lut_item(table: Any) -> list[Dataset]:
    """A sequence with one table; its first value is SS where it is negative."""
    item = Dataset()
    item.add_new(
        "LUTDescriptor",
        "SS" if table.first < 0 else "US",
        [len(table.entries) % 2**16, table.first, table.bits],
    )
    item.add_new("LUTData", "US", list(table.entries))
    item.ModalityLUTType = "US"
    return [item]


def meanings(voi: ModuleType, bits: int, signed: bool) -> Iterator[Any]:
    """Every header for films of so many bits and this sign."""
    random = numpy_generator(0, "tables", bits, int(signed))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    few = voi.Table(first=low + 3, entries=tuple(random.integers(0, 4096, 50).tolist()), bits=12)
    modalities = {"none": None, "rescale": (2.0, -100.0), "lut": few}
    paddings = {"absent": (None, None), "value": (low, None), "range": (high, high - 2**bits // 8)}
    for photometric, shape, padding, form, kind in product(PHOTOMETRICS, SHAPES, PADDINGS, VOIS, MODALITIES):
        # The range of modality values that the VOI looks at.
        start, stop = {"none": (low, high), "rescale": (2 * low - 100, 2 * high - 100), "lut": (0, 4095)}[
            kind
        ]
        first = min(max(start + 5, -(2**15)), 2**15 - 1)
        width = 0.7 * (stop - start)
        yield voi.Meaning(
            photometric=photometric,
            shape=shape,
            padding=paddings[padding][0],
            padding_limit=paddings[padding][1],
            modality=modalities[kind],
            window=None if form == "none" else ((start + stop) / 2, round(width, 1), form),
            voi_lut=voi.Table(first=first, entries=tuple(range(7, 1024, 9)), bits=10)
            if form == "lut"
            else None,
        )


def header(meaning: Any, base: Dataset) -> Dataset:
    """`base` with a film's display in it. A VOI LUT stands beside a window, and wins."""
    dataset = Dataset()
    dataset.update(base)
    dataset.PhotometricInterpretation = meaning.photometric
    if meaning.shape is not None:
        dataset.PresentationLUTShape = meaning.shape
    vr = "SS" if base.PixelRepresentation else "US"
    if meaning.padding is not None:
        dataset.add_new("PixelPaddingValue", vr, meaning.padding)
    if meaning.padding_limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", vr, meaning.padding_limit)
    if isinstance(meaning.modality, tuple):
        dataset.RescaleSlope, dataset.RescaleIntercept = meaning.modality
    elif meaning.modality is not None:
        dataset.ModalityLUTSequence = lut_item(meaning.modality)
    if meaning.window is not None:
        dataset.WindowCenter, dataset.WindowWidth = meaning.window[:2]
        if meaning.voi_lut is None and meaning.window[2] != "LINEAR":  # LINEAR is usually left unsaid
            dataset.VOILUTFunction = meaning.window[2]
    if meaning.voi_lut is not None:
        dataset.VOILUTSequence = lut_item(meaning.voi_lut)
    return dataset


def base_of(values: Values, bits: int, codec: Codec) -> tuple[Dataset, Values]:
    """Everything but the display, and the values that are in it."""
    data = codec.encode(values, bits)
    if codec.decode is not None:
        values = codec.decode(data, bits)
    base = Dataset()
    base.SOPClassUID, base.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, "1.2.3"
    base.Modality, base.SamplesPerPixel = "DX", 1
    base.Rows = base.Columns = SIDE
    base.BitsAllocated, base.BitsStored, base.HighBit = values.dtype.itemsize * 8, bits, bits - 1
    base.PixelRepresentation = int(values.dtype.kind == "i")
    compressed = uid.UID(codec.syntax).is_compressed and uid.UID(codec.syntax).is_encapsulated
    base.PixelData = encapsulate([data]) if compressed else data
    base["PixelData"].VR = "OB" if compressed or bits == 8 else "OW"
    return base, values


@pytest.fixture(scope="module")
def voi(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("voi")


def disagreements(name: str, voi: ModuleType, folder: Path, stride: int) -> tuple[int, list[str]]:
    """Number of films of a syntax checked, every `stride`-th one, and what is wrong with which."""
    codec, path, films, wrong = CODECS[name], folder / "film.dcm", 0, []
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.UID(codec.syntax)
    for bits, signed in product(codec.bits, codec.signed):
        base, values = base_of(stored_values(bits, signed), bits, codec)
        for meaning in islice(meanings(voi, bits, signed), films % stride, None, stride):
            dataset = header(meaning, base)
            dataset.file_meta = meta
            dataset.save_as(path, enforce_file_format=True)
            error = np.abs(read_radiograph(path).pixels - voi.displayed(values, meaning)).max()
            if not error <= TOLERANCE:  # nor where it is NaN
                wrong.append(f"{error} at {bits} bits, signed {signed}: {meaning}")
            films += 1
    return films, wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CODECS))
def test_every_combination_is_displayed_as_the_standard_says(
    name: str, voi: ModuleType, tmp_path: Path
) -> None:
    films, wrong = disagreements(name, voi, tmp_path, 1)
    assert not wrong
    assert films == FILMS.get(name, 2160)


@pytest.mark.parametrize("name", list(CODECS))
def test_a_spread_of_combinations_is_displayed_as_the_standard_says(
    name: str, voi: ModuleType, tmp_path: Path
) -> None:
    # 23 has no factor in common with any number of values, so that every value comes up with every other.
    films, wrong = disagreements(name, voi, tmp_path, 23)
    assert not wrong
    assert films >= 11


@pytest.mark.parametrize("bits", BITS)
def test_near_lossless_values_are_as_near_as_the_encoder_says(bits: int) -> None:
    values = stored_values(bits, signed=False)
    decoded = decode_jpeg_ls(encode_jpeg_ls_near(values, bits), bits)
    assert 0 < np.abs(decoded.astype(int) - values).max() <= NEAR


@pytest.mark.parametrize("name", ["htj2k", "htj2k-lossy"])
@pytest.mark.parametrize("bits", [8, 16])
def test_htj2k_is_decoded_as_by_another_library(name: str, bits: int) -> None:
    data = CODECS[name].encode(stored_values(bits, signed=False), bits)
    apart = np.abs(decode_htj2k(data, bits).astype(int) - decode_jpeg_2000(data, bits)).max()
    # Of 16 bits lossy coefficients are floats of 24 bits, which each adds up in its own order.
    assert apart <= (4 if name == "htj2k-lossy" and bits == 16 else 0)


def test_htj2k_of_two_transfer_syntaxes_is_in_the_order_rpcl() -> None:
    data = encode_htj2k(stored_values(12, signed=False), 12)
    style = data.index(b"\xff\x52")  # COD: marker, length, style, progression order (ITU-T T.800, A.6.1)
    assert data[style + 5] == 2


def test_the_check_would_find_a_film_inverted_twice(voi: ModuleType) -> None:
    values = stored_values(12, signed=False)
    meaning = next(iter(meanings(voi, 12, signed=False)))
    assert meaning.photometric == "MONOCHROME1"
    right = voi.displayed(values, meaning)
    assert np.abs(right - voi.displayed(values, replace(meaning, shape="IDENTITY"))).max() > 0.9
    np.testing.assert_array_equal(right, voi.displayed(values, replace(meaning, shape="INVERSE")))
