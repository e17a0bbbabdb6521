"""REPORT... -> one table: several audits side by side, and which of their numbers may be compared."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xraygen.atomic import remove_leftovers, sole_writer, write_json, write_text
from xraygen.audit.measures import MEASURES
from xraygen.audit.render import JSON_NAME, page_templates
from xraygen.audit.utility import REAL
from xraygen.audit.utility_report import ARM_LABELS
from xraygen.errors import FolderError, UsageError

FORMAT_VERSION = 1
REPORT_VERSION = 3
COMPARISON_JSON = "comparison.json"
COMPARISON_HTML = "comparison.html"

_AT_ANY_N = ("fd_infinity", "kid", "cmmd")
_VERDICTS = {"pass": "passed", "fail": "FAILED", "undecided": "undecided"}

Cell = dict[str, Any]
"""`text`, and where it is a measure {value, low, high, floor}."""


def compare_reports(reports: Sequence[Path]) -> dict[str, Any]:
    """Several audits side by side.

    Args:
        reports: REPORT folders, or their report.json; at least two.

    Returns:
        {format_version, reports, notes, rows}: an entry per report, what forbids a comparison, and per measure its
        name, which is better, and a cell per report, None where the report does not have it.

    Raises:
        UsageError: If there are fewer than two.
        FolderError: If one cannot be read, or is of another format.
    """
    if len(reports) < 2:
        raise UsageError(f"--compare: expected two or more REPORT folders; given: {len(reports)}.")
    read = [_read(path) for path in reports]
    columns = []
    for path, report in zip(reports, read, strict=True):
        try:
            columns.append({measure: (better, cell) for measure, better, cell in _cells(report)})
        except (KeyError, TypeError, AttributeError, ValueError):
            raise _unreadable(path) from None
    measures = list(dict.fromkeys(name for column in columns for name in column))
    return {
        "format_version": FORMAT_VERSION,
        "reports": _described(reports, read),
        "notes": list(_notes(read)),
        "rows": [
            {
                "measure": name,
                "better": next(column[name][0] for column in columns if name in column),
                "cells": [column[name][1] if name in column else None for column in columns],
            }
            for name in measures
        ],
    }


def check_comparison_out(out: Path) -> None:
    """Refuse to write into a folder that holds something else.

    Raises:
        FolderError: If `out` exists and is neither empty nor a comparison.
    """
    if out.exists() and not out.is_dir():
        raise FolderError(f"{out} is a file; choose a folder for --out.")
    own = {COMPARISON_HTML, COMPARISON_JSON}
    if others := [entry.name for entry in out.glob("*") if entry.name not in own and entry.name[0] != "."]:
        raise FolderError(f"{out} holds {others[0]}, which is no part of a comparison; choose another --out.")


def write_comparison(out: Path, comparison: Mapping[str, Any]) -> None:
    """Write comparison.html and comparison.json, which is last; no film is in them."""
    check_comparison_out(out)
    page = page_templates().get_template("comparison.html.j2").render(comparison=comparison)
    with sole_writer(out):
        remove_leftovers(out)
        write_text(out / COMPARISON_HTML, page)
        write_json(out / COMPARISON_JSON, comparison)


def as_markdown(comparison: Mapping[str, Any]) -> str:
    """The same as a table of Markdown, notes below it."""
    names = [report["name"] for report in comparison["reports"]]
    lines = [_line(["", *names]), "|" + "---|" * (len(names) + 1)]
    for row in comparison["rows"]:
        better = f" ({row['better']} is better)" if row["better"] else ""
        texts = ["–" if cell is None else cell["text"] for cell in row["cells"]]
        lines.append(_line([row["measure"] + better, *texts]))
    notes = [f"- {_escaped(note)}" for note in comparison["notes"]]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    """Names of folders may hold what Markdown or HTML would read as markup."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\|`*_[]" else letter for letter in plain)


