"""Going back to the last good checkpoint when steps keep failing, and on from there with other films and noise.

RUN/rollbacks.json lists each: {"from": 130, "to": 100, "passed_over": 30}. Step `n` sees batch `n + passed_over`, so
what failed is not seen again. The list is written before anything else is changed, so that a kill loses nothing.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from xraygen.atomic import write_json
from xraygen.errors import XraygenError
from xraygen.training.checkpoint import Checkpoint, checkpoints, damage, read_progress
from xraygen.training.ema_snapshots import drop_snapshots_after
from xraygen.training.logging import append_log, read_log, rewind_log

ROLLBACKS = "rollbacks.json"


class Detour(NamedTuple):
    """What roll-backs have come to by a step."""

    passed_over: int = 0
    """Batches that were skipped: step n sees batch n + passed_over."""
    rollbacks: int = 0


def roll_back(run: Path, step: int, detour: Detour) -> tuple[Checkpoint, Detour]:
    """Make the last good checkpoint the newest.

    Good is a checkpoint whose last step counted. One that a stop wrote between two saves is not taken, since a run that
    was not stopped would not have it.

    Args:
        run: RUN folder.
        step: Steps done when it was noticed.
        detour: Of the state at `step`.

    Returns:
        The checkpoint to go on from, and the detour from there.
    """
    whole = [each for each in reversed(checkpoints(run)) if each.step < step and damage(each) is None]
    scheduled = (each for each in whole if each.scheduled)
    good = next((each for each in scheduled if not read_progress(each)["tally"]["in_a_row"]), None)
    if good is None:
        raise XraygenError(
            f"{run} holds no checkpoint from before the steps that failed; train into a new folder."
        )
    entry = {"from": step, "to": good.step, "passed_over": detour.passed_over + step - good.step}
    write_json(run / ROLLBACKS, [*_rollbacks(run), entry])
    return good, settle(run, good)


def settle(run: Path, checkpoint: Checkpoint) -> Detour:
    """Bring the folder to where training goes on from a checkpoint, after a roll-back or a kill.

    Later checkpoints that a roll-back left are deleted, later snapshots of averages and lines of the log dropped, and
    roll-backs to here told.

    Args:
        run: RUN folder.
        checkpoint: Where training goes on from.

    Returns:
        The detour with the roll-backs to this checkpoint that were done since it was written.
    """
    step = checkpoint.step
    detour = Detour(*(read_progress(checkpoint)[name] for name in Detour._fields))
    listed = [entry for entry in _rollbacks(run) if entry["to"] <= step]
    here = [entry for entry in listed if entry["to"] == step and entry["passed_over"] > detour.passed_over]
    if listed != _rollbacks(run):
        write_json(run / ROLLBACKS, listed)
    rewind_log(run, step)
    drop_snapshots_after(run, step)
    if not here:
        return detour
    for later in checkpoints(run):
        if later.step > step:
            shutil.rmtree(later.folder)
    told = [entry.get("passed_over") for entry in read_log(run)]
    for entry in here:
        if entry["passed_over"] not in told:
            line = {"step": step, "rolled_back_from": entry["from"], "passed_over": entry["passed_over"]}
            append_log(run, line)
    return Detour(here[-1]["passed_over"], detour.rollbacks + len(here))


def finish_roll_back(run: Path) -> None:
    """Delete the checkpoints that a roll-back gave up, where a kill came between its entry and that.

    They lie beyond where it went back to, and have passed over fewer batches than it. One of them, taken for the
    newest, would lead to the same failure and count its roll-back twice.
    """
    listed = _rollbacks(run)
    for checkpoint in checkpoints(run):
        passed_over = [entry["passed_over"] for entry in listed if entry["to"] < checkpoint.step]
        if not passed_over or damage(checkpoint) is not None:
            continue
        if max(passed_over) > read_progress(checkpoint)["passed_over"]:
            shutil.rmtree(checkpoint.folder)


def _rollbacks(run: Path) -> list[dict[str, Any]]:
    path = run / ROLLBACKS
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []
