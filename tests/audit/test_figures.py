import io

import numpy as np
import pytest
from PIL import Image

from xraygen.audit.figures import contact_sheet, film_png


@pytest.mark.parametrize(("shape", "size"), [((24, 24), (256, 256)), ((600, 300), (128, 256))])
def test_a_film_is_shown_whole_in_8_bits(shape: tuple[int, ...], size: tuple[int, int]) -> None:
    image = np.full(shape, 0x8080, np.uint16)
    picture = Image.open(io.BytesIO(film_png(image, 16)))
    assert (picture.mode, picture.size) == ("L", size)
    assert np.asarray(picture).min() == np.asarray(picture).max() == 128


def test_a_contact_sheet_has_six_films_in_a_row() -> None:
    one, many = (
        Image.open(io.BytesIO(contact_sheet(np.zeros((count, 24, 24), np.uint16), 16))) for count in (1, 24)
    )
    assert one.size[1] == 112
    assert many.size == (6 * 114 - 2, 4 * 114 - 2)
