"""The pictures of a report. None of them shows a real film; real films enter only as curves over hundreds of them."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray
from PIL import Image

from xraygen.audit.privacy import Neighbours
from xraygen.films.grids import tile
from xraygen.metrics.pixels import film_statistics, mean_power
from xraygen.ranges import Stored, stored_to_unit

# Okabe & Ito's palette: told apart in every common form of colour blindness.
SYNTHETIC = "#D55E00"
REAL = "#0072B2"
OTHER = "#5A5A5A"

_SHEET_COLUMNS = 6
_SHEET_SIDE_PX = 112
_WIDTH = 5.4
"""Inches: narrow, so that letters of 9 points can be read on a telephone too."""
_DPI = 190


def contact_sheet(images: Stored, bits: int) -> bytes:
    """All of these films, six in a row, as PNG."""
    return png_of_array(tile(np.stack([_thumbnail(image, bits) for image in images]), 8, _SHEET_COLUMNS))


def film_png(image: Stored, bits: int, side_px: int = 256) -> bytes:
    """One film as an 8-bit PNG for the eye, its longer side `side_px` pixels."""
    return png_of_array(_thumbnail(image, bits, side_px))


def frechet_chart(features: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Distance of every set with its interval, nearest on top, one panel per extractor; logarithmic."""
    sets = max(len(entry["fd"]["sets"]) for entry in features.values())
    figure = Figure(figsize=(_WIDTH, (0.9 + 0.34 * sets) * len(features)))
    figure.set_layout_engine(ConstrainedLayoutEngine(h_pad=0.12))
    panels = figure.subplots(len(features), 1, squeeze=False)[:, 0]
    for axes, entry in zip(panels, features.values(), strict=True):
        _frechet_panel(axes, entry["fd"])
    return figure


def nearest_chart(spaces: Sequence[Neighbours]) -> Figure:
    """Distances to the nearest training film: synthetic films against test films of other patients."""
    figure = Figure(figsize=(_WIDTH, 0.5 + 2.2 * len(spaces)), layout="constrained")
    panels = figure.subplots(len(spaces), 1, squeeze=False)[:, 0]
    for axes, space in zip(panels, spaces, strict=True):
        both = np.concatenate([space.distance, space.null])
        low, high = float(both.min()), float(both.max())
        bins = np.linspace(low, high if high > low else low + 1, 33)
        for distances, colour, style, label in (
            (space.null, REAL, "-", "test films (other patients)"),
            (space.distance, SYNTHETIC, "-", "synthetic films"),
        ):
            share = np.full(len(distances), 1 / len(distances))
            axes.hist(distances, bins, weights=share, color=colour, alpha=0.22)
            axes.hist(
                distances, bins, weights=share, color=colour, histtype="step", lw=1.6, ls=style, label=label
            )
        axes.axvline(space.limit, color=OTHER, ls="--", lw=1.2, label="suspects lie left of this")
        if space.copy_limit is not None:
            axes.axvline(space.copy_limit, color=OTHER, ls=":", lw=1.6, label="copies lie left of this")
        axes.set(xlabel=f"distance to the nearest training film ({space.label})", ylabel="share of films")
        _tidy(axes)
    legend = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        legend.values(), legend.keys(), loc="outside upper left", ncols=2, frameon=False, fontsize=9
    )
    return figure


def intensity_chart(real: Stored, real_bits: int, synthetic: Stored, bits: int) -> Figure:
    """How often each grey occurs."""
    figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 1, 65)
    for images, depth, colour, style, label in (
        (real, real_bits, REAL, "-", "real test films"),
        (synthetic, bits, SYNTHETIC, "--", "synthetic films"),
    ):
        counts = np.histogram(stored_to_unit(images, depth), edges)[0]
        axes.stairs(100 * counts / counts.sum(), edges, color=colour, ls=style, lw=1.6, label=label)
    axes.set(xlabel="intensity (0 black, 1 white)", ylabel="% of pixels", xlim=(0, 1), yscale="log")
    axes.legend(frameon=False, fontsize=9)
    _tidy(axes)
    return figure


def spectrum_chart(real: Stored, real_bits: int, synthetic: Stored, bits: int) -> Figure:
    """Radial power spectrum: too little on the right is blur, too much is grain."""
    figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
    axes = figure.subplots()
    for images, depth, colour, style, label in (
        (real, real_bits, REAL, "-", "real test films"),
        (synthetic, bits, SYNTHETIC, "--", "synthetic films"),
    ):
        films = film_statistics(images, depth)
        axes.plot(films.frequency, mean_power(films.power), color=colour, ls=style, lw=1.6, label=label)
    axes.set(xlabel="frequency (cycles per pixel)", ylabel="mean power", xscale="log", yscale="log")
    _plain_numbers(axes.xaxis)
    axes.legend(frameon=False, fontsize=9)
    _tidy(axes)
    return figure


def png_of_figure(figure: Figure) -> bytes:
    """As PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def png_of_array(picture: NDArray[np.uint8]) -> bytes:
    """As PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _frechet_panel(axes: Axes, fd: Mapping[str, Any]) -> None:
    """One dot with its interval per set."""
    order = sorted(fd["sets"].items(), key=lambda item: -item[1]["value"])
    smallest = min(entry["value"] for _, entry in order if entry["value"] > 0)
    for y, (key, entry) in enumerate(order):
        colour = {"this": SYNTHETIC, "real": REAL}.get(key, OTHER)
        value = max(entry["value"], smallest / 10)
        low = max(entry["low"], smallest / 10)
        axes.plot([low, max(entry["high"], value)], [y, y], color=colour, lw=2, solid_capstyle="round")
        axes.plot(value, y, marker="D" if key == "this" else "o", color=colour, ms=7)
        axes.annotate(
            f"{entry['value']:.3g}", (max(entry["high"], value), y), (6, -3), textcoords="offset points"
        )
    axes.set_yticks(range(len(order)), [entry["label"] for _, entry in order])
    axes.set(
        xscale="log", xlabel=f"{fd['name']} from {fd['count']} real test films", ylim=(-0.6, len(order) - 0.4)
    )
    axes.margins(x=0.12)
    _plain_numbers(axes.xaxis)
    _tidy(axes)
    axes.grid(axis="x", which="major", color="#DDDDDD", lw=0.8)
    axes.set_axisbelow(True)


def _plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with 20, 50, 100 rather than with powers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _tidy(axes: Axes) -> None:
    """Only the lines that carry something."""
    axes.spines[["top", "right"]].set_visible(False)


def _thumbnail(image: Stored, bits: int, side_px: int = _SHEET_SIDE_PX) -> NDArray[np.uint8]:
    """8 bits, aspect kept, longer side `side_px`; enlarged pixels stay square."""
    eight = np.rint(stored_to_unit(image, bits) * 255).astype(np.uint8)
    height, width = eight.shape
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(eight).resize(size, how))
