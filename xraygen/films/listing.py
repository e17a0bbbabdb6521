"""metadata.csv, the list of a SYNTHETIC: a row per film with its seed, what it was told, and the hash of its file."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from xraygen.errors import FolderError

METADATA = "metadata.csv"
_LAST = ("sampler", "steps", "guidance", "sha256", "machine", "repeats")
_RESERVED = ("file_name", "seed", *_LAST)

Row = dict[str, str]


def column_of(condition: str) -> str:
    """The column in which a condition stands, in metadata.csv and in a plan."""
    return f"{condition}_label" if condition in _RESERVED else condition


def columns_of(conditions: Sequence[str]) -> list[str]:
    """All columns, in the order that `datasets`' imagefolder reads."""
    return ["file_name", "seed", *map(column_of, conditions), *_LAST]


def told_columns(columns: Iterable[str]) -> list[str]:
    """Those columns of a metadata.csv that say what a film was told."""
    return [column for column in columns if column not in _RESERVED]


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a metadata.csv; none if it is not there.

    Raises:
        FolderError: If it is no such table, or has other columns than these.
    """
    return read_table(path, columns)[1] if path.exists() else []


def read_table(path: Path, columns: Sequence[str] | None = None) -> tuple[list[str], list[Row]]:
    """The columns and the rows of a metadata.csv.

    Raises:
        FolderError: If it is no such table, or has other columns than these.
    """
    try:
        table = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, csv.Error):
        table = []
    header = table[0] if table else []
    if not {"file_name", "seed", "sha256"} <= {*header} or (columns is not None and header != [*columns]):
        expected = "file_name, seed and sha256" if columns is None else ", ".join(columns)
        raise FolderError(f"{path} is no table with the columns {expected}; choose another folder.")
    if any(len(cells) != len(header) for cells in table[1:]):
        raise FolderError(f"{path} has rows of different lengths; choose another folder.")
    return header, [dict(zip(header, cells, strict=True)) for cells in table[1:]]


def as_csv(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """The text of such a table."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()
