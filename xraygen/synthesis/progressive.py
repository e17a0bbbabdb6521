"""RUN -> PROGRESSIVE: how an image comes about, and how much of it a chain has decided by step t.

t counts as in the paper, 1 ... T: step i of a chain, which may be respaced, starts from t = timesteps[i] + 1.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from xraygen.atomic import remove_leftovers, sole_writer, write_json
from xraygen.devices import choose_device
from xraygen.errors import UsageError
from xraygen.films.grids import tile, write_gif
from xraygen.films.synthetic import SERIES_DESCRIPTION
from xraygen.films.writers import write_png
from xraygen.memory import freed_memory_kept
from xraygen.progress import Report, silent
from xraygen.ranges import Stored
from xraygen.synthesis.chains import Chains, mean_pairwise_rmse, progressive_frames, shared_chain
from xraygen.synthesis.noise import NOISE
from xraygen.synthesis.provenance import FORMAT_VERSION, agreed_provenance, provenance
from xraygen.synthesis.sampling import SamplerSettings, as_stored, sampling_diffusion
from xraygen.synthesis.timesteps import nearest_step
from xraygen.training.checkpoint import load_run, newest_checkpoint

STRIP, GIF, SHARED = "strip.png", "chain.gif", "shared-chain.png"
_COLUMNS = 20
_CELL_PX = 64
_FONT_PX = 12
_PAUSE_FRAMES = 8


@dataclass(frozen=True)
class ProgressiveSettings:
    """What is shown.

    Attributes:
        every: Steps of the chain from one column to the next; None takes a twentieth of them, the paper's 50 of 1000.
        splits: Where the shared chain is split, t in 1 ... T; None takes T, 3 T / 4, T / 2 and T / 4 (the paper's
            1000, 750, 500, 250), an empty tuple leaves that figure out.
        branches: Continuations of the shared chain from each split, at least 2.
    """

    every: int | None = None
    splits: tuple[int, ...] | None = None
    branches: int = 4


@dataclass(frozen=True)
class ProgressiveSummary:
    """What a call to `progressive` did: the pictures made, and those that were there already, by file name."""

    folder: Path
    made: tuple[str, ...]
    present: tuple[str, ...]


def progressive(
    run: Path,
    out: Path,
    seeds: Sequence[int],
    settings: ProgressiveSettings,
    sampler: SamplerSettings,
    *,
    gif: bool = True,
    device: str = "auto",
    report: Report = silent,
) -> ProgressiveSummary:
    """Write strip.png, chain.gif, shared-chain.png and progressive.json, which says what they show.

    The strip has a row per seed: the chain's estimate of its final image while t falls. The shared chain is the
    first seed's; branches need chance, so where the strip's ddim has eta 0 that figure's has eta 1. The same call
    again makes only what is missing.

    Args:
        run: RUN folder with a checkpoint.
        out: PROGRESSIVE folder; created, or gone on with if the same checkpoint, settings and seeds made it.
        seeds: Seed of each row.
        settings: What is shown.
        sampler: How the chains run; compute_batch of them at a time.
        gif: Write chain.gif too.
        device: "auto", "cpu" or "cuda[:i]".
        report: Told how many steps of the chains are done.

    Returns:
        Which pictures were made and which were already there.

    Raises:
        FolderError: If the RUN has no checkpoint, or `out` is something else.
        UsageError: If the settings do not fit the RUN, or `out` was made otherwise.

    Source:
        Ho et al. 2020, sec. 4.3, fig. 6 and 7.
    """
    chains, columns, splits, new = _prepare(run, seeds, settings, sampler, device, report)
    with freed_memory_kept(), sole_writer(out):
        origin = agreed_provenance(out, new)
        write_json(out / "provenance.json", origin)
        remove_leftovers(out)
        wanted = [STRIP, *([GIF] if gif else []), *([SHARED] if splits else [])]
        pictures = _described(out)
        made = tuple(name for name in wanted if name not in pictures)
        if STRIP in made or GIF in made:
            pictures |= _make_strip(out, chains, seeds, columns, gif=gif)
            _describe(out, origin, pictures)
        if SHARED in made:
            pictures |= _make_shared(out, chains, seeds[0], splits, settings.branches)
            _describe(out, origin, pictures)
    return ProgressiveSummary(out, made, tuple(name for name in wanted if name not in made))


def check_progressive(
    run: Path,
    out: Path,
    seeds: Sequence[int],
    settings: ProgressiveSettings,
    sampler: SamplerSettings,
    device: str = "auto",
) -> tuple[int, tuple[int, ...]]:
    """Whether `progressive` would do it; nothing is written.

    Returns:
        The steps of each chain, and the splits.

    Raises:
        FolderError: As `progressive`.
        UsageError: As `progressive`.
    """
    chains, _, splits, new = _prepare(run, seeds, settings, sampler, device, silent)
    agreed_provenance(out, new)
    return len(chains.diffusion.schedule.timesteps), splits


def _prepare(
    run: Path,
    seeds: Sequence[int],
    settings: ProgressiveSettings,
    sampler: SamplerSettings,
    device: str,
    report: Report,
) -> tuple[Chains, list[int], tuple[int, ...], dict[str, Any]]:
    """The chains, their steps that are shown, the splits and the provenance, if the settings fit the RUN."""
    target = choose_device(device)
    model, diffusion, config = load_run(run, target)
    chain = sampling_diffusion(diffusion, sampler)
    steps = len(chain.schedule.timesteps)
    every = math.ceil(steps / _COLUMNS) if settings.every is None else settings.every
    columns = kept_steps(steps, every)
    splits = split_timesteps(settings, chain.schedule.num_timesteps)
    told = {**asdict(sampler), "steps": steps, "every": every, "seeds": list(seeds)}
    told |= {"splits": list(splits), "branches": settings.branches, "noise": NOISE}
    chains = Chains(model, chain, config.data.shape, sampler, target, report)
    return chains, columns, splits, provenance(run, newest_checkpoint(run), told, target)


def kept_steps(steps: int, every: int) -> list[int]:
    """Steps whose estimate is shown, the noisiest first: each `every`-th, counted so that the image itself is the last.

    Raises:
        UsageError: If the chain is shorter than `every`.
    """
    if not 1 <= every <= steps:
        raise UsageError(f"--every {every}: expected 1 to {steps}, the steps of this chain.")
    return list(reversed(range(0, steps, every)))


def split_timesteps(settings: ProgressiveSettings, num_timesteps: int) -> tuple[int, ...]:
    """The splits in t of 1 ... T, the noisiest first and none twice.

    Raises:
        UsageError: If a split lies outside, or there are fewer than 2 branches.
    """
    if settings.branches < 2:
        raise UsageError(f"--branches {settings.branches}: expected at least 2, so that they can differ.")
    splits = settings.splits
    if splits is None:
        splits = tuple(max(1, round(num_timesteps * share)) for share in (1, 0.75, 0.5, 0.25))
    for t in splits:
        if not 1 <= t <= num_timesteps:
            raise UsageError(
                f"--split {t}: expected 1 (almost clean) to {num_timesteps} (noise), the schedule of this RUN."
            )
    return tuple(sorted(set(splits), reverse=True))


def captioned(images: Stored, top: Sequence[str], left: Sequence[str]) -> NDArray[np.uint8]:
    """Pictures in rows and columns with a caption over each column and beside each row.

    Args:
        images: `[rows * columns, H, W]` or `[rows * columns, H, W, 3]`, stored levels, row by row; small ones are
            enlarged by a whole factor, so that pixels stay square.
        top: A caption per column.
        left: A caption per row.

    Returns:
        One 8-bit picture `[H', W']` or `[H', W', 3]`, white captions on black.
    """
    sheet = Image.fromarray(_sheet(images, columns=len(top)))
    font = ImageFont.load_default(_FONT_PX)
    margin_x = math.ceil(max(font.getlength(text) for text in left)) + _FONT_PX
    margin_y = 2 * _FONT_PX
    canvas = Image.new(sheet.mode, (margin_x + sheet.width, margin_y + sheet.height))
    canvas.paste(sheet, (margin_x, margin_y))
    draw = ImageDraw.Draw(canvas)
    for column, text in enumerate(top):
        x = margin_x + (column + 0.5) * sheet.width / len(top)
        draw.text((x, margin_y / 2), text, fill="white", font=font, anchor="mm")
    for row, text in enumerate(left):
        y = margin_y + (row + 0.5) * sheet.height / len(left)
        draw.text((_FONT_PX / 2, y), text, fill="white", font=font, anchor="lm")
    return np.asarray(canvas)


def _sheet(images: Stored, columns: int | None = None) -> NDArray[np.uint8]:
    """Pictures as one, each pixel a square of as many as it takes to see it."""
    scale = math.ceil(_CELL_PX / min(images.shape[1:3]))
    bits = 16 if images.dtype == np.uint16 else 8
    return tile(images.repeat(scale, axis=1).repeat(scale, axis=2), bits, columns)


def _timesteps(chains: Chains, steps: Sequence[int]) -> list[int]:
    """The t of these steps of the chain, 1 ... T."""
    return [int(chains.diffusion.schedule.timesteps[step]) + 1 for step in steps]


def _how(chains: Chains) -> dict[str, Any]:
    """The sampler; eta, which only ddim has."""
    sampler = chains.sampler
    return {"sampler": sampler.sampler, **({"eta": sampler.eta} if sampler.sampler == "ddim" else {})}


def _make_strip(
    out: Path, chains: Chains, seeds: Sequence[int], columns: Sequence[int], *, gif: bool
) -> dict[str, Any]:
    """The strip and the GIF, and what they show."""
    frames = progressive_frames(chains, seeds, columns)  # (columns, seeds, C, H, W)
    timesteps = _timesteps(chains, columns)
    top, left = [f"t = {t}" for t in timesteps], [f"seed {seed}" for seed in seeds]
    picture = captioned(as_stored(frames.transpose(0, 1).flatten(0, 1)), top, left)
    write_png(out / STRIP, picture, {"Description": SERIES_DESCRIPTION})
    shows = {"seeds": list(seeds), "timesteps": timesteps, **_how(chains)}
    if not gif:
        return {STRIP: shows}
    grids = [_sheet(as_stored(frame)) for frame in frames]
    write_gif(out / GIF, np.stack([*grids, *grids[-1:] * _PAUSE_FRAMES]), 8)
    return {STRIP: shows, GIF: shows}


def _make_shared(
    out: Path, chains: Chains, seed: int, splits: Sequence[int], branches: int
) -> dict[str, Any]:
    """The figure of the shared chain, and what it shows, with the distances measured."""
    if not chains.sampler.random:
        chains = replace(chains, sampler=replace(chains.sampler, sampler="ddim", eta=1.0))
    steps = [nearest_step(chains.diffusion, t - 1) for t in splits]
    shared = shared_chain(chains, seed, steps, branches)
    timesteps = _timesteps(chains, steps)
    cells = torch.cat([shared.estimates[:, None], shared.samples], dim=1)  # (S, 1 + N, C, H, W)
    top = ["estimate", *(f"branch {branch}" for branch in range(1, branches + 1))]
    picture = captioned(as_stored(cells.flatten(0, 1)), top, [f"t = {t}" for t in timesteps])
    write_png(out / SHARED, picture, {"Description": SERIES_DESCRIPTION})
    rows = [
        {"split": split, "timestep": t, "mean_pairwise_rmse": round(mean_pairwise_rmse(samples), 6)}
        for split, t, samples in zip(splits, timesteps, shared.samples, strict=True)
    ]
    shows = {"seed": seed, "branches": branches, "unit": "grey levels of [0, 255]", "rows": rows}
    return {SHARED: {**shows, **_how(chains)}}


def _described(out: Path) -> dict[str, Any]:
    """What progressive.json says of the pictures that are there; nothing if it cannot be read."""
    try:
        told = json.loads((out / "progressive.json").read_text(encoding="utf-8"))["pictures"]
    except (OSError, ValueError, KeyError):
        return {}
    return {name: shows for name, shows in told.items() if (out / name).is_file()}


def _describe(out: Path, origin: Mapping[str, Any], pictures: Mapping[str, Any]) -> None:
    """progressive.json: where the pictures come from and what each shows."""
    kept = ("id", "checkpoint", "settings", "created", "environment")
    head = {"format_version": FORMAT_VERSION, "synthetic": True, **{key: origin[key] for key in kept}}
    write_json(out / "progressive.json", {**head, "pictures": dict(sorted(pictures.items()))})
