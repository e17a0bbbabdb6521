"""The pages of a REPORT as their reader has them: in Chromium, wide and on a telephone, light, dark and on paper."""

import io
import json
import re
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from xraygen.audit.audit import audit
from xraygen.audit.compare import compare_reports, write_comparison
from xraygen.audit.figures import film_png
from xraygen.audit.settings import AuditSettings
from xraygen.dataset.manifest import write_manifest
from xraygen.dataset.store import content_sha256, open_dataset

if TYPE_CHECKING:
    from tests.browser import Browser

Textures = Callable[..., NDArray[np.uint16]]
Make = Callable[..., Path]
Scheme = Literal["light", "dark"]

MARKUP = "<img src=x onerror=alert(1)>"
PAGES = (
    "report.html",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("report-confidential.html", "comparison.html")),
)
PAPER = 703
"""CSS pixels between the margins of A4."""


def rename(synthetic: Path, name: str, new: str) -> None:
    """Another name for a film of a SYNTHETIC."""
    (synthetic / name).rename(synthetic / new)
    metadata = pd.read_csv(synthetic / "metadata.csv", dtype=str, keep_default_na=False)
    metadata["file_name"] = metadata["file_name"].replace(name, new)
    metadata.to_csv(synthetic / "metadata.csv", index=False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, textures: Textures, make_dataset: Make) -> Path:
    """A DATASET in whose labels a view is called by markup, as a DICOM tag may."""
    splits = ["train"] * 40 + ["test"] * 24
    folder = make_dataset(tmp_path_factory.mktemp("pages") / "dataset", textures(64), splits)
    manifest = open_dataset(folder).manifest
    write_manifest(folder / "manifest.csv", manifest.assign(view=["PA", MARKUP] * 32), [])
    info = json.loads((folder / "dataset.json").read_text()) | {"content_sha256": content_sha256(folder)}
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="module")
def pages(
    tmp_path_factory: pytest.TempPathFactory, dataset: Path, textures: Textures, make_synthetic: Make
) -> Path:
    """A folder with all three pages: a set with a copy and near duplicates, and markup in every name."""
    folder = tmp_path_factory.mktemp("pages")
    images = textures(24, seed=5)
    images[7] = open_dataset(dataset).images[33]
    images[9], images[11] = images[8], images[8][:, ::-1]
    synthetic = make_synthetic(folder / MARKUP, images)
    for seed in (3, 7, 9):
        rename(synthetic, f"images/{seed}.png", f"images/{MARKUP}{seed}.png")
    metadata = pd.read_csv(synthetic / "metadata.csv", dtype=str, keep_default_na=False)
    metadata.assign(view=["PA", MARKUP] * 12).to_csv(synthetic / "metadata.csv", index=False)
    settings = AuditSettings(
        features=("pixels",), pairs=30, device="cpu", fail_on=("suspects>0", "fd/floor<1000")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XRAYGEN_CACHE", str(tmp_path_factory.getbasetemp() / "feature-cache"))
        audit(dataset, synthetic, folder / "report", settings)
    write_comparison(folder / "comparison", compare_reports([folder / "report"] * 2))
    (folder / "comparison" / "comparison.html").rename(folder / "report" / "comparison.html")
    return folder / "report"


def embedded_pictures(page: Path) -> list[NDArray[np.uint8]]:
    """Every picture in a page, grey, (H, W)."""
    found = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page.read_text())
    return [np.asarray(Image.open(io.BytesIO(b64decode(text))).convert("L")) for text in found]


def holds(picture: NDArray[np.uint8], film: NDArray[np.uint8]) -> bool:
    """Whether the middle row of a film stands in a picture, pixel for pixel."""
    return film[len(film) // 2].tobytes() in picture.tobytes()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_at_every_width_and_asks_for_nothing(
    chromium: "Browser", pages: Path, name: str
) -> None:
    for width in (1440, 360):
        with chromium.visit(pages / name, width=width) as visit:
            assert visit.faults == []
            assert visit.unseen("figure, figure img, h1") == []
            assert not visit.is_wider_than_the_window()
            pictures = visit.page.locator("img").count()
            assert pictures == {"report.html": 7, "report-confidential.html": 48, "comparison.html": 0}[name]


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_serious_stands_in_the_way_of_any_reader(
    chromium: "Browser", pages: Path, name: str, scheme: Scheme
) -> None:
    with chromium.visit(pages / name, width=360, scheme=scheme) as visit:  # narrow: tables scroll
        assert visit.serious() == []
        page = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert page == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 28)"}[scheme]


def test_axe_finds_what_is_there(chromium: "Browser", tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<html><body style="color:#ccc">pale<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="></body>'
    )
    with chromium.visit(page) as visit:
        found = " ".join(visit.serious())
        assert all(fault in found for fault in ("image-alt", "color-contrast", "html-has-lang"))
        assert visit.unseen("img") != []