def _read(path: Path) -> dict[str, Any]:
    """One report.json."""
    file = path / JSON_NAME if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        version = report["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise _unreadable(path) from None
    if version != REPORT_VERSION:
        raise FolderError(
            f"{file} is of format {version}, and format {REPORT_VERSION} is compared; audit again."
        )
    return dict(report)


def _unreadable(path: Path) -> FolderError:
    return FolderError(
        f"{path} is no REPORT with a readable {JSON_NAME}; give the --out folder of `xraygen audit`."
    )


def _described(paths: Sequence[Path], reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each report is about, under a name that no other one has."""
    sets = [str(report["synthetic"]["name"]) for report in reports]
    folders = [
        path.parent.name if path.name == JSON_NAME else path.name for path in map(Path.absolute, paths)
    ]
    often, names = Counter(sets), []
    for place, (name, folder) in enumerate(zip(sets, folders, strict=True), 1):
        unique = name if often[name] == 1 else f"{name} ({folder})"
        names.append(unique if unique not in names else f"{unique} #{place}")
    return [
        {
            "name": name,
            "dataset": report["real"]["name"],
            "dataset_sha256": report["real"]["content_sha256"],
            "films": report["synthetic"]["films"],
            "count": report["settings"]["count"],
            "created": report["environment"]["created"],
        }
        for name, report in zip(names, reports, strict=True)
    ]


def _cells(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Cell]]:
    """(measure, which is better, cell) of one report, in the order of the table."""
    yield "DATASET", "", {"text": str(report["real"]["name"])}
    yield "synthetic films", "", _count(report["synthetic"]["films"])
    yield "N", "", _count(report["settings"]["count"])
    gate = report["privacy"]["gate"]
    yield "copies", "", {"text": _VERDICTS[gate["verdict"]]}
    yield "suspects", "lower", _count(gate["suspects"], f"bound {gate['bound']}")
    yield "beyond the copy threshold", "lower", _count(gate["copies"])
    yield "exact duplicates", "lower", _count(report["synthetic"]["duplicates"])
    yield "near duplicates to spare", "lower", _count(report["near_duplicates"]["surplus"])
    if verdicts := report["verdicts"]:
        passed = sum(verdict["passed"] for verdict in verdicts)
        yield "checks passed", "", _count(passed, f"of {len(verdicts)}")
    for entries in (*report["features"].values(), report):
        for name in MEASURES:
            if name in entries:
                entry = entries[name]
                yield _title(name, entries), entry["better"], _measure(entry, entry["floor"])
    for name, label in (("ssim", "SSIM of pairs"), ("ms_ssim", "MS-SSIM of pairs")):
        yield label, "lower", _measure(report[name], report[name]["real"])
    for member in report["groups"].get("members", ()):
        if (kid := member["kid"]) is not None:
            yield (
                f"{kid['name']}, {member['column']} = {member['word']}",
                "lower",
                _measure(kid, kid["floor"]["value"]),
            )
    yield from _chosen_cells(report)


def _title(name: str, entries: Mapping[str, Any]) -> str:
    """What a measure is called where several feature spaces stand below each other."""
    title = str(entries[name]["name"])
    if "{space}" in MEASURES[name].name or "fd" not in entries:  # grey and spectrum distances have no space
        return title
    return f"{title} in {entries['fd']['name'].removeprefix(MEASURES['fd'].name.format(space=''))}"


def _chosen_cells(report: Mapping[str, Any]) -> Iterator[tuple[str, str, Cell]]:
    """What was measured by choice."""
    if report["utility"] is not None:
        yield from _utility_cells(report["utility"])
    if (membership := report["membership"]) is not None:
        yield "membership attack, AUC (chance is 0.5)", "lower", _measure(membership, None)
    if (bits := report["bits_per_dim"]) is not None:
        kinds = bits["kinds"]
        yield "bits per dimension under the RUN", "", _measure(kinds["synthetic"], kinds["test"]["value"])


def _utility_cells(utility: Mapping[str, Any]) -> Iterator[tuple[str, str, Cell]]:
    """AUC with synthetic films, beside that of the same real films alone; without any, beside that of all real ones."""
    for test in utility["tests"]:
        real = {row["fraction"]: row["value"] for row in test["mean"] if row["arm"] == REAL}
        for row in test["mean"]:
            if row["arm"] != REAL:
                share = max(real) if row["fraction"] is None else row["fraction"]
                patients = "" if row["fraction"] is None else f", {100 * share:g} % of the patients"
                name = f"AUC of {utility['label']} on {test['name']}: {ARM_LABELS[row['arm']]}{patients}"
                yield name, "higher", _measure(row, real[share])


def _count(value: int | None, beside: str = "") -> Cell:
    """A number without an interval."""
    text = "not decided" if value is None else str(value)
    return {"text": f"{text} ({beside})" if beside else text, "value": value}


def _measure(entry: Mapping[str, Any], floor: float | None) -> Cell:
    """A number with its interval, and that of real films."""
    numbers = {name: entry[name] for name in ("value", "low", "high")} | {"floor": floor}
    if entry["value"] is None:
        return {"text": "refused", **numbers}
    real = "" if floor is None else f"; real films {floor:.4g}"
    return {"text": f"{entry['value']:.4g} ({entry['low']:.4g} to {entry['high']:.4g}{real})", **numbers}


def _notes(reports: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a report is about where it is not a SYNTHETIC, and what forbids a comparison, and of what."""
    yield from dict.fromkeys(note for report in reports if (note := report["synthetic"].get("note")))
    if len({report["real"]["content_sha256"] for report in reports}) > 1:
        yield "The reports hold films against different DATASETs: no number of one may be held against one of another."
    counts = sorted({report["settings"]["count"] for report in reports})
    if len(counts) > 1:
        spaces = [entries for report in reports for entries in report["features"].values()]
        free = " and ".join(
            MEASURES[name].name.format(space="…")
            for name in _AT_ANY_N
            if any(name in entries for entries in spaces)
        )
        yield (
            f"N differs ({', '.join(map(str, counts))}): of the distances only {free} may be compared; audit again "
            f"with --count {counts[0]}."
        )
    for space in dict.fromkeys(name for report in reports for name in report["features"]):
        given = [report["features"][space]["extractor"] for report in reports if space in report["features"]]
        if any(extractor != given[0] for extractor in given):
            yield f"{space} is another extractor in some of the reports: its distances may not be compared."
    utilities = [report["utility"] for report in reports if report["utility"] is not None]
    if any(_learned(utility) != _learned(utilities[0]) for utility in utilities):
        yield "Utility is of another classifier or of other words in some of the reports: its AUC may not be compared."
    if len({report["settings"]["seed"] for report in reports}) > 1:
        yield "The seeds differ, and so do the films that were chosen."
    yield (
        "Beside a number stand its 95 % interval and the same number for real films. Intervals that overlap do not "
        "show that one set is better."
    )


def _learned(utility: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What learned, and which words; on a CPU or a GPU alike."""
    return {key: value for key, value in utility["classifier"].items() if key != "device"}, utility["classes"]
