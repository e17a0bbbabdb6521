"""The tutorial does what it says, from an empty folder."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.mark.slow  # a minute of processor time
@pytest.mark.timeout(900)
def test_the_commands_lead_from_an_empty_folder_to_a_report(followed: Path) -> None:
    verdicts = json.loads((followed / "report" / "report.json").read_text())["verdicts"]
    assert [verdict["check"] for verdict in verdicts] == ["suspects/bound>1"]
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
        assert (followed / named).is_file(), named
        assert named.partition("/")[2] in TUTORIAL.read_text(encoding="utf-8")


def test_every_indented_line_is_a_command_and_every_verb_of_the_main_way_is_shown(
    commands: Callable[[Path], list[list[str]]],
) -> None:
    found = commands(TUTORIAL)
    lines = [line for line in TUTORIAL.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    assert len(found) == len(lines)
    assert {command[0] for command in found} == {"xraygen"}
    assert {command[1] for command in found} >= {
        "phantom",
        "ingest",
        "train",
        "generate",
        "interpolate",
        "audit",
    }
