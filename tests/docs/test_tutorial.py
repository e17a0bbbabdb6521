"""The tutorial does what it says, from an empty folder."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def commands() -> list[list[str]]:
    """Every indented line of the tutorial, in order."""
    lines = TUTORIAL.read_text(encoding="utf-8").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("    ")]


@pytest.mark.slow  # a minute of processor time
@pytest.mark.timeout(900)
def test_the_commands_lead_from_an_empty_folder_to_a_report(
    xraygen_cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XRAYGEN_CACHE", str(tmp_path / "cache"))
    for program, *arguments in commands():
        assert program == "xraygen"
        result = xraygen_cli(*arguments)
        assert result.exit_code == 0, (arguments, result.stderr)
    verdicts = json.loads((tmp_path / "report" / "report.json").read_text())["verdicts"]
    assert [verdict["check"] for verdict in verdicts] == ["suspects/expected>3"]
    for named in (
        "dataset/overview-accepted.png",
        "dataset/flags.csv",
        "dataset.key.crosswalk.csv",
        "run/log.jsonl",
        "synthetic/preview.png",
        "path/strip.png",
        "path/path.gif",
        "report/report.html",
    ):
        assert Path(named).is_file(), named
        assert named.partition("/")[2] in TUTORIAL.read_text(encoding="utf-8")


def test_every_verb_of_the_main_way_is_shown() -> None:
    assert {command[1] for command in commands()} >= {
        "phantom",
        "ingest",
        "train",
        "generate",
        "interpolate",
        "audit",
    }
