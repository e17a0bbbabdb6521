import gzip
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.orientations import aff2axcodes
from PIL import Image

from xraygen.errors import ShapeError
from xraygen.films.reader import read_film
from xraygen.films.writers import hashed_uid, write_nifti, write_png
from xraygen.ranges import Stored
from xraygen.seeds import numpy_generator


def noise(shape: tuple[int, ...] = (33, 21), levels: int = 65536) -> Stored:
    values = numpy_generator(0, "writers").integers(0, levels, shape)
    return values.astype(np.uint8) if levels <= 256 else values.astype(np.uint16)


@pytest.mark.parametrize(("shape", "levels"), [((33, 21), 65536), ((33, 21), 256), ((9, 8, 3), 256)])
def test_a_png_comes_back_exactly(tmp_path: Path, shape: tuple[int, ...], levels: int) -> None:
    stored = noise(shape, levels)
    write_png(tmp_path / "a" / "film.png", stored)
    back = np.asarray(Image.open(tmp_path / "a" / "film.png"))
    assert back.dtype == stored.dtype
    np.testing.assert_array_equal(back, stored)


def test_a_16_bit_png_has_16_bits_in_its_header(tmp_path: Path) -> None:
    write_png(tmp_path / "film.png", noise())
    header = (tmp_path / "film.png").read_bytes()[:26]
    assert header[24:26] == bytes([16, 0])  # bit depth, grey (PNG specification, 11.2.1)


def test_a_view_of_an_array_is_written_as_it_looks(tmp_path: Path) -> None:
    stored = noise()[::2, ::-1]
    write_png(tmp_path / "film.png", stored)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "film.png")), stored)


def test_a_pngs_text_can_be_read_back(tmp_path: Path) -> None:
    write_png(tmp_path / "film.png", noise(), {"Software": "xraygen", "Remark": "naïve µ"})
    with Image.open(tmp_path / "film.png") as picture:
        assert picture.info["Software"] == "xraygen"
        assert picture.info["Remark"] == "naïve µ"


@pytest.mark.parametrize("shape", [(4,), (4, 4, 4), (0, 4)])
def test_an_array_that_is_no_picture_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="PNG needs"):
        write_png(tmp_path / "film.png", np.zeros(shape, np.uint8))
    assert not list(tmp_path.iterdir())


def test_hashed_uids_are_valid_and_tell_their_parts_apart() -> None:
    uids = [hashed_uid("a", "b"), hashed_uid("ab"), hashed_uid("a", "c")]
    assert len(set(uids)) == 3
    assert all(pydicom.uid.UID(uid).is_valid and len(uid) <= 64 for uid in uids)
    number = int(uids[0].removeprefix("2.25."))
    assert (number >> 76 & 0xF, number >> 62 & 0x3) == (8, 2)  # RFC 9562, version 8


def test_a_nifti_film_lies_as_its_affine_says_and_comes_back(tmp_path: Path) -> None:
    stored = noise()
    write_nifti(tmp_path / "film.nii.gz", stored, (0.5, 0.25))
    image = nibabel.load(tmp_path / "film.nii.gz")
    assert isinstance(image, nibabel.Nifti1Image)
    assert aff2axcodes(image.affine) == ("L", "I", "P")
    np.testing.assert_array_equal(np.asarray(image.dataobj)[:, :, 0].T, stored)
    # the last column of the first row lies 20 x 0.25 mm further left, the last row 32 x 0.5 mm further down
    np.testing.assert_allclose(image.affine @ [20, 32, 0, 1], [-5, 0, -16, 1])
    assert image.header.get_xyzt_units()[0] == "mm"
    film = read_film(tmp_path / "film.nii.gz")
    np.testing.assert_array_equal(film.values, stored)
    assert film.values.dtype == stored.dtype
    assert film.attributes.pixel_spacing_mm == 0.5
    np.testing.assert_array_equal(np.rint(film.display.apply(film.values) * 65535), stored)


def test_a_nifti_film_without_a_spacing_has_no_unit(tmp_path: Path) -> None:
    write_nifti(tmp_path / "film.nii.gz", noise())
    image = nibabel.load(tmp_path / "film.nii.gz")
    assert isinstance(image, nibabel.Nifti1Image)
    assert image.header.get_xyzt_units()[0] == "unknown"


def test_a_nifti_film_repeats_to_the_byte_and_holds_no_time(tmp_path: Path) -> None:
    for name in ("1.nii.gz", "other.nii.gz"):
        write_nifti(tmp_path / name, noise())
    content = (tmp_path / "1.nii.gz").read_bytes()
    assert content == (tmp_path / "other.nii.gz").read_bytes()
    assert content[4:8] == bytes(4)  # RFC 1952: the time of writing
    assert b"film" not in gzip.decompress(content)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 3), (0, 4)])
def test_an_array_that_is_no_film_makes_no_nifti(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="NIfTI film needs"):
        write_nifti(tmp_path / "film.nii.gz", np.zeros(shape, np.uint16))
    assert not list(tmp_path.iterdir())
