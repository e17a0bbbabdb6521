"""Natural images -> DATASET: what the paper's setups train on, in the same folder that films go into.

Nothing of it is a patient's, so names stay as they are: `source` is where an image lies in what the user gave.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraygen import __version__
from xraygen.atomic import atomic_folder, remove_leftovers_of, write_json
from xraygen.dataset.cifar_batches import ORIGINAL_MD5
from xraygen.dataset.manifest import write_manifest, write_rejected
from xraygen.dataset.natural_sources import Picture, class_names, natural_pictures
from xraygen.dataset.store import (
    FORMAT_VERSION,
    IMAGES_NAME,
    INFO_NAME,
    MANIFEST_NAME,
    REJECTED_NAME,
    Dataset,
    DatasetInfo,
    content_sha256,
    open_dataset,
)
from xraygen.errors import FilmError, UsageError
from xraygen.films.colour import resized
from xraygen.progress import Progress, Report, silent

LABEL = "class"
"""Name of the label column, where images have classes."""
_BITS = 8
_REPORT_EVERY = 500
_CIFAR10_IMAGES = 10_000 * len(ORIGINAL_MD5)


def prepare_natural(source: Path, out: Path, size: tuple[int, int], *, report: Report = silent) -> Dataset:
    """Make a DATASET of natural images, uint8 `[N, H, W, 3]`; one that is there already is opened.

    Images of the same proportions are reduced to `size` by area; smaller ones, and those of other proportions, are
    rejected: nothing is cropped, padded or enlarged. Images that occur twice stay, since the published sets have some.
    A call that is killed leaves nothing, and the next begins anew.

    Args:
        source: As `natural_pictures` takes it.
        out: DATASET folder.
        size: (height, width) in pixels.
        report: Told how many images were seen.

    Returns:
        The DATASET. Its `settings["original"]` says whether all its images come from the files of the published
        CIFAR-10, and these all.

    Raises:
        UsageError: If the source holds no image that can be used, or `out` was made from another source or size.
        FolderError: If `out` is something else.
    """
    settings = {"size": list(size), "fit": "none", "bits": _BITS, "source": _fingerprint(source)}
    if not out.exists():
        _prepare(source, out, size, settings, report)
    dataset = open_dataset(out)
    made = dict(dataset.info.settings)
    if any(made.get(key) != value for key, value in settings.items()):
        raise UsageError(f"{out} was made from another source or at another size; choose another --out.")
    return dataset


@dataclass
class _Table:
    """What becomes of each image, in order."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    rejected: dict[str, list[str]] = field(default_factory=lambda: {"source": [], "reason": [], "detail": []})
    resized: int = 0
    original: int = 0

    def accept(self, picture: Picture, shape: tuple[int, ...], *, resized: bool) -> None:
        """A row of the manifest."""
        self.resized += resized
        self.original += picture.original
        row: dict[str, Any] = {
            "image_id": f"{len(self.rows):08d}",
            "source": picture.name,
            "split": picture.split,
        }
        row |= dict.fromkeys(("patient", "study", "view", "sex"), "") | {"age": np.nan}
        row |= {LABEL: picture.label, "rows": shape[0], "columns": shape[1], "bits_stored": _BITS}
        self.rows.append({**row, "photometric": "RGB", "pixel_spacing_mm": np.nan})

    def reject(self, picture: Picture, error: FilmError) -> None:
        """A row of rejected.csv."""
        for key, value in zip(self.rejected, (picture.name, error.reason, error.detail), strict=True):
            self.rejected[key].append(value)

    def manifest(self, names: tuple[str, ...]) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """The manifest and its label columns: none where all images are of one class."""
        manifest = pd.DataFrame(self.rows)
        if manifest[LABEL].nunique() < 2:
            return manifest.drop(columns=LABEL), ()
        spelt = {str(number): name for number, name in enumerate(names)}
        return manifest.assign(**{LABEL: manifest[LABEL].replace(spelt)}), (LABEL,)


def _prepare(
    source: Path, out: Path, size: tuple[int, int], settings: dict[str, Any], report: Report
) -> None:
    """Source -> DATASET, in one rename."""
    table = _Table()
    remove_leftovers_of(out)
    with atomic_folder(out) as aside:
        with (aside / IMAGES_NAME).open("wb") as file:
            _write_images(file, _accepted(natural_pictures(source), size, table, report), size)
        if not table.rows:
            reasons = Counter(table.rejected["reason"]).most_common(1)
            why = f"; most often: {reasons[0][0]}" if reasons else ""
            raise UsageError(
                f"{source} holds no image of {size[0]}x{size[1]} pixels or larger of these proportions{why}."
            )
        manifest, labels = table.manifest(class_names(source))
        write_manifest(aside / MANIFEST_NAME, manifest, labels)
        write_rejected(aside / REJECTED_NAME, table.rejected)
        accepted, rejected = len(table.rows), len(table.rejected["reason"])
        original = table.original == accepted == _CIFAR10_IMAGES
        info = DatasetInfo(
            format_version=FORMAT_VERSION,
            created_by=f"xraygen {__version__}",
            size=size,
            bits=_BITS,
            channels=3,
            settings={**settings, "resized": table.resized, "original": original},
            counts={"seen": accepted + rejected, "accepted": accepted, "rejected": rejected},
            label_names=labels,
            content_sha256=content_sha256(aside),
        )
        write_json(aside / INFO_NAME, info.to_json())


def _accepted(
    pictures: Iterator[Picture], size: tuple[int, int], table: _Table, report: Report
) -> Iterator[NDArray[np.uint8]]:
    """The images that go in, each `[H, W, 3]`; all are entered into the table."""
    seen = 0
    for picture in pictures:
        seen += 1
        if seen % _REPORT_EVERY == 0:
            report(Progress("prepare", seen, seen + 1))  # how many follow, an archive does not say
        try:
            if isinstance(picture.image, FilmError):
                raise picture.image
            image = resized(picture.image, size)
        except FilmError as error:
            table.reject(picture, error)
            continue
        table.accept(picture, picture.image.shape, resized=image is not picture.image)
        yield image
    report(Progress("prepare", seen, seen))


def _write_images(file: IO[bytes], images: Iterator[NDArray[np.uint8]], size: tuple[int, int]) -> None:
    """Write images.npy without holding it in memory: the header comes last, into the room that numpy leaves for it."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (0, *size, 3)}
    np.lib.format.write_array_header_1_0(file, header)
    begin, count = file.tell(), 0
    for image in images:
        file.write(image.tobytes())
        count += 1
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {**header, "shape": (count, *size, 3)})
    assert file.tell() == begin


def _fingerprint(source: Path) -> dict[str, Any]:
    """Name, number of files and bytes of a source: enough to notice that another one is meant."""
    if not source.exists():
        raise UsageError(
            f"{source} does not exist; give a folder, an archive, CIFAR-10's python batches or a .npz file."
        )
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    return {"name": source.name, "files": len(files), "bytes": sum(path.stat().st_size for path in files)}
