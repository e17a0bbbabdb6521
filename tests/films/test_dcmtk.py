"""The same grey levels as DCMTK (Debian's package dcmtk), on films that carry a window or a VOI LUT.

DCMTK 3.6.7 reads Presentation LUT Shape as we do. It does not know LINEAR_EXACT, which it shows as LINEAR with a
warning, and shows padding like any other pixel: those two are checked against the standard's text alone
(tests/films/test_every_combination.py), and padded films here outside their padding.
"""

import io
import shutil
import subprocess
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels.encoders import RLELosslessEncoder

from xraygen.films.dicom import read_stored
from xraygen.films.objects import ReadOptions

Values = NDArray[Any]
WriteDicom = Callable[..., Path]
ONE_LEVEL = 1.0  # of 256: dcm2pnm writes 8 bits, and rounds where we do not
NEAR = 2

pytestmark = pytest.mark.skipif(
    shutil.which("dcm2pnm") is None, reason="dcm2pnm is not installed (Debian's package dcmtk)"
)


def by_dcmtk(path: Path, *options: str, program: str = "dcm2pnm") -> Values:
    """What DCMTK shows, uint8 [H, W]."""
    output = path.with_suffix(".pgm")
    subprocess.run([program, *options, str(path), str(output)], check=True, capture_output=True)
    return np.asarray(Image.open(io.BytesIO(output.read_bytes())).convert("L"))


def by_us(path: Path) -> tuple[Values, Values]:
    """What we show in grey levels of 256, [H, W], and the stored values."""
    film = read_stored(path, ReadOptions(any_body_part=True))
    return np.rint(255 * film.display.apply(film.values)), film.values


def table(first: int, entries: int, power: float) -> list[Dataset]:
    """A Modality or VOI LUT of 12 bits; its descriptor is SS where its first value is negative."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [entries, first, 12])
    steps = np.arange(entries) / (entries - 1)
    item.add_new("LUTData", "US", (4095 * steps**power).astype(int).tolist())
    item.ModalityLUTType = "US"
    return [item]


def voi_of(kind: str, centre: int) -> dict[str, Any]:
    """A VOI around a modality value."""
    if kind == "lut":
        return {"VOILUTSequence": table(centre - 700, 2048, 0.6)}
    if kind == "linear":
        return {"WindowCenter": [centre, 50], "WindowWidth": [1500, 10]}
    return {"WindowCenter": centre, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("modality", ["none", "rescale", "lut"])
@pytest.mark.parametrize("kind", ["linear", "sigmoid", "lut"])
def test_generated_films_look_as_in_dcmtk(
    kind: str, modality: str, signed: bool, levels: Values, write_dicom: WriteDicom
) -> None:
    values = (levels.astype(int) - 2048).astype(np.int16) if signed else levels
    least = -2048 if signed else 0
    meanings: dict[str, tuple[int, dict[str, Any]]] = {
        "none": (least + 1700, {}),
        "rescale": (2 * least + 2900, {"RescaleSlope": 2, "RescaleIntercept": -500}),
        "lut": (1700, {"ModalityLUTSequence": table(least + 300, 3000, 0.8)}),
    }
    centre, transformation = meanings[modality]
    header = {**transformation, **voi_of(kind, centre)}
    seen = set()
    for photometric, shape in product(["MONOCHROME1", "MONOCHROME2"], [None, "IDENTITY", "INVERSE"]):
        path = write_dicom(
            values, PhotometricInterpretation=photometric, PresentationLUTShape=shape, **header
        )
        ours, _ = by_us(path)
        assert np.abs(ours - by_dcmtk(path, "+Wl" if kind == "lut" else "+Wi", "1")).max() <= ONE_LEVEL
        seen.add(ours.tobytes())
    assert len(seen) == 2  # shown as they are, and inverted


@pytest.mark.parametrize("limit", [None, 700])
@pytest.mark.parametrize("signed", [False, True])
def test_padded_films_look_as_in_dcmtk_outside_their_padding(
    signed: bool, limit: int | None, levels: Values, write_dicom: WriteDicom
) -> None:
    least = -2048 if signed else 0
    values = (levels.astype(int) + least).astype(np.int16 if signed else np.uint16)
    header: dict[str, Any] = {"PixelPaddingValue": least}
    if limit is not None:
        header["PixelPaddingRangeLimit"] = least + limit
    path = write_dicom(
        values, PhotometricInterpretation="MONOCHROME1", **voi_of("linear", least + 900), **header
    )
    ours, stored = by_us(path)
    theirs, padded = by_dcmtk(path, "+Wi", "1"), stored <= least + (limit or 0)
    assert padded.sum() >= (1 if limit is None else 50)
    assert np.abs(ours - theirs)[~padded].max() <= ONE_LEVEL
    assert (ours[padded] == 0).all()
    assert (theirs[padded] > 127).all()  # to DCMTK these are pixels, of little and so bright


def encode_rle(values: Values) -> bytes:
    layout = {"rows": 50, "columns": 40, "samples_per_pixel": 1, "number_of_frames": 1, "bits_stored": 12}
    layout |= {"bits_allocated": 16, "pixel_representation": 0}
    encoded = RLELosslessEncoder.encode(
        values, encoding_plugin="pydicom", photometric_interpretation="MONOCHROME2", **layout
    )
    return bytes(encoded)


ENCODINGS: Mapping[str, tuple[str, str, int, Callable[[Values], Any]]] = {
    "implicit": ("dcm2pnm", uid.ImplicitVRLittleEndian, 12, lambda values: values.tobytes()),
    "deflated": ("dcm2pnm", uid.DeflatedExplicitVRLittleEndian, 12, lambda values: values.tobytes()),
    "big-endian": ("dcm2pnm", uid.ExplicitVRBigEndian, 12, lambda values: values.byteswap().tobytes()),
    "rle": ("dcm2pnm", uid.RLELossless, 12, encode_rle),
    "jpeg-baseline": ("dcmj2pnm", uid.JPEGBaseline8Bit, 8, imagecodecs.jpeg8_encode),
    "jpeg-extended": (
        *("dcmj2pnm", uid.JPEGExtended12Bit, 12),
        lambda values: imagecodecs.jpeg8_encode(values, bitspersample=12),
    ),
    "jpeg-lossless": (
        *("dcmj2pnm", uid.JPEGLosslessSV1, 12),
        lambda values: imagecodecs.ljpeg_encode(values, bitspersample=12),
    ),
    "jpeg-ls": ("dcml2pnm", uid.JPEGLSLossless, 12, imagecodecs.jpegls_encode),
    "jpeg-ls-near": (
        *("dcml2pnm", uid.JPEGLSNearLossless, 8),
        lambda values: imagecodecs.jpegls_encode(values, level=NEAR),
    ),
}
"""DCMTK's program for a transfer syntax, the syntax, bits stored and what encodes the one frame."""


@pytest.mark.parametrize("name", list(ENCODINGS))
def test_compressed_films_look_as_in_dcmtk(name: str, levels: Values, write_dicom: WriteDicom) -> None:
    program, syntax, bits, encode = ENCODINGS[name]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian's package dcmtk)")
    values = levels if bits == 12 else (levels >> 4).astype(np.uint8)
    # A stored value is two grey levels, lest the window hide a decoder's error; but lossy JPEG rounds as it may.
    width = 2**bits if name in ("jpeg-baseline", "jpeg-extended") else 128
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": width}
    path = write_dicom(values, bits, data=bytes(encode(values)), syntax=syntax, **window)
    ours, _ = by_us(path)
    assert np.abs(ours - by_dcmtk(path, "+Wi", "1", program=program)).max() <= ONE_LEVEL


@pytest.mark.parametrize("lossy", [False, True])
def test_jpeg_2000_looks_as_in_dcmtk_after_pillow(
    lossy: bool, levels: Values, write_dicom: WriteDicom, tmp_path: Path
) -> None:
    data = bytes(
        imagecodecs.jpeg2k_encode(
            levels, level=50 if lossy else 0, reversible=not lossy, codecformat="J2K", bitspersample=12
        )
    )
    syntax = uid.JPEG2000 if lossy else uid.JPEG2000Lossless
    path = write_dicom(levels, data=data, syntax=syntax, WindowCenter=2048, WindowWidth=128)
    ours, stored = by_us(path)
    assert (stored == levels).all() != lossy
    theirs = by_dcmtk(uncompressed(path, tmp_path / "plain.dcm"), "+Wi", "1")
    assert np.abs(ours - theirs).max() <= ONE_LEVEL


@pytest.mark.films
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("dicom-cxr/966_fixed.dcm", ["+Wi", "1"]),
        ("dicom-cxr/gdcm-CR-MONO1-10-chest.dcm", ["+Wi", "1"]),
        ("dicom-other/RG3_J2KR.dcm", ["+Wi", "1"]),
        ("dicom-other/vlut_04.dcm", ["+Wl", "1"]),
    ],
)
def test_real_films_look_as_in_dcmtk(name: str, option: list[str], films: Path, tmp_path: Path) -> None:
    dataset = dcmread(films / name)
    dataset.PatientOrientation = None  # DCMTK turns no films
    dataset.save_as(tmp_path / "film.dcm")
    ours, _ = by_us(tmp_path / "film.dcm")
    theirs = by_dcmtk(uncompressed(tmp_path / "film.dcm", tmp_path / "plain.dcm"), *option)
    assert np.abs(ours - theirs).max() <= ONE_LEVEL


def uncompressed(source: Path, path: Path) -> Path:
    """The film itself, or for JPEG 2000, which DCMTK does not know, a copy decoded by Pillow's OpenJPEG."""
    dataset = dcmread(source)
    if dataset.file_meta.TransferSyntaxUID not in (uid.JPEG2000, uid.JPEG2000Lossless):
        return source
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    shifted = np.asarray(Image.open(io.BytesIO(frame), formats=["JPEG2000"]))
    precision = (
        frame[frame.index(b"\xff\x51") + 40] + 1
    )  # SIZ: Ssiz of the one component (ITU-T T.800, A.5.1)
    values = shifted >> (8 * shifted.itemsize - precision)  # Pillow shifts values up until they fill the type
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.PixelData = values.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = False
    dataset.save_as(path, enforce_file_format=True)
    return path
