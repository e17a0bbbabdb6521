"""Fidelity within groups: the films that were told a word against the real films of that word, each with its own floor.

Of a column that they were not told, such as the site, all films may be held against the real films of each word.

N is the smallest of the three kinds of films of a group: of the SYNTHETIC, real test films, real training films.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraygen.audit.conditional import ESTIMAND as SHOWN_ESTIMAND
from xraygen.audit.conditional import shown_caveats, shown_table, shown_words
from xraygen.audit.fidelity import SMALLEST_COUNT, blurred_set, choose
from xraygen.audit.intervals import Features, Interval, draw_subsamples, frechet_interval
from xraygen.audit.labels import Codes, codes_of, words_of
from xraygen.audit.measures import MEASURES, enough, numbers_of, roughly
from xraygen.audit.sets import ImageSet
from xraygen.config import ConditionsConfig
from xraygen.dataset.conditions import ALWAYS, Condition, fit_conditions
from xraygen.dataset.store import Dataset
from xraygen.errors import UsageError
from xraygen.films.listing import column_of
from xraygen.metrics.features import FeatureExtractor, extract
from xraygen.metrics.kernel import kernel_distance
from xraygen.progress import Progress, Report, silent

_BAND_STARTS = (0, 5, 18, 45, 65)
_BANDS = ("0 to 4", "5 to 17", "18 to 44", "45 to 64", "65 and older")

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Grouping:
    """One column whose words make groups; -1 is not known."""

    column: str
    words: tuple[str, ...]
    real: Codes
    """Word of each film of the DATASET."""
    synthetic: Codes | None
    """Word that each film of the SYNTHETIC was told; None where each stands for every word."""


def check_against_each(columns: Sequence[str], dataset: Dataset, told: pd.DataFrame, synthetic: Path) -> None:
    """Refuse before the work a column that all films cannot be held against.

    Raises:
        UsageError: If it is none of words, or the films of the SYNTHETIC were told it.
    """
    for name in columns:
        words_of(dataset, name, "--against-each")
        if column_of(name) in told.columns:
            raise UsageError(
                f"--against-each {name}: the films of {synthetic} were told it, and are held against the real films of "
                "what each was told; leave it out."
            )


def groupings(
    dataset: Dataset, told: pd.DataFrame, against_each: Sequence[str] = ()
) -> tuple[list[Grouping], list[str]]:
    """The columns of a DATASET that make groups.

    Args:
        dataset: The real films. A column whose words could stand for patients makes none, as it makes no condition.
        told: What the films of the SYNTHETIC were told, a column per condition.
        against_each: Columns that they were not told, against each of whose words all of them are held.

    Returns:
        Those that the SYNTHETIC was told too or is held against, and the names of the others.
    """
    found, untold = [], []
    for name in (*dataset.info.label_names, *ALWAYS):
        with suppress(UsageError):
            (member,) = fit_conditions(dataset, ConditionsConfig(columns=(name,))).members
            is_told = column_of(name) in told.columns
            if not is_told and name not in against_each:
                untold.append(name)
            elif member.kind != "continuous" or name == "age":
                real = _codes(member, dataset.manifest[name])
                synthetic = _codes(member, told[column_of(name)]) if is_told else None
                words = _BANDS if name == "age" else member.categories
                found.append(Grouping(name, words, real, synthetic))
    return found, untold


def _codes(member: Condition, column: pd.Series) -> Codes:
    """Which word each film has, -1 where it is not known."""
    if member.kind == "continuous":
        years = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        band = np.searchsorted(_BAND_STARTS, years, side="right") - 1
        return np.where(np.isnan(years), -1, band).astype(np.int64)
    return codes_of(member, column)


def by_group(
    extractor: FeatureExtractor,
    dataset: Dataset,
    films: ImageSet,
    features: tuple[Features, Features],
    *,
    count: int,
    seed: int,
    against_each: Sequence[str] = (),
    report: Report = silent,
) -> dict[str, Any]:
    """What report.json says about groups.

    Args:
        extractor: Of the features.
        dataset: The real films.
        films: The SYNTHETIC.
        features: Of all films of the DATASET and of all of the SYNTHETIC, `(M, F)` and `(n, F)`.
        count: N of the whole audit, which no group exceeds.
        seed: Seed of every choice.
        against_each: As for `groupings`.
        report: Told after each group.

    Returns:
        {space, untold, members, shown, shown_estimand}: columns that the SYNTHETIC was not told, an entry per column
        and word, and what a classifier of real films sees in films that were told a word.
    """
    found, untold = groupings(dataset, films.told, against_each)
    splits = {name: dataset.indices(name) for name in ("test", "train")}
    wanted = [(grouping, code) for grouping in found for code in range(len(grouping.words))]
    members = []
    for done, (grouping, code) in enumerate(wanted):
        report(Progress("groups", done, len(wanted)))
        rows = {name: split[grouping.real[split] == code] for name, split in splits.items()}
        told = np.full(len(films), code) if grouping.synthetic is None else grouping.synthetic
        rows["synthetic"] = np.flatnonzero(told == code)
        entry: dict[str, Any] = {"column": grouping.column, "word": grouping.words[code]}
        entry["told"] = grouping.synthetic is not None
        entry |= {name: len(of_kind) for name, of_kind in rows.items()}
        smallest = min(count, *map(len, rows.values()))
        if smallest >= SMALLEST_COUNT:
            chosen = {name: _some(of_kind, smallest, seed, name) for name, of_kind in rows.items()}
            sets = _sets(extractor, dataset, features, chosen)
            entry |= {"count": smallest, **_distances(sets, extractor.label, seed)}
        else:
            entry |= {"count": None, "fd": None, "kid": None}
        if any(rows[name].size for name in rows):
            members.append({**entry, "warning": _warning(entry)})
    report(Progress("groups", len(wanted), len(wanted)))
    return {
        "space": extractor.label,
        "untold": untold,
        "members": members,
        "shown": _shown(found, features, splits, dataset.manifest["patient"]),
        "shown_estimand": SHOWN_ESTIMAND.format(space=extractor.label),
    }


def _shown(
    found: Sequence[Grouping],
    features: tuple[Features, Features],
    splits: Mapping[str, Rows],
    patients: "pd.Series[str]",
) -> list[dict[str, Any]]:
    """What a classifier of real films sees; not of age, whose bands have an order that it does not know."""
    return [
        entry
        for grouping in found
        if grouping.column != "age" and grouping.synthetic is not None
        for entry in shown_words(
            grouping.column,
            grouping.words,
            features,
            (grouping.real, grouping.synthetic),
            splits,
            patients,
        )
    ]


def _some(rows: Rows, count: int, seed: int, name: str) -> Rows:
    """`count` of these rows."""
    return rows[choose(len(rows), count, seed, f"group-{name}")]


def _sets(
    extractor: FeatureExtractor,
    dataset: Dataset,
    features: tuple[Features, Features],
    rows: Mapping[str, Rows],
) -> dict[str, Features]:
    """Features of a group, (N, F) each: real test films, this set, the floor, and the floor blurred."""
    real, synthetic = features
    bad = blurred_set(dataset.gather(rows["train"]), dataset.info.bits)
    return {
        "test": real[rows["test"]],
        "this": synthetic[rows["synthetic"]],
        "real": real[rows["train"]],
        "blurred": extract(extractor, bad.images, bad.bits),
    }


def _distances(sets: Mapping[str, Features], space: str, seed: int) -> dict[str, Any]:
    """FD and KID of this set, of the floor and of the blurred films, from the group's real test films."""
    others = dict(sets)
    test = others.pop("test")
    subsamples = draw_subsamples(len(test), seed)
    found = {
        "fd": {key: frechet_interval(test, values, subsamples) for key, values in others.items()},
        "kid": {key: Interval(*kernel_distance(test, values)) for key, values in others.items()},
    }
    return {
        name: {
            **numbers_of(intervals["this"]),
            "name": MEASURES[name].name.format(space=space),
            "estimand": MEASURES[name].estimand.format(count=len(test)),
            "floor": numbers_of(intervals["real"]),
            "blurred": numbers_of(intervals["blurred"]),
            "enough": enough(intervals, len(test), lower_is_better=True),
        }
        for name, intervals in found.items()
    }


