"""`xraygen audit`: SYNTHETIC -> REPORT."""

from pathlib import Path
from typing import Annotated

import typer

from . import console, options


def audit(
    real: Annotated[Path, typer.Option(metavar="DATASET", help="The real films; its test and train splits.")],
    synthetic: Annotated[Path, typer.Option(metavar="SYNTHETIC", help="The set to audit.")],
    out: Annotated[Path, typer.Option(metavar="REPORT", help="Where the report goes.")],
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="efficientnet-lite0 (default) or pixels; the first one is what checks are about.",
        ),
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Another SYNTHETIC or DATASET to stand beside the numbers."),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPR",
            help="Exit with 1 where this holds, such as 'fd/floor>3', 'kid_low>0.01' or 'suspects/expected>3'.",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Films per set in every distance [the smallest set's size].")
    ] = None,
    quarantine: Annotated[
        bool,
        typer.Option(
            "--quarantine", help="Move suspects into SYNTHETIC/quarantine, and plan films that replace them."
        ),
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Say how good a set of synthetic films is, and whether any of them is a copy of a patient's.

    xraygen audit --real dataset --synthetic synthetic --out report

    xraygen audit --real dataset --synthetic synthetic --out report --fail-on 'suspects/expected>3' --quarantine
    """
    from xraygen.audit.audit import AuditSettings, plan
    from xraygen.audit.audit import audit as compare
    from xraygen.audit.describe import distance_table
    from xraygen.audit.groups import group_table

    settings = AuditSettings(
        features=tuple(features or ()),
        beside=tuple(beside or ()),
        fail_on=tuple(fail_on or ()),
        count=count,
        seed=seed,
        device=device,
        quarantine=quarantine,
    )
    if dry_run:
        planned = plan(real, synthetic, out, settings)
        console.emit(planned, as_json=as_json)
        console.say(f"Would compare {planned['count']} films per set and write the report into {out}.")
        return
    with console.progress() as report:
        result = compare(real, synthetic, out, settings, report=report)
    console.emit(result, as_json=as_json)
    for line in [*distance_table(result), *group_table(result["groups"]), *result["summary"]]:
        console.say(line)
    for verdict in result["verdicts"]:
        console.say(f"{'passed' if verdict['passed'] else 'FAILED'}  {verdict['sentence']}")
    console.say(f"Report: {out / 'report.html'}")
    if quarantine:
        _tell_of_quarantine(synthetic, len(result["privacy"]["suspects"]))
    if not all(verdict["passed"] for verdict in result["verdicts"]):
        raise typer.Exit(1)


def _tell_of_quarantine(synthetic: Path, films: int) -> None:
    """What was moved, and how the set becomes whole again."""
    folder = synthetic / "quarantine"
    if films == 0:
        console.say("No suspect to move into quarantine.")
        return
    console.say(
        f"Moved {films} suspects into {folder}, which may hold patients' data. Replace them by `xraygen generate RUN "
        f"--out {synthetic} --plan {folder / 'refill.csv'}` with the options of the first call, and audit it again."
    )
