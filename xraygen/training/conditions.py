"""The conditions of a RUN: conditions.json, and what the network is told of each film in training.

B batch, F conditions.
"""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.atomic import write_json
from xraygen.config import ConditionsConfig, RunConfig
from xraygen.dataset.conditions import Condition, Conditions, fit_conditions
from xraygen.dataset.store import Dataset
from xraygen.errors import FolderError, UsageError
from xraygen.models.conditions import CONTINUOUS, DROPPED
from xraygen.seeds import torch_generator

_log = logging.getLogger(__name__)

CONDITIONS = "conditions.json"
_FORMAT_VERSION = 1
_MIDWAY = (0.0, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class TrainingConditions:
    """What the network is told of each film of a DATASET.

    Attributes:
        conditions: Their names, kinds and words.
        values: `[N, F]`, one row per film of the DATASET, NaN where not known.
        config: How often something is withheld.
        seed: Seed of the run.
    """

    conditions: Conditions
    values: NDArray[np.float32]
    config: ConditionsConfig
    seed: int

    @classmethod
    def of(cls, config: RunConfig, dataset: Dataset, run: Path) -> "TrainingConditions":
        """The DATASET's films in the words of the RUN."""
        conditions = read_conditions(run, config)
        return cls(conditions, conditions.of_manifest(dataset.manifest), config.conditions, config.train.seed)

    def of_rows(self, rows: NDArray[np.int64]) -> Tensor:
        """All that is known of these films, `(B, F)`."""
        return torch.from_numpy(self.values[rows])

    def at(self, step: int, rows: NDArray[np.int64]) -> Tensor:
        """What the network is told of the whole batch of a step, `(B, F)`: some of what is known is withheld.

        What is withheld follows from the seed, the step and the place in the batch, like the noise.
        """
        told = self.of_rows(rows)
        generator = torch_generator(self.seed, "withheld conditions", step)
        dropped = torch.rand(len(rows), 1, generator=generator) < self.config.drop_probability  # (B, 1)
        hidden = torch.rand(told.shape, generator=generator) < self.config.hide_probability  # (B, F)
        if told.shape[1] > 1:
            told = told.masked_fill(hidden, torch.nan)
        return told.masked_fill(dropped, DROPPED)

    def for_grid(self, count: int) -> Tensor:
        """Conditions of a grid of samples, `(rows, F)`: a row per category of the first condition, the others unknown.

        Args:
            count: Images in the grid; no more rows than that.
        """
        size = self.conditions.sizes[0]
        first = torch.tensor(_MIDWAY) if size == CONTINUOUS else torch.arange(size, dtype=torch.float32)
        told = torch.full((len(first), len(self.conditions.members)), torch.nan)
        told[:, 0] = first
        return told[:count]


def conditions_of(conditions: TrainingConditions | None, rows: NDArray[np.int64]) -> Tensor:
    """All that is known of these films, `(B, F)`; F = 0 where the network is told nothing."""
    return torch.empty(len(rows), 0) if conditions is None else conditions.of_rows(rows)


def agree_conditions(config: RunConfig, dataset: Dataset, run: Path, known: Conditions | None = None) -> None:
    """Write the conditions of a new RUN, or see that the DATASET still has those of this one.

    Args:
        config: The RUN's.
        dataset: What it is trained on.
        run: RUN folder.
        known: What its network knew before its first step here, if it was started from another RUN's weights.

    Raises:
        UsageError: If a column cannot be told, or has other words or another range than when the RUN was started, or
            words that the network it starts from does not know.
    """
    if not config.conditions.columns:
        return
    found = fit_conditions(dataset, config.conditions)
    if known is not None:
        found = taken_over(known, found)
    if not (run / "config.yaml").exists():
        members = [member.to_json() for member in found.members]
        write_json(run / CONDITIONS, {"format_version": _FORMAT_VERSION, "conditions": members})
        return
    written = read_conditions(run, config)
    for old, new in zip(written.members, found.members, strict=True):
        if old != new:
            raise UsageError(
                f"{run / CONDITIONS} says that {old.name} is {old.kind} ({old.expected}), and in {dataset.folder} "
                f"it is {new.kind} ({new.expected}); choose another --out."
            )


def taken_over(known: Conditions, found: Conditions) -> Conditions:
    """The conditions of a network that is fine-tuned: the words and ranges that its weights were trained with.

    Args:
        known: Those of the RUN that its weights come from.
        found: Those of the films that it is trained on now, of the same columns.

    Returns:
        `known`; a column may be missing if it is in either. Numbers beyond a range are told as its end, with a warning.

    Raises:
        UsageError: If a column is of another kind, or has words that the network does not know.
    """
    members = []
    for theirs, ours in zip(known.members, found.members, strict=True):
        if theirs.kind != ours.kind or not set(ours.categories) <= set(theirs.categories):
            raise UsageError(
                f"The network that train.init_from names was told that {theirs.name} is {theirs.kind} "
                f"({theirs.expected}), and here it is {ours.kind} ({ours.expected}); expected the same kind and no "
                "other words, else leave train.init_from out."
            )
        if ours.low < theirs.low or ours.high > theirs.high:
            _log.warning(
                "%s is %g to %g here, and %g to %g in the RUN that this one starts from; what lies beyond is told as "
                "the nearest end.",
                *(ours.name, ours.low, ours.high, theirs.low, theirs.high),
            )
        members.append(replace(theirs, may_be_missing=theirs.may_be_missing or ours.may_be_missing))
    return Conditions(tuple(members))


def read_conditions(run: Path, config: RunConfig) -> Conditions:
    """The conditions of a RUN, none where it was trained without.

    Args:
        run: RUN folder.
        config: Its configuration.

    Raises:
        FolderError: If conditions.json is missing, damaged, or speaks of other columns than the configuration.
    """
    columns = config.conditions.columns
    if not columns:
        return Conditions()
    path = run / CONDITIONS
    try:
        members = json.loads(path.read_text(encoding="utf-8"))["conditions"]
        conditions = Conditions(tuple(Condition.from_json(member) for member in members))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise FolderError(
            f"{path} is missing or damaged, and without it nobody knows what the network's numbers mean; restore it, "
            "or train into a new folder."
        ) from None
    if conditions.names != columns:
        raise FolderError(
            f"{path} speaks of {', '.join(conditions.names) or 'nothing'}, and config.yaml of {', '.join(columns)}; "
            "restore both."
        )
    return conditions
