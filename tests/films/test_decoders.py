"""Every transfer syntax gives the stored integers, unscaled and with their sign, or a refusal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.pixels.encoders import RLELosslessEncoder

from xraygen.errors import FilmError
from xraygen.films.dicom import read_stored
from xraygen.films.objects import ReadOptions

WriteDicom = Callable[..., Path]
Values = NDArray[Any]


def encode_rle(values: Values) -> bytes:
    return RLELosslessEncoder.encode(  # type: ignore[no-any-return]  # pydicom is not typed here
        values,
        encoding_plugin="pydicom",
        rows=values.shape[0],
        columns=values.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=16,
        bits_stored=12,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
    )


def encode_jpeg_lossless(values: Values) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values, lossless=True, bitspersample=12, predictor=4))


def encode_jpeg_2000(values: Values) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="J2K", bitspersample=12))


ENCODERS: dict[str, tuple[str, Callable[[Values], bytes]]] = {
    "implicit": (uid.ImplicitVRLittleEndian, lambda values: values.tobytes()),
    "explicit": (uid.ExplicitVRLittleEndian, lambda values: values.tobytes()),
    "deflated": (uid.DeflatedExplicitVRLittleEndian, lambda values: values.tobytes()),
    "big-endian": (uid.ExplicitVRBigEndian, lambda values: values.byteswap().tobytes()),
    "rle": (uid.RLELossless, encode_rle),
    "jpeg-lossless": (uid.JPEGLossless, encode_jpeg_lossless),
    "jpeg-lossless-sv1": (
        uid.JPEGLosslessSV1,
        lambda values: bytes(imagecodecs.ljpeg_encode(values, bitspersample=12)),
    ),
    "jpeg-ls": (uid.JPEGLSLossless, lambda values: bytes(imagecodecs.jpegls_encode(values))),
    "jpeg-2000": (uid.JPEG2000Lossless, encode_jpeg_2000),
    "htj2k": (uid.HTJ2KLossless, lambda values: bytes(imagecodecs.htj2k_encode(values))),
}
WITH_AN_END = ["jpeg-lossless", "jpeg-ls", "jpeg-2000", "htj2k"]


def reason_of(path: Path) -> str:
    with pytest.raises(FilmError) as caught:
        read_stored(path)
    return caught.value.reason


@pytest.mark.parametrize("encoding", list(ENCODERS))
def test_every_lossless_encoding_gives_the_same_integers(
    encoding: str, levels: Values, write_dicom: WriteDicom
) -> None:
    syntax, encode = ENCODERS[encoding]
    film = read_stored(write_dicom(levels, data=encode(levels), syntax=syntax))
    np.testing.assert_array_equal(film.values, levels)
    assert film.values.dtype.kind == "u"


@pytest.mark.parametrize(
    ("syntax", "bits"), [(uid.JPEGBaseline8Bit, 8), (uid.JPEGExtended12Bit, 12)], ids=["baseline", "extended"]
)
def test_lossy_jpeg_stays_close_and_unscaled(syntax: str, bits: int, write_dicom: WriteDicom) -> None:
    ramp = np.add.outer(np.arange(48), np.arange(40)) * (2**bits - 1) // 86
    values = ramp.astype(np.uint8 if bits == 8 else np.uint16)
    data = bytes(imagecodecs.jpeg8_encode(values, level=98, bitspersample=bits))
    film = read_stored(write_dicom(values, bits, data=data, syntax=syntax))
    # Quality 98 rounds each coefficient to about a level of 8 bits.
    assert np.abs(film.values.astype(int) - ramp).max() <= 3 * 2 ** (bits - 8)


@pytest.mark.parametrize("encoding", ["explicit", "big-endian", "jpeg-2000"])
def test_signed_pixels_keep_their_sign(encoding: str, levels: Values, write_dicom: WriteDicom) -> None:
    values = (levels.astype(np.int32) - 2048).astype(np.int16)
    syntax, encode = ENCODERS[encoding]
    film = read_stored(write_dicom(values, data=encode(values), syntax=syntax))
    np.testing.assert_array_equal(film.values, values)
    assert film.display.levels == (-2048, 2047)


def test_signed_pixels_in_an_unsigned_codestream_are_read_by_their_bits(
    levels: Values, write_dicom: WriteDicom
) -> None:
    values = (levels.astype(np.int32) - 2048).astype(np.int16)
    data = encode_jpeg_2000((values & 0xFFF).astype(np.uint16))
    film = read_stored(write_dicom(values, data=data, syntax=uid.JPEG2000Lossless))
    np.testing.assert_array_equal(film.values, values)


def test_sign_is_extended_from_bits_stored_and_overlay_bits_are_cut(
    levels: Values, write_dicom: WriteDicom
) -> None:
    values = (levels.astype(np.int32) - 2048).astype(np.int16)
    with_overlay = (values & 0x0FFF | 0x5000).astype(np.int16)
    np.testing.assert_array_equal(read_stored(write_dicom(with_overlay)).values, values)


def test_values_below_a_high_bit_are_shifted_down(levels: Values, write_dicom: WriteDicom) -> None:
    np.testing.assert_array_equal(read_stored(write_dicom(levels << 4, HighBit=15)).values, levels)


def test_signed_values_below_a_high_bit_are_shifted_down(levels: Values, write_dicom: WriteDicom) -> None:
    values = (levels.astype(np.int32) - 2048).astype(np.int16)
    np.testing.assert_array_equal(read_stored(write_dicom(values << 4, HighBit=15)).values, values)


@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_bytes_of_big_endian_films_lie_in_the_order_of_their_words(
    vr: str, levels: Values, write_dicom: WriteDicom
) -> None:
    values = (levels >> 4).astype(np.uint8)
    data = values.tobytes() if vr == "OB" else values.view(np.uint16).byteswap().tobytes()
    path = write_dicom(values, 8, data=data, syntax=uid.ExplicitVRBigEndian, pixel_vr=vr)
    np.testing.assert_array_equal(read_stored(path).values, values)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
@pytest.mark.parametrize("encoding", list(ENCODERS))
def test_a_file_cut_anywhere_is_truncated(
    encoding: str, share: float, levels: Values, write_dicom: WriteDicom
) -> None:
    syntax, encode = ENCODERS[encoding]
    path = write_dicom(levels, data=encode(levels), syntax=syntax)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert reason_of(path) == "truncated"


@pytest.mark.parametrize("encoding", WITH_AN_END)
def test_a_compressed_image_without_its_end_is_truncated(
    encoding: str, levels: Values, write_dicom: WriteDicom
) -> None:
    syntax, encode = ENCODERS[encoding]
    data = encode(levels)
    assert reason_of(write_dicom(levels, data=data[: len(data) // 2], syntax=syntax)) == "truncated"


@pytest.mark.parametrize("encoding", WITH_AN_END)
def test_padding_after_the_end_of_a_compressed_image_is_ignored(
    encoding: str, levels: Values, write_dicom: WriteDicom
) -> None:
    syntax, encode = ENCODERS[encoding]
    film = read_stored(write_dicom(levels, data=encode(levels) + b"\xff\0\0", syntax=syntax))
    np.testing.assert_array_equal(film.values, levels)


@pytest.mark.parametrize("encoding", WITH_AN_END)
def test_a_damaged_compressed_image_is_refused(
    encoding: str, levels: Values, write_dicom: WriteDicom
) -> None:
    syntax, encode = ENCODERS[encoding]
    data = encode(levels)
    broken = data[:2] + bytes(40) + data[42:]
    assert reason_of(write_dicom(levels, data=broken, syntax=syntax)) == "decode_failed"


def test_a_compressed_image_of_another_size_is_refused(levels: Values, write_dicom: WriteDicom) -> None:
    data = bytes(imagecodecs.jpegls_encode(levels[:-1]))
    with pytest.raises(FilmError, match="49 x 40"):
        read_stored(write_dicom(levels, data=data, syntax=uid.JPEGLSLossless))


def test_a_transfer_syntax_of_video_is_unsupported(levels: Values, write_dicom: WriteDicom) -> None:
    assert reason_of(write_dicom(levels, data=b"\0" * 100, syntax=uid.MPEG2MPML)) == "unsupported_syntax"


@pytest.mark.parametrize(
    "elements",
    [{"Rows": 500}, {"Columns": 41}, {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}],
)
def test_fewer_bytes_than_the_film_has_pixels_is_truncated(
    elements: dict[str, Any], levels: Values, write_dicom: WriteDicom
) -> None:
    assert reason_of(write_dicom(levels, **elements)) == "truncated"


def colour_film(photometric: str, planar: int, middle: Values, grey: Values, write_dicom: WriteDicom) -> Path:
    channels = [grey, grey if photometric == "RGB" else np.full_like(grey, 128), middle]
    return write_dicom(
        grey,
        8,
        data=np.stack(channels, axis=0 if planar else -1).tobytes(),
        SamplesPerPixel=3,
        PhotometricInterpretation=photometric,
        PlanarConfiguration=planar,
    )


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colour_that_is_grey_in_fact_is_read(
    photometric: str, planar: int, levels: Values, write_dicom: WriteDicom
) -> None:
    grey = (levels >> 4).astype(np.uint8)
    third = grey if photometric == "RGB" else np.full_like(grey, 128)
    path = colour_film(photometric, planar, third, grey, write_dicom)
    np.testing.assert_array_equal(read_stored(path).values, grey)


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colour_is_refused(photometric: str, planar: int, levels: Values, write_dicom: WriteDicom) -> None:
    grey = (levels >> 4).astype(np.uint8)
    assert reason_of(colour_film(photometric, planar, grey // 2 + 20, grey, write_dicom)) == "colour"


def subsampled_film(grey: Values, blue: int, red: int, write_dicom: WriteDicom, **elements: Any) -> Path:
    """Uncompressed YBR_FULL_422, written pair by pair as PS3.3 C.7.6.3.1.2 says: Y0 Y1 Cb Cr."""
    pairs = grey.reshape(-1, 2).tolist()
    data = bytes(sample for first, second in pairs for sample in (first, second, blue, red))
    layout = {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL_422", "PlanarConfiguration": 0}
    return write_dicom(grey, 8, data=data, **{**layout, **elements})


@pytest.mark.parametrize(("blue", "red"), [(128, 128), (120, 136)])
def test_subsampled_colour_that_is_grey_in_fact_is_read(
    blue: int, red: int, levels: Values, write_dicom: WriteDicom
) -> None:
    grey = (levels >> 4).astype(np.uint8)
    assert grey.shape[1] % 2 == 0
    np.testing.assert_array_equal(read_stored(subsampled_film(grey, blue, red, write_dicom)).values, grey)


@pytest.mark.parametrize(("blue", "red"), [(128, 160), (100, 128)])
def test_subsampled_colour_is_refused(blue: int, red: int, levels: Values, write_dicom: WriteDicom) -> None:
    assert reason_of(subsampled_film((levels >> 4).astype(np.uint8), blue, red, write_dicom)) == "colour"


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Columns": 39}, "decode_failed"),
        ({"SamplesPerPixel": 1}, "decode_failed"),
        ({"Rows": 500}, "truncated"),
    ],
)
def test_subsampled_colour_of_odd_width_or_too_few_bytes_is_refused(
    elements: dict[str, Any], reason: str, levels: Values, write_dicom: WriteDicom
) -> None:
    film = subsampled_film((levels >> 4).astype(np.uint8), 128, 128, write_dicom, **elements)
    assert reason_of(film) == reason


@pytest.mark.films
@pytest.mark.parametrize("name", ["RG3_JLSL.dcm", "RG3_JPLL.dcm", "RG3_RLE.dcm"])
def test_one_real_film_in_four_encodings_has_the_same_values(films: Path, name: str) -> None:
    of_hand = ReadOptions(any_body_part=True)
    expected = read_stored(films / "dicom-other" / "RG3_J2KR.dcm", of_hand)
    np.testing.assert_array_equal(read_stored(films / "dicom-other" / name, of_hand).values, expected.values)
