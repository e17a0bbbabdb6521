"""`--fail-on 'fd/floor>3'`: what is asked of an audit, and the answer."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xraygen.errors import FolderError, UsageError

QUANTITIES: dict[str, tuple[str, ...]] = {
    "fd": ("floor", "blurred", "gaussian", "noise"),
    "fd_low": ("floor", "blurred", "gaussian", "noise"),
    "fd_high": ("floor", "blurred", "gaussian", "noise"),
    "ssim": ("real",),
    "ms_ssim": ("real",),
    "suspects": ("expected",),
    "duplicates": (),
}
"""What can be asked about, and what each may be divided by."""

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_GRAMMAR = re.compile(
    r"\s*(?P<name>[a-z_]+)(?:\s*/\s*(?P<part>[a-z_]+))?\s*(?P<op>>=|<=|>|<)"
    r"\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*"
)


@dataclass(frozen=True)
class Check:
    """One parsed `--fail-on`."""

    text: str
    """As it was given, without spaces."""
    quantity: str
    """`fd` or `fd/floor`."""
    holds: Callable[[float, float], bool]
    """Whether (value, threshold) is a failure."""
    threshold: float
    """The number on the right."""


def known_quantities() -> list[str]:
    """All names that a check may use."""
    return [
        name for base, parts in QUANTITIES.items() for name in (base, *(f"{base}/{part}" for part in parts))
    ]


def parse_check(text: str) -> Check:
    """Read `name[/part] op number`, op being one of > >= < <=.

    Raises:
        UsageError: If it reads otherwise or names an unknown quantity.
    """
    match = _GRAMMAR.fullmatch(text)
    if match is None:
        raise UsageError(
            f"--fail-on {text!r}: expected a quantity, one of > >= < <=, and a number, such as 'fd/floor>3'; "
            f"quantities: {', '.join(known_quantities())}."
        )
    quantity = match["name"] + (f"/{match['part']}" if match["part"] else "")
    if quantity not in known_quantities():
        raise UsageError(
            f"--fail-on {text!r}: {quantity} is not measured; known: {', '.join(known_quantities())}."
        )
    words = f"{quantity}{match['op']}{match['number']}"
    return Check(words, quantity, _OPERATORS[match["op"]], float(match["number"]))


def judge(checks: Sequence[Check], report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The verdict on each check.

    Args:
        checks: From `parse_check`.
        report: The measured part of report.json.

    Returns:
        Per check {check, passed, value, threshold, sentence}; `passed` is False where the check holds.
    """
    return [_verdict(check, measure(check.quantity, report)) for check in checks]


def measure(quantity: str, report: Mapping[str, Any]) -> float:
    """One of `known_quantities`, from the report; `fd` is that of the first --features.

    Raises:
        FolderError: If it is a ratio to zero.
    """
    name, _, part = quantity.partition("/")
    fd = next(iter(report["features"].values()))["fd"]
    bases: dict[str, float] = {
        "fd": fd["value"],
        "fd_low": fd["low"],
        "fd_high": fd["high"],
        "ssim": report["ssim"]["value"],
        "ms_ssim": report["ms_ssim"]["value"],
        "suspects": float(len(report["privacy"]["suspects"])),
        "duplicates": float(report["synthetic"]["duplicates"]),
    }
    if not part:
        return bases[name]
    if name.startswith("fd"):
        divisor = fd["sets"]["real" if part == "floor" else part]["value"]
    elif part == "expected":
        divisor = report["privacy"]["expected_by_chance"]
    else:
        divisor = report[name]["real"]
    if divisor == 0:
        raise FolderError(f"{quantity} is a ratio to 0: the real films are all equal; compare with others.")
    return float(bases[name] / divisor)


def _verdict(check: Check, value: float) -> dict[str, Any]:
    """One line of the report."""
    failed = check.holds(value, check.threshold)
    limit = check.text.removeprefix(check.quantity)
    sentence = f"{check.quantity} is {value:.4g}, and the audit fails where it is {limit}."
    return {
        "check": check.text,
        "passed": not failed,
        "value": value,
        "threshold": check.threshold,
        "sentence": sentence,
    }
