"""Power-function averages, re-derived slowly: NumPy float64 and loops, nothing from the library.

[K]  Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696), app. C.

A profile says how much the weights of each moment tau of the run count. Here it is a list of numbers on a fine grid,
and every integral a sum over it.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def profile(step: float, gamma: float, moments: Array) -> Array:
    """[K] p(tau) proportional to tau^gamma up to `step`, 0 after it, with an integral of 1."""
    values = []
    for tau in moments:
        values.append((gamma + 1) / step * (float(tau) / step) ** gamma if tau <= step else 0.0)
    return np.array(values)


def sigma_rel(gamma: float) -> float:
    """[K] the standard deviation of tau under the profile, over the length of the run, summed on a grid."""
    edges = 200_000
    moments = (np.arange(edges) + 0.5) / edges
    p = profile(1.0, gamma, moments) / edges
    mean = float(np.sum(p * moments))
    return math.sqrt(float(np.sum(p * (moments - mean) ** 2)))


def average(path: list[float], gamma: float) -> float:
    """The average of a weight that is path[0] before training and path[t] after step t: its value in (t - 1, t], under
    the profile."""
    steps = len(path) - 1
    total = 0.0
    for t in range(1, steps + 1):
        share = (t / steps) ** (gamma + 1) - ((t - 1) / steps) ** (gamma + 1)
        total += share * path[t]
    return total


def best_combination(stored: list[tuple[int, float]], step: int, gamma: float, points: int = 20_000) -> Array:
    """[K] sec. C.3: weights of the stored (step, gamma) profiles nearest to the wanted one, on a grid, no algebra."""
    length = max([step, *(stored_step for stored_step, _ in stored)])
    moments = (np.arange(points) + 0.5) * length / points
    columns = np.stack(
        [profile(stored_step, stored_gamma, moments) for stored_step, stored_gamma in stored], axis=1
    )
    solution = np.linalg.lstsq(columns, profile(step, gamma, moments), rcond=None)[0]
    return np.asarray(solution, dtype=np.float64)