def _warning(entry: Mapping[str, Any]) -> str:
    """What to know before the group's numbers are trusted; "" for nothing."""
    if entry["synthetic"] == 0:
        return "No film of the set was told this."
    if entry["count"] is None:
        return f"Too few films for a distance, which takes {SMALLEST_COUNT} of each kind."
    sentences = []
    for name, label in (("fd", "FD"), ("kid", "KID")):
        needed = entry[name]["enough"]["count"]
        if needed is None:
            sentences.append(f"{label} finds blurred films no worse than real ones here.")
        elif needed > entry["count"]:
            sentences.append(
                f"N = {entry['count']} is too small for {label}; about {roughly(needed)} would do."
            )
    return " ".join(sentences)


def group_caveats(groups: Mapping[str, Any]) -> Iterator[str]:
    """What the summary says of groups."""
    members: Sequence[Mapping[str, Any]] = groups["members"]
    given = [member for member in members if member["count"] is not None and member["fd"]["floor"]["value"]]
    if given:
        worst = max(given, key=_ratio)
        yield (
            f"Of {len(given)} groups with a distance, {_name(worst)} is farthest from its floor: FD at "
            f"N = {worst['count']} is {_ratio(worst):.2f} times that of real films."
        )
    if warned := sum(bool(member["warning"]) for member in members):
        yield f"{warned} of {len(members)} groups have too few films for some number, or none: see the groups."
    yield from shown_caveats(groups["shown"])


def group_table(groups: Mapping[str, Any]) -> list[str]:
    """The groups as lines of text."""
    lines = [f"groups ({groups['space']})"] if groups["members"] else []
    for member in groups["members"]:
        kinds = f"{member['synthetic']} synthetic, {member['test']} test, {member['train']} training films"
        told = ""
        if member["count"] is not None:
            fd, kid = member["fd"], member["kid"]
            told = (
                f"; N = {member['count']}: FD {fd['value']:.4g} (floor {fd['floor']['value']:.4g}), "
                f"KID {kid['value']:.4g} (floor {kid['floor']['value']:.4g})"
            )
        lines.append(f"  {_name(member)}: {kinds}{told}. {member['warning']}".rstrip())
    lines += shown_table(groups["shown"])
    return [*lines, ""] if lines else []


def _ratio(member: Mapping[str, Any]) -> float:
    return float(member["fd"]["value"] / member["fd"]["floor"]["value"])


def _name(member: Mapping[str, Any]) -> str:
    return f"{member['column']} = {member['word']}{'' if member['told'] else ' (all films of the set)'}"
