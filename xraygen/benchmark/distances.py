"""The Fréchet distance of extracted features in the ways of three libraries: the same two sets, in turns.

Ours; torchmetrics' (means and covariances, then the eigenvalues of their product); and that of pytorch-fid and
clean-fid (the same moments, then scipy.linalg.sqrtm). Each begins with the features and ends with the number, all in
float64. The features are Gaussian with variances that fall as 1 / i, turned by nothing, which changes no time.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xraygen.benchmark.processes import in_own_process
from xraygen.benchmark.turns import OURS, Task, Times, figures, take_turns
from xraygen.metrics.frechet import frechet_distance_of_features
from xraygen.progress import Report, silent
from xraygen.seeds import numpy_generator

Features = NDArray[np.float64]
Way = Callable[[Features, Features], float]
_WARM = (64, 16)
"""Samples and features of the distance that every way takes first, so that no turn loads a library."""


@dataclass(frozen=True)
class AuditCase:
    """The sets.

    Attributes:
        counts: Samples in each of the two; fewer and more than there are features are different arithmetic to us.
        dims: Features of a sample.
    """

    counts: tuple[int, ...] = (500, 2000)
    dims: int = 768


QUICK = AuditCase((40, 200), 64)


@dataclass(frozen=True)
class Measured:
    """The distance in several ways.

    Attributes:
        times: Seconds by the way's name; of a way that is not here, why.
        values: The distance itself, of those that are.
    """

    times: dict[str, Times | str]
    values: dict[str, float]

    def apart(self, name: str) -> float:
        """By what share a way's distance differs from ours."""
        return abs(self.values[name] / self.values[OURS] - 1)


def benchmark_audit(case: AuditCase, rounds: int, report: Report = silent) -> dict[str, Any]:
    """Time the distances in a process of its own, with as many threads as torch has in this one.

    Args:
        case: The sets.
        rounds: Rounds in which the ways take turns.
        report: Told after each round.

    Returns:
        JSON-ready: the case, and per number of samples and way the seconds, the ratio of ours to its, and by what share
        its distance differs from ours.
    """
    threads, cases = torch.get_num_threads(), {}
    found: dict[int, Measured] = in_own_process(threads, _measure_case, case, rounds, report=report)
    for count, measured in found.items():
        rows = figures(measured.times)
        for name in measured.values:
            rows[name]["apart"] = measured.apart(name)
        cases[str(count)] = rows
    return {"dims": case.dims, "threads": threads, "cases": cases}


def _measure_case(case: AuditCase, rounds: int, *, report: Report) -> dict[int, Measured]:
    """By the number of samples."""
    return {count: measure_distances(count, case.dims, rounds, report=report) for count in case.counts}


def measure_distances(count: int, dims: int, rounds: int, *, report: Report = silent) -> Measured:
    """Seconds and value of the distance between two sets of `count` samples of `dims` features, in every way."""
    a, b = samples(count, dims, "real"), samples(count, dims, "synthetic")
    values: dict[str, float] = {}
    tasks: dict[str, Task] = {}
    times: dict[str, Times | str] = {}
    for name, build in WAYS.items():
        try:
            way = build()
        except ImportError as error:
            times[name] = f"not compared: {error}; `pip install 'xraygen[bench]'` brings it."
            continue
        way(*(samples(*_WARM, which) for which in ("real", "synthetic")))
        tasks[name] = _remembering(values, name, way, (a, b))
    taken = take_turns(
        tasks, rounds, torch.device("cpu"), label=f"distance of {count:,} and {count:,}", report=report
    )
    return Measured({name: taken[name] if name in taken else times[name] for name in WAYS}, values)


def samples(count: int, dims: int, name: str) -> Features:
    """Gaussian features `(count, dims)` with a spectrum that falls."""
    generator = numpy_generator(0, "bench-audit", name, count, dims)
    scale = 1.1 if name == "synthetic" else 1.0
    return np.asarray(scale * generator.standard_normal((count, dims)) * np.arange(1, dims + 1) ** -0.5)


def ours() -> Way:
    """As the audit does."""
    return frechet_distance_of_features


def of_torchmetrics() -> Way:
    """Moments, then the sum of the roots of the eigenvalues of Σ₁Σ₂."""
    from torchmetrics.image.fid import _compute_fid  # noqa: PLC0415 - an extra

    def distance(a: Features, b: Features) -> float:
        x, y = torch.from_numpy(a), torch.from_numpy(b)
        return float(_compute_fid(x.mean(dim=0), torch.cov(x.T), y.mean(dim=0), torch.cov(y.T)))

    return distance


def of_scipy() -> Way:
    """Moments, then the trace of the matrix square root of Σ₁Σ₂."""
    from scipy.linalg import sqrtm  # noqa: PLC0415 - half a second to import

    def distance(a: Features, b: Features) -> float:
        mean1, mean2, cov1, cov2 = a.mean(axis=0), b.mean(axis=0), np.cov(a.T), np.cov(b.T)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a product is singular, as those of few samples are
            root = sqrtm(cov1 @ cov2)
        return float(((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * np.trace(root).real)

    return distance


WAYS: dict[str, Callable[[], Way]] = {
    OURS: ours,
    "torchmetrics (eigvals)": of_torchmetrics,
    "pytorch-fid, clean-fid (sqrtm)": of_scipy,
}


def _remembering(values: dict[str, float], name: str, way: Way, sets: tuple[Features, Features]) -> Task:
    """A turn of a way, which leaves its value behind."""

    def take() -> None:
        values[name] = way(*sets)

    return take
