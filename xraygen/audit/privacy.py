"""Whether a synthetic film is a copy of a training film: nearer to one than any film of another patient is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.metrics.neighbours import nearest

DEFINITION = (
    "A suspect is a synthetic film that lies nearer to a training film than every test film does "
    "(test films are of other patients, so none of them is a copy)."
)
LIMITS = (
    "Found are copies and near copies of whole films. A copy that is mirrored, shifted, cropped or strongly "
    "re-windowed may be missed, and so may a copied detail.",
    "An empty list says that no such copy is in this set. It is not a proof of anonymity, and says nothing about "
    "other images of the same network.",
)
_COPY = 1e-4
"""Distances below this part of the median are those of equal films."""

Distances = NDArray[np.float64]
Features = NDArray[np.floating[Any]]


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

    @property
    def p_values(self) -> Distances:
        """Chance that a film of another patient lies as near, (n,); at least 1 / (m + 1).

        p = (1 + #{null ≤ distance}) / (1 + m), Phipson & Smyth 2010, eq. 2.
        """
        as_near = np.searchsorted(self.null, self.distance, side="right")
        return np.asarray((1.0 + as_near) / (1.0 + len(self.null)), dtype=np.float64)

    @property
    def suspects(self) -> NDArray[np.int64]:
        """Synthetic films nearer than the whole null, nearest first."""
        rows = np.flatnonzero(self.distance < self.null[0])
        return rows[np.argsort(self.distance[rows], kind="stable")]

    @property
    def expected_by_chance(self) -> float:
        """How many suspects a set without any copy would have: n / (m + 1)."""
        return len(self.distance) / (len(self.null) + 1)

    def summary(self) -> dict[str, Any]:
        """As report.json holds it."""
        first, fifth = np.quantile(self.null, [0.01, 0.05])
        return {
            "synthetic": _spread(self.distance),
            "null": _spread(self.null),
            "share_below_null_1_percent": float((self.distance < first).mean()),
            "share_below_null_5_percent": float((self.distance < fifth).mean()),
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
) -> Neighbours:
    """Hold synthetic and test films against the training films.

    Args:
        name: The extractor's name.
        label: Its label.
        synthetic: Features `(n, F)`.
        train: Features `(k, F)`.
        test: Features `(m, F)`: the null, since no test film is a copy of a training film.

    Returns:
        Distances and rows.
    """
    distance, index = nearest(synthetic, train)
    null, test_index = nearest(test, train)
    kept = np.sort(null[null > _COPY * np.median(null)])
    if not len(kept):  # every test film equals a training film
        kept = np.sort(null)
    return Neighbours(name, label, distance, index, kept, test_index, len(null) - len(kept))


def privacy_report(
    spaces: Sequence[Neighbours], file_names: Sequence[str], train_ids: Sequence[str]
) -> dict[str, Any]:
    """What report.json says about copies.

    Args:
        spaces: At least one; a film that is suspect in several is listed once, under the first.
        file_names: Of the synthetic films.
        train_ids: image_id of the training films.

    Returns:
        JSON-ready; `nearest` has a row per synthetic film, in the first space.
    """
    suspects: dict[int, dict[str, Any]] = {}
    nearest_of = {space.name: _nearest_films(space, file_names, train_ids) for space in spaces}
    for space in spaces:
        for row in space.suspects.tolist():
            entry = {
                **nearest_of[space.name][row],
                "features": space.name,
                "distance_over_smallest_null": float(space.distance[row] / space.null[0]),
            }
            suspects.setdefault(row, entry)
    return {
        "definition": DEFINITION,
        "limits": list(LIMITS),
        "train_films": len(train_ids),
        "null_films": len(spaces[0].null),
        "leaks": spaces[0].leaks,
        "expected_by_chance": sum(space.expected_by_chance for space in spaces),
        "spaces": {space.name: space.summary() for space in spaces},
        "suspects": sorted(suspects.values(), key=lambda entry: entry["distance_over_smallest_null"]),
        "nearest": nearest_of[spaces[0].name],
    }


def _nearest_films(
    space: Neighbours, file_names: Sequence[str], train_ids: Sequence[str]
) -> list[dict[str, Any]]:
    """The nearest training film of each synthetic film."""
    return [
        {"file_name": name, "train_image_id": train_ids[index], "distance": distance, "p_value": p_value}
        for name, index, distance, p_value in zip(
            file_names, space.index.tolist(), space.distance.tolist(), space.p_values.tolist(), strict=True
        )
    ]


def _spread(distances: Distances) -> dict[str, float]:
    """Five numbers of a distribution."""
    quantiles = np.quantile(distances, [0, 0.01, 0.05, 0.5, 1])
    names = ("minimum", "percentile_1", "percentile_5", "median", "maximum")
    return dict(zip(names, quantiles.tolist(), strict=True))
