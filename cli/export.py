"""`xraygen export`: RUN -> another library's folder."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import console, options


class Target(StrEnum):
    """Whose format is written."""

    diffusers = "diffusers"


class Weights(StrEnum):
    """Which of a checkpoint's two sets of weights."""

    ema = "ema"
    model = "model"


def export(
    run: Annotated[Path, typer.Argument(help="RUN folder.")],
    to: Annotated[Target, typer.Option(help="Whose format.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write, which must not exist yet.")],
    weights: Annotated[Weights, typer.Option(help="The average, or the last step's.")] = Weights.ema,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Write a RUN so that another library runs it, such as diffusers' `DDPMPipeline.from_pretrained(DIR)`.

    xraygen export run --to diffusers --out exported

    xraygen export run --to diffusers --out last-step --weights model
    """
    if dry_run:
        console.say(f"Would write the {weights} weights of {run} for {to} into {out}.")
        return
    from xraygen.interop.diffusers import export_diffusers

    summary = export_diffusers(run, out, weights=weights.value)
    result = {"folder": str(out), "parameters": summary.parameters, "step": summary.step}
    console.emit(result, as_json=as_json)
    console.say(f"{out}: {summary.parameters:,} parameters of step {summary.step}, for {to}.")
