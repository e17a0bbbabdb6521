"""Files and folders that are either whole or absent: written aside, synced to disk, then renamed."""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from xraygen.errors import FolderError

HIDDEN_SUFFIX = ".partial"


def _aside(path: Path) -> Path:
    """Name for the unfinished version, in the same folder so that the rename stays on one file system."""
    return path.with_name(f".{path.name}.{os.getpid()}{HIDDEN_SUFFIX}")


def _sync(path: Path) -> None:
    """Flush one file's or folder's data to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a name to write to; it becomes `path` when the block ends well, and is removed when it does not.

    Raises:
        FolderError: If `path` is a folder.
    """
    if path.is_dir():
        raise FolderError(f"{path} is a folder; expected the name of a file to write.")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        yield aside
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def check_absent(path: Path) -> None:
    """Raise FolderError if a folder that is to be written exists already."""
    if path.exists():
        raise FolderError(f"{path} exists already; choose another folder.")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `path`, which must not exist yet, when the block ends well."""
    check_absent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        for file in sorted(aside.rglob("*")):
            _sync(file)
        _sync(aside)
        aside.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed runs left unfinished directly inside `folder`."""
    for leftover in folder.glob(f".*{HIDDEN_SUFFIX}"):
        _remove(leftover)


def remove_leftovers_of(path: Path) -> None:
    """Delete unfinished versions of one file or folder, and of nothing else that may be in the making beside it."""
    for leftover in path.parent.glob(f".*{HIDDEN_SUFFIX}"):
        if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+{re.escape(HIDDEN_SUFFIX)}", leftover.name):
            _remove(leftover)


def _remove(leftover: Path) -> None:
    if leftover.is_dir():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_file(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON (no NaN, no Infinity) atomically, for people to read too."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def move_into_place(aside: Path, path: Path) -> None:
    """Let a finished file appear under its name, in place of what stood there."""
    aside.replace(path)
    _sync(path.parent)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; the lock goes with the process, however it ends.

    Raises:
        FolderError: If another process holds it.
    """
    with _holding(folder, fcntl.LOCK_EX):
        yield


@contextmanager
def writer_among_others(folder: Path) -> Iterator[None]:
    """Hold a folder together with others that hold it so; a `sole_writer` is kept out, and keeps out.

    Raises:
        FolderError: If a process holds it for itself alone.
    """
    with _holding(folder, fcntl.LOCK_SH):
        yield


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait until no other writer of the folder is in such a block."""
    with (folder / ".turn").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def try_to_hold(file: IO[str]) -> bool:
    """Lock an open file for as long as it is open; False if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _holding(folder: Path, kind: int) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    # To be read and written: NFS wants the first for a lock that is shared, the second for one that is not.
    with (folder / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderError(
                f"Another process is writing to {folder}; wait for it or choose another folder."
            ) from None
        yield
