"""Whether a synthetic film is a copy of a training film: nearer to one than any film of another patient is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from scipy.stats import betabinom

from xraygen.metrics.aligned import nearest_aligned
from xraygen.metrics.neighbours import nearest
from xraygen.metrics.tail import LEAST_FILMS, Tail, fit_tail
from xraygen.ranges import Stored

FALSE_ALARMS = 0.01
"""Part of the films of a clean set that may become suspects, over all spaces together."""
COPY_CHANCE = 0.05
"""Chance that one of the films of a clean set lies beyond the copy threshold, over all spaces together."""

DEFINITION = (
    "A suspect is a synthetic film that lies nearer to a training film than at most 1 % of the test films do, or than "
    "every one where these are too few to tell (test films are of other patients, so none of them is a copy)."
)
LIMITS = (
    "Found are copies and near copies of whole films, also where they are mirrored, shifted or turned a little, "
    "blurred, or of other brightness. A copy that is cropped far, or bent, may be missed, and so may a copied detail.",
    "An empty list says that no such copy is in this set. It is not a proof of anonymity, and says nothing about "
    "other images of the same network.",
)
_COPY = 1e-4
"""Distances below this part of the median are those of equal films."""

Distances = NDArray[np.float64]
Features = NDArray[np.floating[Any]]
Films = tuple[Stored, int]
Nearest = tuple[Distances, NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Nearest training films in the space of one extractor; n synthetic, m test films."""

    name: str
    """What --features calls the extractor."""
    label: str
    """What a report calls it."""
    distance: Distances
    """From each synthetic film to its nearest training film, (n,)."""
    index: NDArray[np.int64]
    """Which training film that is, (n,), counted within the train split."""
    null: Distances
    """From each test film to its nearest training film, ascending, (m,), without the leaks."""
    test_index: NDArray[np.int64]
    """Which training film is nearest to each test film, counted within the train split; leaks included."""
    leaks: int
    """Test films that equal a training film: they say nothing about chance, and are left out."""
    tail: Tail | None
    """The null's lower tail; None where it has too few films."""
    spaces: int = 1
    """In how many spaces copies are looked for: their false alarms add up."""

    @property
    def p_values(self) -> Distances:
        """Chance that a film of another patient lies as near, (n,); at least 1 / (m + 1).

        p = (1 + #{null ≤ distance}) / (1 + m), Phipson & Smyth 2010, eq. 2.
        """
        as_near = np.searchsorted(self.null, self.distance, side="right")
        return np.asarray((1.0 + as_near) / (1.0 + len(self.null)), dtype=np.float64)

    @property
    def rank(self) -> int:
        """Which of the null, from 1, is the limit: FALSE_ALARMS / spaces of it, and at least the first."""
        return max(1, int(FALSE_ALARMS / self.spaces * (len(self.null) + 1)))

    @property
    def limit(self) -> float:
        """A film nearer than this is a suspect; one of another patient is with a chance of rank / (m + 1)."""
        return float(self.null[self.rank - 1])

    @property
    def copy_limit(self) -> float | None:
        """A film nearer than this is a copy: COPY_CHANCE / (n · spaces) of the tail; None where none bounds it."""
        if self.tail is None or self.tail.form == "heavier":
            return None
        return min(self.limit, self.tail.distance_at(COPY_CHANCE / (len(self.distance) * self.spaces)))

    @property
    def suspects(self) -> NDArray[np.int64]:
        """Synthetic films nearer than the limit, nearest first."""
        rows = np.flatnonzero(self.distance < self.limit)
        return rows[np.argsort(self.distance[rows], kind="stable")]

    @property
    def expected_by_chance(self) -> float:
        """How many suspects a set without any copy would have: n · rank / (m + 1)."""
        return len(self.distance) * self.rank / (len(self.null) + 1)

    def false_alarms(self) -> Distances:
        """P(k suspects) of a set without any copy, k = 0 .. n: beta-binomial, since the limit is itself a test film.

        Of m test films and n films of other patients in one order, k of the n come before the rank-th test film.
        """
        n = len(self.distance)
        return np.asarray(betabinom.pmf(np.arange(n + 1), n, self.rank, len(self.null) + 1 - self.rank))

    def summary(self) -> dict[str, Any]:
        """As report.json holds it."""
        first, fifth = np.quantile(self.null, [0.01, 0.05])
        return {
            "synthetic": _spread(self.distance),
            "null": _spread(self.null),
            "share_below_null_1_percent": float((self.distance < first).mean()),
            "share_below_null_5_percent": float((self.distance < fifth).mean()),
            "limit": self.limit,
            "copy_limit": self.copy_limit,
            "tail": None if self.tail is None else asdict(self.tail),
            "suspects": len(self.suspects),
            "suspects_expected_by_chance": self.expected_by_chance,
        }


