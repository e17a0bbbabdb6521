"""Lists what `pip install xraygen` brings, with versions and licences: docs/reference/packages.md.

    python docs/list_packages.py > docs/reference/packages.md

Walks the requirements that hold on this machine, without extras, from what is installed here. Licences are what each
package states of itself; nobody has read its files.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import Distribution, distribution
from platform import python_version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_HEAD = """# Packages that are required

What `pip install xraygen` brings on {platform} with Python {python}: {count} packages, as `constraints.txt` pins them.
Licences are what each package states of itself. None is under the GPL or AGPL; a test looks.
Wheels carry libraries of others inside (imagecodecs and pillow their codecs); those licences lie in the wheels.
With CUDA, PyTorch brings NVIDIA's libraries too, which are proprietary.

| package | version | licence |
|---|---|---|
"""
_FOOT = """
Printed by `python docs/list_packages.py` on {today}. A list in a standard form (CycloneDX or SPDX) is not written.
"""


@dataclass(frozen=True, order=True)
class Package:
    """One installed package, as it describes itself."""

    name: str
    version: str
    licence: str


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
        name = installed.metadata["Name"]
        found[canonicalize_name(name)] = Package(name, installed.version, licence_of(installed))
        waiting.extend(_requirements(installed, key[1]))
    return [found[name] for name in sorted(found)]


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


def _requirements(installed: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    """What a package asks for on this machine, with these of its extras."""
    for text in installed.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
            yield requirement


if __name__ == "__main__":
    sys.stdout.write(page(required()))
