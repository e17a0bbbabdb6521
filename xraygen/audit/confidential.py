"""What of a REPORT names training films or shows them: two files, for the eyes of who holds the DATASET."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.audit.figures import film_png
from xraygen.audit.privacy import Neighbours
from xraygen.audit.sets import ImageSet
from xraygen.dataset.store import Dataset

FORMAT_VERSION = 1
WARNING = "CONFIDENTIAL: this file names films of real patients. Keep it where the DATASET is kept."

FEWEST_PAIRS = 24
"""Where there are fewer suspects, films that are none fill the page up."""
MOST_PAIRS = 1000
"""Nobody looks at more; the page says how many suspects it leaves out, and the JSON file names them all."""
LARGE_PAIRS = 100
"""The pictures of further pairs are small, since all of them are inside the page."""
_LARGE_PX, _SMALL_PX = 256, 128


def named_neighbours(
    result: Mapping[str, Any],
    spaces: Sequence[Neighbours],
    file_names: Sequence[str],
    train_ids: Sequence[str],
) -> dict[str, Any]:
    """What report-confidential.json holds: report.json's suspects and nearest films, with the training films.

    Args:
        result: What report.json holds; it names no training film.
        spaces: Where copies were looked for.
        file_names: Of the n synthetic films.
        train_ids: image_id of the training films.

    Returns:
        {confidential, format_version, real, synthetic, suspects, nearest}: `suspects` in the order of report.json,
        `nearest` by space, with a row per synthetic film.
    """
    nearest = {space.name: list(_rows(space, file_names, train_ids)) for space in spaces}
    of_film = {name: {row["file_name"]: row for row in rows} for name, rows in nearest.items()}
    return {
        "confidential": WARNING,
        "format_version": FORMAT_VERSION,
        "real": {name: result["real"][name] for name in ("name", "content_sha256")},
        "synthetic": {name: result["synthetic"][name] for name in ("name", "images_sha256")},
        "suspects": [
            {
                **suspect,
                "train_image_id": of_film[suspect["features"]][suspect["file_name"]]["train_image_id"],
            }
            for suspect in result["privacy"]["suspects"]
        ],
        "nearest": nearest,
    }


def _rows(space: Neighbours, file_names: Sequence[str], train_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The nearest training film of each synthetic film."""
    for name, index, distance, p_value in zip(
        file_names, space.index.tolist(), space.distance.tolist(), space.p_values.tolist(), strict=True
    ):
        yield {
            "file_name": name,
            "train_image_id": train_ids[index],
            "distance": distance,
            "p_value": p_value,
        }


def nearest_pairs(
    films: ImageSet, real: Dataset, train: NDArray[np.int64], spaces: Sequence[Neighbours]
) -> list[dict[str, Any]]:
    """The suspects beside their nearest training films: of the first space, then of the others; then nearest films.

    Args:
        films: The n synthetic films.
        real: The DATASET.
        train: Rows of its train split.
        spaces: Where copies were looked for.

    Returns:
        All suspects, of which MOST_PAIRS at most; filled up to FEWEST_PAIRS with the films nearest in the first space.
    """
    chosen: dict[int, Neighbours] = {}
    for space in spaces:
        for row in space.suspects.tolist():
            chosen.setdefault(row, space)
    first = spaces[0]
    for row in np.argsort(first.distance, kind="stable")[:FEWEST_PAIRS].tolist():
        if len(chosen) < FEWEST_PAIRS:
            chosen.setdefault(row, first)
    shown = list(chosen.items())[:MOST_PAIRS]
    return [
        _pair(films, real, train, row, space, _LARGE_PX if place < LARGE_PAIRS else _SMALL_PX)
        for place, (row, space) in enumerate(shown)
    ]


def _pair(
    films: ImageSet, real: Dataset, train: NDArray[np.int64], row: int, space: Neighbours, side_px: int
) -> dict[str, Any]:
    """One synthetic film and its nearest training film."""
    train_row = int(train[space.index[row]])
    return {
        "file_name": films.file_names[row],
        "train_image_id": str(real.manifest["image_id"].iloc[train_row]),
        "space": space.label,
        "distance": float(space.distance[row]),
        "limit": space.limit,
        "p_value": float(space.p_values[row]),
        "suspect": bool(space.distance[row] < space.limit),
        "synthetic_png": film_png(films.images[row], films.bits, side_px),
        "train_png": film_png(real.images[train_row], real.info.bits, side_px),
    }
