"""Which real film is nearest to each synthetic one, and how near."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xraygen.errors import ShapeError

_ROWS_AT_ONCE = 2048

Features = NDArray[np.floating[Any]]


def nearest(query: Features, reference: Features) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Euclidean distance to, and row of, the nearest reference for each query.

    Args:
        query: `(N, F)`, finite.
        reference: `(M, F)`, finite, M >= 1.

    Returns:
        Distances, float64 `(N,)`, in the unit of the features, and rows of `reference`, int64 `(N,)`. The first
        row wins a tie. A copy is at distance 0 exactly.

    Raises:
        ShapeError: If the shapes do not fit together.
    """
    if query.ndim != 2 or reference.ndim != 2 or query.shape[1] != reference.shape[1] or not len(reference):
        raise ShapeError(
            f"Neighbours need (N, F) and (M, F) with M >= 1; given: {query.shape} and {reference.shape}."
        )
    centre = reference.mean(axis=0, dtype=np.float64)  # (F,): small numbers lose fewer digits in the product
    smallest = np.full(len(query), np.inf)
    index = np.zeros(len(query), dtype=np.int64)
    for first in range(0, len(reference), _ROWS_AT_ONCE):
        block = torch.from_numpy(reference[first : first + _ROWS_AT_ONCE] - centre)
        for start in range(0, len(query), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            distance, column = torch.cdist(torch.from_numpy(query[rows] - centre), block).min(dim=1)
            closer = distance.numpy() < smallest[rows]
            smallest[rows] = np.where(closer, distance.numpy(), smallest[rows])
            index[rows] = np.where(closer, first + column.numpy(), index[rows])
    # The product form of cdist leaves about 1e-7 where 0 belongs; the winners are measured again.
    exact = np.linalg.norm(query.astype(np.float64) - reference[index].astype(np.float64), axis=1)
    return exact, index
