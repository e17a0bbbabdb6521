"""How far a set of films is from the real ones, beside sets whose quality is known, all at one N."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.audit.sets import ImageSet
from xraygen.dataset.store import Dataset
from xraygen.errors import UsageError
from xraygen.metrics.frechet import frechet_distance_of_features
from xraygen.metrics.references import blurred, gaussian_like, noise
from xraygen.progress import Progress, Report, silent
from xraygen.ranges import Stored, stored_to_unit, unit_to_stored
from xraygen.seeds import numpy_generator, torch_generator

SUBSAMPLES = 16
KEPT = 0.75
SMALLEST_COUNT = 4
"""Three quarters of fewer films are not enough for a covariance."""
STUDENT_T = 2.131
"""97.5 % quantile with SUBSAMPLES - 1 degrees of freedom."""

REFERENCE_BITS = 16
_GAUSSIAN_PIXELS = 2**27
"""512 MB of float32: the Gaussian is fitted to as many training films as that holds."""

Features = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Comparison:
    """One set to hold against the N test films."""

    label: str
    """What a table calls it."""
    description: str
    """What it is, in one sentence."""
    images: Stored
    """[N, H, W]."""
    bits: int
    """White is stored as 2^bits - 1."""


def equal_count(available: Mapping[str, int], wanted: int | None) -> int:
    """The N of every distance: the smallest set's size, or the size asked for.

    Raises:
        UsageError: If a set is smaller than asked for, or than SMALLEST_COUNT.
    """
    smallest = min(available, key=lambda name: available[name])
    if available[smallest] < SMALLEST_COUNT:
        raise UsageError(
            f"{smallest} holds {available[smallest]} films, and an audit needs at least {SMALLEST_COUNT}."
        )
    if wanted is not None and not SMALLEST_COUNT <= wanted <= available[smallest]:
        raise UsageError(
            f"--count {wanted}: expected {SMALLEST_COUNT} to {available[smallest]}, "
            f"the number of films in {smallest}."
        )
    return wanted or available[smallest]


def choose(total: int, count: int, seed: int, name: str) -> NDArray[np.int64]:
    """`count` of `total` rows without repeats, ascending, int64 [count]."""
    generator = numpy_generator(seed, "audit-rows", name)
    return np.sort(generator.choice(total, size=count, replace=False)).astype(np.int64)


def reference_sets(real: Dataset, train: NDArray[np.int64], count: int, seed: int) -> dict[str, Comparison]:
    """The floor, the ceiling and what lies between.

    Args:
        real: The DATASET.
        train: Rows of its train split.
        count: N.
        seed: Seed of every choice.

    Returns:
        `real` (N training films, other patients than the test films), `blurred`, `gaussian` and `noise`.
    """
    height, width = real.info.size
    bits = real.info.bits
    disjoint = real.gather(train[choose(len(train), count, seed, "floor")])  # [N, H, W]
    fitted = min(len(train), max(2, _GAUSSIAN_PIXELS // (height * width)))
    pool = stored_to_unit(real.gather(train[choose(len(train), fitted, seed, "gaussian")]), bits)
    gaussian = gaussian_like(pool, count, torch_generator(seed, "audit-gaussian"))
    sigma_px = height / 32
    soft = blurred(stored_to_unit(disjoint, bits), sigma_px)
    grain = noise(count, (height, width), torch_generator(seed, "audit-noise"))
    return {
        "real": Comparison(
            "real films (floor)", f"{count} real training films of other patients.", disjoint, bits
        ),
        "blurred": Comparison(
            "real films, blurred",
            f"The films of the floor, through a Gaussian blur of {sigma_px:.3g} px.",
            unit_to_stored(soft, REFERENCE_BITS),
            REFERENCE_BITS,
        ),
        "gaussian": Comparison(
            "Gaussian",
            f"Drawn from the Gaussian with the mean and covariance of the pixels of {fitted} training films.",
            unit_to_stored(gaussian, REFERENCE_BITS),
            REFERENCE_BITS,
        ),
        "noise": Comparison(
            "noise (ceiling)",
            "Uniform noise.",
            unit_to_stored(grain, REFERENCE_BITS),
            REFERENCE_BITS,
        ),
    }


def chosen_from(films: ImageSet, count: int, seed: int, label: str, description: str) -> Comparison:
    """N films of a set."""
    rows = choose(len(films), count, seed, films.name)
    return Comparison(label, description, films.images[rows], films.bits)


def frechet_intervals(
    test: Features, sets: Mapping[str, Features], seed: int, *, report: Report = silent, task: str = "Fréchet"
) -> dict[str, Interval]:
    """Fréchet distance of each set from the test films, with its interval.

    The estimand is the expected distance at this N. The standard error comes from a delete-a-quarter jackknife:
    SE² = KEPT / (1 − KEPT) · variance over random subsamples of KEPT · N of both sets. The same test films are left
    out for every set. It covers which films happened to be drawn, and not another training of the network.

    Args:
        test: `(N, F)`.
        sets: Each `(N, F)`.
        seed: Seed of the subsamples.
        report: Told after each set.
        task: What the report calls the work.

    Returns:
        Per set the distance at N, and value ± t · SE, cut off at 0.

    Source:
        Shao & Wu 1989, "A General Theory for Jackknife Variance Estimation" (delete-d).
    """
    count = len(test)
    kept = int(KEPT * count)
    generator = numpy_generator(seed, "audit-subsamples")
    subsamples = [
        (generator.permutation(count)[:kept], generator.permutation(count)[:kept]) for _ in range(SUBSAMPLES)
    ]
    intervals: dict[str, Interval] = {}
    for done, (name, features) in enumerate(sets.items()):
        report(Progress(task, done, len(sets)))
        value = frechet_distance_of_features(test, features)
        again = [frechet_distance_of_features(test[a], features[b]) for a, b in subsamples]
        variance = kept / (count - kept) * float(np.var(again, ddof=1))
        spread = STUDENT_T * math.sqrt(variance)
        intervals[name] = Interval(value, max(0.0, value - spread), value + spread)
    report(Progress(task, len(sets), len(sets)))
    return intervals
