import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
COPYLEFT = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)


@pytest.fixture(scope="module")
def lister(script: Callable[[str], ModuleType]) -> ModuleType:
    """docs/list_packages.py."""
    return script("list_packages")


@pytest.fixture(scope="module")
def packages(lister: ModuleType) -> list[Any]:
    """What is required, by name."""
    found: list[Any] = lister.required()
    return found


def test_no_required_package_is_under_the_gpl(packages: list[Any]) -> None:
    assert [package for package in packages if COPYLEFT.search(package.licence)] == []
    assert [package for package in packages if package.licence == "not stated"] == []


def test_the_search_for_the_gpl_finds_it_and_spares_the_lgpl() -> None:
    for licence in ("GPL-3.0-or-later", "AGPL-3.0", "GNU General Public License v3 (GPLv3)", "GPLv2"):
        assert COPYLEFT.search(licence)
    assert not COPYLEFT.search("LGPL-2.1, GNU Lesser General Public License")


def test_the_walk_reaches_what_is_required_and_what_that_requires(packages: list[Any]) -> None:
    found = {re.sub(r"[-_.]+", "-", package.name).lower() for package in packages}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {re.split(r"[=>]=", line)[0] for line in project["dependencies"]}
    assert direct <= found
    assert {"pydantic-core", "click", "sympy"} <= found  # by pydantic, by typer, by torch
    assert not {"pytest", "diffusers", "xraygen"} & found


def test_the_page_lists_the_packages_that_are_required(packages: list[Any]) -> None:
    lines = (ROOT / "docs" / "reference" / "packages.md").read_text(encoding="utf-8").splitlines()
    table = lines[lines.index("## Packages") :]
    listed = {line.split(" | ")[0].removeprefix("| ") for line in table if line.startswith("| ")} - {
        "package"
    }
    assert listed == {package.name for package in packages}


def test_the_platforms_on_the_page_are_those_of_the_script(lister: ModuleType) -> None:
    def platforms(text: str) -> str:
        return text.partition("## Platforms\n")[2].partition("## Packages\n")[0]

    page = (ROOT / "docs" / "reference" / "packages.md").read_text(encoding="utf-8")
    assert platforms(page) == platforms(lister.page([])) != ""


@pytest.fixture
def bill() -> str:
    """The bill of materials that the pages link to."""
    return (ROOT / "docs" / "reference" / "sbom.cdx.json").read_text(encoding="utf-8")


def test_the_bill_of_materials_is_valid_cyclonedx(bill: str) -> None:
    """By the published schema, which cyclonedx-python-lib carries; and the validator finds what is wrong."""
    schema = pytest.importorskip("cyclonedx.schema")
    pytest.importorskip("jsonschema")
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415 - by choice installed

    validator = JsonStrictValidator(schema.SchemaVersion.V1_6)
    assert validator.validate_str(bill) is None
    assert validator.validate_str(bill.replace('"library"', '"book"', 1)) is not None


def test_the_bill_of_materials_has_what_is_required_here_and_who_requires_it(
    bill: str, lister: ModuleType, packages: list[Any]
) -> None:
    told, now = json.loads(bill), lister.cyclonedx(packages)
    for part in ("components", "dependencies"):
        assert told[part] == now[part]
    refs = [component["bom-ref"] for component in told["components"]]
    assert len(set(refs)) == len(refs) > 60
    reached: set[str] = set()
    waiting = [told["metadata"]["component"]["bom-ref"]]
    needs = {entry["ref"]: entry["dependsOn"] for entry in told["dependencies"]}
    while waiting:
        for ref in set(needs[waiting.pop()]) - reached:
            reached.add(ref)
            waiting.append(ref)
    assert reached == set(refs)
