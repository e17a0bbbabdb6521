"""What a summary and a page say where numbers are missing."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from xraygen.audit.describe import summarise
from xraygen.audit.fidelity import Comparison
from xraygen.audit.intervals import Interval
from xraygen.audit.measures import enough, in_features, numbers_of
from xraygen.audit.render import page_templates

NAME = "FD-Space, N = ∞"
KNOWN = {"this": 122.6, "real": None, "blurred": 263.2, "gaussian": 158.7, "noise": 451.6}
"""As of a network that learns: only the floor, which is nearly 0, has points that scatter too much for a line."""
ALL_BAD_REFUSED = {**KNOWN, "real": 1.5, "blurred": None, "gaussian": None, "noise": None}
ONE_BAD_REFUSED = {**KNOWN, "real": 500.0, "blurred": None}
NO_BAD_WORSE = {**KNOWN, "real": 500.0}


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """What report.json holds of a set whose five kinds of films have features of four numbers."""
    rng = np.random.default_rng(0)
    shifts = {"this": 0.5, "real": 0.0, "blurred": 0.8, "gaussian": 2.0, "noise": 9.0}
    features = {key: rng.standard_normal((16, 4)) + shift for key, shift in shifts.items()}
    sets = {key: Comparison(key, "", np.zeros((0, 1, 1), np.uint16), 16) for key in shifts}
    return {
        "features": {"space": in_features(rng.standard_normal((16, 4)), features, sets, "Space", 0)},
        "synthetic": {"films": 16, "duplicates": 0, "note": ""},
        "privacy": {"suspects": [], "leaks": 0, "gate": {"sentence": "The set passes."}},
        "ms_ssim": {"value": 0.5, "real": 0.5},
        "near_duplicates": {"films": 0},
        "groups": {"members": [], "shown": []},
        "utility": None,
        "membership": None,
    }


def with_infinity(result: Mapping[str, Any], values: Mapping[str, float | None]) -> dict[str, Any]:
    """A result whose FD at N = ∞ has these values."""
    intervals = {
        key: None if value is None else Interval(value, value - 2, value + 2) for key, value in values.items()
    }
    changed = deepcopy(dict(result))
    entry = changed["features"]["space"]["fd_infinity"]
    for key, interval in intervals.items():
        entry["sets"][key].update(numbers_of(interval))
    entry.update(numbers_of(intervals["this"]), floor=values["real"], ceiling=values["noise"], refused="")
    entry["enough"] = enough(intervals, entry["count"], lower_is_better=True)
    return changed


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (KNOWN, "that of the floor is refused"),
        (
            ALL_BAD_REFUSED,
            "that of “blurred” and of “gaussian” and of “noise” is refused",
        ),
        (ONE_BAD_REFUSED, "that of “blurred” is refused"),
    ],
)
def test_a_floor_that_was_refused_is_not_called_as_bad_as_noise(
    result: Mapping[str, Any], values: Mapping[str, float | None], reason: str
) -> None:
    changed = with_infinity(result, values)
    summary = summarise(changed)
    assert f"For how many films {NAME} would be sure is not known: {reason}." in summary
    assert not any("score no worse" in sentence and NAME in sentence for sentence in summary)
    page = told_by_the_page(changed)
    assert f"For how many films it would be sure is not known: {reason}." in page
    assert "It tells none of the known bad sets" not in page


def test_a_measure_that_finds_the_known_bad_sets_no_worse_says_so(result: Mapping[str, Any]) -> None:
    changed = with_infinity(result, NO_BAD_WORSE)
    (blind,) = (sentence for sentence in summarise(changed) if "score no worse" in sentence)
    assert NAME in blind
    assert "It tells none of the known bad sets" in told_by_the_page(changed)


def test_a_floor_of_0_has_no_ratio(result: Mapping[str, Any]) -> None:
    """FD of equal films may come out a rounding below 0."""
    for floor in (0.0, -1e-12):
        changed = deepcopy(dict(result))
        fd = changed["features"]["space"]["fd"]
        fd["floor"] = fd["sets"]["real"]["value"] = floor
        assert "The floor is 0." in summarise(changed)


def told_by_the_page(result: Mapping[str, Any]) -> str:
    """What stands below the table of measures about FD at N = ∞."""
    entries = {name: result["features"]["space"][name] for name in ("fd", "fd_infinity")}
    macro = page_templates().get_template("macros.html.j2").module.measures  # type: ignore[attr-defined]
    return str(macro(entries, "measures")).split(f"<dt>{NAME}</dt>")[1]