def find_neighbours(
    name: str,
    label: str,
    *,
    synthetic: Features,
    train: Features,
    test: Features,
    spaces: int = 1,
) -> Neighbours:
    """Hold synthetic and test films against the training films.

    Args:
        name: The extractor's name.
        label: Its label.
        synthetic: Features `(n, F)`.
        train: Features `(k, F)`.
        test: Features `(m, F)`: the null, since no test film is a copy of a training film.
        spaces: In how many spaces copies are looked for.

    Returns:
        Distances and rows.
    """
    return held_against(name, label, nearest(synthetic, train), nearest(test, train), spaces)


def find_aligned(synthetic: Films, train: Films, test: Films, *, spaces: int = 1) -> Neighbours:
    """The same by the films themselves, of each its images and their bits; see `nearest_aligned`."""
    found, null = (nearest_aligned(*films, *train) for films in (synthetic, test))
    return held_against("aligned", "aligned pixels", found, null, spaces)


def held_against(name: str, label: str, found: Nearest, test: Nearest, spaces: int) -> Neighbours:
    """Distances and rows of synthetic films beside those of test films, without the test films that are leaks."""
    distance, index = found
    null, test_index = test
    kept = np.sort(null[null > _COPY * np.median(null)])
    if not len(kept):  # every test film equals a training film
        kept = np.sort(null)
    leaks = len(null) - len(kept)
    return Neighbours(name, label, distance, index, kept, test_index, leaks, fit_tail(kept), spaces)


def privacy_report(
    spaces: Sequence[Neighbours], file_names: Sequence[str], train_films: int
) -> dict[str, Any]:
    """What report.json says about copies; it names no training film.

    Args:
        spaces: At least one; a film that is suspect in several is listed once, under the first.
        file_names: Of the synthetic films.
        train_films: How many training films they were held against.

    Returns:
        JSON-ready; `nearest` has a row per synthetic film, in the first space.
    """
    suspects: dict[int, dict[str, Any]] = {}
    for space in spaces:
        for row in space.suspects.tolist():
            suspects.setdefault(row, _suspect(space, row, file_names[row]))
    return {
        "definition": DEFINITION,
        "limits": list(LIMITS),
        "train_films": train_films,
        "null_films": len(spaces[0].null),
        "leaks": spaces[0].leaks,
        "expected_by_chance": sum(space.expected_by_chance for space in spaces),
        "gate": gate(spaces),
        "spaces": {space.name: space.summary() for space in spaces},
        "suspects": sorted(suspects.values(), key=lambda entry: entry["distance_over_smallest_null"]),
        "nearest": [
            {"file_name": name, "distance": distance, "p_value": p_value}
            for name, distance, p_value in zip(
                file_names, spaces[0].distance.tolist(), spaces[0].p_values.tolist(), strict=True
            )
        ],
    }


def _suspect(space: Neighbours, row: int, file_name: str) -> dict[str, Any]:
    """One suspect, in the space where it is one."""
    distance = float(space.distance[row])
    return {
        "file_name": file_name,
        "features": space.name,
        "distance": distance,
        "p_value": float(space.p_values[row]),
        "distance_over_smallest_null": distance / float(space.null[0]),
    }


