import io

import numpy as np
import pytest
from PIL import Image

from xraygen.audit.figures import contact_sheet, film_png, radial_power


def test_power_of_a_wave_lies_at_its_frequency() -> None:
    x = np.arange(64) / 64
    wave = np.rint(32768 + 16000 * np.sin(2 * np.pi * 8 * x)[None].repeat(64, 0)).astype(np.uint16)
    frequency, power = radial_power(wave[None], 16)
    assert frequency[power.argmax()] == pytest.approx(8 / 64, abs=1 / 64)


def test_white_noise_has_a_flat_spectrum() -> None:
    noise = np.random.default_rng(0).integers(0, 65536, (40, 32, 48), dtype=np.uint16)
    _, power = radial_power(noise, 16)
    assert power[2:].max() / power[2:].min() < 1.5


@pytest.mark.parametrize(("shape", "size"), [((24, 24), (256, 256)), ((600, 300), (128, 256))])
def test_a_film_is_shown_whole_in_8_bits(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    image = np.full(shape, 0x8080, np.uint16)
    picture = Image.open(io.BytesIO(film_png(image, 16)))
    assert (picture.mode, picture.size) == ("L", size)
    assert np.asarray(picture).min() == np.asarray(picture).max() == 128


def test_a_contact_sheet_has_at_most_40_films() -> None:
    one, many = (
        Image.open(io.BytesIO(contact_sheet(np.zeros((count, 24, 24), np.uint16), 16))) for count in (1, 500)
    )
    assert one.size[1] == 112
    assert many.size == (8 * 114 - 2, 5 * 114 - 2)
