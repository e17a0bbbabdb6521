"""plan.csv: a row per film that is ordered, and a plan that balances a DATASET.

seed,finding,sex,guidance
0,PNEUMONIA,F,
1,NORMAL,,1.5

Every film has a seed; the other columns are conditions, an empty cell is not told. guidance is that film's weight, an
empty cell takes the set's.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xraygen.config import ConditionsConfig
from xraygen.dataset.conditions import Conditions, fit_conditions
from xraygen.dataset.store import Dataset
from xraygen.errors import FolderError, UsageError
from xraygen.films.listing import column_of
from xraygen.synthesis.conditions import Guidance, Wish

_SEED, _GUIDANCE = "seed", "guidance"


def read_plan(path: Path, conditions: Conditions, weight: float = 1.0) -> list[Wish]:
    """The films that a plan orders.

    Args:
        path: The table.
        conditions: What the RUN can be told.
        weight: Of the guidance where a row says none.

    Raises:
        UsageError: If it is no such table or a row cannot be met; rows are numbered as a spreadsheet does, the header
            is row 1.
    """
    try:
        table = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except OSError as error:
        raise UsageError(f"--plan {path}: {error.strerror}; expected a CSV file.") from None
    except (ValueError, csv.Error):
        raise UsageError(f"--plan {path}: not readable as CSV in UTF-8.") from None
    header = [name.strip() for name in table[0]] if table else []
    names = {column_of(name): name for name in conditions.names}
    _check_header(path, header, names)
    wishes: dict[tuple[int, str], Wish] = {}
    rows: dict[tuple[int, str], int] = {}
    for number, cells in enumerate(table[1:], 2):
        if not any(cells):
            continue
        try:
            wish = _wish(header, cells, names, conditions, weight)
        except UsageError as error:
            raise UsageError(f"{path}, row {number}: {error}") from None
        place = (wish.seed, wish.folder(weight))
        if place in wishes:
            raise UsageError(
                f"{path}, row {number}: the film of row {rows[place]} again; leave one of them out."
            )
        wishes[place], rows[place] = wish, number
    if not wishes:
        raise UsageError(f"--plan {path}: orders no film; expected a row for each.")
    return list(wishes.values())


def _check_header(path: Path, header: Sequence[str], names: Mapping[str, str]) -> None:
    known = [_SEED, *names, _GUIDANCE]
    foreign = [name for name in header if name not in known]
    if foreign or _SEED not in header or len({*header}) < len(header):
        what = f"has a column {foreign[0]!r}" if foreign else "has no column seed, or one twice"
        raise UsageError(f"--plan {path}: {what}; expected seed and any of {', '.join(known[1:])}.")


def _wish(
    header: Sequence[str],
    cells: Sequence[str],
    names: Mapping[str, str],
    conditions: Conditions,
    weight: float,
) -> Wish:
    """One row; errors do not yet say which."""
    if len(cells) != len(header):
        raise UsageError(f"{len(cells)} cells under {len(header)} columns.")
    row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    if not (row[_SEED].isascii() and row[_SEED].isdigit()):
        raise UsageError(f"the seed is {row[_SEED]!r}; expected a number from 0 up.")
    asked = row.get(_GUIDANCE, "")
    try:
        own = float(asked or weight)
    except ValueError:
        raise UsageError(f"the guidance is {asked!r}; expected a number from 0 up.") from None
    words = {name: row[column] for column, name in names.items() if row.get(column)}
    if not words:
        if asked and own != 1:
            raise UsageError("guidance without a condition; there is nothing to guide by.")
        return Wish(int(row[_SEED]), {}, weight)
    return Wish(int(row[_SEED]), Guidance(words, own).checked(conditions).words, own)


@dataclass(frozen=True)
class Balance:
    """A plan that evens out the training films.

    Attributes:
        columns: What is balanced.
        before: Training films of each combination of words.
        ordered: Synthetic films of each.
        unknown: Training films of which a column is not known, and which count for none.
    """

    columns: tuple[str, ...]
    before: dict[tuple[str, ...], int]
    ordered: dict[tuple[str, ...], int]
    unknown: int

    def figures(self) -> list[dict[str, Any]]:
        """Per combination of words the training films before, the synthetic films ordered and both together."""
        return [
            {
                "words": dict(zip(self.columns, words, strict=True)),
                "before": count,
                "ordered": self.ordered[words],
                "after": count + self.ordered[words],
            }
            for words, count in self.before.items()
        ]

    def to_csv(self, first_seed: int = 0) -> str:
        """The plan: every film has a seed of its own, from `first_seed` on."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow([_SEED, *map(column_of, self.columns)])
        seed = first_seed
        for words, count in self.ordered.items():
            for _ in range(count):
                writer.writerow([seed, *words])
                seed += 1
        return table.getvalue()


def balance(dataset: Dataset, columns: Sequence[str]) -> Balance:
    """As many synthetic films of each word as make the training split even: the most frequent one gets none.

    With several columns it is their combinations that are evened out, of those that training films have.

    Args:
        dataset: Open DATASET.
        columns: Conditions of words: view, sex, or labels.

    Raises:
        UsageError: If a column is none that a network may be told, or one of numbers.
    """
    columns = tuple(dict.fromkeys(columns))
    try:
        fitted = fit_conditions(dataset, ConditionsConfig(columns=columns))
    except UsageError as error:  # it names the setting of a training, which is none here
        raise UsageError(f"--balance {str(error).removeprefix('conditions.columns: ')}") from None
    for member in fitted.members:
        if member.kind == "continuous":
            raise UsageError(f"--balance {member.name}: holds numbers; expected a column of words.")
    values = fitted.of_manifest(dataset.manifest.iloc[dataset.indices("train")])  # [N, F]
    known = values[~np.isnan(values).any(axis=1)].astype(np.int64)
    if not len(known):
        raise UsageError(f"--balance {' '.join(columns)}: no training film has all of these columns known.")
    found, counts = np.unique(known, axis=0, return_counts=True)
    words = [
        tuple(member.categories[code] for member, code in zip(fitted.members, codes, strict=True))
        for codes in found
    ]
    before = dict(zip(words, map(int, counts), strict=True))
    most = max(before.values())
    return Balance(
        columns, before, {word: most - count for word, count in before.items()}, len(values) - len(known)
    )


def is_written(path: Path, plan: str) -> bool:
    """Whether a file holds this very plan already.

    Raises:
        FolderError: If it is a folder or holds something else, such as a plan that a person has changed.
    """
    if path.is_dir():
        raise FolderError(f"{path} is a folder; expected the name of a file to write.")
    if not path.exists():
        return False
    if path.read_bytes() != plan.encode():
        raise FolderError(
            f"{path} exists already and holds something else than this plan; choose another --out."
        )
    return True
