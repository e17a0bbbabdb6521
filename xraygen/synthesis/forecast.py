"""What an order of films takes, before any is made: how many are missing, and how long this machine is at work."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from math import ceil
from pathlib import Path

from torch import Tensor

from xraygen.films.listing import columns_of
from xraygen.films.quarantine import quarantined
from xraygen.memory import freed_memory_kept
from xraygen.synthesis.conditions import Wish
from xraygen.synthesis.generate import Order, Work, prepare
from xraygen.synthesis.provenance import agreed_provenance
from xraygen.synthesis.rows import is_there, rows_so_far
from xraygen.synthesis.share import Share

_STEPS_TIMED = 2
_LONG_STEP_S = 0.5
"""One image's step that takes longer keeps the device as busy as a compute batch does."""


@dataclass(frozen=True)
class Forecast:
    """What an order takes.

    Attributes:
        missing: Films that are neither there nor in quarantine, of all processes.
        steps: Steps of each film.
        seconds: For this process's share of the missing ones, by the time of a few steps on its device.
    """

    missing: int
    steps: int
    seconds: float


def forecast(
    run: Path, out: Path, films: Sequence[int | Wish], order: Order, device: str = "auto"
) -> Forecast:
    """Whether `generate` would take an order, and for how long it would be at work; nothing is written.

    Raises:
        FolderError: As `generate`.
        UsageError: As `generate`.
    """
    share = Share.of_environment()
    work, wishes = prepare(run, out, films, order, share.device(device))
    agreed_provenance(out, work.origin)
    aside, rows = quarantined(out), rows_so_far(out, columns_of(work.conditions.names))
    asked = [wish for wish in wishes if work.file_name(wish) not in aside]
    missing = {name for wish in asked if not is_there(out, rows.get(name := work.file_name(wish)))}
    mine = [wish for wish in share.of(asked) if work.file_name(wish) in missing]
    steps, seconds = len(work.chain.schedule.timesteps), 0.0
    for _, group in groupby(sorted(mine, key=lambda wish: wish.network), lambda wish: wish.network):
        alike = list(group)
        batches = ceil(len(alike) / work.settings.compute_batch)
        seconds += batches * steps * _seconds_per_step(work, alike[:1])
    return Forecast(len(missing), steps, seconds)


class _EnoughError(Exception):
    """A few steps have been timed."""


def _seconds_per_step(work: Work, wishes: Sequence[Wish]) -> float:
    """Of a compute batch: by itself, or by one of its images where that takes long."""
    whole = work.settings.compute_batch
    with freed_memory_kept():
        if whole == 1 or work.compiled:  # each size would be compiled anew
            return _timed(work, wishes)
        alone = _timed(replace(work, settings=replace(work.settings, compute_batch=1)), wishes)
        return whole * alone if alone > _LONG_STEP_S else _timed(work, wishes)


def _timed(work: Work, wishes: Sequence[Wish]) -> float:
    """Seconds of the quickest of a few steps; the first warms the device up, and is all there is of a chain of one."""
    marks = [time.perf_counter()]

    def watch(step: int, pred_xstart: Tensor) -> None:
        pred_xstart.sum().item()  # a device may still be at it
        marks.append(time.perf_counter())
        if len(marks) > 1 + _STEPS_TIMED:
            raise _EnoughError

    with suppress(_EnoughError):
        work.images(wishes, watch)
    return min(after - before for before, after in pairwise(marks))
