"""What a PATH's frames resemble: both films, the nearest training film, and each other.

F frames, D features.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from xraygen.atomic import atomic_file
from xraygen.dataset.store import Dataset
from xraygen.metrics.features import FeatureExtractor, extract
from xraygen.metrics.neighbours import nearest
from xraygen.metrics.ssim import WINDOW_PX, ssim
from xraygen.progress import Report, silent
from xraygen.ranges import Stored, stored_to_unit

A_COLOUR, B_COLOUR, OTHER_COLOUR = "#0072B2", "#D55E00", "#009E73"
_DPI = 140

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Nearest:
    """The training film nearest to each frame: distance in features and row of the DATASET, `[F]` each."""

    distance: Floats
    rows: NDArray[np.int64]
    image_ids: Sequence[str]


@dataclass(frozen=True, eq=False)
class Curves:
    """Figures of the frames.

    Attributes:
        ssim: To film A and to film B, `[F, 2]`; None where films are smaller than the window.
        distance: Distance in features to film A and to film B, `[F, 2]`.
        steps: Distance in features from each frame to the next, `[F - 1]`.
        nearest: The nearest training films, where the DATASET is at hand.
        label: Name of the features.
    """

    ssim: Floats | None
    distance: Floats
    steps: Floats
    nearest: Nearest | None
    label: str

    @property
    def smoothness(self) -> float | None:
        """Largest step over mean step: 1 is even, the number of steps is a single jump; None if nothing moves."""
        mean = float(self.steps.mean())
        return float(self.steps.max()) / mean if mean > 0 else None

    def of_frame(self, index: int) -> dict[str, Any]:
        """What path.json says of one frame."""
        told: dict[str, Any] = {
            "distance_a": round(float(self.distance[index, 0]), 5),
            "distance_b": round(float(self.distance[index, 1]), 5),
        }
        if self.ssim is not None:
            told |= {f"ssim_{end}": round(float(self.ssim[index, i]), 5) for i, end in enumerate("ab")}
        if self.nearest is not None:
            told["nearest_training_film"] = {
                "distance": round(float(self.nearest.distance[index]), 5),
                "dataset_row": int(self.nearest.rows[index]),
                "image_id": self.nearest.image_ids[index],
            }
        if index < len(self.steps):
            told["step_to_next"] = round(float(self.steps[index]), 5)
        return told


def measure_curves(
    frames: Stored,
    ends: Stored,
    bits: int,
    extractor: FeatureExtractor,
    dataset: Dataset | None = None,
    report: Report = silent,
) -> Curves:
    """Measure the frames of a path.

    Args:
        frames: `[F, H, W]` or `[F, H, W, 3]`, stored levels.
        ends: Both films, `[2, ...]`.
        bits: Depth of both.
        extractor: Where distances are measured.
        dataset: The training films.
        report: Told how many features are extracted.
    """
    images = joined(ends, frames)
    features = extract(extractor, images, bits)  # [2 + F, D]
    parents, path = features[:2].astype(np.float64), features[2:].astype(np.float64)
    distance = np.linalg.norm(path[:, None] - parents, axis=2)  # [F, 2]
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)  # [F - 1]
    found = None
    if dataset is not None:
        train = dataset.indices("train")
        known = extract(
            extractor, dataset.gather(train), dataset.info.bits, report=report, task="training films"
        )
        near, which = nearest(features[2:], known)
        names = dataset.manifest["image_id"].iloc[train[which]].astype(str).tolist()
        found = Nearest(near, train[which], names)
    return Curves(_ssims(frames, ends, bits), distance, steps, found, extractor.label)


def joined(*parts: Stored) -> Stored:
    """Images one after another, all of one depth."""
    images: Any = np.concatenate(parts)
    stored: Stored = images
    return stored


def _ssims(frames: Stored, ends: Stored, bits: int) -> Floats | None:
    """SSIM of each frame to both films, `[F, 2]`."""
    grey, films = _grey(frames, bits), _grey(ends, bits)
    if min(grey.shape[1:]) < WINDOW_PX:
        return None
    return torch.stack([ssim(grey, film.expand_as(grey)) for film in films], dim=1).numpy()


def _grey(images: Stored, bits: int) -> Tensor:
    """`[N, H, W]` in [0, 1]; colour as the mean of its channels."""
    unit = torch.from_numpy(stored_to_unit(images, bits))
    return unit if unit.ndim == 3 else unit.mean(dim=3)


def curves_chart(lam: Sequence[float], curves: Curves) -> Figure:
    """SSIM, distances and steps along the path."""
    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    alike, apart, steps = figure.subplots(1, 3)
    for end, colour in ((0, A_COLOUR), (1, B_COLOUR)):
        name = f"film {'AB'[end]}"
        if curves.ssim is not None:
            alike.plot(lam, curves.ssim[:, end], color=colour, marker=".", label=name)
        apart.plot(lam, curves.distance[:, end], color=colour, marker=".", label=name)
    if curves.nearest is not None:
        apart.plot(
            lam, curves.nearest.distance, color=OTHER_COLOUR, ls="--", label="the nearest training film"
        )
    middles = (np.asarray(lam)[1:] + np.asarray(lam)[:-1]) / 2
    steps.bar(middles, curves.steps, width=0.8 * (lam[1] - lam[0]), color="#5A5A5A")
    uneven = curves.smoothness
    _name(alike, "SSIM to")
    _name(apart, f"distance in {curves.label} to")
    _name(
        steps, "distance to the next frame" + ("" if uneven is None else f" (largest / mean: {uneven:.2f})")
    )
    for axes in (alike, apart):
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    return figure


def _name(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("$\\lambda$")
    axes.spines[["top", "right"]].set_visible(False)


def save_chart(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, whole or absent."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI)
    with atomic_file(path) as aside:
        aside.write_bytes(content.getbuffer())
