"""The documentation site as `make docs` builds it."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urldefrag

import pytest

if TYPE_CHECKING:
    from tests.browser import Browser

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


def pages_with_navigation(site: Path) -> list[Path]:
    """All but what is copied as it is, and the page for a server's missing files."""
    copied = {"source", "examples"}
    found = sorted(file for file in site.rglob("*.html") if not copied & {*file.relative_to(site).parts})
    return [file for file in found if file.name != "404.html"]


@pytest.mark.timeout(900)
def test_every_page_shows_its_figures_and_fits_a_screen_and_a_phone(
    site: Path, chromium: "Browser", tmp_path: Path
) -> None:
    """Opened from the disk: no figure is broken, nothing is fetched from elsewhere, the console stays empty."""
    pages = pages_with_navigation(site)
    assert len(pages) > 30
    wrong = []
    for file in pages:
        name = str(file.relative_to(site))
        with chromium.visit(file, home=site) as visit:
            for width in (1440, 360):
                visit.page.set_viewport_size({"width": width, "height": 900})
                wrong += [f"{name} at {width} px: {figure}" for figure in visit.unseen("article img")]
                if visit.is_wider_than_the_window():
                    wrong.append(f"{name} at {width} px is wider than its window")
                if folder := os.environ.get("XRAYGEN_SCREENSHOTS"):
                    visit.picture(Path(folder) / str(width) / f"{name.replace('/', '-')}.png")
            wrong += [f"{name}: {fault}" for fault in visit.faults]
    assert wrong == []


def test_the_search_finds_a_page_without_a_server(site: Path, chromium: "Browser") -> None:
    with chromium.visit(site / "index.html", home=site) as visit:
        visit.page.fill("input.md-search__input", "quarantine")
        visit.page.wait_for_selector(".md-search-result__link", timeout=30_000)
        found = visit.page.eval_on_selector_all(".md-search-result__link", "links => links.map(l => l.href)")
        assert any("audit" in link for link in found)
        assert visit.faults == []
