"""`xraygen ingest`: films -> DATASET."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import console, options

if TYPE_CHECKING:
    from xraygen.dataset.ingest_settings import IngestSummary


class Fit(StrEnum):
    """How another aspect ratio is met."""

    pad = "pad"
    crop = "crop"
    stretch = "stretch"


class Layout(StrEnum):
    """What the names of folders and files mean."""

    folders = "folders"
    kermany = "kermany"


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="Folders, files or patterns: DICOM, PNG, JPEG, TIFF, NIfTI."
        ),
    ],
    out: Annotated[Path, typer.Option(help="DATASET folder to write.")],
    size: Annotated[str, typer.Option(metavar="256|HxW", help="Size of the images in pixels.")] = "256",
    fit: Annotated[Fit, typer.Option(help="Black borders, a central cut, or distortion.")] = Fit.pad,
    bits: Annotated[int, typer.Option(min=1, max=16, help="Bits of a grey level.")] = 16,
    labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Labels, patients, sex, age, views.")
    ] = None,
    label_columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="The CSV's columns that are labels [all others].")
    ] = None,
    layout: Annotated[
        Layout | None, typer.Option(help="Labels from folder names; kermany: patients from file names too.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Key of the pseudonyms [DATASET.key beside it].")
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="A,B,C", help="Shares of train, validation, test, by patient.")
    ] = "0.8,0.1,0.1",
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read; 0: this one [one per processor].")
    ] = None,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Turn films into a DATASET. To finish what was interrupted, run the same command again.

    xraygen ingest films --out dataset --size 256

    xraygen ingest 'export/**/*.dcm' --out dataset --size 512x512 --fit crop --labels labels.csv
    """
    from xraygen.dataset import ingest as room
    from xraygen.dataset.ingest_settings import IngestSettings, parse_size
    from xraygen.films.transforms import PrepareSettings

    settings = IngestSettings(
        prepare=PrepareSettings(parse_size(size), fit.value, bits),
        labels=labels,
        label_columns=tuple(name.strip() for name in label_columns.split(",")) if label_columns else None,
        layout=layout.value if layout else None,
        key=key,
        split=split,
        seed=seed,
        workers=workers,
    )
    if dry_run:
        files = room.files_to_read(sources, out, settings)
        console.emit(
            {"dataset": str(out), "files": len(files), "settings": settings.to_json()}, as_json=as_json
        )
        console.say(f"Would read {len(files)} files into {out}: {size} pixels, {fit}, {bits} bits.")
        return
    with console.progress() as report:
        summary = room.ingest(sources, out, settings, report)
    console.emit(summary.to_json(), as_json=as_json)
    _say(summary)


def _say(summary: "IngestSummary") -> None:
    """What a person wants to know at the end."""
    done = " was complete already" if summary.already_done else ""
    console.say(f"{summary.dataset}{done}: {summary.seen} files seen, {summary.accepted} accepted.")
    for reason, count in summary.rejected.items():
        console.say(f"  {count} rejected: {reason}")
    for split, images in summary.images.items():
        console.say(f"  {split}: {images} images of {summary.patients[split]} patients")
    if summary.label_names:
        console.say(f"  labels: {', '.join(summary.label_names)}; {summary.unlabelled} images have none")
    if summary.left_out:
        console.say(f"  left out, for they may name a patient: {', '.join(summary.left_out)}")
    console.say(f"Keep {summary.key} and {summary.crosswalk} to yourself: they name the patients.")
