"""The pixel spacing of a DATASET's images: nominal, since films of many detectors are brought to one size."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from xraygen.films.resizing import size_inside
from xraygen.films.transforms import PrepareSettings

_ENOUGH = 0.5
"""Share of the training films that must tell their spacing; fewer need not stand for the others."""


def nominal_spacing(manifest: pd.DataFrame, prepare: PrepareSettings) -> tuple[float, float] | None:
    """Median over the training films of the distance between rows and between columns, in mm, after resizing.

    Args:
        manifest: As `read_manifest` gives it: sizes and spacings of the films before resizing.
        prepare: How they were resized.

    Returns:
        (row, column) spacing in mm; None if fewer than half of the training films tell theirs, or if borders were cut
        off that the manifest does not know.
    """
    train = manifest[manifest["split"] == "train"]
    known = train[train["pixel_spacing_mm"].notna()]
    if prepare.crop_collimation or not len(known) or len(known) < _ENOUGH * len(train):
        return None
    row, column = np.median(list(_spacings(known, prepare)), axis=0)
    return float(f"{row:.6g}"), float(f"{column:.6g}")


def _spacings(films: pd.DataFrame, prepare: PrepareSettings) -> Iterator[tuple[float, float]]:
    """(row, column) spacing of each film after resizing."""
    height, width = prepare.size
    columns = (films["pixel_spacing_mm"], films["rows"], films["columns"])
    for spacing, rows, across in zip(*columns, strict=True):
        match prepare.fit:
            case "stretch":
                yield spacing * rows / height, spacing * across / width
            case "pad":
                inside = size_inside((rows, across), prepare.size)
                yield spacing * rows / inside[0], spacing * across / inside[1]
            case "crop":
                cut = size_inside(prepare.size, (rows, across))
                yield spacing * cut[0] / height, spacing * cut[1] / width
