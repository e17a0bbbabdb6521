"""Names for patients, studies and images that say nothing to whoever lacks the key.

HMAC-SHA-256 (FIPS 198-1): without the key nobody can confirm a guess such as "is patient 4711 among them?", which
a plain hash would answer. The key and the crosswalk stay with the hospital, outside the DATASET.
"""

import fcntl
import hashlib
import hmac
import os
import secrets
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from xraygen.atomic import atomic_file, remove_leftovers_of
from xraygen.errors import UsageError

_KEY_BYTES = 32
_OWNER_ONLY = 0o600
_OTHERS = 0o077
_TYPED = frozenset(string.printable.encode("ascii"))
CROSSWALK_COLUMNS = ("source", "image_id", "patient", "study", "path")


@dataclass(frozen=True)
class Pseudonyms:
    """Keyed hashes; the same key gives the same pseudonyms in every DATASET."""

    key: bytes = field(repr=False)
    """32 random bytes."""

    def patient(self, identifier: str) -> str:
        """P and 32 hexadecimal digits (128 bits)."""
        return "P" + self.keyed_hash("patient", identifier)[:32]

    def study(self, identifier: str) -> str:
        """S and 32 hexadecimal digits (128 bits)."""
        return "S" + self.keyed_hash("study", identifier)[:32]

    def image(self, content: str) -> str:
        """I and 32 hexadecimal digits (128 bits), from the hash of the image's content."""
        return "I" + self.keyed_hash("image", content)[:32]

    def source(self, name: str) -> str:
        """32 hexadecimal digits, from the file's path relative to the sources."""
        return self.keyed_hash("source", name)[:32]

    def keyed_hash(self, kind: str, text: str) -> str:
        """HMAC-SHA-256 in hexadecimal; the kind keeps a patient "7" and a study "7" apart."""
        return hmac.new(self.key, f"{kind}\x1f{text}".encode(), hashlib.sha256).hexdigest()


def default_key_path(dataset: Path) -> Path:
    """`<DATASET>.key`, beside it."""
    return dataset.with_name(f"{dataset.name}.key")


def crosswalk_path(key: Path) -> Path:
    """`<key>.crosswalk.csv`, beside it."""
    return key.with_name(f"{key.name}.crosswalk.csv")


def check_key_path(path: Path, dataset: Path) -> None:
    """Refuse a key that would travel with the DATASET.

    Raises:
        UsageError: If `path` lies inside `dataset`.
    """
    if path.resolve().is_relative_to(dataset.resolve()):
        raise UsageError(
            f"--key {path} lies inside the DATASET, and whoever gets the DATASET could name its patients; "
            "choose a place outside."
        )


def open_key(path: Path) -> Pseudonyms:
    """Read the key, or draw one and write it, readable by its owner only; a warning where others may too.

    Raises:
        UsageError: If the file exists and is not a key, or is a text: 32 random bytes look like one once in 10^13 keys.
    """
    with _turn(path):
        if not path.exists():
            _write_privately(path, lambda file: file.write(secrets.token_bytes(_KEY_BYTES)))
    key = _key_at(path)
    if path.stat().st_mode & _OTHERS:
        getLogger(__name__).warning(
            "%s is open to others than its owner, and whoever has the key can look for a patient in the DATASET; close "
            "it to them: chmod 600.",
            path,
        )
    return Pseudonyms(key)


def check_key(path: Path) -> None:
    """Refuse what `open_key` and `write_crosswalk` would refuse; draws no key and writes nothing.

    Raises:
        UsageError: If the file exists and is not a key, or what lies beside it is not a crosswalk.
    """
    if path.exists():
        _key_at(path)
    if crosswalk_path(path).exists():
        _crosswalk_at(crosswalk_path(path), rows=0)


def _key_at(path: Path) -> bytes:
    if not path.is_file() or path.stat().st_size != _KEY_BYTES:
        raise UsageError(
            f"{path} is not a key of xraygen: expected a file of {_KEY_BYTES} bytes; choose another --key."
        )
    key = path.read_bytes()
    if _TYPED.issuperset(key):
        raise UsageError(
            f"{path} holds a text, and a passphrase can be guessed: expected {_KEY_BYTES} random bytes; give a --key "
            "that does not exist, and one is drawn there."
        )
    return key


def write_crosswalk(key: Path, rows: pd.DataFrame) -> None:
    """Write which pseudonym is which file beside the key, readable by its owner only.

    Rows that other DATASETs under the same key have left there stay, also of the same files: what one of them rejects
    is an image of another.

    Args:
        key: The key's file.
        rows: The columns CROSSWALK_COLUMNS, one row per file, rejected ones included.

    Raises:
        UsageError: If the file exists and is not a crosswalk.
    """
    with _turn(key):
        _add_rows(crosswalk_path(key), rows[list(CROSSWALK_COLUMNS)])


def read_crosswalk(key: Path) -> pd.DataFrame:
    """What `write_crosswalk` wrote beside a key: the columns CROSSWALK_COLUMNS, all text.

    Raises:
        UsageError: If the file is not a crosswalk.
    """
    return _crosswalk_at(crosswalk_path(key))


def _crosswalk_at(path: Path, rows: int | None = None) -> pd.DataFrame:
    """So many of its rows; None for all."""
    try:
        crosswalk = pd.read_csv(path, dtype=str, keep_default_na=False, nrows=rows)
    except ValueError:  # pandas' errors, and those of an encoding
        crosswalk = pd.DataFrame()
    if tuple(crosswalk.columns) != CROSSWALK_COLUMNS:
        raise UsageError(f"{path} is not a crosswalk of xraygen; move it away or choose another --key.")
    return crosswalk


def _add_rows(path: Path, rows: pd.DataFrame) -> None:
    if path.exists():
        rows = pd.concat([_crosswalk_at(path), rows]).drop_duplicates()
    rows = rows.sort_values(["path", *(name for name in CROSSWALK_COLUMNS if name != "path")])
    _write_privately(path, lambda file: rows.to_csv(file, mode="wb", index=False, lineterminator="\n"))


@contextmanager
def _turn(key: Path) -> Iterator[None]:
    """Let ingests under one key write beside it one after another; disks that know no locks cannot."""
    key.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(key.parent, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write_privately(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Atomically, and never readable by others, not even for a moment; a killed run's attempt names patients too."""
    remove_leftovers_of(path)
    with atomic_file(path) as aside:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
