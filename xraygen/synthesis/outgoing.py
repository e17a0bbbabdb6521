"""The films of a SYNTHETIC, of whatever format, as the DICOM files that go to an archive."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from xraygen.atomic import sha256_of
from xraygen.errors import FolderError, UsageError
from xraygen.films.decoders import decode
from xraygen.films.pacs import Series
from xraygen.films.reader import read_film
from xraygen.films.synthetic import Kind
from xraygen.films.writers import dicom_bytes
from xraygen.synthesis.conditions import Words, read_folders
from xraygen.synthesis.images import KINDS, as_dicom, is_marked, seed_of
from xraygen.synthesis.permission import METADATA_NAME


@dataclass(frozen=True)
class OutgoingFilm:
    """One film, ready to be sent."""

    file_name: str
    """As metadata.csv names it."""
    uid: str
    """SOP Instance UID."""
    series: Series
    pixel_sha256: str
    """Hash of its Pixel Data."""
    content: bytes
    """The DICOM file."""


@dataclass(frozen=True, eq=False)
class Outgoing:
    """All films of a SYNTHETIC, not yet read."""

    folder: Path
    origin: Mapping[str, Any]
    """Its provenance."""
    folders: Mapping[str, Words]
    """What the films of each folder were told."""
    rows: tuple[Mapping[str, str], ...]
    """metadata.csv."""
    kind: Kind
    mark: bool

    def __len__(self) -> int:
        """Number of films."""
        return len(self.rows)

    def films(self) -> Iterator[OutgoingFilm]:
        """Each film in turn.

        Raises:
            FolderError: If an image is missing, or is not the one of metadata.csv.
        """
        for row in self.rows:
            yield self._film(row["file_name"], row["sha256"])

    def _film(self, file_name: str, sha256: str) -> OutgoingFilm:
        """The file itself, if it is what is asked for; else one made from its pixels."""
        path = self.folder / file_name
        if not path.resolve().is_relative_to(self.folder.resolve()) or not path.is_file():
            raise FolderError(
                f"{self.folder} lacks {file_name}, which its {METADATA_NAME} lists; generate it again."
            )
        if sha256_of(path) != sha256:
            raise FolderError(f"{path} is not the image that {METADATA_NAME} lists; generate the set anew.")
        as_it_is = KINDS.get(self.origin["settings"]["format"]) == self.kind and self.mark == is_marked(
            self.origin
        )
        if as_it_is:
            content = path.read_bytes()
            dataset = pydicom.dcmread(io.BytesIO(content))
        else:
            dataset = self._made(path, file_name)
            content = dicom_bytes(dataset, ExplicitVRLittleEndian)
        return OutgoingFilm(
            file_name=file_name,
            uid=str(dataset.SOPInstanceUID),
            series=Series(str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID)),
            pixel_sha256=pixel_sha256(dataset),
            content=content,
        )

    def _made(self, path: Path, file_name: str) -> Dataset:
        """A DICOM object of an image of another format, kind or mark."""
        told = PurePosixPath(file_name).parent.name
        words = self.folders["" if told == "images" else told]
        values = read_film(path).values.astype(np.uint16)
        return as_dicom(seed_of(path), values, self.origin, words, self.kind, mark=self.mark)


def outgoing(synthetic: Path, kind: Kind | None = None, mark: bool | None = None) -> Outgoing:
    """Open a SYNTHETIC for sending.

    Args:
        synthetic: Its folder, of any format.
        kind: As Secondary Capture or DX; None for what it is, Secondary Capture where it is no DICOM.
        mark: Whether the word SYNTHETIC stands in the pixels; None for yes.

    Raises:
        FolderError: If the folder is no SYNTHETIC, or is damaged.
        UsageError: If its images are in colour, or marked and must not be.
    """
    origin = _read_origin(synthetic)
    if origin["config"]["data"]["channels"] != 1:
        raise UsageError(f"{synthetic} holds colour images; an archive is sent films only.")
    if mark is False and is_marked(origin):
        raise UsageError(f"--no-mark: the mark is in the pixels of {synthetic}; generate it with --no-mark.")
    if kind is None:
        kind = KINDS.get(origin["settings"]["format"], "sc")
    rows = _read_rows(synthetic)
    return Outgoing(synthetic, origin, read_folders(synthetic), rows, kind, mark is not False)


def pixel_sha256(dataset: Dataset) -> str:
    """Hash of a film's pixels as they are sent, uncompressed 16 bits, however an archive keeps them.

    Raises:
        FilmError: If they cannot be decoded.
    """
    values = decode(dataset, dataset.file_meta.TransferSyntaxUID)  # [H, W]
    return hashlib.sha256(values.astype("<u2").tobytes()).hexdigest()


def _read_origin(synthetic: Path) -> dict[str, Any]:
    """provenance.json."""
    path = synthetic / "provenance.json"
    if not path.is_file():
        raise FolderError(
            f"{synthetic} is no SYNTHETIC: it has no provenance.json; give what `generate` wrote."
        )
    try:
        origin: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = (
            origin["settings"]["format"],
            origin["config"]["data"]["channels"],
            origin["id"],
            origin["created"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise FolderError(f"{path} is damaged; generate the set anew.") from None
    return origin


def _read_rows(synthetic: Path) -> tuple[Mapping[str, str], ...]:
    """metadata.csv."""
    path = synthetic / METADATA_NAME
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = tuple(csv.DictReader(file))
        _ = [(row["file_name"], row["sha256"]) for row in rows]
    except (OSError, ValueError, KeyError, csv.Error):
        raise FolderError(f"{path} is missing or damaged; run the same `xraygen generate` again.") from None
    if not rows:
        raise FolderError(f"{path} lists no image; run the same `xraygen generate` again.")
    return rows
