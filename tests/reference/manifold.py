"""Precision, recall, density and coverage by loops, from the papers' definitions alone."""

from typing import Any

import numpy as np


def reach(samples: Any, k: int) -> Any:
    """Distance of each sample to its k-th nearest neighbour among the others."""
    found = []
    for i, sample in enumerate(samples):
        others = [np.linalg.norm(sample - other) for j, other in enumerate(samples) if j != i]
        found.append(sorted(others)[k - 1])
    return found


def precision(real: Any, synthetic: Any, k: int = 3) -> float:
    """Kynkäänniemi et al. 2019, eq. 2: share of synthetic samples in at least one real ball."""
    radius = reach(real, k)
    inside = [any(np.linalg.norm(y - x) <= r for x, r in zip(real, radius, strict=True)) for y in synthetic]
    return sum(inside) / len(synthetic)


def recall(real: Any, synthetic: Any, k: int = 3) -> float:
    """The same the other way round."""
    return precision(synthetic, real, k)


def density(real: Any, synthetic: Any, k: int = 5) -> float:
    """Naeem et al. 2020, eq. 3."""
    radius = reach(real, k)
    total = 0
    for y in synthetic:
        total += sum(np.linalg.norm(y - x) <= r for x, r in zip(real, radius, strict=True))
    return total / (k * len(synthetic))


def coverage(real: Any, synthetic: Any, k: int = 5) -> float:
    """Naeem et al. 2020, eq. 4."""
    covered = 0
    for x, r in zip(real, reach(real, k), strict=True):
        covered += any(np.linalg.norm(y - x) <= r for y in synthetic)
    return covered / len(real)
