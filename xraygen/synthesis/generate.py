"""RUN -> SYNTHETIC: a set of synthetic films, each from its own seed."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xraygen.atomic import remove_leftovers, sha256_of, sole_writer, write_json, write_text
from xraygen.devices import choose_device
from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.films.grids import tile
from xraygen.films.reader import read_film
from xraygen.films.writers import write_png
from xraygen.progress import Progress, Report, silent
from xraygen.ranges import Stored
from xraygen.synthesis.card import data_set_card
from xraygen.synthesis.conditions import Guidance, Words, folder_of, folders_as_json, read_folders
from xraygen.synthesis.images import (
    FileFormat,
    image_path,
    images_of,
    seed_of,
    settings_of_format,
    write_image,
)
from xraygen.synthesis.noise import SeededNoise
from xraygen.synthesis.provenance import agreed_provenance, provenance
from xraygen.synthesis.sampling import SamplerSettings, as_stored, sample, sampling_diffusion
from xraygen.training.checkpoint import Choice, chosen_checkpoint, load_run, run_config
from xraygen.training.conditions import CONDITIONS, read_conditions

_PREVIEW_IMAGES = 64


@dataclass(frozen=True)
class GenerateSummary:
    """What a call to `generate` did."""

    folder: Path
    made: int
    present: int


def generate(
    run: Path,
    out: Path,
    seeds: Sequence[int],
    settings: SamplerSettings,
    *,
    guidance: Guidance | None = None,
    file_format: FileFormat = "png",
    mark: bool | None = None,
    checkpoint: Choice = "newest",
    device: str = "auto",
    report: Report = silent,
) -> GenerateSummary:
    """Make one synthetic film per seed; what a killed call left is finished, not done again.

    Args:
        run: RUN folder with a checkpoint.
        out: SYNTHETIC folder; created, or gone on with if the same checkpoint and settings made it.
        seeds: Seed of each image; the file is named after it.
        settings: Sampler settings.
        guidance: What the films shall show, if the RUN knows conditions; by default nothing is told. Calls that differ
            in what is told alone fill one set.
        file_format: 16-bit PNG, NIfTI, or DICOM as Secondary Capture or as DX For Presentation.
        mark: Whether the word SYNTHETIC goes into a corner of the pixels; None for DX alone.
        checkpoint: "newest", "best" on validation films, or a step; provenance.json names its step and hash.
        device: "auto", "cpu" or "cuda[:i]".
        report: Told how many images are done.

    Returns:
        How many images were made and how many were already there.

    Raises:
        FolderError: If the RUN has no checkpoint, or `out` is something else.
        UsageError: If `out` was made otherwise, or the settings or the guidance do not fit the RUN.
    """
    target = choose_device(device)
    run_config(run)  # says what is wrong with the folder before its checkpoints are looked at
    chosen = chosen_checkpoint(run, checkpoint)
    network, diffusion, config = load_run(run, target, chosen)
    conditions = read_conditions(run, config)
    guidance = (guidance or Guidance()).checked(conditions)
    chain = sampling_diffusion(diffusion, settings)
    model = guidance.model(network, chain, conditions, settings.batch_size, target)
    told = {**asdict(settings), "steps": len(chain.schedule.timesteps)}
    told |= settings_of_format(run, file_format, mark, config.data.shape)
    told |= guidance.told(run, conditions)
    folder = folder_of(guidance.words)
    with sole_writer(out):
        origin = agreed_provenance(out, provenance(run, chosen, told, target))
        write_json(out / "provenance.json", origin)
        folders = {**read_folders(out), folder: guidance.words}
        if folder:
            write_json(out / CONDITIONS, folders_as_json(folders))
        (out / "images" / folder).mkdir(parents=True, exist_ok=True)
        for name in folders:
            remove_leftovers(out / "images" / name)
        missing = [seed for seed in seeds if not image_path(out, seed, file_format, folder).exists()]
        report(Progress("generate", len(seeds) - len(missing), len(seeds)))
        try:
            for start in range(0, len(missing), settings.batch_size):
                batch = missing[start : start + settings.batch_size]
                images = sample_batch(model, chain, batch, config.data.shape, settings, target)
                for seed, image in zip(batch, images, strict=True):
                    path = image_path(out, seed, file_format, folder)
                    write_image(path, seed, image, origin, guidance.words)
                report(Progress("generate", len(seeds) - len(missing) + start + len(batch), len(seeds)))
        finally:
            _write_metadata(out, file_format, told, conditions.names, folders)
        _write_preview_and_card(out, file_format, origin)
    return GenerateSummary(out, len(missing), len(seeds) - len(missing))


def sample_batch(
    model: Model,
    diffusion: GaussianDiffusion,
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    settings: SamplerSettings,
    device: torch.device,
) -> Stored:
    """Images of these seeds, `[N, H, W]` uint16 or `[N, H, W, 3]` uint8, computed in one padded batch."""
    padded = [*seeds, *[seeds[-1]] * (settings.batch_size - len(seeds))]
    noise = SeededNoise(padded, shape, device)
    x_t = noise.draw()  # (B, C, H, W)
    return as_stored(sample(model, diffusion, x_t, noise, settings))[: len(seeds)]


def _write_metadata(
    out: Path,
    file_format: FileFormat,
    told: dict[str, Any],
    names: Sequence[str],
    folders: Mapping[str, Words],
) -> None:
    """metadata.csv over all images that are there, in the columns that `datasets`' imagefolder reads."""
    last = ("sampler", "steps", "guidance", "sha256")
    reserved = ("file_name", "seed", *last)
    columns = [f"{name}_label" if name in reserved else name for name in names]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["file_name", "seed", *columns, *last])
    for path in images_of(out, file_format):
        file_name = path.relative_to(out).as_posix()
        words = folders["" if path.parent.name == "images" else path.parent.name]
        asked = [words.get(name, "") for name in names]
        how = [told["sampler"], told["steps"], told["guidance"] if words else ""]
        writer.writerow([file_name, seed_of(path), *asked, *how, sha256_of(path)])
    write_text(out / "metadata.csv", table.getvalue())


def _write_preview_and_card(out: Path, file_format: FileFormat, origin: dict[str, Any]) -> None:
    """A contact sheet and the data set card."""
    paths = images_of(out, file_format)
    write_text(out / "README.md", data_set_card(origin, len(paths)))
    images = np.stack([read_film(path).values for path in paths[:_PREVIEW_IMAGES]])
    write_png(out / "preview.png", tile(images, 16 if images.dtype == np.uint16 else 8))
