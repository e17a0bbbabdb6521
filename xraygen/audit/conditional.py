"""Does a generated PNEUMONIA show one? A probe that learned the words from real films reads the synthetic ones.

Beside its answer stands what it makes of real test films: where it does not know the words there, it says nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraygen.audit.labels import Codes, patients_of
from xraygen.metrics.probe import fit_probe
from xraygen.metrics.roc import Area, area_interval, clustered_error, influence, wilson

FEWEST = 8
"""Films of a word, and of the other words together, without which there is no answer."""

ESTIMAND = (
    "Area under the ROC curve: how often a film that was told the word scores above one that was told another. Share: "
    "how many films told the word the classifier calls by it. Classifier: logistic regression on {space}, learned from "
    "the real training films. Intervals: films of this network, or test patients, for this one classifier."
)

Features = NDArray[np.floating[Any]]
Rows = NDArray[np.int64]


def shown_words(
    column: str,
    words: Sequence[str],
    features: tuple[Features, Features],
    codes: tuple[Codes, Codes],
    splits: Mapping[str, Rows],
    patients: "pd.Series[str]",
) -> list[dict[str, Any]]:
    """What a classifier of real films sees in films that were told the words of one column.

    Args:
        column: Its name.
        words: Its words; K of them.
        features: Of all films of the DATASET and of the SYNTHETIC, `(M, F)` and `(n, F)`.
        codes: Word that each real film has and that each synthetic film was told, -1 where not known.
        splits: Rows of the train and the test split.
        patients: Of the films of the DATASET.

    Returns:
        Per word that the SYNTHETIC was told {column, word, films, test_films, synthetic, real}; the last two hold
        {auc, share}, None where there are too few films.
    """
    real, told = codes
    train = splits["train"][real[splits["train"]] >= 0]
    test = splits["test"][real[splits["test"]] >= 0]
    made = np.flatnonzero(told >= 0)
    counts = np.bincount(real[train], minlength=len(words))
    if (counts >= FEWEST).sum() < 2 or not len(made):
        return []
    probe = fit_probe(features[0][train], real[train], len(words))
    kinds = {
        "synthetic": (probe.log_odds(features[1][made]), told[made], np.arange(len(made))),
        "real": (probe.log_odds(features[0][test]), real[test], patients_of(list(patients.iloc[test]))),
    }
    entries = []
    for code, word in enumerate(words):
        if not (told == code).any():
            continue
        entry: dict[str, Any] = {
            "column": column,
            "word": word,
            "films": int((told == code).sum()),
            "test_films": int((real[test] == code).sum()),
        }
        known = counts[code] >= FEWEST
        entry |= {kind: _answer(*of, code) if known else None for kind, of in kinds.items()}
        entries.append(entry)
    return entries


def _answer(odds: NDArray[np.float64], codes: Codes, clusters: Codes, code: int) -> dict[str, Any] | None:
    """Of films of one kind."""
    positive = codes == code
    groups = [len(np.unique(clusters[kind])) for kind in (positive, ~positive)]
    if min(groups) < FEWEST:
        return None
    found = influence(odds[:, code], positive, clusters)
    area = area_interval(found.area, clustered_error(found.of_film, clusters), *groups)
    called = odds[positive].argmax(axis=1) == code
    return {"auc": area._asdict(), "share": wilson(float(called.mean()), groups[0])._asdict()}


def shown_caveats(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the summary says: the word that is shown worst."""
    given = [entry for entry in entries if entry["synthetic"] and entry["real"]]
    if given:
        worst = min(given, key=lambda entry: float(entry["synthetic"]["auc"]["value"]))
        made, real = (Area(**worst[kind]["auc"]) for kind in ("synthetic", "real"))
        yield (
            f"A classifier of real films tells films told {worst['column']} = {worst['word']} from the others with an "
            f"AUC of {_number(made)}, and real test films with {_number(real)}."
        )


def shown_table(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The answers as lines of text."""
    lines = ["what a classifier of real films sees"] if entries else []
    for entry in entries:
        told = [
            f"{kind} AUC {_number(Area(**of['auc']))}, called so {100 * of['share']['value']:.0f} %"
            if (of := entry[kind])
            else f"{kind}: too few films"
            for kind in ("synthetic", "real")
        ]
        lines.append(f"  {entry['column']} = {entry['word']}: {'; '.join(told)}.")
    return lines


def _number(area: Area) -> str:
    return f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f})"
