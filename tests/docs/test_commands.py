"""Every command line that a page shows has a verb and options that exist."""

import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"\bxraygen ((?:benchmark )?[a-z][a-z0-9]*)\b([^\n`]*)")
OPTION = re.compile(r"(?<=\s)(--[a-z0-9][a-z0-9-]*)")


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Per verb the options that it knows."""
    (program,) = entry_points(group="console_scripts", name="xraygen")
    return dict(known(typer.main.get_command(program.load()), ""))


def known(command: object, prefix: str) -> Iterator[tuple[str, set[str]]]:
    for name, verb in getattr(command, "commands", {}).items():
        yield from known(verb, f"{prefix}{name} ")
        names = {text for option in verb.params for text in (*option.opts, *option.secondary_opts)}
        yield f"{prefix}{name}", names | {"--help"}


def shown(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Each command of the page's code, its continued lines joined and its comment left out."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = [line for line in text.splitlines() if line.startswith("    ")]
    for line in [*blocks, *re.findall(r"`(xraygen [^`]+)`", text.replace("\n", " "))]:
        for verb, rest in COMMAND.findall(line.partition(" # ")[0]):
            yield verb, OPTION.findall(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_exist(page: Path, options: dict[str, set[str]]) -> None:
    for verb, given in shown(page):
        assert verb in options, verb
        assert set(given) <= options[verb], (verb, set(given) - options[verb])
