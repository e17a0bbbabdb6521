"""A set of films to compare: a SYNTHETIC or a DATASET folder, read into memory at 16 bits."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xraygen.atomic import sha256_of
from xraygen.dataset.conditions import ALWAYS
from xraygen.dataset.store import INFO_NAME, Dataset, open_dataset
from xraygen.errors import FilmError, FolderError
from xraygen.films.listing import column_of, told_columns
from xraygen.films.reader import read_film
from xraygen.metrics.ssim import WINDOW_PX
from xraygen.progress import Progress, Report, silent
from xraygen.ranges import Stored, unit_to_stored

METADATA_NAME = "metadata.csv"
PROVENANCE_NAME = "provenance.json"
_BITS = 16


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Films of one size, with their names."""

    name: str
    """The folder's name."""
    images: Stored
    """uint8 or uint16, [N, H, W]; a memory map where it is a DATASET."""
    file_names: tuple[str, ...]
    """N names: metadata.csv's file_name, or `#17` for a row of a DATASET: no report tells its image_id."""
    bits: int
    """White is stored as 2^bits - 1."""
    told: pd.DataFrame = field(default_factory=pd.DataFrame)
    """N rows of conditions: what metadata.csv says each film was told, or what a DATASET knows of it."""
    of_patients: bool = False
    """Whether it is a DATASET: its films may be patients', and no report shows one."""

    def __len__(self) -> int:
        """Number of films."""
        return len(self.images)


def read_real(folder: Path) -> Dataset:
    """Open the DATASET to compare with, and check that it can be compared with.

    Raises:
        FolderError: If it is no DATASET, in colour, of films smaller than the window of SSIM, has no film in its train
            or test split, or a patient in both.
    """
    dataset = open_dataset(folder)
    _check_grey(folder, dataset)
    height, width = dataset.info.size
    if min(height, width) < WINDOW_PX:
        raise FolderError(
            f"{folder} holds films of {height}x{width} px, and SSIM needs {WINDOW_PX}x{WINDOW_PX}; ingest them larger."
        )
    manifest = dataset.manifest
    patients = {}
    for split in ("train", "test"):
        rows = manifest[manifest["split"] == split]
        if not len(rows):
            raise FolderError(f"{folder} has no film in its {split} split; ingest it with another --split.")
        patients[split] = set(rows["patient"]) - {""}
    if shared := patients["train"] & patients["test"]:
        raise FolderError(
            f"{folder} has {len(shared)} patients in both its train and its test split; ingest it again."
        )
    return dataset


def read_set(folder: Path, size: tuple[int, int], *, report: Report = silent) -> ImageSet:
    """Read the films of a SYNTHETIC, or of a DATASET (all its rows).

    Args:
        folder: The folder.
        size: (height, width) in pixels that its films must have.
        report: Told how many films are read.

    Returns:
        Its films, in the order of metadata.csv or manifest.csv.

    Raises:
        FolderError: If the folder is missing, neither of the two, damaged, empty, or of another size.
    """
    if (folder / INFO_NAME).is_file():
        return _from_dataset(folder, size)
    metadata = read_metadata(folder)
    images = np.empty((len(metadata), *size), dtype=np.uint16)
    hashes: Sequence[str] = metadata.get("sha256", pd.Series([""] * len(metadata))).tolist()
    for row, (file_name, sha256) in enumerate(zip(metadata["file_name"], hashes, strict=True)):
        images[row] = _read_image(folder, file_name, sha256, size)
        report(Progress(f"read {folder.name}", row + 1, len(metadata)))
    told = metadata[told_columns(metadata.columns)]
    return ImageSet(folder.name, images, tuple(metadata["file_name"]), _BITS, told)


def check_set(folder: Path, size: tuple[int, int]) -> None:
    """Refuse early what `read_set` would refuse for its kind or size, by dataset.json or by the first picture.

    Raises:
        FolderError: As for `read_set`.
    """
    if (folder / INFO_NAME).is_file():
        _like_the_real(folder, size)
        return
    first = read_metadata(folder).iloc[0]
    _read_image(folder, first["file_name"], first.get("sha256", ""), size)


