"""Manifest columns as conditions: which words and ranges there are, and films as rows of numbers.

The words and ranges are those of the train split, and stay with the RUN (conditions.json). A word that only other
splits know counts as not known there. No text of a manifest passes that could be an identifier: only view, sex, age and
the label columns can be conditions, and not those with nearly as many words as patients.

N films, F conditions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraygen.config import ConditionKind, ConditionsConfig
from xraygen.dataset.store import Dataset
from xraygen.errors import UsageError

ALWAYS = ("view", "sex", "age")
"""Columns of every manifest that may be conditions, besides the label columns."""
MOST_CATEGORIES = 64
_PRESENCE = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0}
_ROUNDING = 1e-5  # the range's ends are shown in six digits
_UNCERTAIN = ("-1", "-1.0")


@dataclass(frozen=True)
class Condition:
    """One column, and how its values become numbers."""

    name: str
    kind: ConditionKind
    categories: tuple[str, ...] = ()
    """The words in the order of their numbers; of multi_label always 0 and 1, of continuous none."""
    low: float = 0.0
    """Least value of the train split, where continuous: told as 0."""
    high: float = 1.0
    """Largest, told as 1."""
    may_be_missing: bool = True
    """Whether the network has seen films of which this was not known."""

    def encode(self, text: str) -> float:
        """The number of a word, or the scaled value; NaN where it is not known.

        Raises:
            ValueError: If a continuous value is no number.
        """
        text = text.strip()
        if self.kind == "continuous":
            if text == "":
                return math.nan
            share = (float(text) - self.low) / (self.high - self.low)
            return min(max(share, 0.0), 1.0)
        if self.kind == "multi_label":
            return _PRESENCE.get(text, math.nan)
        return float(self.categories.index(text)) if text in self.categories else math.nan

    @property
    def expected(self) -> str:
        """What may be asked for, in words."""
        if self.kind == "continuous":
            return f"a number from {self.low:g} to {self.high:g}, the range of the training films"
        return f"one of {', '.join(self.categories)}"

    def accepts(self, text: str) -> bool:
        """Whether the network has been told such values in training."""
        if self.kind != "continuous":
            return text in self.categories
        try:
            share = (float(text) - self.low) / (self.high - self.low)
        except ValueError:
            return False
        return -_ROUNDING <= share <= 1 + _ROUNDING

    def to_json(self) -> dict[str, Any]:
        """As conditions.json holds it."""
        told: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind == "continuous":
            told["range"] = [self.low, self.high]
        else:
            told["categories"] = list(self.categories)
        return {**told, "may_be_missing": self.may_be_missing}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Condition":
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError where a value does not fit."""
        low, high = values.get("range", (0.0, 1.0))
        if values["kind"] not in ("categorical", "multi_label", "continuous") or not low < high:
            raise ValueError("neither kind nor range fit")
        return cls(
            name=str(values["name"]),
            kind=values["kind"],
            categories=tuple(str(word) for word in values.get("categories", ())),
            low=float(low),
            high=float(high),
            may_be_missing=bool(values["may_be_missing"]),
        )


