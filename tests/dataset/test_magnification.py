"""How many times a film is enlarged, which is no question of its longer side alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraygen.dataset.curation import CurationSettings, broken_rule, magnification
from xraygen.films.phantom import phantom_film
from xraygen.films.transforms import Fit, PrepareSettings, prepare_film


@pytest.mark.parametrize(
    ("shape", "fit", "times"),
    [
        ((20, 128), "pad", 1),
        ((20, 128), "crop", 6.4),  # before, 1: the film came in, and a square of 20 pixels was enlarged
        ((20, 128), "stretch", 6.4),
        ((128, 20), "crop", 6.4),
        ((20, 20), "pad", 6.4),
        ((256, 512), "crop", 0.5),
        ((64, 256), "stretch", 2),
    ],
)
def test_the_enlargement_that_counts_is_that_of_the_fit(
    shape: tuple[int, int], fit: Fit, times: float, tmp_path: Path
) -> None:
    prepare = PrepareSettings((128, 128), fit)
    assert magnification(shape, prepare) == times
    levels = phantom_film(0, 0, 0, shape).pixels.astype(np.uint16) * 16
    Image.fromarray(levels).save(tmp_path / "film.png")
    broken = broken_rule(prepare_film(tmp_path / "film.png", prepare), CurationSettings(), prepare)
    assert (broken is not None and broken[0] == "too_small") == (times > 4)
