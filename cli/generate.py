"""`xraygen generate`: RUN -> SYNTHETIC."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import console, options


class Format(StrEnum):
    """How images are written."""

    png = "png"
    nifti = "nifti"
    dicom = "dicom"
    dicom_dx = "dicom-dx"


def generate(
    run: options.Run,
    out: Annotated[Path, typer.Option(help="SYNTHETIC folder.")],
    seeds: Annotated[
        str, typer.Option(metavar="0-999", help="One image per seed; the file is named after it.")
    ],
    sampler: options.Sampler = options.SamplerName.ddim,
    steps: options.Steps = None,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE", help="What the films shall show, if the RUN knows it. Repeatable."
        ),
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(min=0, help="Weight of the conditions: 0 none, 1 as they are, more is closer to them."),
    ] = 1.0,
    guidance_interval: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Noise levels (sigma) at which the weight holds.")
    ] = None,
    eta: Annotated[float, typer.Option(min=0, max=1, help="Randomness of ddim.")] = 0.0,
    file_format: Annotated[
        Format, typer.Option("--format", help="16-bit PNG, NIfTI, or DICOM as Secondary Capture or DX.")
    ] = Format.png,
    mark: Annotated[
        bool | None,
        typer.Option("--mark/--no-mark", help="SYNTHETIC in a corner of the pixels [only in dicom-dx]."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images between two reports [a compute batch]; changes no image."),
    ] = None,
    compute_batch: Annotated[
        int,
        typer.Option(min=1, help="Images computed together, part of what an image's last bits depend on."),
    ] = 16,
    checkpoint: Annotated[
        str, typer.Option(metavar="newest|best|STEP", help="best is that on the validation films.")
    ] = "newest",
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Make synthetic films. To finish what was interrupted, run the same command again.

    xraygen generate run --out synthetic --seeds 0-999

    xraygen generate run --out synthetic --seeds 0-9 --sampler ddpm --format dicom

    xraygen generate run --out synthetic --seeds 0-99 --condition finding=PNEUMONIA --guidance 1.5
    """
    chosen = options.read_seeds(seeds)
    words = options.read_conditions(condition or [])
    interval = options.read_interval(guidance_interval)
    if dry_run:
        told = "".join(f", {name} {word}" for name, word in words.items())
        console.say(f"Would make {len(chosen)} images with {sampler}{told} from {run} into {out}.")
        return
    from xraygen.synthesis.conditions import Guidance
    from xraygen.synthesis.generate import generate as make
    from xraygen.synthesis.sampling import SamplerSettings

    settings = SamplerSettings(sampler.value, steps, eta, compute_batch)
    with console.progress() as report:
        summary = make(
            run,
            out,
            chosen,
            settings,
            guidance=Guidance(words, guidance, interval),
            file_format=file_format.value,
            mark=mark,
            checkpoint=options.read_checkpoint(checkpoint),
            device=device,
            batch_size=batch_size,
            report=report,
        )
    console.emit({"synthetic": str(out), "made": summary.made, "present": summary.present}, as_json=as_json)
    console.say(
        f"{out}: {summary.made} images made, {summary.present} were there already; see {out / 'preview.png'}."
    )
