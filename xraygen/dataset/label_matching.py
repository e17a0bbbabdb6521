"""Which row of a CSV speaks of which film: by its path or number, or by its study, examination or patient."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from xraygen.errors import UsageError

PER_IMAGE = ("path", "image_id", "instance")
PER_GROUP = ("study", "accession", "patient")
"""Ways to speak of several films at once; only the first that a CSV has is used."""
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
    for shorten in (str, _stem):
        suffix = "" if shorten is str else " stem"
        endings = list(_endings(shorten(path.as_posix()).lstrip("/")))
        yield from (("path" + suffix, ending) for ending in endings)
        shortest = len(shorten(str(relative)))
        yield from (("path end" + suffix, ending) for ending in endings if len(ending) >= shortest)
    yield "image_id", path.name
    yield "image_id", _stem(path.name)
    yield from ((way, own[way]) for way in ("instance", *PER_GROUP) if own.get(way))


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
        UsageError: If two rows say different things about one image, or about one group of images.
    """
    present = set(roles.values())
    ways = [role for role in PER_IMAGE if role in present] or [
        next(role for role in PER_GROUP if role in present)
    ]
    # Films without an Accession Number go by their patient, where all rows of the patient agree.
    also = "patient" if ways == ["accession"] else ""
    keys: dict[str, dict[str, int | None]] = {}
    for column in table.columns:
        way = roles[column]
        if way not in (*ways, also):
            continue
        assert way is not None
        for number, value in enumerate(table[column]):
            if not value:
                continue
            key = value.replace("\\", "/").removeprefix("./").lstrip("/") if way == "path" else value
            earlier = keys.setdefault(way, {}).setdefault(key, number)
            if earlier is None or rows[earlier] == rows[number]:
                continue
            if way != also:
                raise UsageError(_two_of_one(file, column, way, earlier + 2, number + 2))
            keys[way][key] = None
    for path, row in list(keys.get("path", {}).items()):
        if row is not None:
            _add_looser_keys(keys, path, row, rows)
    return keys


def _two_of_one(file: Path, column: str, way: str, first: int, second: int) -> str:
    """What is wrong where two rows have one key; to delete a row of a patient's two would mislabel films."""
    same = f"{file}: lines {first} and {second} have the same {column} and say different things"
    if way not in PER_GROUP:
        return f"{same}; keep one of them."
    return (
        f"{same}, and these films cannot be told apart by {column}; add a column StudyInstanceUID, SOPInstanceUID or "
        "path. Deleting a row would give its films the other row's labels."
    )


def _add_looser_keys(
    keys: dict[str, dict[str, int | None]], path: str, row: int, rows: Sequence[object]
) -> None:
    """Further keys for a path: without its suffix, and by its endings; ambiguous where two rows share one."""
    loose = [("path stem", _stem(path))]
    for ending in _endings(path):
        loose += [("path end", ending), ("path end stem", _stem(ending))]
    for way, key in loose:
        earlier = keys.setdefault(way, {}).setdefault(key, row)
        if earlier is not None and rows[earlier] != rows[row]:
            keys[way][key] = None
