"""What every verb says and how: people on stderr, machines on stdout, errors in one sentence."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from xraygen.progress import Progress, Report

_SECONDS_BETWEEN_LINES = 10.0
_BESIDE_FIGURES = 50
"""Columns of a terminal that the bar, the count and the times need."""


def _stderr() -> Console:
    """Made anew each time, so that a test's captured stderr is the one written to."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Tell the person at the terminal."""
    _stderr().print(text, markup=False, emoji=False)


def emit(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the result for a program to read, where one asked."""
    if as_json:
        show(json.dumps(result, allow_nan=False))


def show(text: str) -> None:
    """Print the result for people and pipes alike."""
    Console(highlight=False, soft_wrap=True).print(text, markup=False, emoji=False)


def _figures(progress: Progress, width: int | None = None) -> str:
    """Loss, images/s and the like, in four digits, and counts whole; the first of them, as many as fit a width."""
    told = [f"{name} {_figure(value)}" for name, value in progress.figures.items()]
    while width is not None and told and len("  ".join(told)) > width:
        told.pop()
    return "  ".join(told)


def _figure(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


@contextmanager
def progress() -> Iterator[Report]:
    """A bar per task on a terminal; elsewhere (a log file, Slurm) a plain line every ten seconds."""
    console = _stderr()
    if not console.is_terminal:
        yield _plain_lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(
            "{task.fields[count]}", style="progress.download"
        ),  # whole units, where the bar shows parts
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(report: Progress) -> None:
            if report.task not in tasks:
                tasks[report.task] = bars.add_task(report.task, count="", figures="")
            bars.update(
                tasks[report.task],
                completed=report.done + report.under_way,
                total=report.total,
                count=f"{report.done}/{report.total}",
                figures=_figures(report, console.width - _BESIDE_FIGURES),
            )

        yield draw


def _plain_lines() -> Report:
    """First, last and every ten seconds between, with the time left."""
    started: dict[str, tuple[float, float]] = {}
    last: dict[str, float] = {}

    def write(report: Progress) -> None:
        now = time.monotonic()
        reached = report.done + report.under_way
        begin, first = started.setdefault(report.task, (now, reached))
        if report.done < report.total and now - last.get(report.task, -1e9) < _SECONDS_BETWEEN_LINES:
            return
        last[report.task] = now
        done = reached - first
        left = f"  {(now - begin) / done * (report.total - reached):.0f} s left" if done else ""
        say(f"{report.task} {report.done}/{report.total}  {_figures(report)}{left}".rstrip())

    return write
