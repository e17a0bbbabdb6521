"""What a bar says on terminals of different widths, and what a log says."""

import re
import sys
import time
from collections.abc import Callable

import pytest
from typer.testing import Result

from xraygen.progress import Progress


@pytest.mark.parametrize(("columns", "share"), [(80, False), (120, True)])
def test_figures_leave_room_for_the_count_and_the_times(
    xraygen_cli: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    columns: int,
    share: bool,
) -> None:
    for name, value in (("COLUMNS", str(columns)), ("FORCE_COLOR", "1"), ("TERM", "xterm")):
        monkeypatch.setenv(name, value)
    figures = {"loss": 0.03122, "images/s": 14.21, "TFLOP/s": 0.05512, "share of peak": 0.8123}
    with sys.modules["xraygen.cli.console"].progress() as report:
        report(Progress("train", 200, 4000, figures))
    drawn = capsys.readouterr().err
    assert "200/4000" in drawn
    assert "-:--:--" in drawn
    assert "images/s 14.21" in drawn
    assert ("share of peak 0.8123" in drawn) == share


def test_a_bar_counts_what_is_done_and_names_the_step_under_way(
    xraygen_cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("COLUMNS", "120"), ("FORCE_COLOR", "1"), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    with sys.modules["xraygen.cli.console"].progress() as report:
        report(Progress("interpolate", 0, 10))
        report(Progress("interpolate", 0, 10, {"step": "750/1000"}, under_way=7.5))
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).rpartition("interpolate ")[2]
    assert " 0/10 " in drawn  # none is done
    assert " step 750/1000 " in drawn
    bar = drawn.partition(" ")[0]
    assert len(bar) == pytest.approx(0.75 * 40, abs=1)


def test_a_log_has_no_line_per_step_and_says_the_time_left(
    xraygen_cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with sys.modules["xraygen.cli.console"].progress() as report:
        report(Progress("generate", 0, 4))
        for step in range(1, 31):
            now = float(step)  # a step per second
            report(Progress("generate", 0, 4, {"step": f"{step}/40"}, under_way=4 * step / 40))
    assert capsys.readouterr().err.splitlines() == [
        "generate 0/4",
        "generate 0/4  step 10/40  30 s left",
        "generate 0/4  step 20/40  20 s left",
        "generate 0/4  step 30/40  10 s left",
    ]
