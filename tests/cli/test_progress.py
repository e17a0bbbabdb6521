"""What a bar says on terminals of different widths."""

import sys
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
