"""Times ingest of more large films than `xraygen benchmark speed` does, and what a second worker brings: `make bench`.

What is timed, and how, is that command's (xraygen.benchmark.ingest): the same 2048 x 2048 films of 12 bits, whose
window cuts off 0.5 % of the pixels at each end, brought to 256 x 256 by ours and by MONAI's own loading, each transfer
syntax in a process of its own with one thread. A figure is the processor time per film, the least of `--rounds` turns
over all films, so that other work on the machine weighs little. For JPEG lossless and JPEG 2000 MONAI needs
`pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg`, and a row without them says so; without pylibjpeg-rle it
decodes RLE in Python, which takes it three times as long.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch

from xraygen.benchmark.ingest import MONAI, IngestCase, Sides, measure_syntax, pairs
from xraygen.benchmark.processes import in_own_process
from xraygen.benchmark.syntaxes import SYNTAXES, write_films
from xraygen.benchmark.turns import OURS
from xraygen.films.transforms import PrepareSettings, prepare_film

CASE = IngestCase()


def rows(made: dict[str, list[Path]], rounds: int) -> Iterator[str]:
    """The lines of the table."""
    for syntax, paths in made.items():
        sides = in_own_process(1, measure_syntax, syntax, paths, CASE.size, rounds)
        for name, pair in pairs(syntax, sides).items():
            yield row(name, pair)


def row(name: str, pair: Sides) -> str:
    """Milliseconds per film of both, and how many times ours goes into MONAI's; or why MONAI's is not there."""
    ours, theirs = (
        side if isinstance(side, str) else 1000 * float(side.cpu.min()) for side in (pair[OURS], pair[MONAI])
    )
    assert not isinstance(ours, str)
    compared = f"{theirs} | -" if isinstance(theirs, str) else f"{theirs:.1f} | {theirs / ours:.1f}"
    return f"| {name} | {ours:.1f} | {compared} |"


def two_workers(paths: list[Path]) -> float:
    """How many times faster two processes are than one, over the same films."""
    times = []
    for workers in (1, 2):
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            while len(set(pool.map(_prepare, paths[: 2 * workers]))) < workers:
                pass  # a process that has just begun still imports; all must have prepared a film
            start = time.perf_counter()
            list(pool.map(_prepare, paths * 3))
            times.append(time.perf_counter() - start)
    return times[0] / times[1]


def _prepare(path: Path) -> int:
    """Prepare a film; returns which process did."""
    torch.set_num_threads(1)
    prepare_film(path, PrepareSettings(CASE.size))
    return os.getpid()


def machine() -> str:
    """What the figures depend on."""
    packages = ("torch", "monai", "pydicom", "numpy", "imagecodecs", "pillow")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{os.cpu_count()} processors ({platform.machine()}), Python {platform.python_version()}, {versions}"
    )


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=40, help="films, each in every syntax")
    parser.add_argument("--side", type=int, default=CASE.side)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    with tempfile.TemporaryDirectory() as folder:
        made = write_films(Path(folder), arguments.count, arguments.side)
        print(  # noqa: T201 - the table is the result
            f"{arguments.count} films of {arguments.side} px, each in {len(SYNTAXES)} syntaxes, seed 0; "
            f"{datetime.now(UTC):%Y-%m-%d}, {machine()}\n\n"
            "| transfer syntax | xraygen, ms | MONAI, ms | times faster |\n|---|---|---|---|"
        )
        for line in rows(made, arguments.rounds):
            print(line, flush=True)  # noqa: T201 - as above
        print(f"\nTwo workers: {two_workers(made['JPEG-LS'][:40]):.2f} times one.")  # noqa: T201 - as above


if __name__ == "__main__":
    main()
