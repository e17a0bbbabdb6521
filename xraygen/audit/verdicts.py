"""`--fail-on 'fd/floor>3'`: what is asked of an audit, and the answer."""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from xraygen.errors import UsageError

_BAD = ("blurred", "gaussian", "phantoms", "noise")
_FD = ("floor", *_BAD)
PARTS: dict[str, tuple[str, ...]] = {
    "fd": _FD,
    "fd_infinity": _BAD,
    "kid": _BAD,
    "cmmd": _BAD,
    "precision": ("floor",),
    "recall": ("floor",),
    "density": ("floor",),
    "coverage": ("floor",),
    "intensity": _FD,
    "spectrum": _FD,
    "ssim": ("real",),
    "ms_ssim": ("real",),
    "utility": (),
    "membership": (),
}
"""Measures that have an interval, and what each may be divided by: the floor of KID and of FD at N = ∞ is 0, and so is
the precision of noise."""

COUNTS: dict[str, tuple[str, ...]] = {
    "suspects": ("expected", "bound"),
    "copies": (),
    "duplicates": (),
    "near_duplicates": (),
}
"""What is counted, and has no interval."""

GROUP_PARTS: dict[str, tuple[str, ...]] = {"fd": ("floor", "blurred"), "kid": ("blurred",)}
"""The measures of a group, as `groups.finding=PNEUMONIA.fd`, and what each may be divided by."""

_ENDS = {"": "value", "_low": "low", "_high": "high"}
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_GRAMMAR = re.compile(
    r"\s*(?:groups\.(?P<column>[^=]+)=(?P<word>.+)\.)?(?P<name>[a-z_]+)(?:\s*/\s*(?P<part>[a-z_]+))?\s*(?P<op>>=|<=|>|<)"
    r"\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
)


@dataclass(frozen=True)
class Check:
    """One parsed `--fail-on`."""

    text: str
    """As it was given, without spaces."""
    quantity: str
    """`fd`, `fd/floor`, or `groups.finding=PNEUMONIA.fd/floor`."""
    holds: Callable[[float, float], bool]
    """Whether (value, threshold) is a failure."""
    threshold: float
    """The number on the right."""
    group: tuple[str, str] | None = None
    """Column and word of the group that it is about; None for the whole set."""


def known_quantities() -> list[str]:
    """All names that a check may use."""
    counts = [
        name for base, parts in COUNTS.items() for name in (base, *(f"{base}/{part}" for part in parts))
    ]
    return [*_quantities_of(PARTS), *counts]


