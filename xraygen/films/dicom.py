"""Read one radiograph from DICOM, display-correct, or refuse it with a reason.

The way of the pixels: decode -> stored integers -> turned upright -> display (modality, VOI, one inversion) -> [0, 1].
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from xraygen.errors import FilmError
from xraygen.films.decoders import decode
from xraygen.films.display import Display
from xraygen.films.elements import PixelFormat, number_of, pixel_format, raw_text_of, text_of, value_of
from xraygen.films.greyscale import display_flags, display_of
from xraygen.films.jpeg2000 import Coarse, decode_coarsely
from xraygen.films.objects import (
    STRICT,
    ReadOptions,
    keep_first_frame,
    refuse_other_objects,
    shows_another_part,
)
from xraygen.films.parsing import cut_off, ends_early, open_film, parse
from xraygen.films.polarity import may_be_negative
from xraygen.films.view_terms import coded_view

_LONGEST_LIFE_YEARS = 130

_VIEW_CODES = {
    "399348003": "AP", "R-10206": "AP", "272479007": "PA", "R-10214": "PA",
    "399173006": "LL", "R-10236": "LL", "399198007": "RL", "R-10232": "RL",
}  # fmt: skip
"""View Code Sequence of DX (PS3.16 CID 4010), SNOMED CT and its older SRT codes, as View Position says it."""
_LATERAL = re.compile(r"^(LL|RL|RLO|LLO|RAO|LAO|RPO|LPO)$|LATERAL|\bLAT\b|OBL")
"""Views from the side or oblique; the decubitus views LLD and RLD are frontal (PS3.3 C.8.11.1.1.3)."""


@dataclass(frozen=True)
class FilmAttributes:
    """What is known about a film besides its pixels; pictures leave most of it empty.

    `patient_id`, `study_uid`, `sop_instance_uid` and `accession_number` identify a patient: they go into no message,
    log, repr or data set.
    `rows` and `columns` are those of the film as displayed; `voi` says where its window came from; `age` is in years.
    `flags` name what a person should know though the film can be read: `no_orientation` (frontal, without a usable
    Patient Orientation), `polarity_doubtful` (looks like a negative) and those of `display_flags`.
    """

    format: str = ""
    rows: int = 0
    columns: int = 0
    bits_stored: int = 0
    photometric: str = ""
    voi: str = ""
    view: str = ""
    sex: str = ""
    age: float | None = None
    pixel_spacing_mm: float | None = None
    modality: str = ""
    body_part: str = ""
    flags: tuple[str, ...] = ()
    patient_id: str = field(default="", repr=False)
    study_uid: str = field(default="", repr=False)
    sop_instance_uid: str = field(default="", repr=False)
    accession_number: str = field(default="", repr=False)


@dataclass(frozen=True, eq=False)
class StoredFilm:
    """A film as it is stored, full-size and upright, with what its display needs."""

    values: NDArray[Any]  # [H, W] integers (floats from some NIfTI files)
    display: Display
    attributes: FilmAttributes


@dataclass(frozen=True, eq=False)
class Radiograph:
    """A film as it is displayed: float32 [H, W] in [0, 1], air dark, bone bright."""

    pixels: NDArray[np.float32]
    attributes: FilmAttributes


def read_radiograph(path: str | Path, options: ReadOptions = STRICT) -> Radiograph:
    r"""Read a DICOM radiograph as it is meant to be seen.

    Args:
        path: A DICOM file: CR, DX For Presentation or Secondary Capture, any transfer syntax of radiography.
        options: What else passes by choice.

    Returns:
        Full-size pixels, float32 `[H, W]` in [0, 1]; frontal films lie as Patient Orientation L\F.

    Raises:
        FilmError: With a `reason`: not_dicom, truncated, no_pixels, not_a_radiograph, for_processing, body_part,
            burned_in, multi_frame, colour, unsupported_syntax, decode_failed or unreadable.
        OSError: If the disk or the machine fails.

    Source:
        DICOM PS3.3 C.11.1 (modality), C.11.2 (VOI), C.11.6 (presentation); PS3.4 N.2 (their order).
    """
    film = read_stored(path, options)
    return Radiograph(film.display.apply(film.values), film.attributes)


def read_stored(path: str | Path, options: ReadOptions = STRICT, coarse: Coarse | None = None) -> StoredFilm:
    """Read a DICOM radiograph's stored values, and how to display them.

    Args:
        path: As for `read_radiograph`.
        options: What else passes by choice.
        coarse: How coarsely a JPEG 2000 film may be decoded that has a linear window and no padding.

    Returns:
        Integers `[H, W]` in the range of Bits Stored, turned upright, with their display and attributes.

    Raises:
        FilmError: As `read_radiograph`.
        OSError: Likewise.
    """
    with _lenient():
        try:
            return _read(Path(path), options, coarse)
        except FilmError as refusal:
            if refusal.reason in ("no_pixels", "decode_failed", "not_a_radiograph") and ends_early(
                Path(path)
            ):
                raise cut_off() from refusal
            raise


def _read(path: Path, options: ReadOptions, coarse: Coarse | None) -> StoredFilm:
    """Parse, refuse, decode, turn."""
    with open_film(path) as file:
        dataset, syntax = parse(file)
        refuse_other_objects(dataset, options)
        if options.frames == "first":
            keep_first_frame(dataset, compressed=syntax.is_encapsulated)
        layout = pixel_format(dataset)
        if coarse is not None:
            coarsely = decode_coarsely(dataset, syntax, layout, coarse)
            film = None if coarsely is None else _film(dataset, layout, coarsely)
            if film is not None and film.display.commutes and film.display.voi_kind != "percentiles":
                return film
        values = decode(dataset, syntax, layout, file)
    return _film(dataset, layout, values)


def _film(dataset: Dataset, layout: PixelFormat, values: NDArray[Any]) -> StoredFilm:
    """Decoded values, upright, with what the data set says of them."""
    values = _turn_upright(values, dataset)
    display = display_of(dataset, layout, values)
    return StoredFilm(values, display, _attributes(dataset, layout, display, values))


@contextmanager
def _lenient() -> Iterator[None]:
    """Read sloppy files without a word: pydicom neither validates nor warns inside."""
    with quietly(), disable_value_validation():
        yield


@contextmanager
def quietly() -> Iterator[None]:
    """pydicom warns and logs, and its words repeat the file's name and what it says."""
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True  # another level would empty the caches of all loggers, for every film
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = before


