"""Scripts of docs/, which is no package, the code on its pages, and a folder in which the tutorial was followed."""

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import Result

DOCS = Path(__file__).parents[2] / "docs"
TUTORIAL = DOCS / "tutorial.md"
LAUNCHERS = {"xraygen", ".venv/bin/xraygen", "torchrun", "accelerate", "srun", "apptainer"}
OPTIONAL = re.compile(r"\[(--[^]]*)]")  # `[--json]` in a synopsis


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """`script("list_packages")` loads docs/list_packages.py."""

    def load(name: str) -> ModuleType:
        specification = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[specification.name] = module  # dataclasses look their module up
        specification.loader.exec_module(module)
        return module

    return load


def code(page: Path) -> Iterator[str]:
    """Lines of indented and of fenced code, continued ones joined. Prose of a list is indented too."""
    fenced = False
    for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line


@pytest.fixture(scope="session")
def commands() -> Callable[[Path], list[list[str]]]:
    """`commands(page)`: the words of each command line of xraygen in its code, launchers before them and all."""

    def read(page: Path) -> list[list[str]]:
        found = []
        for line in code(page):
            begin = line.split()[:2]
            if begin and begin[0] in LAUNCHERS and begin != ["apptainer", "build"]:
                found.append(shlex.split(OPTIONAL.sub(r"\1", line.partition(" # ")[0])))
        return found

    return read


@pytest.fixture(scope="session")
def python_blocks() -> Callable[[Path], list[str]]:
    """`python_blocks(page)`: its blocks of Python, which begin with an import."""

    def read(page: Path) -> list[str]:
        blocks, block = [], list[str]()
        for line in [*page.read_text(encoding="utf-8").splitlines(), "end"]:
            if line.startswith("    ") or (not line and block):
                block.append(line[4:])
                continue
            if block and block[0].startswith(("import ", "from ")):
                blocks.append("\n".join(block).rstrip())
            block = []
        return blocks

    return read


@pytest.fixture(scope="session")
def followed(
    xraygen_cli: Callable[..., Result],
    commands: Callable[[Path], list[list[str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder in which the tutorial's commands were given, one after another, from an empty one."""
    folder = tmp_path_factory.mktemp("tutorial") / "work"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XRAYGEN_CACHE", str(folder.parent / "cache"))
        for _, *arguments in commands(TUTORIAL):
            result = xraygen_cli(*arguments)
            assert result.exit_code == 0, (arguments, result.stderr)
    return folder
