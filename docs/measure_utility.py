"""Measures whether a set of films helps a classifier, on the DATASET's test patients and on films of another source.

    python docs/measure_utility.py FILMS --dataset DATASET --synthetic SYNTHETIC --out FOLDER

DATASET is Kermany's films at 64 px with their column `finding`, SYNTHETIC holds films of both words. The other source
are the 1,000 adult films of nih-cxr at 64 px: NORMAL where nothing was found, and PNEUMONIA where anything was, of
which pneumonia is a small part; so an area under the curve there says how far "not normal" carries over. It is an audit
with `--utility finding --also-test`; the report is in FOLDER.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from real_films import parse, parser, say, say_how, say_table

from xraygen.audit.audit import audit
from xraygen.audit.by_choice import Choices
from xraygen.audit.classifiers import ClassifierName
from xraygen.audit.settings import AuditSettings
from xraygen.audit.utility_report import ARM_LABELS
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.films.transforms import PrepareSettings

WORDS = ("NORMAL", "PNEUMONIA")
SIDE = 64


def ingest_adults(films: Path, out: Path) -> Path:
    """nih-cxr's films of 64 px as a DATASET with the column `finding`."""
    folder = out / "adults"
    if folder.exists():
        return folder
    pictures = out / "adult-films"
    pictures.mkdir(parents=True, exist_ok=True)
    rows = []
    with np.load(films / "nih-cxr/nih1000_64.npz") as arrays:
        for name, image, abnormal in zip(arrays["name"], arrays["images"], arrays["abnormal"], strict=True):
            Image.fromarray(image).save(pictures / str(name))
            rows.append((str(name), str(name).partition("_")[0], WORDS[int(abnormal)]))
    labels = out / "adults.csv"
    with labels.open("w", newline="") as table:
        csv.writer(table).writerows([("file", "patient", "finding"), *rows])
    settings = IngestSettings(
        prepare=PrepareSettings(size=(SIDE, SIDE)), labels=labels, label_columns=("finding",)
    )
    ingest([pictures], folder, settings)
    return folder


def lines(test: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """The rows of one test set."""
    for row in test["mean"]:
        share = "" if row["fraction"] is None else f"{100 * row['fraction']:g} %"
        yield share, ARM_LABELS[row["arm"]], between(row), between(row["change"], "+")


def between(number: dict[str, float] | None, sign: str = "") -> str:
    """A number and its interval."""
    if number is None:
        return ""
    value, low, high = (f"{number[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def measure(arguments: argparse.Namespace) -> None:
    """Audit, and print the part about utility."""
    adults = ingest_adults(arguments.films, arguments.out)
    choices = Choices(utility="finding", classifier=arguments.classifier, also_test=(adults,))
    settings = AuditSettings(seed=arguments.seed, choices=choices)
    utility = audit(arguments.dataset, arguments.synthetic, arguments.out / "report", settings)["utility"]
    for test in utility["tests"]:
        say(
            f"{utility['synthetic_films']} synthetic films; {test['films']} films of {test['patients']} patients, "
            f"{test['name']}; {arguments.classifier}:\n"
        )
        say_table(("of the real patients", "learned from", "AUC", "change"), lines(test))
    say_how("python docs/measure_utility.py", arguments.seed)


def main() -> None:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--dataset", type=Path, required=True)
    made.add_argument("--synthetic", type=Path, required=True)
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--classifier", choices=get_args(ClassifierName), default="probe")
    arguments = parse(made)
    arguments.out.mkdir(parents=True, exist_ok=True)
    measure(arguments)


if __name__ == "__main__":
    main()
