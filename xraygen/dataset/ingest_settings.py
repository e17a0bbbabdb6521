"""What an ingest is asked for, and what it came to."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xraygen.dataset.curation import CurationSettings
from xraygen.dataset.labels import Layout, PresetChoice
from xraygen.dataset.split import parse_fractions
from xraygen.errors import UsageError
from xraygen.films.transforms import PrepareSettings


@dataclass(frozen=True, kw_only=True)
class IngestSettings:
    """What becomes of the films."""

    prepare: PrepareSettings
    """Size, fit and bits of the images."""
    labels: Path | None = None
    """CSV with labels and whatever else the films do not say themselves."""
    label_columns: tuple[str, ...] | None = None
    """The CSV's columns that are labels; None for all that look like labels."""
    layout: Layout | None = None
    """What folder and file names mean; see `facts_from_layout`."""
    key: Path | None = None
    """Key of the pseudonyms; None for `<DATASET>.key`."""
    split: str = "0.8,0.1,0.1"
    """Shares of train, validation and test."""
    workers: int | None = None
    """Processes that read; None for as many as there are processors. 0 for this one: a file that crashes or hangs
    its reader then ends the ingest, so only for files that are trusted."""
    label_preset: PresetChoice = "auto"
    """The convention of the CSV; see `apply_preset`. auto: the one that its header shows, if any."""
    split_column: str | None = None
    """The CSV's column that names each film's split; `split` holds for patients whom it does not name."""

    seconds_per_file: float = 60.0
    """How long reading one file may take in a process of its own before it is rejected as `timed_out`."""
    curation: CurationSettings = field(default_factory=CurationSettings)
    """Which readable films stay out."""
    views: tuple[str, ...] | None = None
    """Which views are taken, None for all; see `parse_views`."""
    exclude: Path | None = None
    """List of patients, studies, films or paths that stay out; see `read_exclusions`."""
    also_search: tuple[Path, ...] = ()
    """Folders in which what was made with the films of `exclude` is looked for."""

    def __post_init__(self) -> None:
        parse_fractions(self.split)
        if not self.seconds_per_file > 0:
            raise UsageError(f"--timeout {self.seconds_per_file}: expected a number of seconds above 0.")
        if self.label_columns is not None and self.labels is None:
            raise UsageError(
                "--label-columns names columns of the CSV that --labels gives, and there is none."
            )
        if self.label_preset not in ("auto", "none") and self.labels is None:
            raise UsageError(
                "--label-preset says how to read the CSV that --labels gives, and there is none."
            )
        if self.split_column is not None and self.labels is None:
            raise UsageError(
                "--split-column names a column of the CSV that --labels gives, and there is none."
            )
        if self.also_search and self.exclude is None:
            raise UsageError(
                "--also-search looks for what was made with the films of --exclude, and there is none."
            )
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers {self.workers}: expected 0 or more processes.")

    def to_json(self) -> dict[str, Any]:
        """As dataset.json holds them: without any path, and without what changes no image."""
        return {
            **self.prepare.to_json(),
            "split": self.split,
            "layout": self.layout,
            "labels": self.labels is not None,
            "label_columns": None if self.label_columns is None else list(self.label_columns),
            "label_preset": self.label_preset,
            "split_column": self.split_column,
            "curation": self.curation.to_json(),
            "views": None if self.views is None else list(self.views),
            "exclude": self.exclude is not None,
        }


@dataclass(frozen=True, kw_only=True)
class IngestSummary:
    """What an ingest came to."""

    dataset: Path
    seen: int
    accepted: int
    rejected: Mapping[str, int]
    """Number of files by reason, the commonest first."""
    images: Mapping[str, int]
    """Number of images by split."""
    patients: Mapping[str, int]
    """Number of patients by split."""
    label_names: tuple[str, ...]
    unlabelled: int
    """Images without any label; 0 where there are no label columns."""
    left_out: tuple[str, ...]
    """Columns of the CSV that may name a patient, by their names or by their values."""
    key: Path
    crosswalk: Path
    already_done: bool
    """Whether the DATASET was there already, from the same sources and settings."""
    flags: Mapping[str, int] = field(default_factory=dict)
    """Number of images by what a person should know about them."""
    views: Mapping[str, int] = field(default_factory=dict)
    """Number of images by view, the commonest first; "" where it is not known."""
    notes: tuple[str, ...] = ()
    """Sentences on what was decided for the user, or by chance."""
    made_with_excluded: tuple[str, ...] = ()
    """DATASETs, RUNs, SYNTHETICs and PATHs that hold or were made with the films of `exclude`."""

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        paths = {name: str(getattr(self, name)) for name in ("dataset", "key", "crosswalk")}
        lists = {
            name: list(getattr(self, name))
            for name in ("label_names", "left_out", "notes", "made_with_excluded")
        }
        return {**vars(self), **paths, **lists}


def parse_size(text: str) -> tuple[int, int]:
    """Read "256" or "512x256" (height x width) in pixels.

    Raises:
        UsageError: If it is neither.
    """
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text.strip())
    if not match or 0 in (int(match[1]), int(match[2] or match[1])):
        raise UsageError(f"--size {text}: expected pixels as in 256, or height x width as in 512x256.")
    return int(match[1]), int(match[2] or match[1])
