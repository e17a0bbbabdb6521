"""Measures how often a 95 % interval of the audit holds what it says that it holds.

    python docs/measure_coverage.py

Two populations of known distributions, F features each with a spectrum that falls as features' do: N samples of either
are drawn 400 times, and each time the audit's own functions make their intervals. The truth is the closed form for
KID and for FD at infinite N, and the mean of 4,000 other draws for what is expected at N: FD, precision, recall,
density and coverage. Once the two populations differ, as real and synthetic films do, and once they are the same (the
floor), where FD and KID have no first order.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from real_films import say, say_how, say_table

from xraygen.audit.intervals import Interval, draw_subsamples, frechet_interval
from xraygen.audit.measures import infinite_interval, manifold_intervals
from xraygen.metrics.frechet import frechet_distance, frechet_distance_of_features
from xraygen.metrics.kernel import kernel_distance
from xraygen.metrics.manifold import manifold
from xraygen.seeds import numpy_generator

DIMS = 32
RATIOS = (0.5, 2.0, 10.0)
MANIFOLD = ("precision", "recall", "density", "coverage")

Features = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Populations:
    """Two Gaussians with diagonal covariances."""

    name: str
    means: tuple[Features, Features]
    deviations: tuple[Features, Features]

    def draw(self, count: int, generator: np.random.Generator) -> tuple[Features, Features]:
        """N samples of either, `(N, F)`."""
        a, b = generator.standard_normal((2, count, len(self.means[0])))
        return a * self.deviations[0] + self.means[0], b * self.deviations[1] + self.means[1]

    def frechet(self) -> float:
        """Closed form."""
        covariances = [np.diag(deviation**2) for deviation in self.deviations]
        return frechet_distance(self.means[0], covariances[0], self.means[1], covariances[1])

    def kernel(self) -> float:
        """Closed form of the squared MMD under (xᵀy / F + 1)³."""
        return self._expected(0, 0) + self._expected(1, 1) - 2 * self._expected(0, 1)

    def _expected(self, i: int, j: int) -> float:
        """E (xᵀy / F + 1)³ of independent x and y, from the first three moments of both."""
        (first1, second1, third1), (first2, second2, third2) = self._moments(i), self._moments(j)
        dims = len(first1)
        terms = (
            3 * (first1 @ first2) / dims,
            3 * (second1 * second2).sum() / dims**2,
            (third1 * third2).sum() / dims**3,
        )
        return float(1 + sum(terms))

    def _moments(self, which: int) -> tuple[Features, Features, Features]:
        mean, variance = self.means[which], np.diag(self.deviations[which] ** 2)
        mixed = np.einsum("ij,k->ijk", variance, mean)
        third = np.einsum("i,j,k->ijk", mean, mean, mean) + mixed
        third = third + mixed.transpose(0, 2, 1) + mixed.transpose(2, 0, 1)
        return mean, variance + np.outer(mean, mean), third


def populations(dims: int = DIMS) -> tuple[Populations, Populations]:
    """Ones that differ in mean and spread, and one that is met twice."""
    spread = np.asarray(np.arange(1, dims + 1, dtype=np.float64) ** -0.5, dtype=np.float64)
    zero: Features = np.zeros(dims)
    return (
        Populations("different", (zero, np.multiply(0.5, spread)), (spread, np.multiply(1.2, spread))),
        Populations("equal", (zero, zero), (spread, spread)),
    )


@dataclass
class Count:
    """How often intervals held their truth, of how many that were given."""

    held: int = 0
    given: int = 0
    wide: list[float] = field(default_factory=list)

    def add(self, interval: Interval, truth: float) -> None:
        """One repeat."""
        self.given += 1
        self.held += interval.low <= truth <= interval.high
        self.wide.append(interval.high - interval.low)

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.held / self.given


def expected_at(pair: Populations, count: int, draws: int, seed: int) -> dict[str, float]:
    """Means of the estimators that are biased, over other draws than those that are judged."""
    generator = numpy_generator(seed, "coverage-truth", pair.name, count)
    distances, manifolds = [], []
    for _ in range(draws):
        a, b = pair.draw(count, generator)
        distances.append(frechet_distance_of_features(a, b))
        manifolds.append(manifold(a, b))
    return {"fd": float(np.mean(distances))} | {
        name: float(np.mean([getattr(one, name) for one in manifolds])) for name in MANIFOLD
    }


def intervals(a: Features, b: Features, seed: int) -> Iterable[tuple[str, Interval]]:
    """What the audit would print."""
    subsamples = draw_subsamples(len(a), seed)
    fd = frechet_interval(a, b, subsamples)
    yield "fd", fd
    infinite, _ = infinite_interval(a, b, fd, seed)
    if infinite is not None:
        yield "fd_infinity", infinite
    yield "kid", Interval(*kernel_distance(a, b))
    yield from manifold_intervals(a, b, subsamples).items()


def measure(pair: Populations, count: int, repeats: int, draws: int, seed: int = 0) -> dict[str, Count]:
    """How often each interval holds its truth."""
    truth = expected_at(pair, count, draws, seed)
    truth |= {"kid": pair.kernel(), "fd_infinity": pair.frechet()}
    generator = numpy_generator(seed, "coverage", pair.name, count)
    counts: dict[str, Count] = {}
    for repeat in range(repeats):
        a, b = pair.draw(count, generator)
        for name, interval in intervals(a, b, repeat):
            counts.setdefault(name, Count()).add(interval, truth[name])
    return counts


def draw_chart(found: dict[tuple[str, float], dict[str, Count]], path: Path) -> None:
    """Coverage by metric, with its own 95 % interval, a panel per pair of populations."""
    figure = Figure(figsize=(7.4, 5.2), layout="constrained")
    names = [name for name, _ in _ORDER]
    panels = figure.subplots(2, 1, sharex=True)
    for axes, pair in zip(panels, ("different", "equal"), strict=True):
        axes.axhspan(90, 98, color="#DDDDDD", label="90 to 98 %")
        for offset, (ratio, marker, colour) in enumerate(zip(RATIOS, "os^", _COLOURS, strict=True)):
            counts = found[pair, ratio]
            given = [(place, counts[name]) for place, name in enumerate(names) if name in counts]
            shares = [100 * one.share for _, one in given]
            errors = [196 * np.sqrt(one.share * (1 - one.share) / one.given) for _, one in given]
            places = [place + 0.18 * (offset - 1) for place, _ in given]
            axes.errorbar(places, shares, errors, fmt=marker, color=colour, ms=5, label=f"N / F = {ratio:g}")
        axes.set(ylabel="truth held, %", title=f"{pair} populations", ylim=(min(80, *axes.get_ylim()), 101))
        axes.set_xticks(range(len(names)), [label for _, label in _ORDER])
    panels[0].legend(frameon=False, fontsize=8, ncols=4, loc="lower left")
    figure.savefig(path, dpi=140)


_COLOURS = ("#0072B2", "#D55E00", "#5A5A5A")
_ORDER = (
    ("fd", "FD"),
    ("fd_infinity", "FD, N = ∞"),
    ("kid", "KID"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("density", "density"),
    ("coverage", "coverage"),
)


def main() -> None:
    """Print the table, and draw it where --out says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--draws", type=int, default=4000, help="for what is expected at N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="PNG")
    arguments = parser.parse_args()
    found: dict[tuple[str, float], dict[str, Count]] = {}
    cell: Callable[[Count | None], str] = lambda one: (  # noqa: E731
        "refused"
        if one is None
        else f"{100 * one.share:.1f} %" + f" of {one.given}" * (one.given < arguments.repeats)
    )
    rows: list[tuple[object, ...]] = []
    for pair in populations():
        for ratio in RATIOS:
            count = round(ratio * DIMS)
            counts = measure(pair, count, arguments.repeats, arguments.draws, arguments.seed)
            found[pair.name, ratio] = counts
            rows.append((pair.name, count, f"{ratio:g}", *(cell(counts.get(name)) for name, _ in _ORDER)))
    say(f"How often 95 % intervals hold the truth, {arguments.repeats} repeats, F = {DIMS}:\n")
    say_table(("populations", "N", "N / F", *(label for _, label in _ORDER)), rows)
    if arguments.out:
        draw_chart(found, arguments.out)
    say_how("python docs/measure_coverage.py", arguments.seed)


if __name__ == "__main__":
    main()
