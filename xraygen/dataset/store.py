"""A DATASET folder, opened: images stay on disk and are gathered by whole batches."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xraygen.atomic import sha256_of
from xraygen.dataset.manifest import manifest_columns, read_manifest
from xraygen.errors import FolderError
from xraygen.ranges import Stored

FORMAT_VERSION = 1
INFO_NAME = "dataset.json"
IMAGES_NAME = "images.npy"
MANIFEST_NAME = "manifest.csv"
REJECTED_NAME = "rejected.csv"

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What dataset.json says."""

    format_version: int
    """Changes when an older xraygen could no longer read the folder."""
    created_by: str
    """The xraygen version that wrote it."""
    size: tuple[int, int]
    """(height, width) of every image in pixels."""
    bits: int
    """White is stored as 2^bits - 1."""
    channels: int
    """1 for films, 3 for natural images."""
    settings: Mapping[str, Any]
    """How the images were prepared and split."""
    counts: Mapping[str, int]
    """seen, accepted and rejected files; seen = accepted + rejected."""
    label_names: tuple[str, ...]
    """The label columns of the manifest."""
    content_sha256: str
    """Hash over images.npy and manifest.csv, as `content_sha256` computes it."""
    flags: Mapping[str, int] = field(default_factory=dict)
    """Number of images by what a person should know about them; flags.csv says which."""
    voi: Mapping[str, int] = field(default_factory=dict)
    """Number of images by where their window came from: lut, linear, ..., percentiles, full_range."""

    def to_json(self) -> dict[str, Any]:
        """As dataset.json holds it."""
        return {**asdict(self), "size": list(self.size), "label_names": list(self.label_names)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "DatasetInfo":
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError where a value does not fit."""
        height, width = values["size"]
        return cls(
            format_version=int(values["format_version"]),
            created_by=str(values["created_by"]),
            size=(int(height), int(width)),
            bits=int(values["bits"]),
            channels=int(values["channels"]),
            settings=dict(values["settings"]),
            counts={str(name): int(count) for name, count in values["counts"].items()},
            label_names=tuple(values["label_names"]),
            content_sha256=str(values["content_sha256"]),
            flags={str(name): int(count) for name, count in values.get("flags", {}).items()},
            voi={str(name): int(count) for name, count in values.get("voi", {}).items()},
        )


@dataclass(frozen=True, eq=False)
class Dataset:
    """An opened DATASET."""

    folder: Path
    """Where it lies."""
    images: Stored
    """Read-only memory map: uint16 [N, H, W] (uint8 up to 8 bits); uint8 [N, H, W, 3] for natural images."""
    manifest: pd.DataFrame
    """One row per image in the same order; see `read_manifest` for the types."""
    info: DatasetInfo
    """What dataset.json says."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def indices(self, split: Split) -> NDArray[np.int64]:
        """Rows of one split in ascending order, int64 [n].

        Raises:
            FolderError: If `split` is not one of "train", "validation" and "test".
        """
        if split not in SPLITS:
            raise FolderError(f"{self.folder} has the splits {', '.join(SPLITS)}, and none called {split!r}.")
        return np.flatnonzero(self.manifest["split"].to_numpy() == split).astype(np.int64)

    def gather(self, indices: ArrayLike) -> Stored:
        """Copy many images into memory at once.

        The rows are read in ascending order, which is what disks and the page cache are quick at, and handed
        back in the order asked for.

        Args:
            indices: Rows, integers [B] in [0, N); repeats are allowed.

        Returns:
            A writable array of the dtype of `images`, [B, H, W] (or [B, H, W, 3]).
        """
        rows = np.asarray(indices, dtype=np.int64)
        order = np.argsort(rows, kind="stable")
        batch = np.empty((len(rows), *self.images.shape[1:]), dtype=self.images.dtype)
        batch[order] = self.images[rows[order]]
        return batch


def open_dataset(path: str | Path) -> Dataset:
    """Open a DATASET folder that `xraygen ingest` wrote.

    Args:
        path: The folder.

    Returns:
        The images, memory-mapped and read-only, with their manifest.

    Raises:
        FolderError: If the folder is missing, is no DATASET, has another format version or is damaged.

    Example:
        >>> dataset = open_dataset("films-256")
        >>> dataset.gather(dataset.indices("train")[:8]).shape
        (8, 256, 256)
    """
    folder = Path(path)
    info = _read_info(folder)
    try:
        images = np.load(folder / IMAGES_NAME, mmap_mode="r", allow_pickle=False)
        manifest = read_manifest(folder / MANIFEST_NAME)
    except (OSError, ValueError, EOFError) as error:
        raise FolderError(f"{folder} is damaged, ingest it again: {' '.join(str(error).split())}") from None
    _check_agreement(folder, info, images, manifest)
    return Dataset(folder, images, manifest, info)


def content_sha256(folder: Path) -> str:
    """Hash over the bytes of images.npy and manifest.csv: what a RUN records about the data it saw."""
    hashes = [sha256_of(folder / name) for name in (IMAGES_NAME, MANIFEST_NAME)]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _read_info(folder: Path) -> DatasetInfo:
    """dataset.json, checked."""
    if not folder.is_dir():
        raise FolderError(f"{folder} does not exist; give the --out folder of `xraygen ingest`.")
    file = folder / INFO_NAME
    if not file.is_file():
        raise FolderError(
            f"{folder} is not a DATASET: it holds no {INFO_NAME}; give the --out folder of `xraygen ingest`."
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        version = values["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise FolderError(
            f"{file} is not readable as the description of a DATASET; ingest it again."
        ) from None
    if version != FORMAT_VERSION:
        raise FolderError(
            f"{folder} has format version {version} and this xraygen reads {FORMAT_VERSION}; "
            "ingest it again or install the xraygen that wrote it."
        )
    try:
        return DatasetInfo.from_json(values)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise FolderError(f"{file} lacks a key or holds a wrong value; ingest it again.") from None


def _check_agreement(folder: Path, info: DatasetInfo, images: Stored, manifest: pd.DataFrame) -> None:
    """The three files must speak of the same images."""
    if len(images) != len(manifest):
        raise FolderError(
            f"{folder} is damaged: {IMAGES_NAME} holds {len(images)} images and {MANIFEST_NAME} "
            f"{len(manifest)} rows; ingest it again."
        )
    expected = info.size if info.channels == 1 else (*info.size, info.channels)
    if images.shape[1:] != expected or images.dtype not in (np.uint8, np.uint16):
        raise FolderError(
            f"{folder} is damaged: {IMAGES_NAME} holds {images.dtype} images of {images.shape[1:]}, and "
            f"{INFO_NAME} says {expected}; ingest it again."
        )
    if list(manifest.columns) != manifest_columns(info.label_names):
        raise FolderError(
            f"{folder} is damaged: the columns of {MANIFEST_NAME} are not those that {INFO_NAME} lists; "
            "ingest it again."
        )
