from typing import Any

import pytest

from xraygen.audit.verdicts import judge, known_quantities, measure, parse_check
from xraygen.errors import UsageError

DISTANCES = {"real": 20.0, "blurred": 80.0, "gaussian": 120.0, "phantoms": 240.0, "noise": 400.0}


def entry(value: float | None, half: float, **sets: float) -> dict[str, Any]:
    ends = (None, None) if value is None else (value - half, value + half)
    return {
        "value": value,
        "low": ends[0],
        "high": ends[1],
        "sets": {name: {"value": other} for name, other in sets.items()},
    }


REPORT: dict[str, Any] = {
    "features": {
        "first": {
            "fd": entry(60, 10, **DISTANCES),
            "fd_infinity": entry(None, 0, blurred=70, gaussian=110, phantoms=230, noise=390),
            "kid": entry(0.03, 0.01, real=0.0, blurred=0.06, gaussian=0.2, phantoms=0.3, noise=0.5),
            "cmmd": entry(0.4, 0.1, real=0.0, blurred=0.8, gaussian=2.0, phantoms=3.0, noise=9.0),
            "precision": entry(0.6, 0.1, real=0.8, blurred=0.1, gaussian=0.0, noise=0.0),
            "recall": entry(0.4, 0.1, real=0.8),
            "density": entry(0.5, 0.1, real=1.0),
            "coverage": entry(0.7, 0.1, real=0.95),
        },
        "second": {"fd": {"value": 1.0}},
    },
    "intensity": entry(0.03, 0.01, real=0.01, blurred=0.01, gaussian=0.1, phantoms=0.05, noise=0.2),
    "spectrum": entry(4, 1, real=0.5, blurred=20, gaussian=10, phantoms=15, noise=30),
    "ssim": {"value": 0.5, "low": 0.4, "high": 0.6, "real": 0.4},
    "ms_ssim": {"value": 0.6, "low": 0.5, "high": 0.7, "real": 0.3},
    "utility": {"value": 0.02, "low": -0.01, "high": 0.05},
    "membership": {"value": 0.6, "low": 0.55, "high": 0.65},
    "privacy": {"suspects": [{}, {}, {}], "gate": {"expected": 1.5, "bound": 4, "copies": 0}},
    "synthetic": {"duplicates": 2},
    "near_duplicates": {"surplus": 5},
}


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("fd", 60),
        ("fd/floor", 3),
        ("fd_low/floor", 2.5),
        ("fd_high/gaussian", 70 / 120),
        ("fd/noise", 0.15),
        ("fd/phantoms", 0.25),
        ("ssim", 0.5),
        ("ssim/real", 1.25),
        ("ms_ssim/real", 2),
        ("suspects", 3),
        ("suspects/expected", 2),
        ("duplicates", 2),
        ("near_duplicates", 5),
        ("suspects/bound", 0.75),
        ("copies", 0),
        ("kid", 0.03),
        ("kid_low", 0.02),
        ("kid_high/noise", 0.08),
        ("precision/floor", 0.75),
        ("recall", 0.4),
        ("density_low", 0.4),
        ("coverage_high", 0.8),
        ("intensity/floor", 3),
        ("spectrum/blurred", 0.2),
        ("kid_low/phantoms", 0.02 / 0.3),
        ("ms_ssim_high", 0.7),
        ("utility_low", -0.01),
        ("membership", 0.6),
    ],
)
def test_a_quantity_is_read_from_the_report(quantity: str, value: float) -> None:
    assert quantity in known_quantities()
    assert measure(quantity, REPORT) == pytest.approx(value)


GROUPS = {
    "members": [
        {"column": "finding", "word": "NORMAL", "fd": None, "kid": None},
        {
            "column": "finding",
            "word": "v. 2 > a/b.",
            "fd": {**entry(60, 10), "floor": {"value": 20.0}, "blurred": {"value": 80.0}},
            "kid": {**entry(0.03, 0.01), "floor": {"value": 0.0}, "blurred": {"value": 0.06}},
        },
    ]
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("groups.finding=v. 2 > a/b..fd>80", 60),
        ("groups.finding=v. 2 > a/b..fd_low/floor > 3", 2.5),
        (" groups.finding = v. 2 > a/b..kid/blurred<0.1", 0.5),
        ("groups.finding=NORMAL.fd>1", None),
        ("groups.view=PA.fd>1", None),
    ],
)
def test_a_check_may_be_about_a_group(text: str, value: float | None) -> None:
    check = parse_check(text)
    assert parse_check(check.text) == check
    (verdict,) = judge([check], {**REPORT, "groups": GROUPS})
    assert verdict["value"] == (None if value is None else pytest.approx(value))
    assert verdict["passed"] is (value is not None)
    assert verdict["sentence"].startswith(f"groups.{check.group[0] if check.group else ''}=")


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
    [
        "",
        "fd",
        "fd>",
        ">3",
        "fd=3",
        "fd==3",
        "fd>three",
        "fd>3;",
        "fd>3>2",
        "3<fd",
        "fd>nan",
        "fd>inf",
        "fd>1e999",
    ],
)
def test_what_is_no_check_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(UsageError, match=r"such as 'fd/floor>3'.*ms_ssim"):
        parse_check(text)


