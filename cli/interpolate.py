"""`xraygen interpolate`: RUN and two films -> PATH."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from xraygen.errors import UsageError

from . import console, options

_TIMESTEP = 500


class Mode(StrEnum):
    """How the two films are mixed."""

    shared_noise = "shared-noise"
    slerp = "slerp"
    paper = "paper"
    inversion = "inversion"


class Format(StrEnum):
    """How the frames are written."""

    png = "png"
    dicom = "dicom"
    dicom_series = "dicom-series"


def interpolate(
    run: options.Run,
    film_a: Annotated[
        str, typer.Argument(metavar="A", help="Image file, or a DATASET row such as dataset#17.")
    ],
    film_b: Annotated[str, typer.Argument(metavar="B", help="The other end.")],
    out: Annotated[Path, typer.Option(help="PATH folder.")],
    mode: Annotated[
        Mode,
        typer.Option(
            help="One noise for both films, two along an arc, the paper's two mixed linearly, or those that lead back."
        ),
    ] = Mode.shared_noise,
    timestep: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=f"How far the films are noised before they are mixed [{_TIMESTEP}]; "
            "0 is one step of noise, which the paper's t and progressive's --split count as 1.",
        ),
    ] = None,
    log_snr: Annotated[
        float | None,
        typer.Option(
            callback=options.finite,
            help="The same as a log-SNR at 64 px, which means as much at every size and schedule.",
        ),
    ] = None,
    frames: Annotated[int, typer.Option(min=2, help="Pictures on the way, both ends included.")] = 11,
    beyond: Annotated[
        int, typer.Option(min=0, help="More past either end, up to half the way: lambda from -0.5 to 1.5.")
    ] = 0,
    sampler: Annotated[
        options.SamplerName | None, typer.Option(help="How frames are decoded [ddpm; ddim for inversion].")
    ] = None,
    steps: options.Steps = None,
    file_format: Annotated[
        Format,
        typer.Option(
            "--format",
            help="Beside the PNG frames: dicom writes one multi-frame object, dicom-series a series of single ones.",
        ),
    ] = Format.png,
    iterations: Annotated[
        int, typer.Option(min=1, help="Network evaluations per step of the inversion; more are more exact.")
    ] = 1,
    condition_a: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE", help="What is told of A, if the RUN knows it [its row]. Repeatable."
        ),
    ] = None,
    condition_b: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=VALUE", help="What is told of B. Repeatable.")
    ] = None,
    guidance: Annotated[
        float, typer.Option(min=0, callback=options.finite, help="Weight of what is told: 0 tells nothing.")
    ] = 1.0,
    data: Annotated[
        Path | None,
        typer.Option(
            help="The RUN's DATASET: find the nearest training film, and how unlike them A and B are."
        ),
    ] = None,
    features: Annotated[
        str, typer.Option(metavar="NAME", help="Features in which distances are measured.")
    ] = "efficientnet-lite0",
    grid: Annotated[bool, typer.Option("--grid", help="Also the way at eighths of the schedule.")] = False,
    mp4: Annotated[bool, typer.Option("--mp4", help="Also a video; needs xraygen[video].")] = False,
    precision: options.Precision = options.PrecisionName.float32,
    checkpoint: Annotated[
        str, typer.Option(metavar="newest|best|STEP", help="best is that on the validation films.")
    ] = "newest",
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Show the way from one film to another. The result shows two real patients: it is personal data.

    A finished PATH is not made again by the same command; one that was interrupted is made anew.

    xraygen interpolate run first.dcm second.dcm --out path

    xraygen interpolate run dataset#3 dataset#8 --out path --mode slerp --log-snr -1 --data dataset --grid
    """
    if timestep is not None and log_snr is not None:
        raise UsageError("--timestep and --log-snr say the same thing; leave one out.")
    t = _TIMESTEP if timestep is None else timestep
    said = options.read_conditions(condition_a or []), options.read_conditions(condition_b or [])
    choice = options.read_checkpoint(checkpoint)
    from xraygen.synthesis.interpolate import InterpolateSettings
    from xraygen.synthesis.interpolate import interpolate as make
    from xraygen.synthesis.path_folder import PathOutputs
    from xraygen.synthesis.sampling import SamplerSettings

    chain = sampler or (options.SamplerName.ddim if mode is Mode.inversion else options.SamplerName.ddpm)
    decoding = SamplerSettings(chain.value, steps, precision=precision.value)
    way = InterpolateSettings(mode.value, t, frames, seed, log_snr, beyond, iterations, guidance)
    with console.progress() as report:
        made = make(
            run,
            film_a,
            film_b,
            out,
            way,
            decoding,
            outputs=PathOutputs(data, features, grid, mp4),
            condition_a=said[0],
            condition_b=said[1],
            file_format=file_format.value,
            checkpoint=choice,
            device=device,
            report=report,
            dry_run=dry_run,
        )
    if dry_run:
        found = {"path": str(out), "frames": made.frames, "mode": mode.value, "present": made.present}
        console.emit(found, as_json=as_json)
        noise = made.nearest or f"t = {t}"
        planned = f"{made.frames} frames from {film_a} to {film_b} ({mode}, {noise})"
        console.say(f"{out} has {planned}." if made.present else f"Would write {planned} into {out}.")
        return
    told = {"path": str(out), "frames": made.frames, "present": made.present, "strip": str(out / "strip.png")}
    console.emit(told, as_json=as_json)
    for note in made.notes:
        console.say(note)
    there, nearest = " were there already" * made.present, f" ({made.nearest})" if made.nearest else ""
    pictures = f"{out / 'strip.png'}, {out / 'path.gif'} and {out / 'curves.png'}"
    console.say(f"{out}: {made.frames} frames{there}{nearest}; see {pictures}.")