def _quantities_of(measures: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Measures, the ends of their intervals, and their ratios."""
    bases = [(f"{name}{end}", parts) for name, parts in measures.items() for end in _ENDS]
    return [name for base, parts in bases for name in (base, *(f"{base}/{part}" for part in parts))]


def _known() -> str:
    """The same in a sentence's length."""
    names = [name + (f"[/{'|'.join(parts)}]" if parts else "") for name, parts in (PARTS | COUNTS).items()]
    groups = " or ".join(f"{name}[/{'|'.join(parts)}]" for name, parts in GROUP_PARTS.items())
    return (
        f"{', '.join(names)}; NAME_low and NAME_high are the ends of a measure's 95 % interval; "
        f"groups.COLUMN=WORD.NAME, NAME being {groups}, is about a group"
    )


def parse_check(text: str) -> Check:
    """Read `[groups.column=word.]name[/part] op number`, op being one of > >= < <=.

    Raises:
        UsageError: If it reads otherwise or names an unknown quantity.
    """
    match = _GRAMMAR.fullmatch(text)
    if match is None or not math.isfinite(float(match["number"])):
        raise UsageError(
            f"--fail-on {text!r}: expected a quantity, one of > >= < <=, and a finite number, such as 'fd/floor>3'; "
            f"quantities: {_known()}."
        )
    quantity = match["name"] + (f"/{match['part']}" if match["part"] else "")
    group = None if match["column"] is None else (match["column"].strip(), match["word"].strip())
    if quantity not in (known_quantities() if group is None else _quantities_of(GROUP_PARTS)):
        raise UsageError(f"--fail-on {text!r}: {quantity} is not measured; known: {_known()}.")
    quantity = quantity if group is None else f"groups.{'='.join(group)}.{quantity}"
    words = f"{quantity}{match['op']}{match['number']}"
    return Check(words, quantity, _OPERATORS[match["op"]], float(match["number"]), group)


def judge(checks: Sequence[Check], report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdict on each check.

    Args:
        checks: From `parse_check`.
        report: The measured part of report.json.

    Returns:
        Per check {check, passed, value, threshold, sentence}; `passed` is False where the check holds, and where there
        is no number.
    """
    return [
        _verdict(check, _terms(check.quantity, report) if check.group is None else _of_group(check, report))
        for check in checks
    ]


def measure(quantity: str, report: Mapping[str, Any]) -> float | None:
    """One of `known_quantities`, from the report; measures of features are those of the first --features.

    Returns:
        The number, or None where the audit refused to give it, or where it is a ratio to 0 or less.
    """
    return _ratio(_terms(quantity, report))


class _Terms(NamedTuple):
    """A quantity before it is divided."""

    value: float | None
    """None where the audit refused to give it."""
    divisor: float | None = 1
    """1 where the quantity is no ratio."""


def _terms(quantity: str, report: Mapping[str, Any]) -> _Terms:
    """What a quantity of the whole set is made of."""
    name, _, part = quantity.partition("/")
    privacy = report["privacy"]
    if name == "duplicates":
        return _Terms(report["synthetic"]["duplicates"])
    if name == "near_duplicates":
        return _Terms(report["near_duplicates"]["surplus"])
    if name == "suspects":
        suspects = len(privacy["suspects"])
        # The bound of a small set is 0, and no suspect lies within any bound.
        return _Terms(suspects, privacy["gate"][part] if part and suspects else 1)
    if name == "copies":
        return _Terms(privacy["gate"]["copies"])
    base, end = next((base, end) for base in PARTS for end in _ENDS if name == base + end)
    first = next(iter(report["features"].values()))
    entry = first[base] if base in first else report[base]
    divisor = 1
    if part:
        divisor = (
            entry["real"] if part == "real" else entry["sets"]["real" if part == "floor" else part]["value"]
        )
    return _Terms(entry[_ENDS[end]], divisor)


def _of_group(check: Check, report: Mapping[str, Any]) -> _Terms:
    """The same of one group; no value where the audit has no such group, or no number of it."""
    name, _, part = check.quantity.rpartition(".")[2].partition("/")
    base, end = next((base, end) for base in GROUP_PARTS for end in _ENDS if name == base + end)
    for member in report["groups"]["members"]:
        if (member["column"], member["word"]) == check.group and member[base] is not None:
            return _Terms(member[base][_ENDS[end]], member[base][part]["value"] if part else 1)
    return _Terms(None)


def _ratio(terms: _Terms) -> float | None:
    """The quotient; None where either number was refused, or where a divisor below 0 would turn the check round."""
    if terms.value is None or terms.divisor is None or terms.divisor <= 0:
        return None
    return float(terms.value / terms.divisor)


def _verdict(check: Check, terms: _Terms) -> dict[str, Any]:
    """One line of the report; a number that is refused passes nothing."""
    value = _ratio(terms)
    failed = value is None or check.holds(value, check.threshold)
    limit = check.text.removeprefix(check.quantity)
    is_what = _why_none(check, terms) if value is None else f"{value:.4g}"
    sentence = f"{check.quantity} is {is_what}, and the audit fails where it is {limit}."
    return {
        "check": check.text,
        "passed": not failed,
        "value": value,
        "threshold": check.threshold,
        "sentence": sentence,
    }


def _why_none(check: Check, terms: _Terms) -> str:
    """Why a quantity has no number."""
    if terms.value is None or terms.divisor is None:
        return "refused, so that nothing can be said"
    equal = " (are the real films all equal?)" if check.quantity.endswith("/floor") else ""
    return f"a ratio to {terms.divisor:.4g}{equal}, so that nothing can be said"
