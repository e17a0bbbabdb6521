"""Measures how often the copy threshold goes wrong where the tail of the held-out films' distances is known.

    python docs/measure_tail.py

Needs no film: -log distance is drawn from generalised Pareto distributions of shape ξ, so that the chance that one
film of a clean set of 1,000 lies beyond the threshold is known exactly; or from the exponential one (ξ = 0) with copies
among the held-out films, e to e³ times nearer. Last, how often a clean set has more suspects than the bound, in one
space.
"""

import numpy as np
from numpy.typing import NDArray
from real_films import parser, say, say_how, say_table
from scipy.stats import betabinom, genpareto, poisson

from xraygen.audit.privacy import COPY_CHANCE, FALSE_ALARMS
from xraygen.metrics.tail import Tail, fit_tail
from xraygen.seeds import numpy_generator

FILMS = 1000
SCALE = 0.125
"""Of -log distance: distances as in eight dimensions."""
NULLS = {
    "exponential, as distances near 0 have": (0.0, 0),
    "lighter, ξ = −0.2": (-0.2, 0),
    "lighter, ξ = −0.4": (-0.4, 0),
    "heavier, ξ = 0.1": (0.1, 0),
    "heavier, ξ = 0.2": (0.2, 0),
    "heavier, ξ = 0.4": (0.4, 0),
    "exponential, 2 copies among the films": (0.0, 2),
    "exponential, 6 copies among the films": (0.0, 6),
}


def drawn(generator: np.random.Generator, films: int, shape: float, copies: int) -> NDArray[np.float64]:
    """Distances of held-out films."""
    null = np.exp(-genpareto.rvs(shape, scale=SCALE, size=films, random_state=generator))
    null[:copies] *= np.exp(-generator.uniform(1, 3, copies))
    return np.asarray(null)


def chance(tail: Tail, shape: float) -> float:
    """That a film of a clean set lies beyond the threshold; 0 where there is none."""
    if tail.form == "heavier":
        return 0.0
    x = -np.log(tail.distance_at(COPY_CHANCE / FILMS))
    return float(-np.expm1(-FILMS * genpareto.sf(x, shape, scale=SCALE)))


def main() -> None:
    """Print the tables."""
    made = parser(__doc__)
    made.add_argument("--draws", type=int, default=400)
    arguments = made.parse_args()
    rows: list[tuple[object, ...]] = []
    for name, (shape, copies) in NULLS.items():
        for films in (300, 600):
            generator = numpy_generator(arguments.seed, "measure-tail", name, films)
            tails = [fit_tail(drawn(generator, films, shape, copies)) for _ in range(arguments.draws)]
            fitted = [tail for tail in tails if tail is not None]
            refused = float(np.mean([tail.form == "heavier" for tail in fitted]))
            beyond = float(np.mean([chance(tail, shape) for tail in fitted]))
            rows.append((name, films, f"{100 * refused:.1f} %", f"{100 * beyond:.1f} %"))
    say_table(("tail of the held-out films", "m", "undecided", "a clean set of 1,000 has a copy"), rows)
    counts = []
    for films in (300, 600, 1000):
        rank = max(1, int(FALSE_ALARMS * (films + 1)))
        expected = FILMS * rank / (films + 1)
        alarms = betabinom(FILMS, rank, films + 1 - rank)
        usual, bound = int(poisson.ppf(0.95, expected)), int(alarms.ppf(0.95))
        shares = (f"{100 * alarms.sf(limit):.1f} %" for limit in (usual, bound))
        counts.append((films, f"{expected:.1f}", usual, next(shares), bound, next(shares)))
    head = ("m", "suspects expected", "Poisson bound", "is exceeded by", "bound", "is exceeded by")
    say_table(head, counts)
    say(f"{arguments.draws} draws for each row of the first table; the second is exact.")
    say_how("python docs/measure_tail.py", arguments.seed)


if __name__ == "__main__":
    main()
