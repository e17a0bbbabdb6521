"""Ingests each collection of real films by its command in docs/results/real-films.md, and prints what became of it.

    python docs/measure_collections.py ../shared/data --out results

Each DATASET stays below --out with its contact sheets, to be looked at. The key of the pseudonyms is made from the
seed instead of drawn, so that the splits come out the same; a real key must be secret.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from real_films import parse, parser, say, say_how, say_table

from xraygen.dataset.store import SPLITS, Dataset, open_dataset
from xraygen.seeds import numpy_generator

PAGE = Path(__file__).parent / "results" / "real-films.md"


@dataclass(frozen=True)
class Outcome:
    """What one command came to."""

    summary: Mapping[str, Any]
    seconds: float
    dataset: Dataset


def documented() -> dict[str, list[str]]:
    """The page's commands, split into words, by the DATASET that they write."""
    lines = re.findall(r"^    xraygen (ingest .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    commands = [shlex.split(line) for line in lines]
    return {words[words.index("--out") + 1]: words for words in commands}


def lay_out(films: Path, folder: Path) -> None:
    """Links to the collections."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("kermany-cxr-224", "hannover-cxr", "nih-cxr", "dicom-cxr", "dicom-other"):
        if not (folder / name).exists():
            (folder / name).symlink_to((films / name).resolve())


def run(name: str, command: list[str], folder: Path, seed: int) -> Outcome:
    """One command, in a process of its own, timed."""
    key = folder / f"{name}.key"
    key.write_bytes(numpy_generator(seed, "key", name).bytes(32))
    program = Path(sys.executable).with_name("xraygen")
    begin = time.perf_counter()
    done = subprocess.run(
        [str(program), *command, "--key", key.name, "--json"],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        check=True,
    )
    seconds = time.perf_counter() - begin
    return Outcome(json.loads(done.stdout), seconds, open_dataset(folder / name))


def counted(counts: Mapping[Any, int]) -> str:
    """`3 duplicate, 4 body_part`, or a dash."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "-"


def values(manifest: pd.DataFrame, column: str) -> str:
    """How often each value of a column occurs; of numbers how many there are and their range."""
    filled = manifest[column][manifest[column].notna() & (manifest[column].astype(str) != "")]
    if len(filled) and column == "age":
        return f"{len(filled)} ({filled.min():.0f} to {filled.max():.0f})"
    return counted(filled.value_counts().sort_index().to_dict())


def say_labels(name: str, dataset: Dataset) -> None:
    """Images by label and split, of labels with few values."""
    manifest = dataset.manifest
    for label in dataset.info.label_names:
        said = manifest[manifest[label] != ""]
        if not 1 <= said[label].nunique() <= 5:
            continue
        table = pd.crosstab(said[label], said["split"])
        say(f"{name}, `{label}`:\n")
        say_table(
            (label, *SPLITS),
            [(value, *(row.get(split, 0) for split in SPLITS)) for value, row in table.iterrows()],
        )


def main() -> None:
    """Print the tables in Markdown."""
    made = parser(__doc__)
    made.add_argument("--out", type=Path, required=True, help="where the DATASETs go")
    arguments = parse(made)
    lay_out(arguments.films, arguments.out)
    outcomes = {
        name: run(name, command, arguments.out, arguments.seed) for name, command in documented().items()
    }
    say_table(
        (
            "DATASET",
            "seen",
            "accepted",
            "rejected",
            "flags",
            "train, validation, test",
            "patients",
            "seconds",
        ),
        [
            (
                *(name, it.summary["seen"], it.summary["accepted"], counted(it.summary["rejected"])),
                counted(it.summary["flags"]),
                *(
                    ", ".join(str(it.summary[what][split]) for split in SPLITS)
                    for what in ("images", "patients")
                ),
                f"{it.seconds:.0f}",
            )
            for name, it in outcomes.items()
        ],
    )
    say_table(
        ("DATASET", "sex", "age", "view", "windows", "labels"),
        [
            (
                *(name, *(values(it.dataset.manifest, column) for column in ("sex", "age", "view"))),
                counted(it.dataset.info.voi),
                len(it.dataset.info.label_names),
            )
            for name, it in outcomes.items()
        ],
    )
    for name, it in outcomes.items():
        say_labels(name, it.dataset)
    say_how("python docs/measure_collections.py --out results", arguments.seed)


if __name__ == "__main__":
    main()