def count_films(folder: Path) -> int:
    """How many films `read_set` would read, without reading them."""
    return len(open_dataset(folder)) if (folder / INFO_NAME).is_file() else len(read_metadata(folder))


def read_told(folder: Path) -> pd.DataFrame:
    """What the films of `read_set` were told, without reading them."""
    if (folder / INFO_NAME).is_file():
        return _known(open_dataset(folder))
    metadata = read_metadata(folder)
    return metadata[told_columns(metadata.columns)]


def checkpoint_of(synthetic: Path) -> dict[str, Any] | None:
    """Which checkpoint made the films; None for films that do not say."""
    try:
        return dict(json.loads((synthetic / PROVENANCE_NAME).read_text(encoding="utf-8"))["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def weights_that_made(synthetic: Path) -> str | None:
    """Hash of the averaged weights that made the films; None for films that do not say."""
    found = (checkpoint_of(synthetic) or {}).get("ema_sha256")
    return None if found is None else str(found)


def read_metadata(folder: Path) -> pd.DataFrame:
    """metadata.csv of a SYNTHETIC, as text.

    Raises:
        FolderError: If the folder is missing, is no SYNTHETIC, or lists no film.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} does not exist; give the --out folder of `xraygen generate`.")
    file = folder / METADATA_NAME
    if not file.is_file():
        raise FolderError(
            f"{folder} is neither a SYNTHETIC nor a DATASET: it holds no {METADATA_NAME} and no {INFO_NAME}; "
            "give the --out folder of `xraygen generate` or `xraygen ingest`."
        )
    try:
        metadata = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise FolderError(f"{file} is not readable as a table: {' '.join(str(error).split())}.") from None
    if "file_name" not in metadata.columns or not len(metadata):
        raise FolderError(f"{file} lists no film: expected a column file_name and at least one row.")
    return metadata


def _from_dataset(folder: Path, size: tuple[int, int]) -> ImageSet:
    """All rows of a DATASET."""
    dataset = _like_the_real(folder, size)
    names = tuple(f"#{row}" for row in range(len(dataset)))
    return ImageSet(folder.name, dataset.images, names, dataset.info.bits, _known(dataset), of_patients=True)


def _like_the_real(folder: Path, size: tuple[int, int]) -> Dataset:
    """A DATASET that may stand beside the real films."""
    dataset = open_dataset(folder)
    _check_grey(folder, dataset)
    _check_size(folder, dataset.info.size, size)
    if not len(dataset):
        raise FolderError(f"{folder} holds no film.")
    return dataset


def _known(dataset: Dataset) -> pd.DataFrame:
    """What a DATASET knows of its films, in the columns of a metadata.csv."""
    return dataset.manifest[[*dataset.info.label_names, *ALWAYS]].rename(columns=column_of)


def _read_image(folder: Path, file_name: str, sha256: str, size: tuple[int, int]) -> Stored:
    """One film at 16 bits, [H, W]."""
    path = folder / file_name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise FolderError(
            f"{folder / METADATA_NAME} names {file_name}, which lies outside the folder; generate it again."
        )
    try:
        film = read_film(path)
    except FilmError as error:
        raise FolderError(f"{path}, listed in {METADATA_NAME}, cannot be read: {error.detail}") from None
    if sha256 and sha256_of(path) != sha256:
        raise FolderError(
            f"{path} is not the file whose SHA-256 {METADATA_NAME} lists; generate the set again."
        )
    _check_size(path, film.values.shape, size)
    return unit_to_stored(film.display.apply(film.values), _BITS)


def _check_grey(folder: Path, dataset: Dataset) -> None:
    """Audits are of films."""
    if dataset.info.channels != 1:
        raise FolderError(f"{folder} holds colour images, and an audit compares grey films.")


def _check_size(path: Path, found: Sequence[int], expected: tuple[int, int]) -> None:
    """Films of different sizes would differ in their features for that reason alone."""
    if tuple(found) != expected:
        raise FolderError(
            f"{path} is {found[0]}x{found[1]} px and the real films are {expected[0]}x{expected[1]}; "
            "ingest the real films at the size of the synthetic ones."
        )