def gate(spaces: Sequence[Neighbours]) -> dict[str, Any]:
    """Whether the set passes: `pass`, `fail`, or `undecided` where the held-out films do not bear a decision.

    It fails where a film lies beyond the copy threshold of a space, or where there are more suspects than the 95 %
    bound of the false alarms. It passes where neither is so and every space has a threshold.
    """
    suspects = np.unique(np.concatenate([space.suspects for space in spaces]))
    expected = sum(space.expected_by_chance for space in spaces)
    bound = alarm_bound(spaces)
    limits = [space.copy_limit for space in spaces]
    decided = all(limit is not None for limit in limits)
    near = [space.distance < limit for space, limit in zip(spaces, limits, strict=True) if limit is not None]
    copies = int(np.any(near, axis=0).sum()) if near else 0
    counted = f"{len(suspects)} suspects, {expected:.2g} being expected by chance and {bound} its 95 % bound"
    if copies or len(suspects) > bound:
        verdict = "fail"
        sentence = f"The set does not pass: {counted}; {copies} films lie beyond the copy threshold."
    elif decided:
        verdict, sentence = "pass", f"The set passes: {counted}; no film lies beyond the copy threshold."
    else:
        verdict, sentence = "undecided", f"{_undecided(spaces)}; {counted}."
    return {
        "verdict": verdict,
        "sentence": sentence,
        "suspects": len(suspects),
        "expected": expected,
        "bound": bound,
        "copies": copies if copies or decided else None,
        "thresholds": [_told(space) for space in spaces],
    }


def alarm_bound(spaces: Sequence[Neighbours]) -> int:
    """The 95 % quantile of the false alarms of all spaces, as if no film were one in two of them.

    A Poisson count of the expected number would forget that the limits come from m test films: a clean set of 1,000
    exceeds its 95 % bound in one of seven audits with m = 600.
    """
    together = np.ones(1)
    for space in spaces:
        together = fftconvolve(together, space.false_alarms())
    return int(np.searchsorted(together.cumsum(), 0.95))


def _told(space: Neighbours) -> str:
    """How the copy threshold of a space came about, in a sentence."""
    tail, films = space.tail, len(space.null)
    if tail is None:
        return f"{space.label}: no copy threshold from {films} test films; it takes {LEAST_FILMS} that are no leaks."
    larger = f", after {tail.tried} larger tails had another form" if tail.tried else ""
    fitted = f"an exponential tail of the nearest {tail.films} of {films} test films{larger}"
    fit = f"goodness of fit p = {tail.fit:.2g}"
    return {
        "exponential": f"{space.label}: the copy threshold is read from {fitted} ({fit}).",
        "lighter": f"{space.label}: the copy threshold is read from {fitted}; theirs is lighter ({fit}, "
        f"ξ = {tail.shape:.2f}): no clean film is called a copy, and a copy may be missed.",
        "heavier": f"{space.label}: no copy threshold. The nearest {tail.films} of {films} test films lie farther out "
        f"than an exponential tail can, and so do {tail.tried} larger tails ({fit}, ξ = {tail.shape:.2f}): look for "
        "copies of training films among the test films.",
    }[tail.form]


def _undecided(spaces: Sequence[Neighbours]) -> str:
    """Why a space has no copy threshold."""
    for space in spaces:
        if space.tail is None:
            return (
                f"Not enough held-out films to decide: {len(space.null)} of them are no leaks, and a copy threshold "
                f"needs {LEAST_FILMS}"
            )
        if space.copy_limit is None:
            return (
                f"The held-out films do not decide: in {space.label} the nearest of them lie farther out than an "
                f"exponential tail can (goodness of fit p = {space.tail.fit:.2g}), as where there are copies among them"
            )
    return "The held-out films do not decide"


def _spread(distances: Distances) -> dict[str, float]:
    """Five numbers of a distribution."""
    quantiles = np.quantile(distances, [0, 0.01, 0.05, 0.5, 1])
    names = ("minimum", "percentile_1", "percentile_5", "median", "maximum")
    return dict(zip(names, quantiles.tolist(), strict=True))
