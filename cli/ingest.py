"""`xraygen ingest`: films -> DATASET."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xraygen.errors import UsageError
from xraygen.progress import Report

from . import console, options, servers

if TYPE_CHECKING:
    from xraygen.dataset.ingest_settings import IngestSettings, IngestSummary
    from xraygen.dataset.sources import SourceFile
    from xraygen.films.pacs import Server


class Fit(StrEnum):
    """How another aspect ratio is met."""

    pad = "pad"
    crop = "crop"
    stretch = "stretch"


class Frames(StrEnum):
    """What becomes of several frames."""

    refuse = "refuse"
    first = "first"


class Detail(StrEnum):
    """At what size JPEG 2000 is decoded."""

    full = "full"
    half = "half"
    quarter = "quarter"


class LabelPreset(StrEnum):
    """Conventions of public label files."""

    auto = "auto"
    none = "none"
    nih = "nih"
    chexpert = "chexpert"
    mimic = "mimic"
    vindr = "vindr"
    hannover = "hannover"


class Layout(StrEnum):
    """What the names of folders and files mean."""

    folders = "folders"
    kermany = "kermany"


def ingest(
    out: Annotated[Path, typer.Option(help="DATASET folder to write.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE...", help="Folders, files, archives or patterns: DICOM, PNG, JPEG, TIFF, NIfTI."
        ),
    ] = None,
    pacs: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="An archive, by C-FIND and C-GET.")
    ] = None,
    aet: servers.Aet = None,
    calling_aet: servers.CallingAet = "XRAYGEN",
    dicomweb: servers.DicomWeb = None,
    find: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="What the archive is asked for, such as StudyDate=20260101-."),
    ] = None,
    tls: servers.WithTls = False,
    tls_ca: servers.TlsCa = None,
    tls_cert: servers.TlsCert = None,
    token_file: servers.TokenFile = None,
    size: Annotated[str, typer.Option(metavar="256|HxW", help="Size of the images in pixels.")] = "256",
    fit: Annotated[Fit, typer.Option(help="Black borders, a central cut, or distortion.")] = Fit.pad,
    bits: Annotated[int, typer.Option(min=1, max=16, help="Bits of a grey level.")] = 16,
    labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Labels, patients, sex, age, views.")
    ] = None,
    label_columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="The CSV's columns that are labels [all that look so].")
    ] = None,
    label_preset: Annotated[
        LabelPreset, typer.Option(help="Convention of the CSV; auto: the one that its header shows.")
    ] = LabelPreset.auto,
    layout: Annotated[
        Layout | None, typer.Option(help="Labels from folder names; kermany: patients from file names too.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Key of the pseudonyms [DATASET.key beside it].")
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="A,B,C", help="Expected shares of train, validation, test, by patient.")
    ] = "0.8,0.1,0.1",
    split_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="The CSV's column that names the split.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read; 0: this one, for trusted files [one per processor]."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Time for one file; a process that needs more is killed.")
    ] = 60.0,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Read on the Dask cluster of this scheduler.")
    ] = None,
    for_processing: Annotated[
        bool, typer.Option("--for-processing", help="Take DX For Processing, by the log of its intensity.")
    ] = False,
    any_body_part: Annotated[
        bool, typer.Option("--any-body-part", help="Take films of other parts than the chest.")
    ] = False,
    burned_in: Annotated[
        bool, typer.Option("--burned-in", help="Take films that say text is burned into them.")
    ] = False,
    frames: Annotated[Frames, typer.Option(help="Of several frames: refuse the film or take the first.")] = (
        Frames.refuse
    ),
    jpeg_2000: Annotated[
        Detail,
        typer.Option(
            "--jpeg-2000", help="Decode JPEG 2000 at this size where enough is left: quicker, less exact."
        ),
    ] = Detail.full,
    crop_collimation: Annotated[
        bool, typer.Option("--crop-collimation", help="Cut off the collimator's borders.")
    ] = False,
    refuse_text: Annotated[
        bool, typer.Option("--refuse-text", help="Leave out films in which characters are found; no proof.")
    ] = False,
    curate: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="Another threshold, such as min_contrast=0.1."),
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Views to take, such as PA,AP; unknown: films that tell none [all]."
        ),
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(metavar="LIST", help="Patients, studies, films or paths to leave out, one a line."),
    ] = None,
    also_search: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Name what was made there with the films of --exclude."),
    ] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Turn films into a DATASET. To finish what was interrupted, run the same command again.

    xraygen ingest films --out dataset --size 256

    xraygen ingest 'export/**/*.dcm' --out dataset --size 512x512 --fit crop --labels labels.csv

    xraygen ingest --pacs pacs.example:104 --aet ARCHIVE --find StudyDate=20260101-20260131 --out dataset
    """
    from xraygen.dataset import ingest as room
    from xraygen.dataset.checks import check
    from xraygen.dataset.cluster import dask_executor
    from xraygen.dataset.curation import parse_thresholds
    from xraygen.dataset.ingest_settings import IngestSettings, parse_size
    from xraygen.dataset.views import parse_views
    from xraygen.films.objects import ReadOptions
    from xraygen.films.transforms import PrepareSettings

    curation, text = parse_thresholds(curate or [])
    read = ReadOptions(for_processing, any_body_part, burned_in, frames.value)
    settings = IngestSettings(
        prepare=PrepareSettings(
            parse_size(size), fit.value, bits, read, crop_collimation, refuse_text, jpeg_2000.value, text
        ),
        labels=labels,
        label_columns=tuple(name.strip() for name in label_columns.split(",")) if label_columns else None,
        layout=layout.value if layout else None,
        key=key,
        split=split,
        workers=workers,
        seconds_per_file=timeout,
        label_preset=label_preset.value,
        split_column=split_column,
        curation=curation,
        views=parse_views(views) if views is not None else None,
        exclude=exclude,
        also_search=tuple(also_search or []),
    )
    server = None
    if not sources or pacs or dicomweb or find:
        server = _archive(
            sources, (pacs, "--pacs", aet, calling_aet, dicomweb, tls, tls_ca, tls_cert, token_file)
        )
        check(out, settings, labels=True)  # before an hour of fetching; files_to_read does it for files
    if dry_run and server is None:
        _say_plan(room.files_to_read(sources or [], out, settings), out, settings, as_json=as_json)
        return
    if dry_run and server is not None:
        _say_what_matches(server, find or [], as_json=as_json)
        return
    with (
        console.progress() as report,
        dask_executor(dask) if dask else nullcontext() as executor,
        _films(server, sources or [], find or [], report) as paths,
    ):
        summary = room.ingest(paths, out, settings, report, executor)
    console.emit(summary.to_json(), as_json=as_json)
    _say(summary)


