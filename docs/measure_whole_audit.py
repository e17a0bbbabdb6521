"""Times whole audits of 1,000 films against 1,000 real ones, and tells the memory that they take.

    python docs/measure_whole_audit.py ../shared/data --out FOLDER
    python docs/measure_whole_audit.py ../shared/data --out FOLDER --count 100 --size 64    # to see that it works

Kermany's films, each content once, the numbers in their names apart: --count test films and as many training films
make the real DATASET, and --count others stand in the place of synthetic ones, which an audit treats alike. Each audit
runs in a process of its own, as `xraygen audit` does with its defaults: the first extracts the features of every film,
the second finds those of the real ones on disk. Their peak of resident memory is told.
"""

import argparse
import csv
import os
import resource
import shutil
import time
from multiprocessing import get_context
from pathlib import Path

from real_films import parse, parser, say, say_how, say_table, unpack_kermany

from xraygen.audit.audit import audit
from xraygen.audit.settings import AuditSettings
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.films.transforms import PrepareSettings
from xraygen.seeds import numpy_generator

_PACKAGES = ("xraygen", "torch", "numpy")


def make_sets(arguments: argparse.Namespace) -> None:
    """`real` with both splits, and `others`, all of one split."""
    by_patient = unpack_kermany(arguments.films, arguments.out / "films")
    patients = sorted(by_patient)
    numpy_generator(arguments.seed, "whole-audit-split").shuffle(patients)
    rows: dict[str, list[tuple[Path, str, str]]] = {"real": [], "others": []}
    for name, split in (("real", "test"), ("real", "train"), ("others", "train")):
        chosen: list[tuple[Path, str, str]] = []
        while len(chosen) < arguments.count:
            patient = patients.pop()
            chosen += [(path, patient, split) for path in by_patient[patient]]
        rows[name] += chosen[: arguments.count]
    prepare = PrepareSettings(size=(arguments.size, arguments.size))
    for name, films in rows.items():
        labels = arguments.out / f"{name}.csv"
        with labels.open("w", encoding="utf-8", newline="") as table:
            csv.writer(table).writerows(
                [("file", "patient", "split"), *((p.name, who, s) for p, who, s in films)]
            )
        settings = IngestSettings(prepare=prepare, labels=labels, split_column="split")
        ingest([path for path, _, _ in films], arguments.out / name, settings)


def one_audit(out: Path, report: str, count: int) -> tuple[float, float, float]:
    """Seconds, seconds of the processor, and the peak of resident memory in GB, of this process."""
    begin = time.perf_counter()
    audit(out / "real", out / "others", out / report, AuditSettings(count=count))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter() - begin, time.process_time(), used.ru_maxrss * 1024 / 1e9


def measure(arguments: argparse.Namespace) -> None:
    """Two audits, one after another."""
    if not (arguments.out / "others" / "dataset.json").exists():
        make_sets(arguments)
    cache = arguments.out / "cache"
    shutil.rmtree(cache, ignore_errors=True)  # the first audit extracts all features
    os.environ["XRAYGEN_CACHE"] = str(cache)
    rows = []
    for report in ("first", "second"):
        with get_context("spawn").Pool(1) as pool:
            wall, processor, peak = pool.apply(one_audit, (arguments.out, report, arguments.count))
        rows.append((report, f"{wall / 60:.1f}", f"{processor / 60:.1f}", f"{peak:.1f}"))
    say(
        f"{arguments.count:,} films against {arguments.count:,} test and as many training films, {arguments.size} px:\n"
    )
    say_table(("audit", "minutes", "processor minutes", "peak of memory, GB"), rows)


def main() -> None:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--count", type=int, default=1_000)
    made.add_argument("--size", type=int, default=256)
    arguments = parse(made)
    arguments.out.mkdir(parents=True, exist_ok=True)
    measure(arguments)
    say_how("python docs/measure_whole_audit.py ../shared/data --out FOLDER", arguments.seed, _PACKAGES)


if __name__ == "__main__":
    main()
