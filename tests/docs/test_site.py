"""The documentation site as `make docs` builds it."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

Links = list[tuple[str, str, str]]


class _Page(HTMLParser):
    """What an HTML page refers to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: Links = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.append((tag, name, value))
            if value and name in ("id", "name"):
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return folder


def read(site: Path) -> dict[Path, _Page]:
    return {file.resolve(): _Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}


def test_every_link_leads_to_a_file_and_an_anchor_that_exist(site: Path) -> None:
    pages = read(site)
    assert len(pages) > 30
    for page, content in pages.items():
        if page.name == "404.html":  # its links are absolute, for a server's root
            continue
        for _, _, link in content.links:
            if link.startswith(("https://", "http://", "mailto:", "data:")):
                continue
            path, anchor = urldefrag(unquote(link))
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), (page, link)
            if anchor and target in pages and anchor != "__skip":
                assert anchor in pages[target].anchors, (page, link)


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    for page, content in read(site).items():
        for tag, _, link in content.links:
            if tag != "a":
                assert not link.startswith(("http", "//")), (page, tag, link)


def test_the_reference_knows_every_verb_setting_and_function(site: Path) -> None:
    def page(name: str) -> str:
        return (site / "reference" / name).read_text(encoding="utf-8")

    for verb in ("phantom", "ingest", "train", "generate", "interpolate", "audit", "benchmark speed"):
        assert f"xraygen {verb}" in page("command-line.html")
    for setting in ("data.image_size", "schedule.kind", "conditions.columns", "train.batch_size"):
        assert setting in page("configuration.html")
    assert "Algorithm 2 of Ho et al. 2020" in page("python.html")


def test_private_files_of_the_repository_stay_out(site: Path) -> None:
    assert not list(site.glob("*.py"))
    assert {file.parts[len(site.parts) + 1] for file in (site / "source").rglob("*") if file.is_file()} == {
        "tests"
    }