@dataclass(frozen=True)
class Conditions:
    """All conditions of a RUN, in the order in which its network takes them."""

    members: tuple[Condition, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Their columns."""
        return tuple(member.name for member in self.members)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of categories of each, 0 for a continuous one: what the network is built with."""
        return tuple(len(member.categories) for member in self.members)

    def of_manifest(self, manifest: pd.DataFrame) -> NDArray[np.float32]:
        """The conditions of all films, `[N, F]`, NaN where not known."""
        columns = []
        for member in self.members:
            text = _as_text(manifest[member.name])
            try:
                numbers = {word: member.encode(word) for word in text.unique()}
            except ValueError:
                raise _no_number(member.name) from None
            columns.append(text.map(numbers).to_numpy(dtype=np.float32))
        return np.stack(columns, axis=1) if columns else np.zeros((len(manifest), 0), np.float32)

    def words_of(self, manifest: pd.DataFrame, row: int) -> dict[str, str]:
        """What a manifest knows of one film, in words that `of_words` takes; what the RUN cannot be told is left out.

        Args:
            manifest: Of a DATASET, this RUN's or another.
            row: The film.
        """
        words = {}
        for member in self.members:
            if member.name not in manifest:
                continue
            text = str(_as_text(manifest[member.name].iloc[[row]]).iloc[0])
            if member.kind == "multi_label" and text in _PRESENCE:
                text = f"{_PRESENCE[text]:g}"
            if member.accepts(text):
                words[member.name] = text
        return words

    def of_words(self, words: Mapping[str, str]) -> NDArray[np.float32]:
        """What is asked for as one row, `[F]`, NaN for each condition that is not named.

        Args:
            words: Column -> word or number, such as {"finding": "PNEUMONIA", "age": "63"}.

        Raises:
            UsageError: If there is no such condition, no such category, the number lies outside the training films', or
                one is left out that the network knows of every film.
        """
        if not self.members:
            raise UsageError(
                "This RUN was trained without conditions (conditions.columns is empty); leave out --condition."
            )
        for name, word in words.items():
            member = next((member for member in self.members if member.name == name), None)
            if member is None:
                raise UsageError(
                    f"--condition {name}={word}: this RUN knows {', '.join(self.names)}, and nothing called {name}."
                )
            if not member.accepts(word):
                raise UsageError(f"--condition {name}={word}: expected {member.expected}.")
        for member in self.members:
            if member.name not in words and not member.may_be_missing:
                raise UsageError(
                    f"--condition {member.name}=... is missing: the network knew it of every training film; expected "
                    f"{member.expected}."
                )
        row = [
            member.encode(words[member.name]) if member.name in words else math.nan for member in self.members
        ]
        return np.array(row, dtype=np.float32)


def fit_conditions(dataset: Dataset, config: ConditionsConfig) -> Conditions:
    """The words and ranges of the train split.

    Args:
        dataset: Open DATASET.
        config: Which columns, and how they are read where that is said.

    Raises:
        UsageError: If a column is missing or none that may be told, says nothing, has too many words, or holds
            something else than its kind does.
    """
    allowed = [*ALWAYS, *dataset.info.label_names]
    train = dataset.manifest.iloc[dataset.indices("train")]
    hidden = len(config.columns) > 1 and config.hide_probability > 0
    members = []
    for name in config.columns:
        if name not in allowed:
            raise UsageError(
                f"conditions.columns: {name} is no column that a network may be told; {dataset.folder} has "
                f"{', '.join(allowed)}."
            )
        text = _as_text(train[name])
        known = text[text != ""]
        if known.empty:
            raise UsageError(
                f"conditions.columns: {name} is empty in all training films of {dataset.folder}; leave it out."
            )
        kind = config.kinds.get(name) or _inferred_kind(name, known)
        missing = hidden or len(known) < len(text)
        match kind:
            case "continuous":
                members.append(_continuous(name, known, missing))
            case "multi_label":
                members.append(_multi_label(name, known, missing))
            case "categorical":
                members.append(_categorical(name, known, missing, train["patient"].nunique()))
    return Conditions(tuple(members))


def _as_text(column: pd.Series) -> pd.Series:
    """Words, "" where there is none; numbers in their shortest form."""
    if column.dtype.kind == "f":
        return column.map(lambda number: "" if math.isnan(number) else f"{number:g}")
    return column.astype(str).str.strip()


def _inferred_kind(name: str, known: "pd.Series[str]") -> ConditionKind:
    if name == "age":
        return "continuous"
    if name not in ALWAYS and set(known.unique()) <= {*_PRESENCE, *_UNCERTAIN}:
        return "multi_label"
    return "categorical"


def _continuous(name: str, known: "pd.Series[str]", missing: bool) -> Condition:
    try:
        numbers = known.astype(float)
    except ValueError:
        raise _no_number(name) from None
    low, high = float(numbers.min()), float(numbers.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _no_number(name)
    if low == high:
        raise UsageError(
            f"conditions.columns: {name} is {low:g} in all training films and says nothing; leave it out."
        )
    return Condition(name, "continuous", (), low, high, missing)


def _multi_label(name: str, known: "pd.Series[str]", missing: bool) -> Condition:
    if not set(known.unique()) <= {*_PRESENCE, *_UNCERTAIN}:
        raise UsageError(
            f"conditions.kinds: {name} is multi_label and holds more than 1, 0 and -1; expected categorical or "
            "continuous."
        )
    return Condition(
        name, "multi_label", ("0", "1"), may_be_missing=missing or not known.isin(_PRESENCE).all()
    )


def _categorical(name: str, known: "pd.Series[str]", missing: bool, patients: int) -> Condition:
    words = sorted(known.unique())
    if len(words) > min(MOST_CATEGORIES, max(patients // 2, 2)):
        raise UsageError(
            f"conditions.columns: {name} has {len(words)} different values among {patients} training patients, so that "
            f"a value could stand for one of them; expected at most {MOST_CATEGORIES} and at most half as many as "
            f"patients. If it holds numbers, set conditions.kinds.{name}=continuous."
        )
    return Condition(name, "categorical", tuple(words), may_be_missing=missing)


def _no_number(name: str) -> UsageError:
    return UsageError(
        f"conditions.kinds: {name} is continuous and holds values that are no number; expected categorical."
    )
