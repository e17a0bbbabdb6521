"""Read one film from any supported file, and let any MONAI pipeline do so."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from xraygen.errors import FilmError, ShapeError
from xraygen.films.dicom import StoredFilm, read_stored
from xraygen.films.disk import unreadable
from xraygen.films.jpeg2000 import Coarse
from xraygen.films.objects import STRICT, ReadOptions
from xraygen.films.pictures import picture_format, read_picture
from xraygen.films.polarity import may_be_negative

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii", ".nii.gz")
FILM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima", *PICTURE_SUFFIXES)


def read_film(path: str | Path, options: ReadOptions = STRICT, coarse: Coarse | None = None) -> StoredFilm:
    """Read a film: by what the file holds, and by its suffix only where its first bytes say nothing.

    Args:
        path: A DICOM, PNG, JPEG, TIFF or NIfTI file.
        options: What else passes by choice; pictures have none of what they speak of.
        coarse: How coarsely JPEG 2000 in DICOM may be decoded; None for all pixels.

    Returns:
        Stored values `[H, W]`, upright, with their display and attributes.

    Raises:
        FilmError: As `read_stored` and `read_picture`.
        OSError: If the disk or the machine fails, which is not the film's fault.
    """
    path = Path(path)
    if not _is_dicom(path) and (picture_format(path) or path.name.lower().endswith(PICTURE_SUFFIXES)):
        return _flagged(read_picture(path))
    return read_stored(path, options, coarse)


def _flagged(film: StoredFilm) -> StoredFilm:
    """A picture with its flags: its header says nothing, but its pixels may look like a negative."""
    if not may_be_negative(film.values, film.display):
        return film
    return replace(film, attributes=replace(film.attributes, flags=("polarity_doubtful",)))


def _is_dicom(path: Path) -> bool:
    """Whether the file has the DICM mark; its preamble may look like TIFF."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise unreadable(error) from error


class RadiographReader(ImageReader):  # type: ignore[misc]  # MONAI is not typed here
    """Give MONAI's LoadImage(d) display-correct, upright, full-size films.

    The array is float32 `[H, W]` in [0, 1], as displayed: row 0 is the top (MONAI's own PNG reader gives [W, H]). Its
    metadata hold the geometry and what is known about the picture, and no element that identifies a patient.

    Args:
        options: What is read that is otherwise refused.

    Example:
        >>> image = LoadImage(reader=RadiographReader(), ensure_channel_first=True)("film.dcm")  # [1, H, W]
    """

    def __init__(self, options: ReadOptions = STRICT) -> None:
        self.options = options

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        """Whether all names look like films; DICOM files often have no suffix, so those pass."""
        return all(
            Path(name).name.lower().endswith(FILM_SUFFIXES) or not Path(name).suffix
            for name in _each(filename)
        )

    def read(self, data: Sequence[str | Path] | str | Path, **kwargs: Any) -> list[StoredFilm | FilmError]:
        """Read the files; a refusal is kept for `get_data`, lest LoadImage try its readers that know no display."""
        if kwargs:
            raise TypeError(f"RadiographReader.read takes no options, and got {', '.join(kwargs)}.")
        return [_film_or_refusal(name, self.options) for name in _each(data)]

    def get_data(
        self, img: Sequence[StoredFilm | FilmError] | StoredFilm | FilmError
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Pixels and metadata: `[H, W]` of one film, `[N, H, W]` of several of one size.

        Raises:
            FilmError: As `read_film`.
            ShapeError: If several films differ in size.
        """
        films = _accepted([img] if isinstance(img, (StoredFilm, FilmError)) else img)
        pixels = [film.display.apply(film.values) for film in films]
        metadata = _metadata(films[0])
        if len(films) == 1:
            return pixels[0], metadata
        if len({image.shape for image in pixels}) > 1:
            raise ShapeError("films that are read together must have one size; read them one by one.")
        metadata[MetaKeys.ORIGINAL_CHANNEL_DIM] = 0
        return np.stack(pixels), metadata


def _film_or_refusal(name: str | Path, options: ReadOptions) -> StoredFilm | FilmError:
    """The film, or why it is none."""
    try:
        return read_film(name, options)
    except FilmError as refusal:
        return refusal


def _accepted(films: Sequence[StoredFilm | FilmError]) -> list[StoredFilm]:
    """All films, or the first refusal among them."""
    for film in films:
        if isinstance(film, FilmError):
            raise film
    return [film for film in films if isinstance(film, StoredFilm)]


def _each(names: Sequence[str | Path] | str | Path) -> list[str | Path]:
    """One name or several, as a list."""
    return [names] if isinstance(names, (str, Path)) else list(names)


def _metadata(film: StoredFilm) -> dict[str, Any]:
    """MONAI's keys, and attributes that identify nobody; texts and numbers only, so that batches collate."""
    attributes = film.attributes
    spacing = attributes.pixel_spacing_mm or 1.0
    affine = np.diag([spacing, spacing, 1.0, 1.0])
    return {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPACE: SpaceKeys.RAS,
        MetaKeys.SPATIAL_SHAPE: np.array(film.values.shape),
        MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),  # MONAI's word for "no channel"
        "format": attributes.format,
        "bits_stored": attributes.bits_stored,
        "photometric": attributes.photometric,
        "voi": attributes.voi,
        "view": attributes.view,
        "modality": attributes.modality,
    }