def _archive(sources: list[str] | None, given: tuple[Any, ...]) -> "Server":
    """The archive that the options name, if there are no other sources."""
    if not sources and given[0] is None and given[4] is None:
        raise UsageError(
            "Name a SOURCE (folders, files, patterns), or an archive: --pacs HOST:PORT or --dicomweb URL."
        )
    if sources:
        raise UsageError(
            "Name either SOURCEs or an archive (--pacs, --dicomweb, --find): one DATASET, one origin."
        )
    return servers.read_server(*given)


@contextmanager
def _films(
    server: "Server | None", sources: list[str], find: list[str], report: Report
) -> Iterator[list[str | Path]]:
    """The sources, or what an archive lends."""
    from xraygen.dataset.download import downloaded
    from xraygen.films.pacs import parse_keys

    if server is None:
        yield list(sources)
        return
    with downloaded(server, parse_keys(find), report) as folder:
        yield [folder]


def _say_plan(files: "list[SourceFile]", out: Path, settings: "IngestSettings", *, as_json: bool) -> None:
    """What would be read, and what the CSV of labels would give."""
    from xraygen.dataset.ingest import read_label_table

    table = read_label_table(settings, files)
    known = (
        {"label_rows": len(table.rows), "label_names": table.label_names, "left_out": table.left_out}
        if table
        else {}
    )
    plan = {"dataset": str(out), "files": len(files), **known, "settings": settings.to_json()}
    console.emit(plan, as_json=as_json)
    prepare = settings.prepare
    height, width = prepare.size
    console.say(
        f"Would read {len(files)} files into {out}: {height}x{width} pixels, {prepare.fit}, {prepare.bits} bits."
    )
    if table is not None:
        console.say(f"  {len(table.rows)} rows of labels: {', '.join(table.label_names) or 'none'}")
        _say_left_out(table.left_out)


def _say_left_out(columns: Sequence[str]) -> None:
    """The CSV's columns that stay out of the DATASET."""
    if columns:
        console.say(f"  left out, for they may name a patient: {', '.join(columns)}")


def _say_what_matches(server: "Server", find: list[str], *, as_json: bool) -> None:
    """How much an archive would be asked for."""
    from xraygen.dataset.download import count_series
    from xraygen.films.pacs import parse_keys

    count = count_series(server, parse_keys(find))
    console.emit({"server": server.name, "series": count}, as_json=as_json)
    console.say(f"Would fetch {count} series from {server.name}.")


def _say(summary: "IngestSummary") -> None:
    """What a person wants to know at the end."""
    done = " was complete already" if summary.already_done else ""
    console.say(f"{summary.dataset}{done}: {summary.seen} files seen, {summary.accepted} accepted.")
    for reason, count in summary.rejected.items():
        console.say(f"  {count} rejected: {reason}")
    for flag, count in summary.flags.items():
        console.say(f"  {count} flagged: {flag}")
    for split, images in summary.images.items():
        console.say(f"  {split}: {images} images of {summary.patients[split]} patients")
    _say_how_few(summary.images.get("test", 0))
    views = (f"{view or 'not known'} {count:,}" for view, count in summary.views.items())
    console.say(f"  views: {', '.join(views)}")
    if summary.label_names:
        console.say(f"  labels: {', '.join(summary.label_names)}; {summary.unlabelled} images have none")
    _say_left_out(summary.left_out)
    for folder in summary.made_with_excluded:
        console.say(f"  made with excluded films: {folder}")
    for note in summary.notes:
        console.say(f"  note: {note}")
    console.say(f"Keep {summary.key} and {summary.crosswalk} to yourself: they name the patients.")


def _say_how_few(held_out: int) -> None:
    """A word before a day of training where the audit could not decide about copies after it."""
    from xraygen.metrics.tail import LEAST_FILMS

    if held_out < LEAST_FILMS:
        console.say(
            f"  an audit decides about copies with {LEAST_FILMS} test films or more: with {held_out} it will be "
            "undecided (--split holds out more)"
        )
