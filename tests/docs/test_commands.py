"""Every command line that a page shows would be understood, and every name that its Python imports exists."""

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SPOKEN = re.compile(r"`xraygen ((?:benchmark )?[a-z][a-z0-9]*)\b([^`]*)`")
OPTION = re.compile(r"(?<=\s)(--[a-z0-9][a-z0-9-]*)")
TEST = re.compile(r"\b(tests/[\w/]+\.py)(?:::(\w+))?")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@pytest.fixture(scope="module")
def program() -> Any:
    """The whole command line, as click knows it."""
    (script,) = entry_points(group="console_scripts", name="xraygen")
    return typer.main.get_command(script.load())


def known(command: Any, prefix: str) -> Iterator[tuple[str, set[str]]]:
    """Per verb the options that it knows."""
    for name, verb in getattr(command, "commands", {}).items():
        yield from known(verb, f"{prefix}{name} ")
        names = {text for option in verb.params for text in (*option.opts, *option.secondary_opts)}
        yield f"{prefix}{name}", names | {"--help"}


@each_page
def test_the_commands_of_a_page_are_understood(
    page: Path, program: Any, commands: Callable[[Path], list[list[str]]]
) -> None:
    """Verb, options, their values and that none is missing; nothing is run."""
    for words in commands(page):
        begin = max(place for place, word in enumerate(words) if re.search(r"(^|/)xraygen(\.sif)?$", word))
        command, arguments = program, words[begin + 1 :]
        while hasattr(command, "commands") and not arguments[0].startswith("-"):
            assert arguments[0] in command.commands, words
            command, arguments = command.commands[arguments[0]], arguments[1:]
        if command is not program:
            command.make_context(words[begin], arguments)


@each_page
def test_the_commands_in_a_pages_text_have_options_that_exist(page: Path, program: Any) -> None:
    options = dict(known(program, ""))
    for verb, rest in SPOKEN.findall(page.read_text(encoding="utf-8").replace("\n", " ")):
        assert verb in options, verb
        given = set(OPTION.findall(rest))
        assert given <= options[verb], (verb, given - options[verb])


@each_page
def test_the_python_of_a_page_compiles_and_imports_what_exists(
    page: Path, python_blocks: Callable[[Path], list[str]]
) -> None:
    for block in python_blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import):
                for name in node.names:
                    importlib.import_module(name.name)
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == [], node.module


@each_page
def test_the_scripts_targets_and_tests_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"python (docs/\w+\.py)", text):
        assert (ROOT / name).is_file(), name
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^    |`)make ([a-z][a-z-]*)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for file, test in TEST.findall(text):
        assert (ROOT / file).is_file(), file
        assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), test
