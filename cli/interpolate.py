"""`xraygen interpolate`: RUN and two films -> PATH."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import console, options


class Mode(StrEnum):
    """How the two films are mixed."""

    shared_noise = "shared-noise"
    paper = "paper"


class Format(StrEnum):
    """How the frames are written."""

    png = "png"
    dicom = "dicom"


def interpolate(
    run: options.Run,
    film_a: Annotated[
        str, typer.Argument(metavar="A", help="Image file, or a DATASET row such as dataset#17.")
    ],
    film_b: Annotated[str, typer.Argument(metavar="B", help="The other end.")],
    out: Annotated[Path, typer.Option(help="PATH folder.")],
    mode: Annotated[
        Mode, typer.Option(help="One noise for both films, or the paper's independent two.")
    ] = Mode.shared_noise,
    timestep: Annotated[
        int, typer.Option(min=0, help="How far the films are noised before they are mixed.")
    ] = 500,
    frames: Annotated[int, typer.Option(min=2, help="Pictures on the way, both ends included.")] = 11,
    sampler: options.Sampler = options.SamplerName.ddpm,
    steps: options.Steps = None,
    file_format: Annotated[
        Format, typer.Option("--format", help="dicom writes a multi-frame object beside the PNG frames.")
    ] = Format.png,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Show the way from one film to another. The result shows two real patients: it is personal data.

    xraygen interpolate run first.dcm second.dcm --out path

    xraygen interpolate run dataset#3 dataset#8 --out path --mode paper --timestep 500 --sampler ddim
    """
    if dry_run:
        console.say(
            f"Would write {frames} frames from {film_a} to {film_b} ({mode}, t = {timestep}) into {out}."
        )
        return
    from xraygen.synthesis.interpolate import InterpolateSettings
    from xraygen.synthesis.interpolate import interpolate as make
    from xraygen.synthesis.sampling import SamplerSettings

    way = InterpolateSettings(mode.value, timestep, frames, seed)
    with console.progress() as report:
        strip = make(
            run,
            film_a,
            film_b,
            out,
            way,
            SamplerSettings(sampler.value, steps),
            file_format=file_format.value,
            device=device,
            report=report,
        )
    console.emit({"path": str(out), "frames": frames, "strip": str(strip)}, as_json=as_json)
    console.say(f"{out}: {frames} frames; see {strip} and {out / 'path.gif'}.")
