"""What the pages say that xraygen lacks, it lacks; and what they say runs, is not known not to run."""

import ast
import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from xraygen.metrics.extractors.registry import extractor_names
from xraygen.metrics.tail import LEAST_FILMS
from xraygen.presets import shipped_models

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def ours(row: str) -> str:
    """What the comparison with other libraries says of xraygen."""
    for line in (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"| {row} |"):
            return line.split(" | ")[1]
    raise AssertionError(row)


def test_a_library_that_ships_a_model_is_not_said_to_have_none() -> None:
    assert (ours("pretrained models") == "**no**") == (not shipped_models())
    for model in shipped_models():
        assert f"{model}.md" in ours("pretrained models")


def test_a_library_that_takes_fids_network_is_not_said_to_have_no_fid() -> None:
    assert (ours("FID with Inception-v3") == "**no**") == ("inception" not in extractor_names())


def statements(text: str) -> Iterator[str]:
    """Rows of tables, and sentences of the rest."""
    lines = text.splitlines()
    yield from (line for line in lines if line.startswith("|"))
    yield from re.split(r"(?<=[.:?!])\s+", "\n".join(line for line in lines if not line.startswith("|")))


def test_everything_that_is_said_of_privacy_leads_to_where_it_is_shown() -> None:
    """Each paragraph, point and row below the introduction of concepts/privacy.md has a link."""
    page = (ROOT / "docs" / "concepts" / "privacy.md").read_text(encoding="utf-8")
    points = re.split(r"\n(?=- |\| )|\n\n", page)
    said = [point for point in points if not re.match(r"#|\| question|\|---", point)]
    assert len(said) > 15
    assert [point for point in said if "](" not in point] == []


def imports_fcntl(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(
        isinstance(node, ast.Import) and "fcntl" in {name.name for name in node.names}
        for node in ast.walk(tree)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_hopes_for_windows_while_files_are_locked_as_unix_does(page: Path) -> None:
    """Python has no module fcntl on Windows: importing xraygen fails there."""
    if not any(imports_fcntl(path) for path in (ROOT / "xraygen").rglob("*.py")):
        return
    for statement in statements(page.read_text(encoding="utf-8")):
        assert not ("Windows" in statement and re.search("known to forbid|been tried", statement)), statement


def test_the_shares_that_are_advised_leave_enough_films_to_decide_about_copies() -> None:
    """In 39 of 40 draws (two standard deviations), where each patient has one film."""
    section = (ROOT / "docs" / "how-to" / "ingest.md").read_text(encoding="utf-8")
    section = section.partition("### How many films?")[2].partition("\n## ")[0]
    assert f"needs {LEAST_FILMS} of them" in section
    rows = re.findall(r"^\| \D*([\d,]+)[^|]*\| [\d.]+,[\d.]+,([\d.]+)", section, re.MULTILINE)
    assert len(rows) == 2
    for films, share in rows:
        count, part = int(films.replace(",", "")), float(share)
        assert count * part - 2 * math.sqrt(count * part * (1 - part)) >= LEAST_FILMS, films


def values(words: list[str], option: str) -> list[str]:
    """What follows an option, as often as it is given."""
    return [value for name, value in pairwise(words) if name == option]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_pages_commands_are_not_refused_for_what_the_ones_before_them_made(
    page: Path, commands: Callable[[Path], list[list[str]]]
) -> None:
    """`generate` takes the newest checkpoint, `export` the best; `--utility` wants films of several words."""
    told = dict[str, set[str]]()
    for words in commands(page):
        if "export" in words and "--audit" in words and "diffusers" not in words:
            assert "--checkpoint" in words, words
        for out in values(words, "--out"):
            told.setdefault(out, set()).update(values(words, "--condition"))
        if "--utility" in words:
            (synthetic,) = values(words, "--synthetic")
            assert len(told.get(synthetic, set())) > 1, words
