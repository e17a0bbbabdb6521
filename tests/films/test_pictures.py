"""Picture files show their full range, stand upright, and are refused where they are no single grey film."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xraygen.errors import FilmError
from xraygen.films.dicom import StoredFilm
from xraygen.films.pictures import read_picture

Values = NDArray[Any]
FLOAT32_STEP = 6e-8


@pytest.fixture
def bytes_8(levels: Values) -> Values:
    return (levels >> 4).astype(np.uint8)


@pytest.fixture
def words_16(levels: Values) -> Values:
    return (levels * 16).astype(np.uint16)


def shown(film: StoredFilm) -> Values:
    return film.display.apply(film.values)


def reason_of(path: Path) -> str:
    with pytest.raises(FilmError) as caught:
        read_picture(path)
    assert str(caught.value).endswith(".")
    return caught.value.reason


@pytest.mark.parametrize("suffix", ["png", "tiff"])
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_integers_show_their_types_full_range(
    bits: int, suffix: str, bytes_8: Values, words_16: Values, tmp_path: Path
) -> None:
    values = bytes_8 if bits == 8 else words_16
    encode = imagecodecs.png_encode if suffix == "png" else imagecodecs.tiff_encode
    (tmp_path / "film").write_bytes(encode(values))
    film = read_picture(tmp_path / "film")
    np.testing.assert_array_equal(film.values, values)
    np.testing.assert_allclose(shown(film), values / (2**bits - 1), rtol=0, atol=FLOAT32_STEP)
    assert (film.attributes.format, film.attributes.bits_stored) == (suffix, bits)
    assert film.display.commutes


def packed_tiff(values: Values, bits: int) -> bytes:
    """A TIFF of one strip whose samples are packed, the highest bit first (TIFF 6.0, pp. 22, 32), after its tags."""
    height, width = values.shape
    digits = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1  # [H, W, bits]
    strip = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(strip)}
    strip += b"\0" * (len(strip) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(strip))
        + strip
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


@pytest.mark.parametrize("bits", [4, 12])
def test_packed_tiffs_show_their_bits_full_range(bits: int, words_16: Values, tmp_path: Path) -> None:
    values = words_16 >> (16 - bits)
    (tmp_path / "film").write_bytes(packed_tiff(values, bits))
    film = read_picture(tmp_path / "film")
    np.testing.assert_array_equal(film.values, values)
    np.testing.assert_allclose(shown(film), values / (2**bits - 1), rtol=0, atol=FLOAT32_STEP)
    assert film.attributes.bits_stored == bits


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_png_modes_that_are_grey_in_fact_are_read(mode: str, bytes_8: Values, tmp_path: Path) -> None:
    grey = bytes_8 if mode != "1" else (bytes_8 > 100).astype(np.uint8) * 255
    picture = Image.fromarray(grey)
    if mode == "RGBA":
        picture = Image.merge("RGBA", [picture, picture, picture, Image.fromarray(255 - grey)])
    elif mode == "P":  # a grey palette in which index and grey differ
        picture = Image.fromarray(255 - grey).convert("P")
        picture.putpalette([255 - level for level in range(256) for _ in range(3)])
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "film.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "film.png").values, grey)


def test_16_bit_colour_png_keeps_its_bits(words_16: Values, tmp_path: Path) -> None:
    (tmp_path / "film.png").write_bytes(imagecodecs.png_encode(np.stack([words_16] * 3, axis=-1)))
    np.testing.assert_array_equal(read_picture(tmp_path / "film.png").values, words_16)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_read_to_its_grey(mode: str, tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    Image.fromarray(smooth).convert(mode).save(tmp_path / "film.jpg", quality=95)
    film = read_picture(tmp_path / "film.jpg")
    assert np.abs(film.values.astype(int) - smooth).max() <= 2  # quality 95 on a ramp
    assert film.attributes.format == "jpeg"


def test_jpeg_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.zeros(32)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(smooth[::-1]).save(tmp_path / "film.jpg", quality=95, exif=exif)
    assert read_picture(tmp_path / "film.jpg").values[0].mean() < 5


SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}
"""On which side of the picture row 0 and column 0 of the file lie (TIFF 6.0, p. 36)."""


def seen(stored: Values, orientation: int) -> Values:
    """Pixel by pixel: how far from row 0's side and from column 0's side each one lies."""
    rows, columns = SIDES[orientation]
    height, width = stored.shape if rows in ("top", "bottom") else stored.shape[::-1]
    picture = np.zeros((height, width), stored.dtype)
    for y in range(height):
        for x in range(width):
            far = {"top": y, "bottom": height - 1 - y, "left": x, "right": width - 1 - x}
            picture[y, x] = stored[far[rows], far[columns]]
    return picture


@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("kind", ["L.tif", "16.tif", "RGB.tif", "L.png", "16.png", "16-late.png"])
def test_pictures_are_turned_as_they_say_whoever_decodes_them(
    kind: str, orientation: int, tmp_path: Path
) -> None:
    stored = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8
    values: Values = stored if "16" not in kind else stored.astype(np.uint16) * 257
    picture = Image.fromarray(np.stack([values] * 3, axis=-1) if "RGB" in kind else values)
    if kind.endswith("tif"):
        picture.save(tmp_path / "film", "TIFF", tiffinfo={274: orientation})
    else:
        exif = Image.Exif()
        exif[274] = orientation
        picture.save(tmp_path / "film", "PNG", exif=exif)
    if "late" in kind:  # the standard lets the note stand behind the pixels
        content = (tmp_path / "film").read_bytes()
        start = content.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4])
        note, tail = content[start:end], content.index(b"IEND") - 4
        (tmp_path / "film").write_bytes(content[:start] + content[end:tail] + note + content[tail:])
    film = read_picture(tmp_path / "film")
    np.testing.assert_array_equal(film.values, seen(values, orientation))
    assert (film.attributes.rows, film.attributes.columns) == film.values.shape


@pytest.mark.parametrize(("difference", "refused"), [(8, False), (9, True)])
def test_channels_may_differ_by_what_jpeg_leaves(difference: int, refused: bool, tmp_path: Path) -> None:
    values = np.full((6, 5, 3), 100, np.uint8)
    values[2, 2, 1] += difference
    Image.fromarray(values).save(tmp_path / "film.png")
    if refused:
        assert reason_of(tmp_path / "film.png") == "colour"
    else:
        assert read_picture(tmp_path / "film.png").values.shape == (6, 5)


def test_tiff_with_white_as_zero_is_inverted_once(bytes_8: Values, tmp_path: Path) -> None:
    Image.fromarray(bytes_8).save(tmp_path / "film.tif", tiffinfo={262: 0})
    film = read_picture(tmp_path / "film.tif")
    with Image.open(tmp_path / "film.tif") as picture:
        assert picture.tag_v2[262] == 0  # type: ignore[attr-defined]  # TIFF only
    np.testing.assert_allclose(shown(film), 1 - film.values / 255, rtol=0, atol=FLOAT32_STEP)


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_colour_tiff_that_is_grey_in_fact_is_read(mode: str, bytes_8: Values, tmp_path: Path) -> None:
    picture = Image.fromarray(255 - bytes_8 if mode == "P" else bytes_8).convert(mode)
    if mode == "P":
        picture.putpalette([255 - level for level in range(256) for _ in range(3)])
    picture.save(tmp_path / "film.tif")
    np.testing.assert_array_equal(read_picture(tmp_path / "film.tif").values, bytes_8)


def test_pictures_of_several_pages_are_refused(bytes_8: Values, tmp_path: Path) -> None:
    page = Image.fromarray(bytes_8)
    page.save(tmp_path / "film.tif", save_all=True, append_images=[page])
    assert reason_of(tmp_path / "film.tif") == "multi_frame"


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "nii", "nii.gz"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_cut_off_picture_is_refused(share: float, suffix: str, bytes_8: Values, tmp_path: Path) -> None:
    path = tmp_path / f"film.{suffix}"
    if "nii" in suffix:
        nibabel.Nifti1Image(bytes_8, np.eye(4)).to_filename(path)
    else:
        Image.fromarray(bytes_8).save(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert reason_of(path) in ("truncated", "decode_failed")


def test_another_file_is_of_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "film.png").write_text("Dear colleague")
    assert reason_of(tmp_path / "film.png") == "unknown_format"


def test_a_missing_picture_is_unreadable(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "nowhere.png") == "unreadable"


def save_nifti(path: Path, array: Values, affine: Values | None, **header: float) -> Path:
    image: Any = nibabel.Nifti1Image(array, affine)
    for key, value in header.items():
        image.header[key] = value
    image.to_filename(path)
    return path


def axes(*codes: str) -> Values:
    """An affine whose axes go where the codes say, 0.5 mm a step."""
    return nibabel.orientations.inv_ornt_aff(  # type: ignore[no-any-return]  # nibabel is not typed here
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
        ),
        (4, 4, 4),
    ) * np.array([0.5, 0.5, 0.5, 1])


@pytest.mark.parametrize(
    ("codes", "as_stored"),
    [
        (("L", "I", "P"), lambda film: film.T[:, :, None]),
        (("R", "I", "P"), lambda film: film.T[::-1, :, None]),
        (("L", "S", "P"), lambda film: film.T[:, ::-1, None]),
        (("I", "L", "P"), lambda film: film[:, :, None]),
        (("S", "R", "P"), lambda film: film[::-1, ::-1, None]),
        (("L", "P", "S"), lambda film: film.T[:, :, None]),  # a plane without head and feet
        (("R", "A", "S"), lambda film: film.T[::-1, ::-1, None]),
        (("L", "P", "I"), lambda film: film.T[:, None, :]),  # the middle axis is singleton
        (("R", "P", "I"), lambda film: film.T[None]),  # a lateral film: back to the right
        (("R", "A", "S"), lambda film: film.T[None, ::-1, ::-1]),
    ],
)
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_nifti_stands_upright(
    codes: tuple[str, str, str],
    as_stored: Callable[[Values], Values],
    suffix: str,
    bytes_8: Values,
    tmp_path: Path,
) -> None:
    path = save_nifti(tmp_path / f"film.{suffix}", as_stored(bytes_8), axes(*codes))
    film = read_picture(path)
    np.testing.assert_array_equal(film.values, bytes_8)
    assert film.attributes.pixel_spacing_mm == 0.5
    assert film.attributes.format == "nifti"


def test_nifti_without_orientation_goes_right_and_down(bytes_8: Values, tmp_path: Path) -> None:
    np.testing.assert_array_equal(
        read_picture(save_nifti(tmp_path / "f.nii", bytes_8.T, None)).values, bytes_8
    )


def test_nifti_integers_show_their_full_range(words_16: Values, tmp_path: Path) -> None:
    film = read_picture(save_nifti(tmp_path / "f.nii", words_16.T, None))
    np.testing.assert_allclose(shown(film), words_16 / 65535, rtol=0, atol=FLOAT32_STEP)
    assert film.attributes.voi == "full_range"


def test_big_endian_nifti_is_read(words_16: Values, tmp_path: Path) -> None:
    header: Any = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.uint16)
    image: Any = nibabel.Nifti1Image(words_16.T.astype(">u2"), None, header)
    image.to_filename(tmp_path / "f.nii")
    film = read_picture(tmp_path / "f.nii")
    np.testing.assert_array_equal(film.values, words_16)
    assert film.attributes.voi == "full_range"


def test_nifti_shows_its_calibrated_range(levels: Values, tmp_path: Path) -> None:
    film = read_picture(
        save_nifti(tmp_path / "f.nii", levels.T.astype(np.int16), None, cal_min=500, cal_max=3000)
    )
    expected = np.clip((levels.astype(float) - 500) / 2500, 0, 1)
    np.testing.assert_allclose(shown(film), expected, rtol=0, atol=FLOAT32_STEP)


def test_nifti_slope_is_applied_before_the_calibrated_range(levels: Values, tmp_path: Path) -> None:
    image: Any = nibabel.Nifti1Image(levels.T.astype(np.int16), None)
    image.header.set_slope_inter(2, -100)
    image.header["cal_max"] = 4000
    image.to_filename(tmp_path / "f.nii")
    film = read_picture(tmp_path / "f.nii")
    np.testing.assert_array_equal(film.values, levels)
    expected = np.clip((levels * 2.0 - 100) / 4000, 0, 1)
    np.testing.assert_allclose(shown(film), expected, rtol=0, atol=FLOAT32_STEP)


def test_nifti_floats_are_shown_between_robust_percentiles(levels: Values, tmp_path: Path) -> None:
    values = levels.astype(np.float32) / 1000 - 2
    film = read_picture(save_nifti(tmp_path / "f.nii", values.T, None))
    low, high = np.quantile(values, [0.005, 0.995], method="inverted_cdf")
    np.testing.assert_allclose(shown(film), np.clip((values - low) / (high - low), 0, 1), rtol=0, atol=1e-6)
    assert film.attributes.voi == "percentiles"


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((5, 4, 3), np.uint8), "multi_frame"),
        (np.zeros((5, 4, 1, 2), np.uint8), "multi_frame"),
        (np.full((5, 4), np.nan, np.float32), "decode_failed"),
        (np.zeros((5, 4), np.complex64), "colour"),
    ],
)
def test_nifti_that_is_no_single_grey_plane_is_refused(array: Values, reason: str, tmp_path: Path) -> None:
    assert reason_of(save_nifti(tmp_path / "f.nii", array, np.eye(4))) == reason


def test_gzip_that_is_no_nifti_is_of_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "film.gz").write_bytes(gzip.compress(b"Dear colleague" * 50))
    assert reason_of(tmp_path / "film.gz") == "unknown_format"
