"""Which row of a CSV speaks of which film: by its path or number, or by its study, examination or patient."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath

import pandas as pd

from xraygen.errors import UsageError

PER_IMAGE = ("instance", "path", "image_id")
PER_GROUP = ("study", "accession", "patient")
"""Ways to speak of several films at once; only the first that a CSV has is used."""
BY_IDENTIFIER = ("instance", *PER_GROUP)
"""Ways that do not go by the names of files, which recur in other folders."""
_IMAGE_SUFFIX = re.compile(
    r"\.(dcm|dicom|dic|png|jpe?g|tiff?|bmp|jp2|jls|nii|nii\.gz|nrrd|mha)$", re.IGNORECASE
)


def _stem(name: str) -> str:
    """Without the suffix of an image; the last number of a UID is none."""
    return _IMAGE_SUFFIX.sub("", name)


def _endings(path: str) -> Iterator[str]:
    """The path a/b/c ends in a/b/c, b/c and c."""
    parts = path.split("/")
    return ("/".join(parts[first:]) for first in range(len(parts)))


def keys_of_film(path: Path, relative: PurePosixPath, own: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Every (way, key) under which a row may speak of a film, best first.

    Args:
        path: The film's absolute path.
        relative: Its path relative to the sources.
        own: The film's own instance, study, accession and patient, as far as they are known.
    """
    if own.get("instance"):
        yield "instance", own["instance"]
    for shorten in (str, _stem):
        suffix = "" if shorten is str else " stem"
        endings = list(_endings(shorten(path.as_posix()).lstrip("/")))
        yield from (("path" + suffix, ending) for ending in endings)
        shortest = len(shorten(str(relative)))
        yield from (("path end" + suffix, ending) for ending in endings if len(ending) >= shortest)
    yield "image_id", path.name
    yield "image_id", _stem(path.name)
    yield from ((way, own[way]) for way in PER_GROUP if own.get(way))


@dataclass(frozen=True)
class _Conflict:
    """Two rows that say different things under one key."""

    column: str
    way: str
    key: str
    rows: tuple[int, int]


def row_by_key(
    file: Path, table: pd.DataFrame, roles: Mapping[str, str | None], rows: Sequence[object]
) -> dict[str, dict[str, int | None]]:
    """Key -> row for each way of matching that the CSV's columns allow; None where a key is ambiguous.

    Args:
        file: The CSV's name, for sentences.
        table: All its columns as text.
        roles: What each column is, None for any other.
        rows: What each row says.

    Raises:
        UsageError: If two rows say different things about one group of images, or about one image and nothing else
            tells which images they mean.
    """
    present = set(roles.values())
    ways = [role for role in PER_IMAGE if role in present] or [
        next(role for role in PER_GROUP if role in present)
    ]
    # Films without an Accession Number go by their patient, where all rows of the patient agree.
    also = ["patient"] if ways == ["accession"] else []
    columns = [(column, way) for column, way in roles.items() if way in (*ways, *also)]
    keys, conflicts, keys_of_rows = _keys_of_columns(table, columns, rows)
    findable = {row for row, way, key in keys_of_rows if way in ways and keys[way][key] is not None}
    for conflict in conflicts:
        if conflict.way not in also and not findable.issuperset(conflict.rows):
            raise UsageError(_two_of_one(file, conflict))
    paths = keys.get("path", {})
    shared = _shared_folders(paths)
    for path, row in list(paths.items()):
        _add_looser_keys(keys, path, row, rows, shared)
    return keys


def _keys_of_columns(
    table: pd.DataFrame, columns: Sequence[tuple[str, str | None]], rows: Sequence[object]
) -> tuple[dict[str, dict[str, int | None]], list[_Conflict], list[tuple[int, str, str]]]:
    """The keys, the conflicts between rows, and every (row, way, key)."""
    keys: dict[str, dict[str, int | None]] = {}
    first: dict[tuple[str, str], int] = {}
    conflicts: list[_Conflict] = []
    keys_of_rows: list[tuple[int, str, str]] = []
    for column, way in columns:
        assert way is not None
        for number, value in enumerate(table[column]):
            if not value:
                continue
            key = value.replace("\\", "/").removeprefix("./").lstrip("/") if way == "path" else value
            keys_of_rows.append((number, way, key))
            earlier = first.setdefault((way, key), number)
            keys.setdefault(way, {}).setdefault(key, number)
            if rows[earlier] != rows[number]:
                keys[way][key] = None
                conflicts.append(_Conflict(column, way, key, (earlier, number)))
    return keys, conflicts, keys_of_rows


def _two_of_one(file: Path, conflict: _Conflict) -> str:
    """What is wrong where two rows have one key; to delete a row of a patient's two would mislabel films."""
    first, second = (row + 2 for row in conflict.rows)
    same = f"{file}: lines {first} and {second} have the same {conflict.column} and say different things"
    if conflict.way in PER_GROUP:
        return (
            f"{same}, and these films cannot be told apart by {conflict.column}; add a column StudyInstanceUID, "
            "SOPInstanceUID or path. Deleting a row would give its films the other row's labels."
        )
    if conflict.way == "instance" or "/" in conflict.key:
        return f"{same}; keep one of them."
    return (
        f"{same}; where films in several folders have one name, give their paths with the folders, or add a column "
        "SOPInstanceUID."
    )


def _shared_folders(paths: Collection[str]) -> int:
    """How many folders all paths begin with, apart from names alone: they tell no film from another."""
    folders = [path.split("/")[:-1] for path in paths if "/" in path]
    levels = zip(*folders, strict=False)
    return sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, levels))


def _add_looser_keys(
    keys: dict[str, dict[str, int | None]], path: str, row: int | None, rows: Sequence[object], shared: int
) -> None:
    """Further keys for a path: without its suffix, and without folders that all paths share, but for its own.

    They are ambiguous where two rows share one.
    """
    loose = [("path stem", _stem(path))]
    droppable = max(0, min(shared, path.count("/") - 1))
    for ending in islice(_endings(path), droppable + 1):
        loose += [("path end", ending), ("path end stem", _stem(ending))]
    for way, key in loose:
        earlier = keys.setdefault(way, {}).setdefault(key, row)
        if earlier is None or row is None or rows[earlier] != rows[row]:
            keys[way][key] = None
