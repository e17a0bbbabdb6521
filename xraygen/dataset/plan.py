"""All that decides what a DATASET holds, in two keyed hashes, so that work goes on only where it fits."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from xraygen import __version__
from xraygen.atomic import sha256_of
from xraygen.dataset.checks import is_dataset
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.labels import label_files
from xraygen.dataset.pseudonyms import Pseudonyms
from xraygen.dataset.sources import SourceFile
from xraygen.dataset.store import FORMAT_VERSION, open_dataset
from xraygen.errors import UsageError


class Plan(NamedTuple):
    """What an ingest is about to do."""

    plan: str
    """The names and sizes of the files, the settings, the lists and labels, and the version."""
    states: str
    """The times of the files, or the checksums of those in zip archives: what else shows that one was corrected."""

    def to_json(self) -> dict[str, str]:
        """As the settings in dataset.json hold it."""
        return self._asdict()


def plan_of(files: Sequence[SourceFile], settings: IngestSettings, pseudonyms: Pseudonyms) -> Plan:
    """The plan to make a DATASET of some files."""
    found = [(str(file.name), *file.state) for file in files]
    lists = [
        *label_files(settings.labels, settings.label_preset),
        *([settings.exclude] if settings.exclude else []),
    ]
    labels = [sha256_of(file) for file in lists]
    sizes, states = [(name, size) for name, size, _ in found], [state for _, _, state in found]
    # The time for a file may decide whether it gets in.
    decisive = [__version__, FORMAT_VERSION, settings.to_json(), settings.seconds_per_file, labels, sizes]
    return Plan(
        pseudonyms.keyed_hash("plan", json.dumps(decisive)),
        pseudonyms.keyed_hash("states", json.dumps(states)),
    )


def is_done(out: Path, plan: Plan) -> bool:
    """Whether `out` is what this plan gives; anything else there is refused.

    Raises:
        UsageError: If `out` was made by another plan, or before a film was written anew.
    """
    if not is_dataset(out):
        return False
    made_by = open_dataset(out).info.settings
    if made_by.get("plan") != plan.plan:
        raise UsageError(
            f"{out} was made from other files, settings or labels, or by another xraygen; choose another --out, or "
            "delete it first."
        )
    if made_by.get("states", plan.states) != plan.states:
        raise UsageError(
            f"films were written anew since {out} was made of them: names and sizes are the same, times are not. If "
            "one was corrected, choose another --out, or delete it first; if they were only copied, it is complete as "
            "it is (cp -p and rsync -a keep the times)."
        )
    return True
