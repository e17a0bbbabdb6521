"""Natural images one by one, from whatever the user has: python batches, a folder, an archive or a .npz file.

Archives are read from front to back and never unpacked to the disk; a tar file's members are taken as bytes, so that
their names, links and devices lead nowhere.
"""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xraygen.dataset.archives import MAX_MEMBER_BYTES, TAR_SUFFIXES, clean_name, is_archive
from xraygen.dataset.cifar_batches import META_NAME, Batch, is_batch, read_batch, read_label_names
from xraygen.dataset.sources import list_sources, opened
from xraygen.dataset.split import parse_split
from xraygen.dataset.store import Split
from xraygen.errors import FilmError, UsageError
from xraygen.films.colour import SUFFIXES, read_colour

_NPZ_PAIRS: tuple[tuple[str, str, Split], ...] = (
    ("x_train", "y_train", "train"),
    ("x_test", "y_test", "test"),
    ("images", "labels", "train"),
    ("arr_0", "arr_1", "train"),
)
"""Names of images, of their labels, and the split: as Keras, plainly, and as reference batches for FID name them."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One image that was found, or why it is none."""

    name: str
    """Where it was: path in the source, and the place in a batch."""
    split: Split
    label: str
    """Name or number of its class; "" where nothing says."""
    image: NDArray[np.uint8] | FilmError
    """uint8 `[H, W, 3]`."""
    original: bool = False
    """Whether it lies in a file that is, by its MD5, one of the published CIFAR-10."""


class _File(NamedTuple):
    """A file of a folder or an archive."""

    name: PurePosixPath
    content: bytes | FilmError


def natural_pictures(source: Path) -> Iterator[Picture]:
    """Every image of a source, in the order in which it holds them; folders and zip archives by name.

    A folder in a picture's path that is called train, validation or test (or valid, val, testing, ...) says its split;
    without one it is train. The folder that it lies in says its label.

    Args:
        source: A folder (of pictures, or of CIFAR-10's python batches), a .zip or .tar[.gz|.xz|.bz2] archive of one,
            one batch, or a .npz file.

    Raises:
        UsageError: If there is no such source, or it is a .npz file of something else.
    """
    if not source.exists():
        raise UsageError(
            f"{source} does not exist; give a folder, an archive, python batches or a .npz file."
        )
    if source.suffix.lower() == ".npz":
        yield from _from_npz(source)
        return
    for file in _files(source):
        if file.name.name == META_NAME and isinstance(file.content, bytes):
            continue
        if is_batch(file.name.name) and isinstance(file.content, bytes):
            yield from _from_batch(file.name, file.content)
        else:
            yield _from_picture(file)


def class_names(source: Path) -> tuple[str, ...]:
    """What batches.meta calls the classes whose numbers python batches hold; empty where there is none."""
    if source.suffix.lower() == ".npz":
        return ()
    for file in _files(source, only=META_NAME):
        if isinstance(file.content, bytes):
            try:
                return read_label_names(file.content)
            except FilmError:
                return ()
    return ()


def _files(source: Path, only: str | None = None) -> Iterator[_File]:
    """The files of a folder or archive, or the one file; what is hidden is skipped."""
    if source.is_file() and source.name.lower().endswith(TAR_SUFFIXES):
        yield from _tar_files(source, only)
        return
    if source.is_file() and source.suffix.lower() == ".zip" and not is_archive(source):
        raise UsageError(f"{source} is not a zip archive, or damaged; copy it again.")
    for file in list_sources([source]):
        if only is not None and file.name.name != only:
            continue
        try:
            with opened(file) as path:
                yield _File(file.name, path.read_bytes())
        except FilmError as error:
            yield _File(file.name, error)
        except OSError as error:
            detail = f"The file cannot be read ({error.strerror or 'input error'})."
            yield _File(file.name, FilmError("unreadable", detail))


def _tar_files(source: Path, only: str | None) -> Iterator[_File]:
    """The regular files of a tar archive."""
    try:
        with tarfile.open(source, "r:*") as archive:
            for member in archive:
                name, safe = clean_name(member.name)
                hidden = any(part.startswith(".") for part in name.parts)
                if member.isdir() or hidden or (only is not None and name.name != only):
                    continue
                if not safe or not member.isreg():
                    yield _File(
                        name, FilmError("link", "The archive holds a link, a device or an unsafe name.")
                    )
                elif member.size > MAX_MEMBER_BYTES:
                    yield _File(name, FilmError("too_large", "The file is larger than any picture."))
                else:
                    stream = archive.extractfile(member)
                    assert stream is not None  # a regular file
                    yield _File(name, stream.read())
    except (tarfile.TarError, LZMAError, zlib.error, EOFError, OSError) as error:
        raise UsageError(f"{source} is cut off or damaged, or no tar archive; copy it again.") from error


def _from_picture(file: _File) -> Picture:
    """One file that should be a picture."""
    folders = file.name.parts[:-1]
    splits = [split for part in folders if (split := parse_split(part)) is not None]
    label = folders[-1] if folders and parse_split(folders[-1]) is None else ""
    image: NDArray[np.uint8] | FilmError
    if isinstance(file.content, FilmError):
        image = file.content
    elif file.name.suffix.lower() not in SUFFIXES:
        image = FilmError("not_an_image", "The file is not named as a picture.")
    else:
        try:
            image = read_colour(file.content)
        except FilmError as error:
            image = error
    return Picture(str(file.name), splits[0] if splits else "train", label, image)


def _from_batch(name: PurePosixPath, content: bytes) -> Iterator[Picture]:
    """The images of a python batch; labels are numbers."""
    split: Split = "test" if name.name == "test_batch" else "train"
    try:
        batch: Batch = read_batch(name.name, content)
    except FilmError as error:
        yield Picture(str(name), split, "", error)
        return
    for row, (image, label) in enumerate(zip(batch.images, batch.labels, strict=True)):
        yield Picture(f"{name}#{row}", split, str(label), image, batch.original)


def _from_npz(source: Path) -> Iterator[Picture]:
    """The images of a .npz file."""
    known = ", ".join(images for images, _, _ in _NPZ_PAIRS)
    try:
        with np.load(source, allow_pickle=False) as arrays:
            found = [pair for pair in _NPZ_PAIRS if pair[0] in arrays.files]
            if not found:
                raise UsageError(f"{source} holds none of the arrays {known}; rename what it holds.")
            for images_name, labels_name, split in found:
                images = arrays[images_name]
                labels = arrays[labels_name].reshape(-1) if labels_name in arrays.files else None
                if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
                    raise UsageError(
                        f"{source}: {images_name} is {images.dtype} {list(images.shape)}; expected uint8 [N, H, W, 3]."
                    )
                if labels is not None and len(labels) != len(images):
                    raise UsageError(f"{source}: {labels_name} and {images_name} are not equally long.")
                for row, image in enumerate(images):
                    label = "" if labels is None else str(labels[row])
                    yield Picture(f"{images_name}#{row}", split, label, image)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{source} is damaged, or no .npz file of plain arrays; copy it again.") from error
