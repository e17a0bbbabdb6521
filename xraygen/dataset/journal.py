"""What an unfinished ingest has done so far, so that the same command goes on where it was killed.

A hidden folder beside the DATASET holds shards: the images and outcomes of consecutive files, each shard whole or
absent. It names no patient and no file: identifiers are replaced before anything is written.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xraygen.atomic import atomic_file, remove_leftovers, write_json
from xraygen.ranges import Stored

Outcome = Mapping[str, Any]
"""One file's end, JSON-able: {source, row, content, ...} if accepted, {source, reason, detail} if rejected."""

_PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class Journal:
    """The shards in one folder, numbered from 0 without gaps."""

    folder: Path

    def __len__(self) -> int:
        """Number of finished shards."""
        count = 0
        while self._shard(count).exists():
            count += 1
        return count

    def write(
        self, shard: int, images: Sequence[Stored], outcomes: Sequence[Outcome], size: tuple[int, int]
    ) -> None:
        """Write one shard: the images accepted, each of `size`, and the outcomes of all its files."""
        stacked = np.stack(images) if images else np.zeros((0, *size), np.uint8)  # [n, H, W]
        text = np.frombuffer(json.dumps(outcomes, allow_nan=False).encode(), np.uint8)
        with atomic_file(self._shard(shard)) as aside, aside.open("wb") as file:
            np.savez(file, images=stacked, outcomes=text)

    def outcomes(self, shard: int) -> list[Outcome]:
        """The outcomes of one shard's files, in order."""
        with np.load(self._shard(shard), allow_pickle=False) as arrays:
            outcomes: list[Outcome] = json.loads(arrays["outcomes"].tobytes())
        return outcomes

    def all_outcomes(self) -> Iterator[Outcome]:
        """The outcomes of all shards in order, one shard in memory at a time."""
        for shard in range(len(self)):
            yield from self.outcomes(shard)

    def images(self, shard: int) -> Stored:
        """The images of one shard, [n, H, W]."""
        with np.load(self._shard(shard), allow_pickle=False) as arrays:
            images: Stored = arrays["images"]
        return images

    def clear(self) -> None:
        """Delete the shards; the plan first, so that no half of them can pass for work to go on with."""
        (self.folder / _PLAN_NAME).unlink(missing_ok=True)
        for shard in self.folder.glob("shard-*.npz"):
            shard.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the folder; its lock last, so that whoever then holds the folder anew loses nothing."""
        self.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _shard(self, number: int) -> Path:
        return self.folder / f"shard-{number:06d}.npz"


def open_journal(folder: Path, plan: str) -> Journal:
    """Open the journal of a plan; what another plan left in the folder is deleted.

    Args:
        folder: The hidden folder, which is there and held by this process alone.
        plan: A hash over everything that decides what an ingest does.
    """
    journal = Journal(folder)
    if _plan_in(folder) != plan:
        journal.clear()
        write_json(folder / _PLAN_NAME, {"plan": plan})
    remove_leftovers(folder)
    return journal


def _plan_in(folder: Path) -> str | None:
    """The plan that the shards in a folder belong to."""
    try:
        plan: str = json.loads((folder / _PLAN_NAME).read_text(encoding="utf-8"))["plan"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return plan
