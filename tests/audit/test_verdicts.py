import pytest

from xraygen.audit.verdicts import judge, known_quantities, measure, parse_check
from xraygen.errors import FolderError, UsageError

DISTANCES = {"real": 20.0, "blurred": 80.0, "gaussian": 120.0, "noise": 400.0}
REPORT = {
    "features": {
        "first": {
            "fd": {
                "value": 60.0,
                "low": 50.0,
                "high": 70.0,
                "sets": {name: {"value": value} for name, value in DISTANCES.items()},
            }
        },
        "second": {"fd": {"value": 1.0}},
    },
    "ssim": {"value": 0.5, "real": 0.4},
    "ms_ssim": {"value": 0.6, "real": 0.3},
    "privacy": {"suspects": [{}, {}, {}], "expected_by_chance": 1.5},
    "synthetic": {"duplicates": 2},
}


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("fd", 60),
        ("fd/floor", 3),
        ("fd_low/floor", 2.5),
        ("fd_high/gaussian", 70 / 120),
        ("fd/noise", 0.15),
        ("ssim", 0.5),
        ("ssim/real", 1.25),
        ("ms_ssim/real", 2),
        ("suspects", 3),
        ("suspects/expected", 2),
        ("duplicates", 2),
    ],
)
def test_a_quantity_is_read_from_the_report(quantity: str, value: float) -> None:
    assert quantity in known_quantities()
    assert measure(quantity, REPORT) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("fd>80", True),
        ("fd>60", True),
        ("fd>=60", False),
        ("fd/floor > 2.9", False),
        ("ssim<0.5", True),
        ("ssim <= .5", False),
        ("suspects>0", False),
        ("suspects>3e0", True),
        (" fd / floor >= +3. ", False),
    ],
)
def test_a_check_fails_where_it_holds(text: str, passed: bool) -> None:
    (verdict,) = judge([parse_check(text)], REPORT)
    assert verdict["passed"] is passed
    assert set(verdict) == {"check", "passed", "value", "threshold", "sentence"}


def test_a_verdict_is_a_sentence() -> None:
    (verdict,) = judge([parse_check("fd/floor>2.5")], REPORT)
    assert verdict["sentence"] == "fd/floor is 3, and the audit fails where it is >2.5."


@pytest.mark.parametrize(
    "text",
    ["", "fd", "fd>", ">3", "fd=3", "fd==3", "fd>three", "fd>3;", "fd>3>2", "3<fd", "fd>nan", "fd>inf"],
)
def test_what_is_no_check_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(UsageError, match=r"such as 'fd/floor>3'.*ms_ssim"):
        parse_check(text)


@pytest.mark.parametrize("text", ["fid>3", "fd/ceiling>1", "suspects/floor>1", "real>2"])
def test_an_unknown_quantity_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match="is not measured; known: fd, fd/floor"):
        parse_check(text)


def test_a_ratio_to_0_is_refused() -> None:
    report = {**REPORT, "ssim": {"value": 0.5, "real": 0.0}}
    with pytest.raises(FolderError, match="ratio to 0"):
        measure("ssim/real", report)
