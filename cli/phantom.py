"""`xraygen phantom`: procedural chest films, the data that needs no patient."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import console, options


class Format(StrEnum):
    """How films are written."""

    dicom = "dicom"
    png = "png"


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder for the films and labels.csv.")],
    count: Annotated[int, typer.Option(min=1, help="Films in all; 1 to 3 per patient.")] = 64,
    size: Annotated[int, typer.Option(min=16, help="Side in pixels.")] = 512,
    file_format: Annotated[
        Format, typer.Option("--format", help="DX DICOM of 12 bits, or 16-bit PNG.")
    ] = Format.dicom,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Write procedural chest-film phantoms with their labels. To finish what was interrupted, run it again.

    xraygen phantom films --count 300

    xraygen phantom films --count 1000 --size 128 --format png --seed 7
    """
    from xraygen.films.phantom_files import check_phantoms, write_phantoms

    if dry_run:
        check_phantoms(out, count, size, file_format.value, seed)
        console.emit({"phantoms": str(out), "count": count, "size": size, "seed": seed}, as_json=as_json)
        console.say(
            f"Would write {count} phantoms of {size} px as {file_format} with seed {seed} into {out}."
        )
        return
    with console.progress() as report:
        summary = write_phantoms(out, count, size, file_format.value, seed, report)
    console.emit({"phantoms": str(out), "made": summary.made, "present": summary.present}, as_json=as_json)
    console.say(
        f"{out}: {summary.made} phantoms made, {summary.present} were there already; see {out / 'labels.csv'}."
    )
