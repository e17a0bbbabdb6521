"""DICOMDIR: the index of an exchange medium (PS3.10 8.6, PS3.3 F), and the files that it refers to."""

import os
from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread
from pydicom.multival import MultiValue
from pydicom.uid import MediaStorageDirectoryStorage

from xraygen.dataset.archives import UNSAFE, Refusal, clean_name
from xraygen.films.dicom import quietly
from xraygen.films.disk import pass_on_failure

_LARGEST_BYTES = 2**28


def is_dicomdir(path: Path) -> bool:
    """Whether a file has the name that the standard gives to the index (PS3.10 8.6)."""
    return path.name.upper() == "DICOMDIR"


def referenced_files(index: Path) -> dict[Path, Refusal | None] | None:
    """The files that a DICOMDIR refers to, missing ones included.

    Upper and lower case are told apart only where the disk has both: many systems mount a CD in lower case.

    Args:
        index: The DICOMDIR.

    Returns:
        For each its absolute path below the DICOMDIR's folder, and why it is refused, if it is: only files inside that
        folder are read. None if `index` is no DICOMDIR, damaged, or refers to nothing.
    """
    identifiers = _file_identifiers(index)
    if not identifiers:
        return None
    folder = index.parent
    inside = folder.resolve()
    listed: dict[Path, dict[str, Path]] = {}
    files: dict[Path, Refusal | None] = {}
    for identifier in identifiers:
        name, safe = clean_name(identifier)
        path = _locate(folder, name.parts, listed) if safe else folder / name
        safe = safe and _lies_in(path, inside)
        files[path] = None if safe else UNSAFE
    return files


def _lies_in(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # RuntimeError: a circle of links, before Python 3.13
        return False


def _file_identifiers(index: Path) -> list[str] | None:
    """Each record's Referenced File ID (0004,1500), its components joined by /."""
    try:
        if index.stat().st_size > _LARGEST_BYTES:
            return None
        with quietly():
            content = dcmread(index, specific_tags=["DirectoryRecordSequence"])
            if content.file_meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage:
                return None
            return list(_identifiers(content.get("DirectoryRecordSequence") or []))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever pydicom raises, a damaged index is then a file like any other
        pass_on_failure(error)
        return None


def _identifiers(records: object) -> Iterator[str]:
    assert hasattr(records, "__iter__")
    for record in records:
        value = record.get("ReferencedFileID")
        if value:
            yield "/".join(map(str, value)) if isinstance(value, (MultiValue, list)) else str(value)


def _locate(folder: Path, parts: tuple[str, ...], listed: dict[Path, dict[str, Path]]) -> Path:
    """The path below `folder`, in the case that the disk has; `listed` remembers folders' contents."""
    here = folder
    for part in parts:
        exact = here / part
        if not os.path.lexists(exact):
            if here not in listed:
                listed[here] = {path.name.lower(): path for path in here.iterdir()} if here.is_dir() else {}
            exact = listed[here].get(part.lower(), exact)
        here = exact
    return here
