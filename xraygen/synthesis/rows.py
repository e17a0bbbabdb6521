"""metadata.csv of a SYNTHETIC: an image and its row land together, whatever is killed when.

.process-0/rows.jsonl    rows of the images that process 0 has made since it began; held by it while it lives
.process-0/17.png        an image in the making
metadata.csv             the rows of all images, written anew when a process begins and when it ends

A row is written first, with the hash of the finished image; then the image appears under its name. So an image always
has a row, and a row counts only if its image is there with that hash.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from xraygen.atomic import move_into_place, remove_leftovers, sha256_of, try_to_hold, write_text
from xraygen.errors import FolderError
from xraygen.films.listing import METADATA, Row, as_csv, read_rows

_ROWS = "rows.jsonl"
_PROCESS = ".process-"


class ProcessRows:
    """The images that this process makes, each with its row.

    Args:
        out: SYNTHETIC folder.
        number: Number of the process.

    Raises:
        FolderError: If another process with this number is at work.
    """

    def __init__(self, out: Path, number: int) -> None:
        self._out, self._folder = out, out / f"{_PROCESS}{number}"
        self._folder.mkdir(exist_ok=True)
        self._file = (self._folder / _ROWS).open("a", encoding="utf-8")
        if not try_to_hold(self._file):
            self._file.close()
            raise FolderError(f"Another process is writing to {out}; wait for it or choose another folder.")

    def land(self, row: Row, write: Callable[[Path], None]) -> None:
        """Write an image aside, then its row, and let the image appear; file_name says where."""
        path = self._out / row["file_name"]
        aside = self._folder / path.name
        write(aside)
        line = json.dumps({**row, "sha256": sha256_of(aside)})
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        move_into_place(aside, path)

    def close(self) -> None:
        """Let go: the next `merge` takes the rows over."""
        self._file.close()


def merge(out: Path, columns: Sequence[str]) -> dict[str, Row]:
    """Bring metadata.csv up to date with the images, and clear away what dead processes left.

    To be called by one process at a time (`xraygen.atomic.one_at_a_time`).

    Args:
        out: SYNTHETIC folder.
        columns: Of metadata.csv.

    Returns:
        The rows by file_name, in the table's order: those told nothing first, each kind by seed.

    Raises:
        FolderError: If metadata.csv has other columns.
    """
    remove_leftovers(out)
    rows = {row["file_name"]: row for row in read_rows(out / METADATA, columns)}
    dead: list[tuple[Path, IO[str]]] = []
    for folder in sorted(out.glob(f"{_PROCESS}*")):
        held = (folder / _ROWS).open("a", encoding="utf-8")
        if try_to_hold(held):  # before its rows are read: it can add none any more
            dead.append((folder, held))
        else:
            held.close()
        for row in _finished_rows(folder / _ROWS):
            name = row["file_name"]
            if rows.get(name) != row and is_there(out, row):
                rows[name] = row
    rows = {name: row for name, row in sorted(rows.items(), key=_place) if (out / name).exists()}
    write_text(out / METADATA, as_csv(columns, rows.values()))
    for folder, lock in dead:
        lock.close()  # first: NFS keeps the name of an open file, and with it the folder
        shutil.rmtree(folder)
    return rows


def rows_so_far(out: Path, columns: Sequence[str]) -> dict[str, Row]:
    """The rows by file_name, those of processes at work or killed among them; nothing is written.

    Raises:
        FolderError: If metadata.csv has other columns.
    """
    rows = {row["file_name"]: row for row in read_rows(out / METADATA, columns)}
    for journal in sorted(out.glob(f"{_PROCESS}*/{_ROWS}")):
        rows |= {row["file_name"]: row for row in _finished_rows(journal)}
    return rows


def is_there(out: Path, row: Row | None) -> bool:
    """Whether the image of a row lies there, to the byte."""
    return (
        row is not None
        and (out / row["file_name"]).exists()
        and sha256_of(out / row["file_name"]) == row["sha256"]
    )


def _finished_rows(path: Path) -> Iterator[Row]:
    """The rows of one process; the last line of one that was killed may be torn."""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def _place(entry: tuple[str, Row]) -> tuple[tuple[str, ...], int]:
    """Folder, then seed."""
    name, row = entry
    return PurePosixPath(name).parent.parts, int(row["seed"])
