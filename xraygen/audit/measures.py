"""Every number that holds a set of films against N real test films: its meaning, how sure it is, and for which N."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xraygen.audit.fidelity import Comparison
from xraygen.audit.intervals import (
    STUDENT_T,
    Features,
    Interval,
    Subsamples,
    around,
    draw_subsamples,
    frechet_interval,
    share_interval,
    standard_errors,
)
from xraygen.metrics.frechet import Rows
from xraygen.metrics.infinite import Extrapolation, frechet_at_infinity
from xraygen.metrics.kernel import clip_discrepancy, kernel_distance
from xraygen.metrics.manifold import manifold_of_rows
from xraygen.metrics.pixels import FilmStatistics, film_statistics, intensity_distance, spectrum_distance
from xraygen.progress import Progress, Report, silent
from xraygen.ranges import Stored
from xraygen.seeds import numpy_generator

KNOWN_BAD = ("blurred", "gaussian", "noise")
"""Sets that are bad whatever the DATASET holds; phantoms are not: a DATASET of phantoms is as good as they are."""
MANIFOLD = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Measure:
    """What a number is."""

    name: str
    """Title; `{space}` is the feature space."""
    lower_is_better: bool
    estimand: str
    """What the interval is about; `{count}` is N."""


_AT_N = "expected at {count} real test films and {count} films of the set"
MEASURES: dict[str, Measure] = {
    "fd": Measure(
        "FD-{space}",
        True,
        "Squared Fréchet distance between the Gaussians fitted to the features, " + _AT_N + ". It falls as "
        "that number grows: compare at the same number and with the same features only.",
    ),
    "fd_infinity": Measure(
        "FD-{space}, N = ∞",
        True,
        "Squared Fréchet distance of the two populations, extrapolated along 1/N; refused where it does not fall so.",
    ),
    "kid": Measure(
        "KID-{space}",
        True,
        "Squared maximum mean discrepancy of the two populations under the cubic kernel. It does not depend on N, "
        "and of two sets from one population it is 0 on average: an estimate may be below 0.",
    ),
    "cmmd": Measure(
        "CMMD-{space}",
        True,
        "Squared maximum mean discrepancy of the two populations' CLIP embeddings under a Gaussian kernel (sigma 10), "
        "times 1,000. It does not depend on N, and of two sets from one population it is 0 on average.",
    ),
    "precision": Measure(
        "precision",
        False,
        "Share of the set's films within the balls of real films (3 neighbours), " + _AT_N + ".",
    ),
    "recall": Measure(
        "recall",
        False,
        "Share of real films within the balls of the set's films (3 neighbours), " + _AT_N + ".",
    ),
    "density": Measure(
        "density",
        False,
        "How many balls of real films (5 neighbours) a film of the set lies in, over 5, "
        + _AT_N
        + "; 1 for real films.",
    ),
    "coverage": Measure(
        "coverage",
        False,
        "Share of the balls of real films (5 neighbours) with a film of the set within, " + _AT_N + ".",
    ),
    "intensity": Measure(
        "grey distance",
        True,
        "Wasserstein-1 distance between all greys of the two sets, as a part of the way from black to white, "
        + _AT_N
        + ".",
    ),
    "spectrum": Measure(
        "spectrum distance, dB",
        True,
        "Root mean square of the decibels between the radial power spectra of the two sets, " + _AT_N + ".",
    ),
}
"""By the name that report.json and --fail-on use."""


def in_features(
    test: Features,
    features: Mapping[str, Features],
    sets: Mapping[str, Comparison],
    space: str,
    seed: int,
    *,
    of_clip: bool = False,
    report: Report = silent,
) -> dict[str, dict[str, Any]]:
    """All measures of one feature space.

    Args:
        test: Of the N real test films, `(N, F)`.
        features: Of each set, `(N, F)`.
        sets: The sets, by the same keys: `this`, `real` (the floor), the known bad ones, and others.
        space: What a report calls the space.
        seed: Seed of the subsamples.
        of_clip: Whether the features are CLIP's embeddings, so that CMMD is defined.
        report: Told after each set.

    Returns:
        By name in MEASURES, as report.json holds them.
    """
    subsamples = draw_subsamples(len(test), seed)
    found: dict[str, dict[str, Interval | None]] = {
        name: {} for name in ("fd", "fd_infinity", "kid", *(("cmmd",) if of_clip else ()), *MANIFOLD)
    }
    refused: dict[str, str] = {}
    for done, (key, values) in enumerate(features.items()):
        report(Progress(f"distances ({space})", done, len(features)))
        fd = frechet_interval(test, values, subsamples)
        found["fd"][key] = fd
        found["fd_infinity"][key], extrapolation = infinite_interval(test, values, fd, seed)
        refused[key] = extrapolation.refused
        found["kid"][key] = Interval(*kernel_distance(test, values))
        if of_clip:
            found["cmmd"][key] = Interval(*clip_discrepancy(test, values))
        for name, interval in manifold_intervals(test, values, subsamples).items():
            found[name][key] = interval
    report(Progress(f"distances ({space})", len(features), len(features)))
    entries = {name: _entry(name, intervals, sets, space, len(test)) for name, intervals in found.items()}
    entries["fd_infinity"]["refused"] = refused["this"]
    return entries


def in_pixels(
    test: Stored, test_bits: int, sets: Mapping[str, Comparison], seed: int, *, report: Report = silent
) -> dict[str, dict[str, Any]]:
    """The measures that need no features: `intensity` and `spectrum`, as report.json holds them.

    Args:
        test: N real test films, `(N, H, W)`.
        test_bits: White is stored as 2^bits - 1.
        sets: The sets, N films each.
        seed: Seed of the subsamples.
        report: Told after each set.
    """
    subsamples = draw_subsamples(len(test), seed)
    real = film_statistics(test, test_bits)
    found: dict[str, dict[str, Interval | None]] = {"intensity": {}, "spectrum": {}}
    for done, (key, chosen) in enumerate(sets.items()):
        report(Progress("greys and spectra", done, len(sets)))
        both = _pixel_intervals(real, film_statistics(chosen.images, chosen.bits), subsamples)
        for name, interval in both.items():
            found[name][key] = interval
    report(Progress("greys and spectra", len(sets), len(sets)))
    return {name: _entry(name, intervals, sets, "", len(test)) for name, intervals in found.items()}


def infinite_interval(
    test: Features, values: Features, fd: Interval, seed: int
) -> tuple[Interval | None, Extrapolation]:
    """FD at N = ∞, or None where it is refused.

    Its error has two parts: which films were drawn moves the line's end as it moves FD(N), and the line itself is
    known from scattered points.
    """
    extrapolation = frechet_at_infinity(test, values, numpy_generator(seed, "audit-infinite"))
    if extrapolation.value is None:
        return None, extrapolation
    error = math.hypot((fd.high - fd.value) / STUDENT_T, extrapolation.standard_error)
    return around(extrapolation.value, error), extrapolation


def manifold_intervals(test: Features, values: Features, subsamples: Subsamples) -> dict[str, Interval]:
    """Precision, recall, density and coverage."""
    of_rows = manifold_of_rows(test, values)

    def again(first: Rows, second: Rows) -> tuple[float, ...]:
        found = of_rows(first, second)
        return tuple(getattr(found, name) for name in MANIFOLD)

    value = of_rows(np.arange(len(test)), np.arange(len(values)))
    errors = dict(zip(MANIFOLD, standard_errors(again, subsamples).tolist(), strict=True))
    return {
        name: around(value.density, errors[name])
        if name == "density"
        else share_interval(getattr(value, name), errors[name], len(test))
        for name in MANIFOLD
    }


def _pixel_intervals(
    real: FilmStatistics, other: FilmStatistics, subsamples: Subsamples
) -> dict[str, Interval]:
    """`intensity` and `spectrum` of one set."""

    def at(first: Rows | slice, second: Rows | slice) -> tuple[float, float]:
        return (
            intensity_distance(real.greys[first], other.greys[second]),
            spectrum_distance(real.power[first], other.power[second]),
        )

    errors = standard_errors(at, subsamples).tolist()
    values = at(slice(None), slice(None))
    return {
        name: around(value, error)
        for name, value, error in zip(("intensity", "spectrum"), values, errors, strict=True)
    }


def _entry(
    name: str,
    intervals: Mapping[str, Interval | None],
    sets: Mapping[str, Comparison],
    space: str,
    count: int,
) -> dict[str, Any]:
    """One measure of all sets, as report.json holds it."""
    measure = MEASURES[name]
    numbers = {key: numbers_of(interval) for key, interval in intervals.items()}
    return {
        **numbers["this"],
        "floor": numbers["real"]["value"],
        "ceiling": numbers["noise"]["value"],
        "name": measure.name.format(space=space),
        "count": count,
        "better": "lower" if measure.lower_is_better else "higher",
        "estimand": measure.estimand.format(count=count),
        "enough": enough(intervals, count, lower_is_better=measure.lower_is_better),
        "sets": {
            key: {"label": chosen.label, "description": chosen.description, **numbers[key]}
            for key, chosen in sets.items()
        },
    }


def numbers_of(interval: Interval | None) -> dict[str, float | None]:
    """value, low and high; None where there is none."""
    return {"value": None, "low": None, "high": None} if interval is None else asdict(interval)


def roughly(count: int) -> str:
    """Upwards to two digits, since a needed N is an estimate; beyond a million it says only that there are too few."""
    if count > 1_000_000:
        return "more than a million"
    step = int(10 ** max(0, len(str(count)) - 2))
    return str(-(-count // step) * step)


def enough(
    intervals: Mapping[str, Interval | None], count: int, *, lower_is_better: bool
) -> dict[str, float | int | None]:
    """Whether N films tell this set from the mildest of the known bad ones.

    They do where the half-width h of this set's interval is at most half the gap g between the floor and the set of
    KNOWN_BAD nearest to it. Widths fall as 1 / √N, so that N (2 h / g)² films would do. Where no known bad set is
    worse than the floor, no number of films is known to do, and `count` is None; `unsure` tells that from a floor
    or known bad sets that were refused.

    Returns:
        {half_width, gap, count}, all None where the measure was refused.
    """
    this, floor = intervals["this"], intervals["real"]
    if this is None or floor is None:
        return {"half_width": None, "gap": None, "count": None}
    sign = 1 if lower_is_better else -1
    known = [intervals.get(key) for key in KNOWN_BAD]
    gaps = [sign * (bad.value - floor.value) for bad in known if bad is not None]
    worse = [gap for gap in gaps if gap > 0]
    half_width = max(this.high - this.value, this.value - this.low)
    if not worse:
        return {"half_width": half_width, "gap": None, "count": None}
    needed = max(1, math.ceil(count * (2 * half_width / min(worse)) ** 2))
    return {"half_width": half_width, "gap": min(worse), "count": needed}


def unsure(entry: Mapping[str, Any]) -> str:
    """Which sets of an entry of report.json keep the needed N from being known, in words; "" where none was refused."""
    sets = {key: entry["sets"][key] for key in ("real", *KNOWN_BAD) if key in entry["sets"]}
    refused = [f"“{told['label']}”" for told in sets.values() if told["value"] is None]
    if sets["real"]["value"] is None:
        refused = ["the floor"]
    return f"that of {' and of '.join(refused)} is refused" if refused else ""
