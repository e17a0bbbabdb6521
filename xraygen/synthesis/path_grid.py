"""The grid of Ho et al. 2020, figure 9: the same path at falling noise, row by row."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.progress import Counter, Report
from xraygen.synthesis.path_frames import Way
from xraygen.synthesis.progressive import captioned
from xraygen.synthesis.sampling import as_stored
from xraygen.synthesis.timesteps import nearest_step

_ROWS = 8
"""The paper's 1000, 875, ..., 125 of 1000 steps, and 0 below them."""


class Grid(NamedTuple):
    """The picture, uint8, and what it shows."""

    picture: NDArray[np.uint8]
    shows: dict[str, Any]


def grid_steps(way: Way) -> list[int]:
    """Steps of the chain at eighths of the schedule, the noisiest first and none twice."""
    total = way.chain.schedule.num_timesteps
    starts = {nearest_step(way.chain, max(round(total * row / _ROWS) - 1, 0)) for row in range(1, _ROWS + 1)}
    return sorted(starts, reverse=True)


def make_grid(way: Way, lam: Tensor, report: Report) -> Grid:
    """Go the way at each noise, and mix the films themselves in the last row, which has no noise and no network.

    Args:
        way: The way from A to B.
        lam: Places of the frames, float64 `(F,)`.
        report: Told how many frames are done.

    Returns:
        A row per noise: film A, the frames, film B.
    """
    starts = grid_steps(way)
    counter = Counter("grid", len(starts) * len(lam), report)
    counter.advance(0)
    x_a, x_b = (end.x for end in way.ends)
    weight = lam.float().view(-1, 1, 1, 1)
    rows = [way.frames(lam, start, counter).x for start in starts]
    rows.append((1 - weight) * x_a + weight * x_b)
    cells = [torch.cat([x_a[None], row, x_b[None]]) for row in rows]  # (2 + F, C, H, W) each
    steps = [int(way.chain.schedule.timesteps[start]) + 1 for start in starts]
    top = ["film A", *("rec." if place in (0, 1) else f"{place:.3g}" for place in lam.tolist()), "film B"]
    picture = captioned(as_stored(torch.cat(cells)), top, [f"t = {step}" for step in [*steps, 0]])
    return Grid(picture, {"timesteps_counted_from_1": [*steps, 0], "mode": way.mode})