def _orientation(dataset: Dataset) -> tuple[str, str]:
    """First letters of the directions of rows and columns; empty where they are absent or damaged."""
    try:
        row, column = (
            str(part).strip().upper()[:1] for part in value_of(dataset, "PatientOrientation") or ()
        )
    except (ValueError, TypeError):
        return "", ""
    return row, column


def _lies_on_its_side(dataset: Dataset) -> bool:
    """Whether the rows of a frontal film run along the patient's body."""
    row, column = _orientation(dataset)
    return row in ("H", "F") and column in ("L", "R")


def _turn_upright(values: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    r"""Turn a frontal film to L\F: the patient's left on the right, the feet below (PS3.3 C.7.6.1.1.1)."""
    row, column = _orientation(dataset)
    if _lies_on_its_side(dataset):
        values, row, column = values.T, column, row
    if row not in ("L", "R") or column not in ("H", "F"):
        return values
    values = values[:, ::-1] if row == "R" else values
    values = values[::-1] if column == "H" else values
    return np.ascontiguousarray(values)


def _flags(dataset: Dataset, layout: PixelFormat, display: Display, values: NDArray[Any]) -> tuple[str, ...]:
    """What a person should know about the film."""
    flags = display_flags(dataset, layout, display, values)
    orientation, view = _orientation(dataset), _view(dataset)
    if not any(orientation) and not _LATERAL.search(view):
        flags += ("no_orientation",)
    # A chest is what the check knows: neither a hand nor a chest from the side.
    frontal = not _LATERAL.search(view) and not {"A", "P"} & set(orientation)
    if frontal and not shows_another_part(dataset) and may_be_negative(values, display):
        flags += ("polarity_doubtful",)
    return flags


def _attributes(
    dataset: Dataset, layout: PixelFormat, display: Display, values: NDArray[Any]
) -> FilmAttributes:
    """The attributes, each empty where the file leaves it out or damages it."""
    sex = text_of(dataset, "PatientSex")
    rows, columns = layout.rows, layout.columns
    if _lies_on_its_side(dataset):
        rows, columns = columns, rows
    return FilmAttributes(
        format="dicom",
        rows=rows,
        columns=columns,
        bits_stored=layout.bits_stored,
        photometric=text_of(dataset, "PhotometricInterpretation"),
        voi=display.voi_kind,
        view=_view(dataset),
        sex=sex if sex in ("M", "F", "O") else "",
        age=_age_years(text_of(dataset, "PatientAge")),
        pixel_spacing_mm=_spacing(dataset),
        modality=text_of(dataset, "Modality"),
        body_part=text_of(dataset, "BodyPartExamined"),
        flags=_flags(dataset, layout, display, values),
        patient_id=raw_text_of(dataset, "PatientID"),
        study_uid=raw_text_of(dataset, "StudyInstanceUID"),
        sop_instance_uid=raw_text_of(dataset, "SOPInstanceUID"),
        accession_number=raw_text_of(dataset, "AccessionNumber"),
    )


def is_lateral(view: str) -> bool:
    """Whether a View Position, as FilmAttributes and manifests hold it, is one from the side or oblique."""
    return _LATERAL.search(view) is not None


def _view(dataset: Dataset) -> str:
    """View Position; the View Code Sequence's where that is no known view; "" where both are silent."""
    view = text_of(dataset, "ViewPosition")
    if coded_view(view):
        return view
    try:
        return _VIEW_CODES.get(str(dataset.ViewCodeSequence[0].CodeValue), view)
    except Exception:  # noqa: BLE001 - absent, empty and damaged sequences all mean "not known"
        return view


def _age_years(text: str) -> float | None:
    """An Age String such as 045Y or 018M in years (PS3.5 6.2, AS); None for anything else and beyond a life.

    A number alone, against the standard, is years: so have it DICOMs that public collections made of ChestX-ray14.
    """
    match = re.fullmatch(r"(\d{1,3})([DWMY]?)", text)
    if match is None:
        return None
    years = int(match[1]) / {"D": 365.25, "W": 365.25 / 7, "M": 12, "Y": 1, "": 1}[match[2]]
    return years if years <= _LONGEST_LIFE_YEARS else None


def _spacing(dataset: Dataset) -> float | None:
    """Distance between rows in mm: at the patient where known, else at the detector or the scanner's glass."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = number_of(dataset, keyword)
        if spacing is not None and spacing > 0:
            return spacing
    return None
