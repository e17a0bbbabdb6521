"""Lists what `pip install xraygen` brings, with versions and licences.

    python docs/list_packages.py > docs/reference/packages.md
    python docs/list_packages.py --form cyclonedx > docs/reference/sbom.cdx.json
    python docs/list_packages.py --form pins        # name==version, as pip-audit reads them

Walks the requirements that hold on this machine, without extras, from what is installed here. Licences are what each
package states of itself; nobody has read its files.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from importlib.metadata import Distribution, distribution
from platform import machine, python_version
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

_HEAD = """# Packages that are required

What `pip install xraygen` brings on {platform} with Python {python}: {count} packages, as `constraints.txt` pins them.
Licences are what each package states of itself. None is under the GPL or AGPL; a test looks.
Wheels carry libraries of others inside (imagecodecs and pillow their codecs); those licences lie in the wheels.
With CUDA, PyTorch brings NVIDIA's libraries too, which are proprietary.

The same list in a form for programs is [sbom.cdx.json](sbom.cdx.json) (CycloneDX 1.6, with who requires whom).
`make audit-packages` asks PyPI whether a vulnerability of one of them is known; it needs the network, and fails where
PyPI does not answer for one of them.

## Platforms

| platform | |
|---|---|
| Linux, x86-64, Python 3.11 | tested: every change passes all tests there, without a GPU |
| Linux, aarch64; macOS, Apple silicon | neither has been tried; nothing is known to forbid them |
| Windows | not possible: xraygen locks its folders by `fcntl`, which Windows has not |
| macOS, Intel | not possible: there is no torch 2.13 for it |

`--device auto` takes a GPU that PyTorch's CUDA knows, else the processor.

## Packages

| package | version | licence |
|---|---|---|
"""
_FOOT = """
Printed by `python docs/list_packages.py` on {today}.
"""


@dataclass(frozen=True, order=True)
class Package:
    """One installed package, as it describes itself."""

    name: str
    version: str
    licence: str
    spdx: bool = False
    """Whether the licence is an SPDX expression."""
    requires: frozenset[NormalizedName] = field(default=frozenset(), compare=False)
    """Canonical names of what it requires here."""

    @property
    def public_version(self) -> str:
        """Without a local part such as torch's `+cpu`: what PyPI and lists of vulnerabilities know."""
        return self.version.partition("+")[0]

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{canonicalize_name(self.name)}@{self.public_version}"


def required(root: str = "xraygen") -> list[Package]:
    """All that `root` requires, directly or not, on this machine and without extras; by name."""
    found: dict[str, Package] = {}
    waiting = list(_requirements(distribution(root), frozenset()))
    seen = set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        installed = distribution(requirement.name)
        more = list(_requirements(installed, key[1]))
        package = described(installed, more)
        before = found.get(key[0], package)  # the same package with other extras requires more
        found[key[0]] = replace(package, requires=package.requires | before.requires)
        waiting.extend(more)
    return [found[name] for name in sorted(found)]


def described(installed: Distribution, requirements: list[Requirement]) -> Package:
    """An installed package that requires these."""
    return Package(
        installed.metadata["Name"],
        installed.version,
        licence_of(installed),
        bool(installed.metadata.get_all("License-Expression", [])),
        frozenset(canonicalize_name(requirement.name) for requirement in requirements),
    )


def licence_of(installed: Distribution) -> str:
    """The licence that a package states: an SPDX expression, its classifiers, its own words, or its file's title."""
    metadata = installed.metadata
    if expressions := metadata.get_all("License-Expression", []):
        return str(expressions[0])
    kinds = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier", [])
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    if kinds:
        return ", ".join(kinds)
    words = " ".join(metadata.get_all("License", [])).strip()
    if words not in ("", "UNKNOWN"):
        return words.splitlines()[0]
    texts = [file.read_text() for file in installed.files or [] if file.name.upper().startswith("LICEN")]
    return ", ".join(_first_line(text) for text in texts) or "not stated"


def _first_line(text: str) -> str:
    """The title of a licence's text."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def page(packages: list[Package]) -> str:
    """The page of the documentation."""
    rows = [f"| {package.name} | {package.version} | {package.licence} |" for package in packages]
    head = _HEAD.format(platform=sys.platform, python=python_version(), count=len(packages))
    return head + "\n".join(rows) + "\n" + _FOOT.format(today=date.today().isoformat())


def cyclonedx(packages: list[Package], root: str = "xraygen") -> dict[str, Any]:
    """The list as a bill of materials, CycloneDX 1.6."""
    installed = distribution(root)
    itself = described(installed, list(_requirements(installed, frozenset())))
    refs = {canonicalize_name(package.name): package.purl for package in packages}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "tools": {"components": [{"type": "application", "name": "docs/list_packages.py"}]},
            "component": {**_component(itself), "type": "application"},
            "properties": [
                {"name": "xraygen:platform", "value": f"{sys.platform} {machine()}"},
                {"name": "xraygen:python", "value": python_version()},
            ],
        },
        "components": [_component(package) for package in packages],
        "dependencies": [
            {"ref": package.purl, "dependsOn": sorted(refs[name] for name in package.requires)}
            for package in (itself, *packages)
        ],
    }


def _component(package: Package) -> dict[str, Any]:
    """One package of the bill: its licence as an expression where it states one, else in its own words."""
    stated = {"expression": package.licence} if package.spdx else {"license": {"name": package.licence}}
    return {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.public_version,
        "purl": package.purl,
        "licenses": [stated],
    }


def _requirements(installed: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    """What a package asks for on this machine, with these of its extras."""
    for text in installed.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield requirement


def main() -> None:
    """Print the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--form", choices=("page", "cyclonedx", "pins"), default="page")
    packages = required()
    match parser.parse_args().form:
        case "page":
            sys.stdout.write(page(packages))
        case "cyclonedx":
            sys.stdout.write(json.dumps(cyclonedx(packages), indent=1) + "\n")
        case "pins":
            sys.stdout.writelines(f"{package.name}=={package.public_version}\n" for package in packages)


if __name__ == "__main__":
    main()
