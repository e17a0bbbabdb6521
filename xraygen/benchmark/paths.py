"""The ways between two real images (Ho et al. 2020, sec. 4.4, fig. 8 and 9), by what `xraygen interpolate` calls."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xraygen.dataset.store import Dataset, Split
from xraygen.progress import Report
from xraygen.seeds import numpy_generator
from xraygen.synthesis.interpolate import InterpolateSettings, interpolate
from xraygen.synthesis.path_folder import PathOutputs
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.training.checkpoint import Choice

_FRAMES = 11
"""Both reconstructions, and lambda from 0.1 to 0.9."""


def draw_paths(
    run: Path,
    checkpoint: Choice,
    dataset: Dataset,
    folder: Path,
    pairs: int,
    sampler: SamplerSettings,
    timesteps: int,
    device: str,
    report: Report,
) -> dict[str, Any]:
    """Draw the way between pairs of images in the paper's mode, from t = T / 2 and as a grid; what is there is read.

    Args:
        run: RUN in colour.
        checkpoint: Which checkpoint of it.
        dataset: Its DATASET; pairs are of its test images, or of its training images where it has no others.
        folder: Where a PATH of each pair is kept, with grid.png.
        pairs: How many.
        sampler: How frames are decoded.
        timesteps: T of the RUN.
        device: Where.
        report: Told how many frames are done.

    Returns:
        The split, the mode, and of each pair its folder, its rows, the timesteps of its grid and the variance of the
        noise half-way.
    """
    split: Split = "test" if len(dataset.indices("test")) > 1 else "train"
    rows = numpy_generator(0, "benchmark-paths").permutation(dataset.indices(split))
    pairs = min(pairs, len(rows) // 2)
    settings = InterpolateSettings("paper", timestep=timesteps // 2, frames=_FRAMES)
    paths = []
    for pair, (first, second) in enumerate(rows[: 2 * pairs].reshape(pairs, 2).tolist()):
        out = folder / f"pair-{pair}"
        if not _is_there(out, sampler):
            interpolate(
                run,
                f"{dataset.folder}#{first}",
                f"{dataset.folder}#{second}",
                out,
                settings,
                sampler,
                outputs=PathOutputs(grid=True),
                checkpoint=checkpoint,
                device=device,
                report=report,
            )
        told = _told(out)
        half_way = told["frames"][_FRAMES // 2]
        paths.append(
            {
                "folder": out.name,
                "rows": [first, second],
                "grid_timesteps": told["grid"]["timesteps_counted_from_1"],
                "noise_variance_half_way": half_way["noise_variance"],
            }
        )
    return {"split": split, "mode": settings.mode, "timestep": timesteps // 2, "pairs": paths}


def _told(out: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out / "path.json").read_text(encoding="utf-8"))
    return told


def _is_there(out: Path, sampler: SamplerSettings) -> bool:
    """Whether the PATH was finished by this sampler; `interpolate` refuses one that another has begun."""
    if not (out / "path.json").is_file():
        return False
    settings = _told(out)["settings"]
    return all(settings.get(key) == value for key, value in asdict(sampler).items())
