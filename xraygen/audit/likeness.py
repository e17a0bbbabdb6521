"""How alike films are: within the synthetic set, within the real one, and each with its nearest training film."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.audit.fidelity import Comparison, choose
from xraygen.audit.privacy import Neighbours
from xraygen.audit.sets import ImageSet
from xraygen.dataset.store import Dataset
from xraygen.metrics.ssim import Diversity, MeanSimilarity, diversity, similarity_of_pairs
from xraygen.progress import Progress, Report, silent
from xraygen.seeds import torch_generator

_NORMAL = 1.959964
_PAIRS_OF_A_KNOWN_SET = 100
"""They need no more: noise and blurred films are far apart."""
ESTIMAND = (
    "Mean over all pairs of films of the population (of pairs within a set), and over all films of it (of each film "
    "with the training film nearest to it in the first feature space). It does not depend on N; ± is a 95 % interval."
)
_Rows = NDArray[np.int64]


def similarities(
    films: ImageSet,
    real: Dataset,
    test: _Rows,
    train: _Rows,
    space: Neighbours,
    known: Mapping[str, Comparison],
    *,
    pairs: int,
    seed: int,
    report: Report = silent,
) -> dict[str, Any]:
    """`ssim` and `ms_ssim`, as report.json holds them.

    Args:
        films: The synthetic set.
        real: The DATASET.
        test: Rows of its test split.
        train: Rows of its train split.
        space: Who is nearest to whom.
        known: Sets of known kind, to look at pairs within each, by the name that report.json gives them.
        pairs: Pairs to look at, at most, of each of the four kinds; of a known set _PAIRS_OF_A_KNOWN_SET at most.
        seed: Seed of every choice.
        report: Told after each kind.
    """
    bits = real.info.bits
    report(Progress("structural similarity", 0, 4))
    generator = torch_generator(seed, "audit-pairs-synthetic")
    within = diversity(films.images, films.bits, pairs=pairs, generator=generator)
    report(Progress("structural similarity", 1, 4))
    generator = torch_generator(seed, "audit-pairs-real")
    rows = choose(len(test), min(len(test), 2 * pairs), seed, "pairs")
    within_real = diversity(real.gather(test[rows]), bits, pairs=pairs, generator=generator)
    report(Progress("structural similarity", 2, 4))
    rows = choose(len(films), min(len(films), pairs), seed, "nearest")
    nearest = similarity_of_pairs(films.images[rows], films.bits, real.gather(train[space.index[rows]]), bits)
    report(Progress("structural similarity", 3, 4))
    rows = choose(len(test), min(len(test), pairs), seed, "nearest-real")
    theirs = real.gather(train[space.test_index[rows]])
    nearest_real = similarity_of_pairs(real.gather(test[rows]), bits, theirs, bits)
    report(Progress("structural similarity", 4, 4))
    kinds: dict[str, Diversity | MeanSimilarity] = {
        "within": within,
        "within_real": within_real,
        "nearest": nearest,
        "nearest_real": nearest_real,
    }
    sets = _within_known(known, min(pairs, _PAIRS_OF_A_KNOWN_SET), seed, report)
    return {
        name: _entry(kinds, name)
        | {"sets": {key: {"label": known[key].label, **_numbers(of, name)} for key, of in sets.items()}}
        | ({"scales": within.scales} if name == "ms_ssim" else {})
        for name in ("ssim", "ms_ssim")
    }


def _within_known(
    known: Mapping[str, Comparison], pairs: int, seed: int, report: Report
) -> dict[str, Diversity]:
    """Pairs within each known set."""
    found = {}
    for done, (key, chosen) in enumerate(known.items()):
        report(Progress("structural similarity of known sets", done, len(known)))
        generator = torch_generator(seed, "audit-pairs", key)
        found[key] = diversity(chosen.images, chosen.bits, pairs=pairs, generator=generator)
    report(Progress("structural similarity of known sets", len(known), len(known)))
    return found


def _entry(kinds: Mapping[str, Diversity | MeanSimilarity], name: str) -> dict[str, Any]:
    """One similarity of the four kinds of pairs; `value` and `real` are those within the two sets."""
    of = {kind: _numbers(found, name) for kind, found in kinds.items()}
    return {
        **of["within"],
        "real": of["within_real"]["value"],
        "estimand": ESTIMAND,
        "kinds": of,
    }


def _numbers(found: Diversity | MeanSimilarity, name: str) -> dict[str, float | int]:
    """value, interval, standard error, and how many pairs."""
    value, error = getattr(found, name), getattr(found, f"{name}_standard_error")
    spread = _NORMAL * error
    return {
        "value": value,
        "low": max(-1.0, value - spread),
        "high": min(1.0, value + spread),
        "standard_error": error,
        "pairs": found.pairs,
    }
