"""`xraygen generate`: RUN -> SYNTHETIC."""

from collections.abc import Collection
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xraygen.errors import UsageError

from . import console, options

if TYPE_CHECKING:
    from xraygen.synthesis.conditions import Guidance, Wish
    from xraygen.synthesis.sampling import SamplerSettings


_WITH_LIKE = {"run", "out", "like", "device", "dry_run", "as_json"}
"""What may stand beside --like; all else is what the set says."""


class Format(StrEnum):
    """How images are written."""

    png = "png"
    nifti = "nifti"
    dicom = "dicom"
    dicom_dx = "dicom-dx"


def generate(
    context: typer.Context,
    run: options.Run,
    out: Annotated[Path | None, typer.Option(help="SYNTHETIC folder.")] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0-999", help="One image per seed; the file is named after it.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="CSV", help="A row per image, as `xraygen plan` writes.")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="SYNTHETIC/metadata.csv#17",
            help="Make that row's image again, and compare; the first is 0.",
        ),
    ] = None,
    sampler: Annotated[
        options.SamplerName | None,
        typer.Option(help="ddpm is the paper's; dpm++ and unipc need fewest steps."),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            metavar="draft|default|paper|N",
            help="Network evaluations per image: 10, 20, or all as in the paper [default; ddim: 50, ddpm: all].",
        ),
    ] = None,
    spacing: Annotated[
        options.SpacingName | None,
        typer.Option(help="Which timesteps are kept [log-snr; uniform with --sampler]."),
    ] = None,
    threshold: Annotated[
        options.ThresholdName, typer.Option(help="How the guessed image is kept in range at each step.")
    ] = options.ThresholdName.static,
    percentile: Annotated[float, typer.Option(min=1, max=100, help="Of the dynamic threshold.")] = 99.5,
    condition: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE", help="What the films shall show, if the RUN knows it. Repeatable."
        ),
    ] = None,
    guidance: Annotated[
        float,
        typer.Option(
            min=0,
            callback=options.finite,
            help="Weight of the conditions: 0 none, 1 as they are, more is closer to them.",
        ),
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
        typer.Option(
            min=1, help="Images from one count to the next, at most [a compute batch]; changes no image."
        ),
    ] = None,
    compute_batch: Annotated[
        int,
        typer.Option(min=1, help="Images computed together, part of what an image's last bits depend on."),
    ] = 16,
    precision: options.Precision = options.PrecisionName.float32,
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile the network first, in a minute [on a GPU in bfloat16, if it has Triton and a C compiler].",
        ),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option(metavar="newest|best|STEP", help="best is that on the validation films.")
    ] = "newest",
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Make synthetic films. To finish what was interrupted, run the same command again.

    xraygen generate run --out synthetic --seeds 0-999

    xraygen generate run --out synthetic --seeds 0-9 --steps paper --format dicom

    xraygen generate run --out synthetic --seeds 0-99 --condition finding=PNEUMONIA --guidance 1.5

    torchrun --nproc-per-node 4 --no-python xraygen generate run --out synthetic --plan plan.csv

    xraygen generate run --like synthetic/metadata.csv#17
    """
    if (seeds is not None) + (plan is not None) + (like is not None) != 1:
        raise UsageError("Say which images: exactly one of --seeds 0-999, --plan plan.csv and --like SET#17.")
    if like is not None:
        unheeded = [option for name, option in options.given(context).items() if name not in _WITH_LIKE]
        if unheeded:
            raise UsageError(f"--like makes the film as its set says; leave out {', '.join(unheeded)}.")
        _again(run, like, out, device, dry_run=dry_run, as_json=as_json)
        return
    if out is None:
        raise UsageError("Say where to: --out FOLDER is missing.")
    words = options.read_conditions(condition or [])
    if words and plan is not None:
        raise UsageError(
            "--condition and --plan: the plan says what each image is told; leave out one of them."
        )
    interval = options.read_interval(guidance_interval)
    count = options.read_steps(steps)
    from xraygen.synthesis.conditions import Guidance
    from xraygen.synthesis.sampling import chosen_settings

    told = Guidance(words, guidance, interval)
    films = _films(run, seeds, plan, told)
    settings = replace(
        chosen_settings(
            None if sampler is None else sampler.value, count, None if spacing is None else spacing.value
        ),
        eta=eta,
        compute_batch=compute_batch,
        threshold=threshold.value,
        percentile=percentile,
        precision=precision.value,
    )
    _check_heeded(options.given(context), settings)
    choice = options.read_checkpoint(checkpoint)
    if dry_run:
        from xraygen.synthesis.forecast import forecast
        from xraygen.synthesis.generate import Order
        from xraygen.training.budget import duration

        order = Order(settings, told, file_format.value, mark, choice, compiled)
        needed = forecast(run, out, films, order, device)
        said = "".join(f", {name} {word}" for name, word in words.items())
        going = {
            "synthetic": str(out),
            "images": len(films),
            "missing": needed.missing,
            "steps": needed.steps,
        }
        console.emit({**going, "seconds": round(needed.seconds, 1), "told": words}, as_json=as_json)
        how = f"{needed.steps} steps of {settings.sampler}"
        console.say(f"Would make {needed.missing} images by {how}{said} from {run} into {out}.")
        if needed.missing:
            console.say(f"At the speed of a few steps now, that takes about {duration(needed.seconds)} here.")
        if (kept := len(films) - needed.missing) > 0:
            console.say(f"{kept} of those that are asked for are there already, or in quarantine.")
        return
    from xraygen.synthesis.generate import generate as make
    from xraygen.synthesis.share import Share

    share = Share.of_environment()
    with console.progress() as report:
        summary = make(
            run,
            out,
            films,
            settings,
            guidance=told,
            file_format=file_format.value,
            mark=mark,
            checkpoint=choice,
            device=device,
            compiled=compiled,
            batch_size=batch_size,
            share=share,
            report=report,
        )
    among = {"process": share.number, "processes": share.count} if share.count > 1 else {}
    made = {
        "synthetic": str(out),
        "made": summary.made,
        "present": summary.present,
        "quarantined": summary.quarantined,
    }
    console.emit({**made, **among}, as_json=as_json)
    who = f" by process {share.number} of {share.count}" if among else ""
    console.say(
        f"{out}: {summary.made} images made{who}, {summary.present} were there already; see {out / 'preview.png'}."
    )
    if summary.quarantined:
        console.say(f"{summary.quarantined} that were asked for are in quarantine, and are not made again.")


def _films(run: Path, seeds: str | None, plan: Path | None, told: "Guidance") -> "list[int] | list[Wish]":
    """What is ordered, if the RUN can be told what it is to be told."""
    from xraygen.synthesis.plan import read_plan
    from xraygen.training.checkpoint import run_config
    from xraygen.training.conditions import read_conditions

    asked = None if seeds is None else options.read_seeds(seeds)
    conditions = read_conditions(run, run_config(run))
    told.checked(conditions, planned=plan is not None)
    if plan is not None:
        return read_plan(plan, conditions, told.weight)
    assert asked is not None
    return asked


def _check_heeded(given: Collection[str], settings: "SamplerSettings") -> None:
    """Refuse what these settings would leave unheeded; it would make another set of the same films."""
    if "eta" in given and settings.sampler != "ddim":
        raise UsageError(f"--eta: {settings.sampler} has none; leave it out, or say --sampler ddim.")
    if "percentile" in given and settings.threshold != "dynamic":
        raise UsageError(
            f"--percentile: --threshold {settings.threshold} has none; leave it out, or say --threshold dynamic."
        )


def _again(run: Path, like: str, out: Path | None, device: str, *, dry_run: bool, as_json: bool) -> None:
    """One film made again; exit 1 if it is another."""
    from xraygen.synthesis.like import remake, row_of

    if dry_run:
        row_of(like)
        console.emit({"like": like, "synthetic": None if out is None else str(out)}, as_json=as_json)
        console.say(f"Would make {like} again from {run}{'' if out is None else f' into {out}'}.")
        return
    remade = remake(run, like, out, device=device)
    where = f"; see {out / remade.file_name}" if out is not None else ""
    console.emit(
        {
            "file_name": remade.file_name,
            "identical": remade.identical,
            "psnr_db": remade.finite_psnr_db,
            "made_on": remade.made_on,
            "machine": remade.machine,
        },
        as_json=as_json,
    )
    console.say(f"{like}: {remade.sentence}{where}.")
    raise typer.Exit(0 if remade.same else 1)
