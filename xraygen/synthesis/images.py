"""One image of a SYNTHETIC as a file: where it lies, in which format, and what it says of itself."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from xraygen.errors import UsageError
from xraygen.films.mark import marked
from xraygen.films.synthetic import (
    Kind,
    SyntheticAttributes,
    synthetic_film,
    write_synthetic_dicom,
    write_synthetic_frames,
)
from xraygen.films.writers import write_nifti, write_png
from xraygen.ranges import Stored
from xraygen.synthesis.conditions import Words
from xraygen.synthesis.provenance import OLDER

FileFormat = Literal["png", "nifti", "dicom", "dicom-dx"]
SUFFIXES: Mapping[FileFormat, str] = {"png": ".png", "nifti": ".nii.gz", "dicom": ".dcm", "dicom-dx": ".dcm"}
KINDS: Mapping[FileFormat, Kind] = {"dicom": "sc", "dicom-dx": "dx"}

_ASSUMED_FIELD_MM = 430.0
"""The longer side of a film whose scale nobody knows: that of a 35 x 43 cm detector. DX must state a spacing."""
_NOMINAL = "pixel spacing nominal: the median of the training films as resized"
_LARGEST_NUMBER = 2**31 - 1
"""Of the value representation IS (PS3.5 6.2)."""


def settings_of_format(
    run: Path, file_format: FileFormat, mark: bool | None, shape: tuple[int, int, int]
) -> dict[str, Any]:
    """What the provenance says of how images are written.

    Args:
        run: RUN folder, whose dataset.json may know the pixel spacing.
        file_format: Format of the files.
        mark: Whether the word SYNTHETIC goes into the pixels; None for DX alone.
        shape: (C, H, W) of the images.

    Returns:
        `format`; `mark`, if marked; `pixel_spacing_mm` (row, column), if it is known.

    Raises:
        UsageError: If the format is unknown, or the images are in colour and it, or the mark, is for films.
    """
    if file_format not in get_args(FileFormat):
        raise UsageError(f"--format {file_format}: expected one of {', '.join(get_args(FileFormat))}.")
    mark = file_format == "dicom-dx" if mark is None else mark
    if shape[0] != 1 and (mark or file_format != "png"):
        raise UsageError(f"{run} makes colour images; for those use --format png and no mark.")
    told: dict[str, Any] = {"format": file_format}
    if mark:
        marked(np.zeros(shape[1:], np.uint16))  # says so before an image is made where none can be marked
        told["mark"] = True
    spacing = _known_spacing(run)
    return told if spacing is None else {**told, "pixel_spacing_mm": spacing}


def image_path(out: Path, seed: int, file_format: FileFormat, folder: str = "") -> Path:
    """Where the image of a seed lies; `folder` is that of what it was told."""
    return out / "images" / folder / f"{seed}{SUFFIXES[file_format]}"


def images_of(out: Path, file_format: FileFormat) -> list[Path]:
    """All images of a set: those that were told nothing first, each kind by seed."""
    suffix = SUFFIXES[file_format]
    named = (out / "images").rglob(f"*{suffix}")
    files = [path for path in named if path.name.removesuffix(suffix).isdecimal()]
    return sorted(files, key=lambda path: (path.parent, seed_of(path)))


def seed_of(path: Path) -> int:
    """The seed that an image is named after."""
    return int(path.name.partition(".")[0])


def write_image(path: Path, seed: int, image: Stored, origin: Mapping[str, Any], words: Words) -> None:
    """Write one image, whole or absent; its bytes follow from the arguments alone.

    Args:
        path: From `image_path`.
        seed: Its seed.
        image: uint16 `[H, W]`, or uint8 `[H, W, 3]` in colour; not yet marked.
        origin: Provenance of its set, which names the format and says whether to mark it.
        words: What it was told.
    """
    settings = origin["settings"]
    file_format: FileFormat = settings["format"]
    mark = is_marked(origin)
    image = marked(image) if mark else image
    if file_format == "png":
        write_png(path, image)
    elif file_format == "nifti":
        write_nifti(path, image, _spacing(origin))
    else:
        kind = KINDS[file_format]
        attributes = _attributes(seed, image.shape, origin, words, kind, mark)
        write_synthetic_dicom(path, image.astype(np.uint16), attributes, kind)


def as_dicom(
    seed: int, image: NDArray[np.uint16], origin: Mapping[str, Any], words: Words, kind: Kind, *, mark: bool
) -> Dataset:
    """An image of a set of any format as a DICOM object, to be sent; arguments as `write_image`."""
    image = marked(image).astype(np.uint16) if mark and not is_marked(origin) else image
    return synthetic_film(image, _attributes(seed, image.shape, origin, words, kind, mark), kind)


def write_frames(
    path: Path, frames: NDArray[np.uint16], labels: Sequence[str], origin: Mapping[str, Any], comment: str
) -> None:
    """Write the frames of a PATH, uint16 `[F, H, W]`, as one multi-frame DICOM object, whole or absent.

    Args:
        path: File to write.
        frames: The frames.
        labels: What each is, up to 16 characters.
        origin: Provenance of the PATH.
        comment: What else a reader must know.
    """
    write_synthetic_frames(path, frames, labels, _attributes_of_path(origin, comment, 1))


def write_series(
    folder: Path, frames: NDArray[np.uint16], labels: Sequence[str], origin: Mapping[str, Any], comment: str
) -> None:
    """Write the frames of a PATH as one series of Secondary Captures, numbered along the path.

    Args:
        folder: frame-000.dcm and so on go into it; made if it is missing.
        frames: The frames.
        labels: What each is.
        origin: Provenance of the PATH.
        comment: What else a reader must know.
    """
    for index, (frame, label) in enumerate(zip(frames, labels, strict=True)):
        attributes = _attributes_of_path(origin, f"{label}, {comment}", index + 1)
        write_synthetic_dicom(folder / f"frame-{index:03d}.dcm", frame, attributes)


def is_marked(origin: Mapping[str, Any]) -> bool:
    """Whether the word SYNTHETIC is in the pixels of a set."""
    return bool(origin["settings"].get("mark", False))


def clock_of(origin: Mapping[str, Any]) -> datetime:
    """What clock fields say; sets of an older xraygen know only when they were begun."""
    return datetime.fromisoformat(origin.get("clock", origin["created"]))


def _attributes(
    seed: int, shape: tuple[int, ...], origin: Mapping[str, Any], words: Words, kind: Kind, mark: bool
) -> SyntheticAttributes:
    """What a DICOM file says of one image."""
    spacing = _spacing(origin)
    how = _how(origin)
    how += [f"{name} {word}" for name, word in words.items()]
    if spacing is not None:
        how.append("pixel spacing nominal: the median of the training films as resized")
    elif kind == "dx":
        spacing = (_ASSUMED_FIELD_MM / max(shape),) * 2
        how.append(f"pixel spacing assumed and not measured: {_ASSUMED_FIELD_MM:g} mm along the longer side")
    return SyntheticAttributes(
        set_id=origin["id"],
        derivation=f"Generated by a diffusion model from seed {seed}: {', '.join(how)}",
        created=clock_of(origin),
        instance_number=min(seed + 1, _LARGEST_NUMBER),
        pixel_spacing_mm=spacing,
        marked=mark,
        comment=f"seed {seed}",
        version=_version(origin),
    )


def _attributes_of_path(origin: Mapping[str, Any], comment: str, number: int) -> SyntheticAttributes:
    """What a DICOM file says of frames of a PATH."""
    spacing = _spacing(origin)
    how = "Generated by a diffusion model, " + ", ".join([comment, *_how(origin)])
    how += "" if spacing is None else f", {_NOMINAL}"
    return SyntheticAttributes(
        origin["id"], how, clock_of(origin), number, spacing, is_marked(origin), comment, _version(origin)
    )


def _version(origin: Mapping[str, Any]) -> str:
    """The xraygen that made a set: SOP Instance UIDs are hashes of it too, and outlive the installation."""
    return str(origin.get("version", OLDER))


def _how(origin: Mapping[str, Any]) -> list[str]:
    """Checkpoint and sampler, in words."""
    settings = origin["settings"]
    checkpoint = f"checkpoint {origin['checkpoint']['ema_sha256'][:16]}"
    return [checkpoint, settings["sampler"], f"{settings['steps']} steps"]


def _spacing(origin: Mapping[str, Any]) -> tuple[float, float] | None:
    """Row and column spacing in mm, where the set knows it."""
    spacing = origin["settings"].get("pixel_spacing_mm")
    return None if spacing is None else (float(spacing[0]), float(spacing[1]))


def _known_spacing(run: Path) -> list[float] | None:
    """The nominal spacing of the films that a RUN was trained on; None for imported RUNs and older DATASETs."""
    try:
        settings = json.loads((run / "dataset.json").read_text(encoding="utf-8"))["settings"]
        row, column = (float(spacing) for spacing in settings["pixel_spacing_mm"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [row, column] if row > 0 and column > 0 else None
