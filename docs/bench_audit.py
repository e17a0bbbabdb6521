"""Times the audit's distances at the sizes of large sets: `make bench`.

Two parts. First FD from two sets of N features, D = 2,048 of each, in three ways, as `xraygen benchmark speed` times
them at smaller sizes (xraygen.benchmark.distances), in turns over `--rounds` rounds; a figure is the least time of its
rounds. Then FD, KID on disjoint subsets of 1,000, and precision, recall, density and coverage of two large sets that
lie on disk as float32, in a process of its own, whose peak of resident memory is told; pages of the files count in it.

    python docs/bench_audit.py
    python docs/bench_audit.py --counts 200 --dims 256 --scale 2000 --manifold 500    # a minute, to see that it works
"""

import argparse
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from xraygen.atomic import write_text
from xraygen.benchmark.distances import measure_distances, samples
from xraygen.benchmark.turns import OURS
from xraygen.metrics.frechet import frechet_distance_of_features
from xraygen.metrics.kernel import SUBSET_SIZE, subset_kernel_distance
from xraygen.metrics.manifold import manifold
from xraygen.seeds import numpy_generator

_ROWS = 10_000


def ways(count: int, dims: int, rounds: int) -> Iterator[str]:
    """The rows of the first table for one N."""
    measured = measure_distances(count, dims, rounds)
    ours = measured.times[OURS]
    assert not isinstance(ours, str)
    for name, taken in measured.times.items():
        if isinstance(taken, str):
            yield f"| {count:,} | {name} | {taken} | - | - | - |"
            continue
        yield (
            f"| {count:,} | {name} | {taken.wall.min():.2f} | {taken.cpu.min():.2f} | "
            f"{taken.wall.min() / ours.wall.min():.1f} | {measured.apart(name):.1e} |"
        )


def write_large(folder: Path, count: int, dims: int) -> None:
    """real.npy and synthetic.npy, float32, part by part."""
    for name in ("real", "synthetic"):
        file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (count, dims))
        for start in range(0, count, _ROWS):
            part = samples(min(_ROWS, count - start), dims, f"{name}-{start}")
            file[start : start + len(part)] = part
        file.flush()


def measure_large(folder: Path, few: int) -> list[tuple[str, float]]:
    """Seconds of each measure, and at last the peak of this process in GB."""
    a, b = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("real", "synthetic"))
    tasks: dict[str, Callable[[], object]] = {
        f"FD of {len(a):,} and {len(b):,}": lambda: frechet_distance_of_features(a, b),
        f"KID, {len(a) // SUBSET_SIZE} subsets of {SUBSET_SIZE:,}": lambda: subset_kernel_distance(
            a, b, numpy_generator(0, "bench-audit-subsets")
        ),
        f"precision, recall, density, coverage of {few:,} and {few:,}": lambda: manifold(
            np.array(a[:few]), np.array(b[:few])
        ),
    }
    found = []
    for name, task in tasks.items():
        begin = time.perf_counter()
        task()
        found.append((name, time.perf_counter() - begin))
    return [*found, ("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)]


def large(count: int, dims: int, few: int) -> Iterator[str]:
    """The rows of the second table."""
    with tempfile.TemporaryDirectory() as folder:
        write_large(Path(folder), count, dims)
        with get_context("spawn").Pool(1) as pool:
            *measured, (_, peak) = pool.apply(measure_large, (Path(folder), few))
    for name, seconds in measured:
        yield f"| {name} | {seconds:.1f} |"
    yield f"| all three, with a peak of {peak:.1f} GB of memory | {sum(seconds for _, seconds in measured):.1f} |"


def machine() -> str:
    """What the figures depend on."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchmetrics", "scipy", "numpy"))
    return (
        f"{os.cpu_count()} processors ({platform.machine()}), {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, {versions}"
    )


def page(arguments: argparse.Namespace) -> Iterator[str]:
    """The page, line by line as it is measured."""
    yield "# Speed of the audit's distances\n"
    yield f"{arguments.dims:,} features; seed 0; {datetime.now(UTC):%Y-%m-%d}; {machine()}.\n"
    yield "| N per set | way | seconds | processor seconds | times ours | FD differs from ours by |"
    yield "|---|---|---|---|---|---|"
    for count in arguments.counts:
        yield from ways(count, arguments.dims, arguments.rounds)
    yield f"\nOf two sets of {arguments.scale:,} on disk:\n\n| measure | seconds |\n|---|---|"
    yield from large(arguments.scale, arguments.dims, arguments.manifold)
    yield "\n*Printed by `python docs/bench_audit.py`, which says what is timed.*"


def main() -> None:
    """Print the tables in Markdown, and write them where --out says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--counts", type=lambda text: [int(n) for n in text.split(",")], default=[1000, 10_000]
    )
    parser.add_argument("--dims", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=int, default=100_000, help="features per set of the second part")
    parser.add_argument("--manifold", type=int, default=20_000, help="of these, in precision and its like")
    parser.add_argument("--out", type=Path, help="page to write, such as docs/results/audit-speed.md")
    arguments = parser.parse_args()
    lines = []
    for line in page(arguments):
        print(line, flush=True)  # noqa: T201 - the tables are the result
        lines.append(line)
    if arguments.out is not None:
        write_text(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
