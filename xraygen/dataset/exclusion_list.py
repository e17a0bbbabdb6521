"""The list of --exclude: whom and what it names, and by what else a crosswalk knows them."""

import csv
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from xraygen.dataset.pseudonyms import CROSSWALK_COLUMNS, Pseudonyms, crosswalk_path, read_crosswalk
from xraygen.dataset.sources import as_text
from xraygen.errors import UsageError

_NAMED_BY_UID = re.compile(r".*/\d+(\.\d+){3,}\.dcm")


@dataclass(frozen=True)
class ExclusionList:
    """The entries of a list, and what they stand for."""

    entries: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Whole lines and their first cells, each with the numbers of its lines; those of a header count for nothing."""
    films: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Entries that name a patient, a study or an image by the image_id, path or source of a film in the crosswalk."""
    places: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Entries that name a place by its path."""

    @property
    def lines(self) -> frozenset[int]:
        """The numbers of all lines that count."""
        return frozenset().union(*self.entries.values())

    def named(self, names: Collection[str]) -> set[str]:
        """The entries among some names."""
        return {*names} & self.entries.keys()

    def lines_of(self, entries: Collection[str]) -> list[int]:
        """The numbers of the lines on which some entries stand, in order."""
        return sorted({number for entry in entries for number in self.entries[entry]})

    def known_to(self, pseudonyms: Pseudonyms, key: Path) -> "ExclusionList":
        """The list with what its entries stand for on this machine and in the crosswalk.

        Args:
            pseudonyms: Those of the key.
            key: The key's file. The crosswalk beside it knows a film whose image_id has changed, for that depends on
                how coarsely JPEG 2000 is decoded; one whose patient only a copy knew; and one whose source has
                changed, for that depends on the folder that all sources share.
        """
        films, places = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
        for entry in self.entries:
            for place in _paths_of(entry):
                places[place].add(entry)
        if self.entries and crosswalk_path(key).exists():
            crosswalk = read_crosswalk(key)
            for entry, image_id, source, path in _rows_named(self.entries, pseudonyms, crosswalk):
                # Elsewhere another film may have the same relative path, and so the same source.
                for name in {image_id, path, *([source] if is_named_by_uid(path) else [])} - {""}:
                    films[name].add(entry)
            of_sources = crosswalk[crosswalk["source"].isin([*self.entries])]
            for source, path in zip(of_sources["source"], of_sources["path"], strict=True):
                places[path].add(source)
        return ExclusionList(self.entries, _frozen(films), _frozen(places))


NOTHING = ExclusionList()
"""The list of an ingest that leaves no film out."""


def read_exclusions(path: Path) -> ExclusionList:
    """Read a list of films to leave out.

    Args:
        path: A text file or CSV. Each line (of a CSV: its first cell) is a PatientID, a StudyInstanceUID, a
            SOPInstanceUID, a file's name or path, or an image_id of manifest.csv or flags.csv or a source of
            rejected.csv under the same key; lines that start with # are comments.

    Raises:
        UsageError: If it cannot be read or lists nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"--exclude {path} cannot be read; expected a text file in UTF-8, one film a line."
        ) from None
    entries = defaultdict[str, set[int]](set)
    for number, line in enumerate(line for line in lines if line.strip() and not line.startswith("#")):
        texts = {line.strip(), *(_first_cell(line.strip(), separator) for separator in ",;\t")} - {""}
        is_header = number == 0 and not texts.isdisjoint(CROSSWALK_COLUMNS)
        for text in texts:
            entries[text] |= set() if is_header else {number}
    if not entries:
        raise UsageError(f"--exclude {path} lists nothing; expected a patient, study, film or path a line.")
    return ExclusionList({text: frozenset(numbers) for text, numbers in entries.items()})


def _first_cell(line: str, separator: str) -> str:
    """The first cell of one line: a quote that is left open in it must not swallow the patients of the next lines."""
    try:
        return next(csv.reader([line], delimiter=separator))[0].strip()
    except csv.Error:  # a cell longer than any name
        return ""


def is_named_by_uid(path: str) -> bool:
    """Whether a file's name is a UID, as of films that an archive lent: elsewhere the same name is the same film."""
    return _NAMED_BY_UID.fullmatch(path) is not None


def paths_of(path: Path) -> set[str]:
    """A path from the root, as it is and where links lead, as the crosswalk writes it."""
    return {as_text(os.path.abspath(path)), as_text(os.path.realpath(path))}  # noqa: PTH100 - as in sources


def _paths_of(entry: str) -> set[str]:
    """Where an entry leads if it is a path: from the folder in which xraygen runs, and from the sources' own."""
    if "/" not in entry or "\0" in entry:
        return set()
    return {*paths_of(Path(entry)), os.path.normpath(entry)}


def _rows_named(
    entries: Collection[str], pseudonyms: Pseudonyms, crosswalk: pd.DataFrame
) -> Iterator[tuple[str, str, str, str]]:
    """Entry, image_id, source and path of the films whose image, patient or study is on the list."""
    called_in = {
        "image_id": {entry: entry for entry in entries},
        "patient": {pseudonyms.patient(entry): entry for entry in entries},
        "study": {pseudonyms.study(entry): entry for entry in entries},
    }
    for column, entry_of in called_in.items():
        rows = crosswalk[crosswalk[column].isin([*entry_of])]
        columns = (rows[name] for name in (column, "image_id", "source", "path"))
        for called, image_id, source, path in zip(*columns, strict=True):
            yield entry_of[called], image_id, source, path


def _frozen(sets: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    return {name: frozenset(values) for name, values in sets.items()}
