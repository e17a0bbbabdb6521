"""`xraygen progressive`: RUN -> PROGRESSIVE."""

from pathlib import Path
from typing import Annotated

import typer

from xraygen.errors import UsageError

from . import console, options


def progressive(
    run: options.Run,
    out: Annotated[Path, typer.Option(help="PROGRESSIVE folder.")],
    seeds: Annotated[
        str, typer.Option(metavar="0-7", help="One row per seed; the first one's chain is split.")
    ],
    every: Annotated[
        int | None, typer.Option(min=1, help="Steps from picture to picture [a twentieth: 50 of 1000].")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="1000,750,500,250",
            help="Where the shared chain is split, t of 1 to T, or none [T and three, two and one quarters of it].",
        ),
    ] = None,
    branches: Annotated[int, typer.Option(min=2, help="Continuations from each split.")] = 4,
    sampler: options.Sampler = options.SamplerName.ddpm,
    steps: options.Steps = None,
    gif: Annotated[bool, typer.Option(help="Write chain.gif too.")] = True,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Show how images come about, and how much of one is decided by step t. Run it again to finish it.

    xraygen progressive run --out progressive --seeds 0-7

    xraygen progressive run --out fast --seeds 0-3 --sampler ddim --steps 50 --every 5 --split 1000,500
    """
    chosen, splits = options.read_seeds(seeds), read_splits(split)
    from xraygen.synthesis.progressive import ProgressiveSettings, check_progressive
    from xraygen.synthesis.progressive import progressive as make
    from xraygen.synthesis.sampling import SamplerSettings

    settings = ProgressiveSettings(every, splits, branches)
    chain = SamplerSettings(sampler.value, steps)
    if dry_run:
        number, splits_of = check_progressive(run, out, chosen, settings, chain, device)
        also = "strip.png and shared-chain.png" if splits_of else "strip.png"
        console.emit({"progressive": str(out), "chains": len(chosen), "steps": number}, as_json=as_json)
        console.say(
            f"Would run {len(chosen)} chains of {run} with {number} steps of {sampler} and write {also} into {out}."
        )
        return
    with console.progress() as report:
        summary = make(run, out, chosen, settings, chain, gif=gif, device=device, report=report)
    made, present = list(summary.made), list(summary.present)
    console.emit({"progressive": str(out), "made": made, "present": present}, as_json=as_json)
    console.say(
        f"{out}: {', '.join(made) or 'nothing'} made, {len(present)} pictures were there already; "
        f"see {out / 'progressive.json'}."
    )


def read_splits(text: str | None) -> tuple[int, ...] | None:
    """`1000,750` as numbers, `none` as no split at all; what was not said is the library's to choose."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if parts == ["none"]:
        return ()
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--split {text}: expected timesteps such as 1000,750,500,250, or none.")
    return tuple(int(part) for part in parts)
