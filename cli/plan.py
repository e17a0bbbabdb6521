"""`xraygen plan`: DATASET -> a plan for `xraygen generate --plan`."""

from pathlib import Path
from typing import Annotated

import typer

from . import console, options


def plan(
    dataset: Annotated[Path, typer.Argument(help="DATASET folder.")],
    balance: Annotated[
        list[str],
        typer.Option(metavar="COLUMN", help="Column of words to even out; several: their combinations."),
    ],
    out: Annotated[Path | None, typer.Option(help="Where the plan goes [stdout].")] = None,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first film; each has its own.")] = 0,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Propose the synthetic films that make the training films of a DATASET even.

    xraygen plan dataset --balance finding --out plan.csv

    xraygen plan dataset --balance finding --balance sex --out plan.csv
    """
    from xraygen.atomic import write_text
    from xraygen.dataset.store import open_dataset
    from xraygen.synthesis.plan import balance as propose
    from xraygen.synthesis.plan import is_written

    proposed = propose(open_dataset(dataset), balance)
    text = proposed.to_csv(first_seed)
    there = out is not None and is_written(out, text)
    for group in proposed.figures():
        told = ", ".join(f"{name} {word}" for name, word in group["words"].items())
        console.say(
            f"{told}: {group['before']} training films before, {group['ordered']} ordered, {group['after']} after."
        )
    if proposed.unknown:
        console.say(f"Not known of {proposed.unknown} training films, which count for none.")
    console.emit({"plan": None if out is None else str(out), "counts": proposed.figures()}, as_json=as_json)
    if there:
        console.say(f"{out} holds this plan already.")
    if dry_run:
        return
    if out is not None:
        if not there:
            write_text(out, text)
        console.say(f"Next: xraygen generate RUN --out synthetic --plan {out}")
    elif not as_json:
        typer.echo(text, nl=False)
