"""`xraygen ema`: RUN -> RUN with an average of another length."""

from pathlib import Path
from typing import Annotated

import typer

from . import console, options


def ema(
    run: Annotated[Path, typer.Argument(help="RUN folder, trained with --set train.posthoc_ema=true.")],
    sigma_rel: Annotated[
        float,
        typer.Option(
            metavar="0.01-0.28",
            help="Width of the average as a share of the training; 0.05 to 0.15 are usual.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="RUN folder to write, which must not exist yet.")],
    step: Annotated[
        int | None, typer.Option(min=1, help="Where the average ends [the newest snapshot].")
    ] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Choose the length of the weights' average after training: shorter is sharper, longer is steadier.

    xraygen ema run --sigma-rel 0.07 --out run-007
    """
    from xraygen.atomic import check_absent

    check_absent(out)
    if dry_run:
        from xraygen.training.ema_snapshots import chosen_snapshots

        chosen_snapshots(run, sigma_rel, step)
        console.emit({"run": str(out), "source": str(run), "step": step}, as_json=as_json)
        console.say(
            f"Would make the RUN {out} of the snapshots of {run}, with an average of width {sigma_rel}."
        )
        return
    from xraygen.training.ema_snapshots import reconstruct

    made = reconstruct(run, sigma_rel, out, step)
    result = {"run": str(out), "step": made.profile.step, "snapshots": made.snapshots, "error": made.error}
    console.emit(result, as_json=as_json)
    console.say(
        f"{out}: the average of width {sigma_rel} up to step {made.profile.step}, of {made.snapshots} snapshots; its "
        f"profile is met to {100 * made.error:.2g} %. Next: xraygen generate {out} --out synthetic --seeds 0-63"
    )
