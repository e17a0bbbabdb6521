"""Code that a page shows is the code that runs, and what it names exists."""

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "concepts" / "diffusion.md"
BLOCK = re.compile(r"^```python\n# (xraygen[\w.]+)\n(.+?)^```$", re.MULTILINE | re.DOTALL)
CLASSES = {
    "GaussianDiffusion": "xraygen.diffusion.gaussian",
    "NoiseSchedule": "xraygen.diffusion.schedule",
}
"""Named on the page without their module, once it is said."""


def found(name: str) -> Any:
    """What a dotted name stands for: a module, or what one has."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            thing = getattr(thing, part)
        return thing
    raise AssertionError(name)


def pieces(name: str, length: int) -> Iterator[str]:
    """Every `length` lines of a function that stand together, their indentation taken off."""
    lines = inspect.getsource(inspect.unwrap(found(name))).splitlines()
    for begin in range(len(lines) - length + 1):
        yield textwrap.dedent("\n".join(lines[begin : begin + length]))


@pytest.mark.parametrize(("name", "code"), BLOCK.findall(PAGE.read_text(encoding="utf-8")))
def test_a_block_of_python_is_a_piece_of_the_function_that_it_names(name: str, code: str) -> None:
    shown = code.rstrip("\n")
    assert shown in pieces(name, len(shown.splitlines()))


def test_every_block_names_its_function() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) == text.count("```python") > 10


def test_every_name_on_the_page_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    full = re.findall(r"`(xraygen\.[\w.]+)`|#(xraygen\.[\w.]+)\)", text)
    short = re.findall(rf"`({'|'.join(CLASSES)})\.(\w+)`", text)
    assert len(full) > 20
    assert len(short) > 10
    for names in full:
        found("".join(names))
    for owner, attribute in short:
        thing = getattr(found(CLASSES[owner]), owner)
        assert hasattr(thing, attribute) or attribute in thing.__dataclass_fields__, (owner, attribute)