def test_a_request_and_an_error_are_heard(chromium: "Browser", tmp_path: Path) -> None:
    page = tmp_path / "loud.html"
    page.write_text('<script>console.error("loud"); throw new Error("wrong")</script><img src="other.png">')
    with chromium.visit(page) as visit:
        assert [fault.split(":")[0] for fault in visit.faults if "other.png" in fault] == ["request"]
        assert any("loud" in fault for fault in visit.faults)
        assert any("wrong" in fault for fault in visit.faults)


@pytest.mark.parametrize("name", PAGES)
def test_markup_in_names_and_words_is_shown_as_text(chromium: "Browser", pages: Path, name: str) -> None:
    with chromium.visit(pages / name) as visit:
        assert visit.page.locator("img[src=x], script, iframe").count() == 0
        told = visit.page.inner_text("body")
        assert MARKUP in visit.page.title()
        assert MARKUP in told
        if name == "report.html":
            # The set, a group, a suspect, a near duplicate.
            for text in (
                f"Audit of {MARKUP}",
                f"view = {MARKUP}",
                f"images/{MARKUP}7.png",
                f"images/{MARKUP}9.png",
            ):
                assert text in told


def test_no_pixel_of_a_real_film_is_in_the_page_that_may_be_shared(pages: Path, dataset: Path) -> None:
    shared = embedded_pictures(pages / "report.html")
    shared += [np.asarray(Image.open(path).convert("L")) for path in (pages / "figures").iterdir()]
    confidential = embedded_pictures(pages / "report-confidential.html")
    films = [
        np.asarray(Image.open(io.BytesIO(film_png(image, 16, side))))
        for image in open_dataset(dataset).images
        for side in (24, 112, 256)  # as stored, in a sheet, in a pair
    ]
    assert not any(holds(picture, film) for picture in shared for film in films)
    assert (
        sum(holds(picture, film) for picture in confidential for film in films) >= 24
    )  # so it would be found


def test_the_keyboard_reaches_all_that_moves(chromium: "Browser", pages: Path) -> None:
    with chromium.visit(pages / "report.html", width=360) as visit:
        wanted = visit.page.locator("a, [tabindex='0']").count()
        reached: list[str] = []
        for _ in range(wanted):
            visit.page.keyboard.press("Tab")
            reached.append(visit.page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))
            assert visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        assert "To the verdicts" in reached[0]
        assert len(set(reached)) == wanted
        table = visit.page.locator("[role=region]").first
        table.focus()
        visit.page.keyboard.press("ArrowRight")
        for _ in range(50):  # it glides; wait_for_function would need the eval that the page forbids
            if scrolled := table.evaluate("region => region.scrollLeft"):
                break
            visit.page.wait_for_timeout(100)
        assert scrolled > 0


def test_pictures_have_words_that_say_what_they_show(chromium: "Browser", pages: Path) -> None:
    report: dict[str, Any] = json.loads((pages / "report.json").read_text())
    with chromium.visit(pages / "report.html") as visit:
        words = visit.page.eval_on_selector_all("img", "images => images.map(image => image.alt)")
    assert all(len(text) > 30 for text in words)
    (chart,) = (text for text in words if text.startswith("Dot chart"))
    for entry in report["features"]["pixels"]["fd"]["sets"].values():
        assert f"{entry['label']} {entry['value']:.4g}" in chart
    (histogram,) = (text for text in words if text.startswith("Histograms of the distance"))
    assert f"suspects below {report['privacy']['spaces']['aligned']['limit']:.4g}" in histogram


@pytest.mark.parametrize("name", PAGES)
def test_on_paper_nothing_is_cut_off(chromium: "Browser", pages: Path, name: str) -> None:
    with chromium.visit(pages / name, width=PAPER, media="print", scheme="dark") as visit:
        assert not visit.is_wider_than_the_window()
        assert visit.page.locator(".contents, .skip").locator("visible=true").count() == 0
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert visit.unseen("table, img") == []
        assert visit.page.pdf(format="A4")[:5] == b"%PDF-"


def test_the_report_says_what_a_clinician_looks_for(chromium: "Browser", pages: Path) -> None:
    with chromium.visit(pages / "report.html") as visit:
        headings = visit.page.locator("h2, h3").all_inner_texts()
        cards = visit.page.locator(".card").all_inner_texts()
    wanted = (
        "Verdicts",
        "At random",
        "Most like real films",
        "Least like real films",
        "Suspected of being copies",
        "Glossary",
    )
    assert [heading for heading in wanted if heading not in headings] == []
    assert any("0 of 2 passed" in card for card in cards)
    assert all(re.search(r"\d", card) for card in cards)
