"""REPORT on disk: two self-contained pages, the figures, and report.json last."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from xraygen.atomic import atomic_file, remove_leftovers, sole_writer, write_json, write_text
from xraygen.audit.by_choice import choice_figures
from xraygen.audit.figures import (
    contact_sheet,
    film_png,
    frechet_chart,
    intensity_chart,
    nearest_chart,
    png_of_figure,
    spectrum_chart,
)
from xraygen.audit.measures import MEASURES
from xraygen.audit.privacy import Neighbours
from xraygen.audit.sets import ImageSet
from xraygen.dataset.store import Dataset
from xraygen.errors import FolderError

JSON_NAME = "report.json"
HTML_NAME = "report.html"
CONFIDENTIAL_NAME = "report-confidential.html"
FIGURES_NAME = "figures"
_OWN = {JSON_NAME, HTML_NAME, CONFIDENTIAL_NAME, FIGURES_NAME}

_FILMS_PER_CURVE = 512
_PAIRS_SHOWN = 24


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the pictures are made from and report.json does not hold."""

    synthetic: ImageSet
    real: Dataset
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    spaces: tuple[Neighbours, ...]


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
        for name, content in figures.items():
            with atomic_file(out / FIGURES_NAME / f"{name}.png") as aside:
                aside.write_bytes(content)
        page = pages.get_template("confidential.html.j2").render(report=result, pairs=_pairs(evidence))
        with atomic_file(out / CONFIDENTIAL_NAME) as aside:
            aside.write_text(page, encoding="utf-8")
            aside.chmod(0o600)
        spaces = {
            name: {key: entry for key, entry in entries.items() if key in MEASURES}
            for name, entries in result["features"].items()
        }
        page = pages.get_template("report.html.j2").render(report=result, figures=figures, spaces=spaces)
        write_text(out / HTML_NAME, page)
        write_json(out / JSON_NAME, result)


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
    return pages


def draw_figures(result: Mapping[str, Any], evidence: Evidence) -> dict[str, bytes]:
    """The figures of report.html as PNG, by name; no suspect is shown, since it may be a patient's film."""
    films, real = evidence.synthetic, evidence.real
    test = real.gather(_spaced(evidence.test))
    shown = films.images[_spaced(np.arange(len(films)))]
    curves = (test, real.info.bits, shown, films.bits)
    suspects = np.concatenate([space.suspects for space in evidence.spaces])
    harmless = np.setdiff1d(np.arange(len(films)), suspects)
    sheet = {"contact-sheet": contact_sheet(films.images[harmless], films.bits)} if len(harmless) else {}
    return (
        sheet
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


def _pairs(evidence: Evidence) -> list[dict[str, Any]]:
    """The synthetic films nearest to a training film, beside it: by the first space, then what others suspect."""
    chosen: dict[int, Neighbours] = {}
    for space in evidence.spaces:
        for row in space.suspects[:_PAIRS_SHOWN].tolist():
            chosen.setdefault(row, space)
    first = evidence.spaces[0]
    for row in np.argsort(first.distance, kind="stable")[:_PAIRS_SHOWN].tolist():
        if len(chosen) < _PAIRS_SHOWN:
            chosen.setdefault(row, first)
    return [_pair(evidence, row, space) for row, space in chosen.items()]


def _pair(evidence: Evidence, row: int, space: Neighbours) -> dict[str, Any]:
    """One synthetic film and its nearest training film."""
    films, real = evidence.synthetic, evidence.real
    train_row = int(evidence.train[space.index[row]])
    return {
        "file_name": films.file_names[row],
        "train_image_id": str(real.manifest["image_id"].iloc[train_row]),
        "space": space.label,
        "distance": float(space.distance[row]),
        "limit": space.limit,
        "p_value": float(space.p_values[row]),
        "suspect": bool(space.distance[row] < space.limit),
        "synthetic_png": film_png(films.images[row], films.bits),
        "train_png": film_png(real.images[train_row], real.info.bits),
    }
