"""SYNTHETIC/quarantine: films that may be copies of patients', out of the set, and which films shall replace them.

quarantine/quarantined.csv   a row per film: that of metadata.csv, why it is here, and the seed that replaces it
quarantine/refill.csv        a plan of the replacements that are not made yet, for `xraygen generate --plan`
quarantine/images/7.png      the film, under the name that it had

The list is written first, then metadata.csv without the films, then they are moved. So every row of metadata.csv has
its film whatever is killed when, and a film that lost its row is on the list: `finish_quarantine` moves it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from xraygen.atomic import move_into_place, sole_writer, write_text
from xraygen.errors import FolderError
from xraygen.films.listing import METADATA, Row, as_csv, read_rows, read_table, told_columns

FOLDER = "quarantine"
LIST = "quarantined.csv"
REFILL = "refill.csv"
_PREVIEW = "preview.png"
_REFILL_SEED = "refill_seed"


def set_aside(folder: Path, reasons: Mapping[str, Mapping[str, str]]) -> list[Row]:
    """Move films out of a SYNTHETIC.

    preview.png goes, since it may show one of them; `xraygen generate` makes it anew.

    Args:
        folder: SYNTHETIC.
        reasons: file_name -> columns that say why; the same columns for each film.

    Returns:
        What the list says of the films that were moved now.

    Raises:
        FolderError: If metadata.csv or the list is damaged, or another process is writing to the folder.
    """
    with sole_writer(folder):
        columns, rows = read_table(folder / METADATA)
        moved = [row for row in rows if row["file_name"] in reasons]
        finish_quarantine(folder)
        if not moved:
            return []
        names = {row["file_name"] for row in moved}
        before = [row for row in _listed(folder) if row["file_name"] not in names]
        seed = 1 + max(_seeds(rows, "seed") | _seeds(before, "seed") | _seeds(before, _REFILL_SEED))
        listed = [
            {**row, **reasons[row["file_name"]], _REFILL_SEED: str(seed + place)}
            for place, row in enumerate(moved)
        ]
        (folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
        everything = [*before, *listed]
        header = list(dict.fromkeys(name for row in everything for name in row))
        write_text(
            folder / FOLDER / LIST,
            as_csv(header, [{name: row.get(name, "") for name in header} for row in everything]),
        )
        write_text(folder / FOLDER / REFILL, _plan(told_columns(columns), rows, everything))
        (folder / _PREVIEW).unlink(missing_ok=True)
        write_text(folder / METADATA, as_csv(columns, [row for row in rows if row["file_name"] not in names]))
        finish_quarantine(folder)
        return listed


def finish_quarantine(folder: Path) -> None:
    """Move the films that are on the list and have no row in metadata.csv: a killed process left them.

    To be called by the one process that writes to the folder.
    """
    listed = _listed(folder)
    kept = {row["file_name"] for row in read_rows(folder / METADATA)} if listed else set()
    for row in listed:
        name = row["file_name"]
        if name not in kept and (folder / name).is_file():
            target = folder / FOLDER / name
            target.parent.mkdir(parents=True, exist_ok=True)
            move_into_place(folder / name, target)


def quarantined(folder: Path) -> set[str]:
    """The file_name of every film on the list: none of them belongs into the set again."""
    return {row["file_name"] for row in _listed(folder)}


def _listed(folder: Path) -> list[Row]:
    return read_rows(folder / FOLDER / LIST)


def _seeds(rows: Sequence[Row], column: str) -> set[int]:
    try:
        return {int(row[column]) for row in rows}
    except (KeyError, ValueError):
        raise FolderError(
            f"A film of the set has no number as its {column}, so that no other film can replace it; leave out "
            "--quarantine."
        ) from None


def _plan(told: Sequence[str], rows: Sequence[Row], listed: Sequence[Row]) -> str:
    """The replacements that are neither in the set nor in quarantine themselves: same words, another seed."""
    made = _seeds(rows, "seed") | _seeds(listed, "seed")
    columns = ["seed", *told, *(["guidance"] if told else [])]
    missing = [row for row in listed if int(row[_REFILL_SEED]) not in made]
    return as_csv(
        columns, [{**{name: row[name] for name in columns}, "seed": row[_REFILL_SEED]} for row in missing]
    )
