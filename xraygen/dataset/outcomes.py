"""How one file ends: accepted with a row of the manifest, or rejected with a reason. Identifiers stop here."""

import errno
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from xraygen.dataset.allowed import coded_photometric, coded_sex, coded_view, plausible_spacing, pooled_age
from xraygen.dataset.exclusion_list import NOTHING, ExclusionList
from xraygen.dataset.journal import Outcome
from xraygen.dataset.labels import Facts, LabelTable, Layout, facts_from_layout
from xraygen.dataset.pseudonyms import Pseudonyms
from xraygen.dataset.sources import SourceFile
from xraygen.dataset.workers import crashed
from xraygen.errors import FilmError
from xraygen.films.dicom import FilmAttributes
from xraygen.films.transforms import PreparedFilm

_NOT_AN_IMAGE = ("not_dicom", "unknown_format")
_KILLED_BY_DASK = "KilledWorker"
"""Its error for a film that ended several workers; by name, as Dask need not be installed."""
_VANISHED = (
    "a film that was listed is not there any more: mount its disk again, or keep the films in place, and run the same "
    "command again"
)
_SHORT_NAME = 4  # "7" or "IM" in a sentence names nobody


@dataclass(frozen=True)
class Knowledge:
    """What is needed to write a film's row."""

    pseudonyms: Pseudonyms
    layout: Layout | None
    table: LabelTable | None
    label_names: tuple[str, ...]
    excluded: ExclusionList = NOTHING
    """Patients, studies, films and paths whose consent was withdrawn."""

    def facts(self, file: SourceFile, attributes: FilmAttributes) -> tuple[Facts, bool]:
        """What is known of a film, and whether the CSV had a row for it.

        The film's own word counts first, then the CSV's, then that of the folder and file names.
        """
        own, row, named = self.said(file, attributes)
        return own.filled_from(row or Facts()).filled_from(named), row is not None

    def said(
        self, file: SourceFile, attributes: FilmAttributes, *, contradicting: bool = False
    ) -> tuple[Facts, Facts | None, Facts]:
        """What the film itself, the CSV (None where it has no row for it) and the names of folder and file say.

        A row that names another patient than the film does counts only where `contradicting` is given.
        """
        own = Facts(
            patient=attributes.patient_id.strip(),
            study=attributes.study_uid.strip(),
            accession=attributes.accession_number.strip(),
            sex=attributes.sex,
            age=attributes.age,
            view=attributes.view,
        )
        named = facts_from_layout(file.path, self.layout)
        if self.table is None:
            return own, None, named
        known = own.filled_from(named)
        instance = attributes.sop_instance_uid.strip()
        row = self.table.row_of(file.path, file.name, known, instance, contradicting=contradicting)
        return own, row, named


def accepted(film: PreparedFilm, file: SourceFile, knowledge: Knowledge) -> Outcome:
    """The outcome of a film that goes into the DATASET.

    Returns:
        `row`: its row without the split and the labels; `patient_by`: see `patients.PATIENT_BY`; `labels`; `source`;
        `content`: keyed hash of its pixels; `flags` and `voi`: those of the film; `matched`: whether the CSV had a row
        for it; `telling`: the labels that repeat one of its identifiers.
    """
    facts, matched = knowledge.facts(file, film.attributes)
    labels = {name: facts.labels.get(name, "") for name in knowledge.label_names}
    identifiers = {
        *(facts.patient, facts.study, facts.accession, film.attributes.sop_instance_uid),
        *(file.path.name, file.path.stem, str(file.name)),
    } - {""}
    source = knowledge.pseudonyms.source(str(file.name))
    return {
        "source": source,
        "content": knowledge.pseudonyms.keyed_hash("content", film.content_hash),
        "row": _row(facts, film, source, knowledge.pseudonyms),
        "patient_by": "patient" if facts.patient else "study" if facts.study else "image",
        "labels": labels,
        "split": facts.split,
        "matched": matched,
        "flags": list(film.attributes.flags),
        "voi": film.attributes.voi,
        "telling": [name for name, value in labels.items() if value in identifiers],
    }


def _row(facts: Facts, film: PreparedFilm, source: str, pseudonyms: Pseudonyms) -> Mapping[str, Any]:
    """The manifest's columns apart from split and labels: pseudonyms, and what `xraygen.dataset.allowed` lets pass."""
    content, attributes = film.content_hash, film.attributes
    # A film of an unknown patient is kept together with its study, or else stands alone.
    patient = facts.patient or (f"study\x1f{facts.study}" if facts.study else f"image\x1f{content}")
    return {
        "image_id": pseudonyms.image(content),
        "source": source,
        "patient": pseudonyms.patient(patient),
        "study": pseudonyms.study(facts.study) if facts.study else "",
        "view": coded_view(facts.view),
        "sex": coded_sex(facts.sex),
        "age": pooled_age(facts.age),
        "rows": attributes.rows,
        "columns": attributes.columns,
        "bits_stored": attributes.bits_stored,
        "photometric": coded_photometric(attributes.photometric),
        "pixel_spacing_mm": plausible_spacing(attributes.pixel_spacing_mm),
    }


def rejected(source: str, reason: str, detail: str) -> Outcome:
    """The outcome of a file that stays out."""
    return {"source": source, "reason": reason, "detail": detail}


def duplicate(source: str, kept: str, *, same_labels: bool) -> Outcome:
    """The outcome of a film whose pixels are in the DATASET already, from the source `kept`."""
    other = "" if same_labels else "; their labels differ, and those of the one kept count"
    detail = f"The same pixels as {kept}, which is kept{other}."
    return {**rejected(source, "duplicate", detail), "like": kept}


def refusal(future: Future[PreparedFilm], file: SourceFile, pseudonyms: Pseudonyms) -> Outcome | None:
    """The outcome of a file that could not be read, or None if it could.

    Raises:
        OSError: The machine's failure, not the file's: a lost network disk must not turn a hospital into rejections.
            So is a file that vanished after it was listed, for that is what one sees of a disk that was unmounted.
        MemoryError: Likewise.
        ImportError: Likewise.
    """
    error = future.exception()
    if error is None:
        return None
    source = pseudonyms.source(str(file.name))
    if isinstance(error, FilmError):
        if file.vanished:
            raise FileNotFoundError(errno.ENOENT, _VANISHED) from error
        if error.reason in _NOT_AN_IMAGE:
            detail = "The file is neither DICOM nor PNG, JPEG, TIFF or NIfTI; convert it or leave it out."
            return rejected(source, "not_an_image", detail)
        return rejected(source, error.reason, _without_name(error.detail, file))
    if type(error).__name__ == _KILLED_BY_DASK:
        return rejected(source, crashed().reason, crashed().detail)
    if isinstance(error, (OSError, MemoryError, ImportError)) or not isinstance(error, Exception):
        raise error
    return rejected(
        source, "reader_failed", f"The reader failed with {type(error).__name__}; please report this."
    )


def _without_name(detail: str, file: SourceFile) -> str:
    """File names are often patients' names or numbers."""
    for name in (str(file.path), str(file.name), file.path.name, file.path.stem):
        if len(name) >= _SHORT_NAME:
            detail = detail.replace(name, "the file")
    return detail
