"""`xraygen import`: another library's folder -> RUN."""

from pathlib import Path
from typing import Annotated

import typer

from . import console, options


def import_(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a diffusers DDPMPipeline.")],
    out: Annotated[Path, typer.Option(help="RUN folder, which must not exist yet.")],
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Make a RUN of weights that diffusers wrote, or of a folder like google/ddpm-celebahq-256.

    xraygen import ddpm-celebahq-256 --out run

    xraygen import exported --out again --json
    """
    from xraygen.atomic import check_absent

    check_absent(out)
    if dry_run:
        console.emit({"run": str(out), "source": str(source)}, as_json=as_json)
        console.say(f"Would make the RUN {out} of the network and the scheduler in {source}.")
        return
    from xraygen.interop.diffusers import import_diffusers

    summary = import_diffusers(source, out)
    result = {"run": str(out), "parameters": summary.parameters, "weights": str(summary.weights)}
    console.emit(result, as_json=as_json)
    console.say(f"{out}: {summary.parameters:,} parameters from {summary.weights}.")
