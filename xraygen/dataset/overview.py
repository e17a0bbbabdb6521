"""Pictures of a DATASET for a person to look at before a day of training. They show real films."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xraygen.dataset.curation import THUMBNAIL_PX, from_thumbnail, to_thumbnail
from xraygen.dataset.journal import Outcome
from xraygen.films.grids import tile
from xraygen.ranges import Stored, stored_to_unit
from xraygen.seeds import numpy_generator

ACCEPTED_NAME = "overview-accepted.png"
REJECTED_NAME = "overview-rejected.png"
HISTOGRAM_NAME = "histogram.png"

_FILMS = 64
_COLUMNS = 8
_HISTOGRAM_FILMS = 256
_CAPTION_PX = 16
_BINS = 64


def write_overview(folder: Path, images: Stored, bits: int, rejected: Sequence[Outcome]) -> None:
    """Write the contact sheets and the histogram; the same films give the same bytes.

    Args:
        folder: The DATASET in the making.
        images: Its images `[N, H, W]`, at least one; may be a memory map.
        bits: Their depth.
        rejected: Rejected films with their `thumbnail`; without any there is no sheet.
    """
    shown = np.stack([_small(images[row], bits) for row in sample_rows(len(images), _FILMS)])  # [n, T, T]
    Image.fromarray(tile(shown, 8, _COLUMNS)).save(folder / ACCEPTED_NAME)
    if rejected:
        rejected_sheet(rejected).save(folder / REJECTED_NAME)
    rows = sample_rows(len(images), _HISTOGRAM_FILMS)
    histogram(images[rows], bits).savefig(folder / HISTOGRAM_NAME, dpi=120)


def sample_rows(count: int, most: int, seed: int = 0) -> NDArray[np.int64]:
    """Up to `most` rows of `count`, one drawn from each of as many equal stretches, int64 [n], ascending."""
    edges = np.linspace(0, count, min(count, most) + 1).astype(np.int64)
    return numpy_generator(seed, "overview").integers(edges[:-1], edges[1:])


def rejected_sheet(outcomes: Sequence[Outcome]) -> Image.Image:
    """The rejected films' small pictures with their reasons, reason by reason."""
    films = sorted(outcomes, key=lambda outcome: str(outcome["reason"]))
    cells = np.zeros((len(films), THUMBNAIL_PX + _CAPTION_PX, THUMBNAIL_PX), np.uint8)
    cells[:, _CAPTION_PX:] = np.stack([from_thumbnail(film["thumbnail"]) for film in films])
    sheet = Image.fromarray(tile(cells, 8, _COLUMNS))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    gap = (
        tile(cells[:1].repeat(2, axis=0), 8, 2).shape[1] - 2 * THUMBNAIL_PX
    )  # what `tile` leaves between two
    for index, film in enumerate(films):
        x = index % _COLUMNS * (THUMBNAIL_PX + gap)
        y = index // _COLUMNS * (THUMBNAIL_PX + _CAPTION_PX + gap)
        draw.text((x + 1, y + 1), str(film["reason"]), fill=255, font=font)
    return sheet


def histogram(images: Stored, bits: int) -> Figure:
    """How often each grey occurs in a sample of films, and the middle half of the films by grey.

    Args:
        images: `[n, H, W]`.
        bits: Their depth.
    """
    edges = np.linspace(0, 1, _BINS + 1)
    shares = np.stack(
        [np.histogram(stored_to_unit(image, bits), edges)[0] / image.size for image in images]
    )  # [n, b]
    low, high = np.percentile(shares, [25, 75], axis=0)
    figure = Figure(figsize=(7.4, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.stairs(
        100 * high,
        edges,
        baseline=100 * low,
        fill=True,
        color="#0072B2",
        alpha=0.25,
        label="middle half of films",
    )
    axes.stairs(
        100 * shares.mean(axis=0), edges, color="#0072B2", lw=1.6, label=f"mean of {len(images)} films"
    )
    axes.set(xlabel="intensity (0 black, 1 white)", ylabel="% of pixels", xlim=(0, 1))
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _small(image: Stored, bits: int) -> NDArray[np.uint8]:
    """[H, W] -> uint8 [THUMBNAIL_PX, THUMBNAIL_PX]."""
    return from_thumbnail(to_thumbnail(stored_to_unit(image, bits)))
