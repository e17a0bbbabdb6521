"""`xraygen audit`: SYNTHETIC -> REPORT."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from xraygen.errors import UsageError
from xraygen.presets import run_folder

from . import console, options


class InceptionResizeName(StrEnum):
    """How Inception's input is resized."""

    clean_fid = "clean-fid"
    original = "original"


class Classifier(StrEnum):
    """What learns from synthetic and from real films."""

    probe = "probe"
    convnet = "convnet"


_OF_COMPARE = {"reports", "compare", "out", "as_json", "dry_run"}


def audit(
    context: typer.Context,
    reports: Annotated[
        list[Path] | None, typer.Argument(metavar="[REPORT]...", help="Of --compare: finished reports.")
    ] = None,
    real: Annotated[
        Path | None, typer.Option(metavar="DATASET", help="The real films; its test and train splits.")
    ] = None,
    synthetic: Annotated[Path | None, typer.Option(metavar="SYNTHETIC", help="The set to audit.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="REPORT", help="Where the report goes.")] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Put finished reports side by side, as Markdown; --out adds a page."),
    ] = False,
    features: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="efficientnet-lite0 (default), pixels, inception, xrv, radimagenet, dinov2, rad-dino, clip, or "
            "your own package.module:function; checks are about the first. `xraygen info` says what each lacks.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]PATH",
            help="Weights of an extractor that does not come with xraygen: file or folder.",
        ),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download",
            help="Fetch weights that are missing from their publishers; nothing is sent but the request.",
        ),
    ] = False,
    inception_resize: Annotated[
        InceptionResizeName,
        typer.Option(
            help="How inception brings films to 299 px: as clean-fid does, or as the first FID did."
        ),
    ] = InceptionResizeName.clean_fid,
    beside: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Another SYNTHETIC or DATASET to stand beside the numbers."),
    ] = None,
    against_each: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="Hold all films against the real films of each word of this column, such as the site, which they "
            "were not told.",
        ),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPR",
            help="Exit with 1 where this holds, such as 'fd/floor>3', 'suspects/bound>1' or "
            "'groups.finding=PNEUMONIA.fd/floor>3'.",
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
    utility: Annotated[
        str | None,
        typer.Option(
            metavar="LABEL",
            help="Train a classifier of this column on synthetic, on real and on both, and test it.",
        ),
    ] = None,
    classifier: Annotated[
        Classifier,
        typer.Option(help="Of --utility: a linear probe on the first --features, or a network from scratch."),
    ] = Classifier.probe,
    also_test: Annotated[
        list[Path] | None,
        typer.Option(metavar="DATASET", help="Of --utility: films of another source to test on, too."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=2, help="Of --utility: seeds.")] = 5,
    run: Annotated[
        Path | None,
        typer.Option(
            parser=run_folder,
            metavar="RUN",
            help="The RUN that made the films: try to tell its training films from held-out ones.",
        ),
    ] = None,
    bits_per_dim: Annotated[
        bool,
        typer.Option("--bits-per-dim", help="Of --run: bits per dimension of synthetic and of real films."),
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Say how good a set of synthetic films is, and whether any of them is a copy of a patient's.

    xraygen audit --real dataset --synthetic synthetic --out report

    xraygen audit --real dataset --synthetic synthetic --out report --fail-on 'copies>0' --quarantine

    xraygen audit --real dataset --synthetic synthetic --out report --utility finding --run run

    xraygen audit --compare report-a report-b --out comparison
    """
    if compare:
        _check_comparison(context)
        _compare(reports or [], out, dry_run=dry_run, as_json=as_json)
        return
    if reports:
        raise UsageError(
            f"{reports[0]}: an audit takes --real and --synthetic; reports are put side by side by --compare."
        )
    if real is None or synthetic is None or out is None:
        raise UsageError(
            "An audit needs --real DATASET, --synthetic SYNTHETIC and --out REPORT; one is missing."
        )
    from xraygen.audit.audit import audit as measure
    from xraygen.audit.audit import plan
    from xraygen.audit.by_choice import Choices, choice_table
    from xraygen.audit.describe import distance_table
    from xraygen.audit.groups import group_table
    from xraygen.audit.settings import AuditSettings

    settings = AuditSettings(
        features=tuple(features or ()),
        weights=tuple(weights or ()),
        download=download,
        inception_resize=inception_resize.value,
        beside=tuple(beside or ()),
        against_each=tuple(against_each or ()),
        fail_on=tuple(fail_on or ()),
        count=count,
        seed=seed,
        device=device,
        quarantine=quarantine,
        choices=Choices(
            utility=utility,
            classifier=classifier.value,
            also_test=tuple(also_test or ()),
            repeats=repeats,
            run=run,
            bits_per_dim=bits_per_dim,
        ),
    )
    if dry_run:
        planned = plan(real, synthetic, out, settings)
        console.emit(planned, as_json=as_json)
        console.say(f"Would compare {planned['count']} films per set and write the report into {out}.")
        return
    with console.progress() as report:
        result = measure(real, synthetic, out, settings, report=report)
    console.emit(result, as_json=as_json)
    for line in [
        *distance_table(result),
        *group_table(result["groups"]),
        *choice_table(result),
        *result["summary"],
    ]:
        console.say(line)
    for verdict in result["verdicts"]:
        console.say(f"{'passed' if verdict['passed'] else 'FAILED'}  {verdict['sentence']}")
    console.say(f"Report: {out / 'report.html'}")
    if quarantine:
        _tell_of_quarantine(synthetic, len(result["privacy"]["suspects"]))
    if not all(verdict["passed"] for verdict in result["verdicts"]):
        raise typer.Exit(1)


def _check_comparison(context: typer.Context) -> None:
    """Refuse what a comparison would ignore: a gate by --fail-on must not pass unasked."""
    given = [option for name, option in options.given(context).items() if name not in _OF_COMPARE]
    if given:
        raise UsageError(
            "--compare is of finished reports: it takes --out, --json and --dry-run alone; leave out "
            f"{' and '.join(given)}."
        )


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


def _compare(reports: list[Path], out: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Finished reports side by side: Markdown, or JSON, on stdout."""
    from xraygen.audit.compare import as_markdown, check_comparison_out, compare_reports, write_comparison

    if out is not None:
        check_comparison_out(out)
    comparison = compare_reports(reports)
    if dry_run:
        console.emit({"reports": [str(report) for report in reports]}, as_json=as_json)
        console.say(f"Would put {len(reports)} reports side by side{'' if out is None else f' in {out}'}.")
        return
    console.emit(comparison, as_json=as_json)
    if not as_json:
        console.show(as_markdown(comparison))
    if out is not None:
        write_comparison(out, comparison)
        console.say(f"Comparison: {out / 'comparison.html'}")
