"""Timing that a busy machine spoils little: the tasks take turns, and each round is compared with itself."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xraygen.progress import Progress, Report, silent
from xraygen.training.peak import synchronise

Task = Callable[[], object]
OURS = "xraygen"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Times:
    """Seconds of one task in each round.

    Attributes:
        wall: By the clock, `(rounds,)`, float64.
        cpu: Of this process on all its threads, `(rounds,)`: what other processes take away is not in it.
    """

    wall: NDArray[np.float64]
    cpu: NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """Median of the rounds' ratios, and an interval for it."""

    median: float
    low: float
    high: float


def take_turns(
    tasks: Mapping[str, Task],
    rounds: int,
    device: torch.device,
    *,
    repeats: int = 1,
    label: str = "benchmark",
    report: Report = silent,
) -> dict[str, Times]:
    """Run every task once per round, each round beginning with the next task.

    Args:
        tasks: What is timed, by name; each has been run before.
        rounds: Rounds.
        device: Waited for before the clock is read.
        repeats: Runs of a task in one turn.
        label: What the reports are about.
        report: Told after each round.

    Returns:
        Seconds per run of each task.
    """
    names = list(tasks)
    wall = {name: np.zeros(rounds) for name in names}
    cpu = {name: np.zeros(rounds) for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            wall[name][number], cpu[name][number] = _seconds(tasks[name], device, repeats)
        report(Progress(label, number + 1, rounds))
    return {name: Times(wall[name], cpu[name]) for name in names}


def _seconds(task: Task, device: torch.device, repeats: int) -> tuple[float, float]:
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        task()
    synchronise(device)
    return (time.perf_counter() - wall) / repeats, (time.process_time() - cpu) / repeats


def paired_ratio(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> Ratio:
    """Median of ours / theirs over the rounds, with the interval that order statistics give whatever the distribution.

    Of n ratios in order, the k-th from below and the k-th from above enclose the true median with probability
    1 - 2 sum_{i < k} C(n, i) / 2^n; k is the largest for which this is at least 0.95, or 1.

    Args:
        ours: Seconds per round, `(rounds,)`.
        theirs: Seconds in the same rounds, `(rounds,)`.

    Returns:
        The ratio: below 1, ours is faster.

    Source:
        Conover 1999, Practical Nonparametric Statistics, sec. 3.2.
    """
    ratios = np.sort(ours / theirs)
    count, k, outside = len(ratios), 1, 2 / 2 ** len(ratios)
    while k < count // 2 and outside + 2 * comb(count, k) / 2**count <= 1 - CONFIDENCE:
        outside += 2 * comb(count, k) / 2**count
        k += 1
    return Ratio(float(np.median(ratios)), float(ratios[k - 1]), float(ratios[count - k]))


def figures(times: Mapping[str, Times | str], batch: int | None = None) -> dict[str, dict[str, Any]]:
    """Median and least seconds, and our time as a multiple of theirs.

    Args:
        times: By name, OURS among them; of what was not timed, why.
        batch: Images per run.

    Returns:
        JSON-ready, by name; of what was not timed, `missing`: why.
    """
    ours = times[OURS]
    assert isinstance(ours, Times)
    found: dict[str, dict[str, Any]] = {}
    for name, taken in times.items():
        if isinstance(taken, str):
            found[name] = {"missing": taken}
            continue
        median = float(np.median(taken.wall))
        found[name] = {
            "seconds": median,
            "least_seconds": float(taken.wall.min()),
            "cpu_seconds": float(np.median(taken.cpu)),
            "ours_over_this": asdict(paired_ratio(ours.wall, taken.wall)),
            "ours_over_this_cpu": asdict(paired_ratio(ours.cpu, taken.cpu)),
        }
        if batch is not None:
            found[name]["images_per_second"] = batch / median
    return found
