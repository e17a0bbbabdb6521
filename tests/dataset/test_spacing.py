import pandas as pd
import pytest

from xraygen.dataset.spacing import nominal_spacing
from xraygen.films.transforms import Fit, PrepareSettings


def films(*rows: tuple[float | None, int, int], split: str = "train") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["pixel_spacing_mm", "rows", "columns"]).assign(split=split)


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        ("pad", (1.6, 1.6)),  # becomes 250 x 125 between borders
        ("crop", (0.8, 0.8)),  # the middle 2000 x 500 becomes 500 x 125
        ("stretch", (0.8, 1.6)),
    ],
)
def test_spacing_follows_the_resizing(fit: Fit, expected: tuple[float, float]) -> None:
    settings = PrepareSettings((500, 125), fit=fit)
    assert nominal_spacing(films((0.2, 2000, 1000)), settings) == pytest.approx(expected)


def test_it_is_the_median_over_training_films_that_tell_theirs() -> None:
    rows = films((0.1, 100, 100), (0.2, 100, 100), (0.9, 100, 100), (None, 100, 100))
    others = films((5.0, 100, 100), split="test")
    assert nominal_spacing(pd.concat([rows, others]), PrepareSettings((50, 50))) == (0.4, 0.4)


def test_where_most_films_tell_none_there_is_none() -> None:
    rows = films((0.1, 100, 100), (None, 100, 100), (None, 100, 100))
    assert nominal_spacing(rows, PrepareSettings((50, 50))) is None
    assert nominal_spacing(rows.iloc[1:], PrepareSettings((50, 50))) is None


def test_cut_borders_leave_it_unknown() -> None:
    settings = PrepareSettings((50, 50), crop_collimation=True)
    assert nominal_spacing(films((0.1, 100, 100)), settings) is None