@pytest.mark.parametrize(
    "text",
    [
        *("fid>3", "fd/ceiling>1", "kid/floor>1", "suspects_low>1", "suspects/floor>1", "real>2"),
        *("groups.view=PA.recall>1", "groups.view=PA.kid/floor>1", "groups.view=PA.suspects>1"),
    ],
)
def test_an_unknown_quantity_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"is not measured; known: fd\[/floor\|blurred\|gaussian\|phantoms\|noise\], "
    ):
        parse_check(text)


@pytest.mark.parametrize("text", ["fd_infinity>1", "fd_infinity<1", "fd_infinity_low/noise>0.1"])
def test_a_number_that_was_refused_passes_no_check(text: str) -> None:
    (verdict,) = judge([parse_check(text)], REPORT)
    assert (verdict["passed"], verdict["value"]) == (False, None)
    assert "is refused, so that nothing can be said" in verdict["sentence"]


def test_every_quantity_that_is_known_can_be_read() -> None:
    for quantity in known_quantities():
        value = measure(quantity, REPORT)
        assert value is None if "infinity" in quantity else value is not None


@pytest.mark.parametrize("text", ["kid/blurred>0.5", "kid_high/blurred>0.5", "kid/blurred<0.5"])
def test_a_ratio_to_less_than_0_passes_no_check(text: str) -> None:
    """KID has no bias, so that of blurred films may come out below 0, and 0.03 / -0.001 is below every threshold."""
    features = {"first": {"kid": entry(0.03, 0.01, real=0.0, blurred=-0.001)}}
    (verdict,) = judge([parse_check(text)], {**REPORT, "features": features})
    assert (verdict["passed"], verdict["value"]) == (False, None)
    assert "is a ratio to -0.001, so that nothing can be said, and" in verdict["sentence"]


def test_a_ratio_to_0_passes_no_check_and_costs_no_report() -> None:
    features = {"first": {"fd": entry(60, 10, real=0.0)}}
    (verdict,) = judge([parse_check("fd/floor>3")], {**REPORT, "features": features})
    assert (verdict["passed"], verdict["value"]) == (False, None)
    assert "fd/floor is a ratio to 0 (are the real films all equal?), so that" in verdict["sentence"]


def test_a_ratio_of_a_group_to_less_than_0_passes_no_check() -> None:
    kid = {**entry(0.03, 0.01), "floor": {"value": 0.0}, "blurred": {"value": -0.001}}
    groups = {"members": [{"column": "view", "word": "PA", "fd": None, "kid": kid}]}
    (verdict,) = judge([parse_check("groups.view=PA.kid/blurred>0.5")], {**REPORT, "groups": groups})
    assert (verdict["passed"], verdict["value"]) == (False, None)
    assert "is a ratio to -0.001" in verdict["sentence"]


@pytest.mark.parametrize(("suspects", "value"), [(0, 0.0), (1, None)])
def test_a_set_whose_bound_is_0_passes_without_a_suspect_alone(suspects: int, value: float | None) -> None:
    gate = {"expected": 0.08, "bound": 0, "copies": 0}
    report = {**REPORT, "privacy": {"suspects": [{}] * suspects, "gate": gate}}
    (verdict,) = judge([parse_check("suspects/bound>1")], report)
    assert (verdict["passed"], verdict["value"]) == (suspects == 0, value)


@pytest.mark.parametrize("text", ["copies>0", "copies<0"])
def test_copies_that_an_undecided_audit_did_not_count_pass_no_check(text: str) -> None:
    gate = {"expected": 1.5, "bound": 4, "copies": None, "verdict": "undecided"}
    (verdict,) = judge([parse_check(text)], {**REPORT, "privacy": {"suspects": [], "gate": gate}})
    assert (verdict["passed"], verdict["value"]) == (False, None)
    assert verdict["sentence"].startswith("copies is refused, so that nothing can be said")
