"""REPORT on disk: what may be shared, what is confidential, and report.json last."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from xraygen.atomic import atomic_file, remove_leftovers, sole_writer, write_json, write_text
from xraygen.audit.by_choice import choice_figures
from xraygen.audit.confidential import named_neighbours, nearest_pairs
from xraygen.audit.figures import (
    contact_sheet,
    frechet_chart,
    intensity_chart,
    nearest_chart,
    png_of_figure,
    spectrum_chart,
)
from xraygen.audit.measures import MEASURES, roughly, unsure
from xraygen.audit.privacy import Neighbours
from xraygen.audit.sets import ImageSet
from xraygen.dataset.store import Dataset
from xraygen.errors import FolderError

JSON_NAME = "report.json"
HTML_NAME = "report.html"
CONFIDENTIAL_NAME = "report-confidential.html"
CONFIDENTIAL_JSON_NAME = "report-confidential.json"
FIGURES_NAME = "figures"
_OWN = {JSON_NAME, HTML_NAME, CONFIDENTIAL_NAME, CONFIDENTIAL_JSON_NAME, FIGURES_NAME}

_FILMS_PER_CURVE = 512


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the pictures are made from and report.json does not hold."""

    synthetic: ImageSet
    real: Dataset
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    spaces: tuple[Neighbours, ...]
    shown: Mapping[str, NDArray[np.int64]]
    """Rows of the synthetic films that may be shown, by kind."""


def check_out(out: Path) -> None:
    """Refuse to write into a folder that holds something else.

    Raises:
        FolderError: If `out` exists and is neither empty nor a REPORT.
    """
    if out.exists() and not out.is_dir():
        raise FolderError(f"{out} is a file; choose a folder for --out.")
    others = [entry.name for entry in out.glob("*") if entry.name not in _OWN and entry.name[0] != "."]
    if others:
        raise FolderError(f"{out} holds {others[0]}, which is no part of a REPORT; choose another --out.")


def write_report(out: Path, result: Mapping[str, Any], evidence: Evidence) -> None:
    """Write the whole REPORT; without report.json it is unfinished.

    Args:
        out: Folder, made where missing.
        result: What report.json shall hold.
        evidence: What the pictures are made from.
    """
    figures = draw_figures(result, evidence)
    pages = page_templates()
    with sole_writer(out):
        (out / JSON_NAME).unlink(missing_ok=True)
        remove_leftovers(out)
        remove_leftovers(out / FIGURES_NAME)
        for old in (out / FIGURES_NAME).glob(
            "*.png"
        ):  # a film that is a suspect now may have been shown before
            old.unlink()
        for name, content in figures.items():
            with atomic_file(out / FIGURES_NAME / f"{name}.png") as aside:
                aside.write_bytes(content)
        for name, text in _confidential(result, evidence, pages).items():
            _write_for_owner(out / name, text)
        spaces = {
            name: {key: entry for key, entry in entries.items() if key in MEASURES}
            for name, entries in result["features"].items()
        }
        page = pages.get_template("report.html.j2").render(report=result, figures=figures, spaces=spaces)
        write_text(out / HTML_NAME, page)
        write_json(out / JSON_NAME, result)


def _confidential(result: Mapping[str, Any], evidence: Evidence, pages: Environment) -> dict[str, str]:
    """The two files that name training films, one of which shows them."""
    films, real, train, spaces = evidence.synthetic, evidence.real, evidence.train, evidence.spaces
    train_ids = real.manifest["image_id"].astype(str).to_numpy()[train].tolist()
    named = named_neighbours(result, spaces, films.file_names, train_ids)
    pairs = nearest_pairs(films, real, train, spaces)
    return {
        CONFIDENTIAL_NAME: pages.get_template("confidential.html.j2").render(report=result, pairs=pairs),
        CONFIDENTIAL_JSON_NAME: json.dumps(named, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }


def _write_for_owner(path: Path, text: str) -> None:
    """A file that nobody else may read, not even while it is written."""
    with atomic_file(path) as aside:
        aside.touch(mode=0o600)
        aside.write_text(text, encoding="utf-8")


def page_templates() -> Environment:
    """The templates of all pages: what a name or a tag holds is shown as text."""
    pages = Environment(
        loader=PackageLoader("xraygen.audit", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["embedded"] = embedded
    pages.filters["figure"] = _figure
    pages.filters["roughly"] = roughly
    pages.filters["unsure"] = unsure
    return pages


def draw_figures(result: Mapping[str, Any], evidence: Evidence) -> dict[str, bytes]:
    """The figures of report.html as PNG, by name; the films are those that `films_to_show` lets be shown."""
    films, real = evidence.synthetic, evidence.real
    test = real.gather(_spaced(evidence.test))
    shown = films.images[_spaced(np.arange(len(films)))]
    curves = (test, real.info.bits, shown, films.bits)
    sheets = {
        f"films-{kind}": contact_sheet(films.images[rows], films.bits)
        for kind, rows in evidence.shown.items()
        if len(rows)
    }
    return (
        sheets
        | choice_figures(result)
        | {
            "frechet": png_of_figure(frechet_chart(result["features"])),
            "nearest": png_of_figure(nearest_chart(evidence.spaces)),
            "intensity": png_of_figure(intensity_chart(*curves)),
            "spectrum": png_of_figure(spectrum_chart(*curves)),
        }
    )


def embedded(png: bytes) -> str:
    """A data URL, so that the page needs no other file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _figure(value: float) -> str:
    """Four significant digits, without an exponent for everyday numbers."""
    return f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _spaced(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most _FILMS_PER_CURVE rows, evenly taken."""
    count = min(len(rows), _FILMS_PER_CURVE)
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
