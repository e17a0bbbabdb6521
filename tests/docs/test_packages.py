import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
COPYLEFT = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)


def test_no_required_package_is_under_the_gpl(script: Callable[[str], ModuleType]) -> None:
    packages = script("list_packages").required()
    assert [package for package in packages if COPYLEFT.search(package.licence)] == []
    assert [package for package in packages if package.licence == "not stated"] == []


def test_the_search_for_the_gpl_finds_it_and_spares_the_lgpl() -> None:
    for licence in ("GPL-3.0-or-later", "AGPL-3.0", "GNU General Public License v3 (GPLv3)", "GPLv2"):
        assert COPYLEFT.search(licence)
    assert not COPYLEFT.search("LGPL-2.1, GNU Lesser General Public License")


def test_the_walk_reaches_what_is_required_and_what_that_requires(
    script: Callable[[str], ModuleType],
) -> None:
    found = {re.sub(r"[-_.]+", "-", package.name).lower() for package in script("list_packages").required()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {re.split(r"[=>]=", line)[0] for line in project["dependencies"]}
    assert direct <= found
    assert {"pydantic-core", "click", "sympy"} <= found  # by pydantic, by typer, by torch
    assert not {"pytest", "diffusers", "xraygen"} & found


def test_the_page_lists_the_packages_that_are_required(script: Callable[[str], ModuleType]) -> None:
    lines = (ROOT / "docs" / "reference" / "packages.md").read_text(encoding="utf-8").splitlines()
    listed = {line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")} - {
        "package"
    }
    assert listed == {package.name for package in script("list_packages").required()}
