"""The set of one training step: made while its checkpoint is there, and read for as long as it is whole."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraygen.errors import FolderError
from xraygen.films.colour import read_colour
from xraygen.films.listing import METADATA, read_rows
from xraygen.progress import Report
from xraygen.synthesis.generate import generate
from xraygen.synthesis.provenance import read_provenance, settings_of
from xraygen.synthesis.rows import is_there
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.training.checkpoint import checkpoints, chosen_checkpoint, run_config


def finish_set(
    run: Path, step: int, folder: Path, count: int, sampler: SamplerSettings, device: str, report: Report
) -> int:
    """Make what is missing of a set; one that is whole needs no checkpoint, which training may have deleted since.

    Args:
        run: RUN in colour.
        step: Training step of the checkpoint.
        folder: SYNTHETIC folder.
        count: Images: those of seeds 0 ... count - 1.
        sampler: How they are made.
        device: Where.
        report: Told how many images are done.

    Returns:
        How many images were made.

    Raises:
        FolderError: If the checkpoint is gone or damaged, and the set is not whole.
        UsageError: If the set was made otherwise.
    """
    if step not in {checkpoint.step for checkpoint in checkpoints(run)}:
        if not _is_whole(run, step, folder, count, sampler):
            raise FolderError(
                f"{run} no longer holds the checkpoint of step {step}, and {folder} does not hold all {count} images "
                "as they are asked for; repeat the options that made them, or leave the step out of --ladder: "
                "`--ladder none` scores the last step alone."
            )
        return 0
    checkpoint = chosen_checkpoint(run, step)
    return generate(
        run, folder, range(count), sampler, checkpoint=checkpoint, device=device, report=report
    ).made


def _is_whole(run: Path, step: int, folder: Path, count: int, sampler: SamplerSettings) -> bool:
    """Whether a set holds every image, to the byte, of this step and by this sampler."""
    rows = {row["seed"]: row for row in read_rows(folder / METADATA)}
    if not all(is_there(folder, rows.get(str(seed))) for seed in range(count)):
        return False
    origin = read_provenance(folder)
    steps = sampler.steps or run_config(run).schedule.num_timesteps
    asked = {**asdict(sampler), "steps": steps}
    settings = settings_of(origin)
    made_by = {key: settings.get(key) for key in asked}
    return origin["checkpoint"].get("step") == step and made_by == asked


def read_set(folder: Path, count: int) -> NDArray[np.uint8]:
    """The images of seeds 0 ... count - 1, uint8 `[N, H, W, 3]`: quantised, where the paper's FID took floats."""
    first = read_colour(folder / "images" / "0.png")
    images = np.empty((count, *first.shape), np.uint8)
    for seed in range(count):
        images[seed] = read_colour(folder / "images" / f"{seed}.png")
    return images
