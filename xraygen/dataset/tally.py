"""What all files came to, column by column: a million outcomes as in the journal take gigabytes, and this does not."""

import sys
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from xraygen.dataset.exclusion import unless_withdrawn
from xraygen.dataset.journal import Journal, Outcome
from xraygen.dataset.manifest import AFTER_LABELS, BEFORE_LABELS, REJECTED_COLUMNS
from xraygen.dataset.outcomes import PATIENT_BY

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
    splits: list[str] = field(default_factory=list)
    """Of every image: the word of the split column, [n]."""
    rejected: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in REJECTED_COLUMNS})
    """Of every rejected file: the columns of rejected.csv, each [N - n]."""
    flags: list[tuple[str, str]] = field(default_factory=list)
    """image_id and flag, for each flag of each image."""
    voi: Counter[str] = field(default_factory=Counter)
    """Number of images by where their window came from."""
    thumbnails: list[Outcome] = field(default_factory=list)
    """The rejected films that have a small picture."""
    matched: int = 0
    """Number of images for which the CSV had a row."""
    telling: Counter[str] = field(default_factory=Counter)
    """Number of images by label that repeats one of their identifiers."""
    kept: list[bool] = field(default_factory=list)
    """Of every image of the journal: whether it goes into the DATASET, [m]."""
    patients_by: list[int] = field(default_factory=list)
    """Of every image: what its patient is made of, a place in PATIENT_BY, [n]."""
    patients_of_like: dict[str, tuple[int, str]] = field(default_factory=dict)
    """By the source of an image: what the best known patient of its duplicates is made of, and he himself."""

    @property
    def seen(self) -> int:
        """Number of files."""
        return len(self.names["source"])

    @property
    def accepted(self) -> int:
        """Number of images."""
        return len(self.splits)

    def add(self, outcome: Outcome) -> None:
        """Count one file."""
        row = outcome.get("row", outcome)
        source = outcome["source"]
        for name, column in self.names.items():
            column.append(source if name == "source" else row.get(name, ""))
        if "reason" in outcome:
            for name in REJECTED_COLUMNS:
                self.rejected[name].append(source if name == "source" else sys.intern(outcome[name]))
            if "thumbnail" in outcome:
                self.thumbnails.append(outcome)
            if "like" in outcome:
                self._learn(outcome)
            return
        for name, values in self.manifest.items():
            values.append(row[name] if name in self.names else _shared(row[name]))
        for name, value in outcome["labels"].items():
            self.labels.setdefault(name, []).append(_shared(value))
        self.splits.append(_shared(outcome["split"]))
        self.patients_by.append(PATIENT_BY.index(outcome.get("patient_by", "patient")))
        self.flags.extend((row["image_id"], _shared(flag)) for flag in outcome["flags"])
        self.voi[outcome["voi"]] += 1
        self.matched += bool(outcome["matched"])
        self.telling.update(outcome["telling"])

    def _learn(self, duplicate: Outcome) -> None:
        """Who the patient of a film is, from a copy of it."""
        by, like = PATIENT_BY.index(duplicate["patient_by"]), duplicate["like"]
        if by > self.patients_of_like.get(like, (0, ""))[0]:
            self.patients_of_like[like] = by, duplicate["patient"]

    def unite_patients(self) -> None:
        """Give images whose patient is not known the one that a duplicate knows, and all others of their study too.

        Else an anonymised copy that comes first would stand alone, and its patient in two splits.
        """
        known: dict[str, str] = {}
        manifest = self.manifest
        for source, patient, by in zip(
            manifest["source"], manifest["patient"], self.patients_by, strict=True
        ):
            better, him = self.patients_of_like.get(source, (0, ""))
            if better > by:
                known.setdefault(patient, him)
        if known:
            for column in (self.names["patient"], manifest["patient"]):
                column[:] = [_last(known, patient) for patient in column]

    def manifest_table(self) -> pd.DataFrame:
        """The manifest without its splits, one row per image."""
        return pd.DataFrame({**self.manifest, **self.labels})


def tally(journal: Journal, withdrawn: Collection[str] = ()) -> Tally:
    """Count what a complete journal holds, one shard in memory at a time.

    Args:
        journal: All outcomes.
        withdrawn: image_ids of films whose copies are taken out again; see `withdrawn_images`.
    """
    counted, gone = Tally(), set[str]()
    for outcome in journal.all_outcomes():
        final = unless_withdrawn(outcome, withdrawn, gone)
        if "row" in outcome:
            counted.kept.append("row" in final)
        counted.add(final)
    counted.unite_patients()
    return counted


def _last(known: Mapping[str, str], patient: str) -> str:
    """From what was made of an image over what was made of its study to the patient."""
    while patient in known:
        patient = known[patient]
    return patient


def _shared(value: Any) -> Any:
    """The one text object for equal texts, of which a million rows hold a few; numbers as they are."""
    return sys.intern(value) if isinstance(value, str) else value
