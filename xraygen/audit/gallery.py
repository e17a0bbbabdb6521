"""Which films of a set a report shows: some at random, the best and the worst; no suspect, and none of a DATASET."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.audit.fidelity import choose
from xraygen.audit.privacy import Neighbours
from xraygen.audit.sets import ImageSet

RANDOM_FILMS = 24
EXTREME_FILMS = 6

DEFINITION = (
    "Best and worst are by realism in the first feature space (Kynkäänniemi et al. 2019, eq. 3): above 1 a film lies "
    "among the real test films, below 1 it resembles none of them as they resemble each other."
)

Rows = NDArray[np.int64]


def films_to_show(
    films: ImageSet, realism: NDArray[np.float64], spaces: Sequence[Neighbours], seed: int
) -> dict[str, Rows]:
    """Rows of the films to show.

    Args:
        films: The n films of the set.
        realism: Of each of them, `(n,)`.
        spaces: Where copies were looked for; their suspects may show a patient.
        seed: Seed of every choice.

    Returns:
        `random` in the order of the set, `best` and `worst` with the outermost first; fewer where there are few, and
        none of a DATASET.
    """
    suspects = np.concatenate([space.suspects for space in spaces])
    harmless = np.setdiff1d(np.arange(0 if films.of_patients else len(films)), suspects)
    drawn = choose(len(harmless), min(RANDOM_FILMS, len(harmless)), seed, "shown")
    rising = harmless[np.argsort(realism[harmless], kind="stable")]
    return {
        "random": harmless[drawn],
        "best": rising[::-1][:EXTREME_FILMS],
        "worst": rising[:EXTREME_FILMS],
    }


def named_films(shown: Mapping[str, Rows], films: ImageSet, realism: NDArray[np.float64]) -> dict[str, Any]:
    """What report.json says about the films that are shown; a realism of infinity, that of a test film, is None."""
    return {
        "definition": DEFINITION,
        **{
            kind: [
                {"file_name": films.file_names[row], "realism": _finite(realism[row])}
                for row in rows.tolist()
            ]
            for kind, rows in shown.items()
        },
    }


def _finite(value: float) -> float | None:
    """As strict JSON can hold it."""
    return float(value) if np.isfinite(value) else None
