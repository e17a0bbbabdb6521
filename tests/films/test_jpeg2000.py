"""JPEG 2000 at a fraction of its size: the right values where it is taken, and all pixels wherever it may not be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid

from xraygen.films.dicom import read_stored
from xraygen.films.jpeg2000 import Coarse
from xraygen.films.transforms import PrepareSettings, prepare_film
from xraygen.seeds import numpy_generator

WriteDicom = Callable[..., Path]
Values = NDArray[Any]
HALF = Coarse(1, (16, 16))
WINDOW: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}


def encode(values: Values, bits: int, **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(values, level=0, codecformat="J2K", bitspersample=bits, **options))


def smooth(height: int, width: int, bits: int) -> Values:
    """Two waves over the whole range of `bits`."""
    waves = np.sin(np.arange(height) / height * 5)[:, None] + np.cos(np.arange(width) / width * 4)[None]
    unit = (waves - waves.min()) / np.ptp(waves)
    levels: Values = np.rint(unit * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
    return levels


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("levels", [1, 2])
def test_a_smooth_film_keeps_its_values_and_forgets_only_pixels(
    write_dicom: WriteDicom, bits: int, levels: int
) -> None:
    values = smooth(96, 64, bits)
    window = {"WindowCenter": 2 ** (bits - 1), "WindowWidth": 2**bits}
    path = write_dicom(values, bits, data=encode(values, bits), syntax=uid.JPEG2000Lossless, **window)
    film = read_stored(path, coarse=Coarse(levels, (16, 16)))
    assert film.values.shape == (96 >> levels, 64 >> levels)
    assert film.values.dtype == values.dtype
    # The low-pass band lies on every second or fourth pixel, rounds to whole values, and mirrors the film at its edges.
    expected = values[:: 2**levels, :: 2**levels].astype(int)
    assert np.abs(film.values - expected).max() <= 0.007 * 2**bits + 2
    assert (film.attributes.rows, film.attributes.columns) == (96, 64)
    assert film.attributes.bits_stored == bits


def test_white_stays_white(write_dicom: WriteDicom) -> None:
    # Pillow returns 12 bits shifted up to 16: 65520 for 4095.
    values = np.full((64, 64), 4095, dtype=np.uint16)
    path = write_dicom(values, data=encode(values, 12), syntax=uid.JPEG2000Lossless, **WINDOW)
    np.testing.assert_array_equal(read_stored(path, coarse=HALF).values, np.full((32, 32), 4095))


def test_a_film_on_its_side_is_turned_and_counted_upright(write_dicom: WriteDicom) -> None:
    values = smooth(96, 64, 12)
    path = write_dicom(
        values, data=encode(values, 12), syntax=uid.JPEG2000, PatientOrientation=["F", "L"], **WINDOW
    )
    film = read_stored(path, coarse=HALF)
    assert film.values.shape == (32, 48)
    assert (film.attributes.rows, film.attributes.columns) == (64, 96)


def test_no_more_is_left_out_than_the_target_allows(write_dicom: WriteDicom) -> None:
    values = smooth(96, 64, 12)
    path = write_dicom(values, data=encode(values, 12), syntax=uid.JPEG2000Lossless, **WINDOW)
    for least, shape in ((16, (24, 16)), (17, (48, 32)), (33, (96, 64))):
        assert read_stored(path, coarse=Coarse(2, (least, least))).values.shape == shape


@pytest.mark.parametrize("side", [65, 66, 67, 69])
@pytest.mark.parametrize("levels", [1, 2])
def test_odd_sides_lose_no_line(write_dicom: WriteDicom, side: int, levels: int) -> None:
    values = smooth(side, 64, 12)
    path = write_dicom(values, data=encode(values, 12), syntax=uid.JPEG2000Lossless, **WINDOW)
    rows = read_stored(path, coarse=Coarse(levels, (16, 16))).values.shape[0]
    assert rows in (-(-side // 2**levels), -(-side // 2))  # at a quarter Pillow would cut the 17th line of 65


IN_FULL: dict[str, dict[str, Any]] = {
    "padded": {**WINDOW, "PixelPaddingValue": 0},
    "sigmoid": {**WINDOW, "VOILUTFunction": "SIGMOID"},
    "no window": {},
    "narrow": {"WindowCenter": 2048, "WindowWidth": 100},
}


@pytest.mark.parametrize("name", list(IN_FULL))
def test_films_whose_display_needs_every_pixel_are_decoded_in_full(
    write_dicom: WriteDicom, name: str
) -> None:
    values = smooth(96, 64, 12)
    path = write_dicom(values, data=encode(values, 12), syntax=uid.JPEG2000Lossless, **IN_FULL[name])
    np.testing.assert_array_equal(read_stored(path, coarse=HALF).values, values)


def test_other_syntaxes_signs_depths_and_few_levels_are_decoded_in_full(write_dicom: WriteDicom) -> None:
    values = smooth(96, 64, 12)
    signed = values.astype(np.int16) - 2048
    for data, syntax, stored, bits in (
        (bytes(imagecodecs.jpegls_encode(values)), uid.JPEGLSLossless, values, 12),
        (encode(values, 16), uid.JPEG2000Lossless, values, 12),
        (encode(signed, 12), uid.JPEG2000Lossless, signed, 12),
        (encode(values, 12, resolutions=1), uid.JPEG2000Lossless, values, 12),
    ):
        path = write_dicom(stored, bits, data=data, syntax=syntax, **WINDOW)
        np.testing.assert_array_equal(read_stored(path, coarse=Coarse(2, (16, 16))).values, stored)


def test_a_quicker_film_is_nearly_the_same_film(write_dicom: WriteDicom) -> None:
    noise = numpy_generator(0, "jpeg 2000").normal(0, 20, (256, 256))
    values = np.clip(smooth(256, 256, 12) + noise, 0, 4095).astype(np.uint16)
    path = write_dicom(values, data=encode(values, 12), syntax=uid.JPEG2000Lossless, **WINDOW)
    full, half, quarter = (
        prepare_film(path, PrepareSettings((32, 32), jpeg_2000=detail)).image / 65535
        for detail in ("full", "half", "quarter")
    )
    # Means of 8 x 8 pixels against means of 4 x 4 or 2 x 2 samples that lie half a pixel, or 1.5, further left.
    assert 0 < np.sqrt(np.mean((half - full) ** 2)) < 0.005
    assert 0 < np.sqrt(np.mean((quarter - full) ** 2)) < 0.015


def test_text_is_looked_for_in_all_pixels(write_dicom: WriteDicom) -> None:
    values = smooth(256, 256, 12)
    path = write_dicom(values, data=encode(values, 12), syntax=uid.JPEG2000Lossless, **WINDOW)
    settings = PrepareSettings((32, 32), refuse_text=True)
    asked = PrepareSettings((32, 32), refuse_text=True, jpeg_2000="quarter")
    np.testing.assert_array_equal(prepare_film(path, settings).image, prepare_film(path, asked).image)


def test_damage_is_refused_as_ever(write_dicom: WriteDicom) -> None:
    values = smooth(96, 64, 12)
    data = encode(values, 12)
    path = write_dicom(values, data=data[:60] + data[-2:], syntax=uid.JPEG2000Lossless, **WINDOW)
    with pytest.raises(Exception, match="damaged"):
        read_stored(path, coarse=HALF)
