"""Only coded values and plausible numbers pass."""

import pytest

from xraygen.dataset.allowed import coded_photometric, coded_sex, coded_view, plausible_spacing, pooled_age


@pytest.mark.parametrize(
    ("text", "view"),
    [("pa", "PA"), ("AP_horizontal", "AP HORIZONTAL"), (" ll ", "LL"), ("PA MUELLER", ""), ("", "")],
)
def test_views_pass_from_a_closed_list(text: str, view: str) -> None:
    assert coded_view(text) == view


@pytest.mark.parametrize(("text", "sex"), [("M", "M"), ("F", "F"), ("O", "O"), ("MUELLER", ""), ("", "")])
def test_sex_is_coded(text: str, sex: str) -> None:
    assert coded_sex(text) == sex


@pytest.mark.parametrize(
    ("years", "passes"),
    [(0.5, 0.5), (89.9, 89.9), (90.0, 90.0), (101.0, 90.0), (-1.0, None), (float("nan"), None), (None, None)],
)
def test_ages_of_90_and_over_are_one_value(years: float | None, passes: float | None) -> None:
    assert pooled_age(years) == passes


@pytest.mark.parametrize(
    ("mm", "passes"), [(0.14345678, 0.143457), (19470811.0, None), (0.0, None), (None, None)]
)
def test_spacing_is_a_distance(mm: float | None, passes: float | None) -> None:
    assert plausible_spacing(mm) == passes


def test_photometric_interpretations_are_the_standards() -> None:
    assert (coded_photometric("MONOCHROME1"), coded_photometric("MUELLER")) == ("MONOCHROME1", "")
