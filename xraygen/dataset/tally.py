"""What all files came to, column by column: a million outcomes as in the journal take gigabytes, and this does not."""

import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from xraygen.dataset.exclusion import unless_withdrawn
from xraygen.dataset.journal import Journal, Outcome
from xraygen.dataset.manifest import AFTER_LABELS, BEFORE_LABELS, REJECTED_COLUMNS
from xraygen.dataset.patients import PATIENT_BY, unite

_NAMES = ("source", "image_id", "patient", "study")
_OF_AN_IMAGE = tuple(name for name in (*BEFORE_LABELS, *AFTER_LABELS) if name != "split")


@dataclass
class Tally:
    """Columns and counts over all files of an ingest, in order."""

    names: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in _NAMES})
    """Of every file seen: source and, where they are known, image_id, patient and study, each [N]."""
    manifest: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _OF_AN_IMAGE})
    """Of every image: the manifest's columns without split and labels, each [n]."""
    labels: dict[str, list[str]] = field(default_factory=dict)
    """Of every image: its labels, each [n]."""
    words: list[str] = field(default_factory=list)
    """Of every file seen: the word of the split column, [N]."""
    rejected: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in REJECTED_COLUMNS})
    """Of every rejected file: the columns of rejected.csv, each [N - n]."""
    flags: list[tuple[str, str]] = field(default_factory=list)
    """image_id and flag, for each flag of each image."""
    voi: Counter[str] = field(default_factory=Counter)
    """Number of images by where their window came from."""
    thumbnails: list[Outcome] = field(default_factory=list)
    """The rejected films that have a small picture."""
    matched: int = 0
    """Number of films for which the CSV had a row, duplicates and the like included."""
    telling: Counter[str] = field(default_factory=Counter)
    """Number of images by label that repeats one of their identifiers."""
    kept: list[bool] = field(default_factory=list)
    """Of every image of the journal: whether it goes into the DATASET, [m]."""
    patients_by: list[int] = field(default_factory=list)
    """Of every file seen: what its patient is made of, a place in PATIENT_BY, [N]."""
    copies: list[tuple[int, str]] = field(default_factory=list)
    """Of every duplicate and near duplicate: its place among the files, and the source of the image that it is like."""
    torn_studies: int = 0
    """Number of studies whose films name two patients or more; known once `unite_patients` has been called."""

    @property
    def seen(self) -> int:
        """Number of files."""
        return len(self.names["source"])

    @property
    def accepted(self) -> int:
        """Number of images."""
        return len(self.manifest["image_id"])

    def add(self, outcome: Outcome) -> None:
        """Count one file."""
        row = outcome.get("row", outcome)
        source = outcome["source"]
        for name, column in self.names.items():
            column.append(source if name == "source" else row.get(name, ""))
        self.words.append(_shared(outcome.get("split", "")))
        self.patients_by.append(PATIENT_BY.index(outcome.get("patient_by", "patient")))
        self.matched += bool(outcome.get("matched", False))
        if "reason" in outcome:
            for name in REJECTED_COLUMNS:
                self.rejected[name].append(source if name == "source" else sys.intern(outcome[name]))
            if "thumbnail" in outcome:
                self.thumbnails.append(outcome)
            if "like" in outcome:
                self.copies.append((self.seen - 1, outcome["like"]))
            return
        for name, values in self.manifest.items():
            values.append(row[name] if name in self.names else _shared(row[name]))
        for name, value in outcome["labels"].items():
            self.labels.setdefault(name, []).append(_shared(value))
        self.flags.extend((row["image_id"], _shared(flag)) for flag in outcome["flags"])
        self.voi[outcome["voi"]] += 1
        self.telling.update(outcome["telling"])

    def unite_patients(self) -> None:
        """Give files whose patient is not known the one that a copy or another film of their study names.

        Else an anonymised copy that comes first would stand alone, and its patient in two splits.
        """
        patients, kept = self.names["patient"], self.manifest["patient"]
        copies = self._pairs_of_copies()
        for image, copy in copies:
            # One that names neither patient nor study has no other films: the word counts only if it is the only one.
            if self.patients_by[copy] == 0 and self.words[image]:
                self.words[copy] = ""
        known, self.torn_studies = unite(
            patients, self.patients_by, self.names["study"], copies, frozenset(kept)
        )
        for column in (patients, kept):
            column[:] = [known.get(patient, patient) for patient in column]

    def _pairs_of_copies(self) -> list[tuple[int, int]]:
        """The places of an image and of a copy of it, for each copy."""
        wanted = {source for _, source in self.copies}
        places = {source: place for place, source in enumerate(self.names["source"]) if source in wanted}
        return [(places[source], copy) for copy, source in self.copies]

    def split_words(self) -> tuple[list[str], list[str]]:
        """The patients of all images, as often as a file of theirs has a word of the split column, and these words."""
        wanted = frozenset(self.manifest["patient"])
        told = [
            (patient, word)
            for patient, word in zip(self.names["patient"], self.words, strict=True)
            if word and patient in wanted
        ]
        return [patient for patient, _ in told], [word for _, word in told]

    def manifest_table(self) -> pd.DataFrame:
        """The manifest without its splits, one row per image."""
        return pd.DataFrame({**self.manifest, **self.labels})


def tally(journal: Journal, copies: Collection[str] = ()) -> Tally:
    """Count what a complete journal holds, one shard in memory at a time.

    Args:
        journal: All outcomes.
        copies: Sources of films that are taken out again; see `copies_of_withdrawn`.
    """
    counted = Tally()
    for outcome in journal.all_outcomes():
        final = unless_withdrawn(outcome, copies)
        if "row" in outcome:
            counted.kept.append("row" in final)
        counted.add(final)
    counted.unite_patients()
    return counted


def _shared(value: Any) -> Any:
    """The one text object for equal texts, of which a million rows hold a few; numbers as they are."""
    return sys.intern(value) if isinstance(value, str) else value
