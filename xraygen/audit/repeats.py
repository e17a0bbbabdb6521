"""Films of a set that repeat each other: as near as only copies lie among real films."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.audit.privacy import Neighbours
from xraygen.audit.sets import ImageSet
from xraygen.metrics.aligned import nearest_aligned
from xraygen.progress import Progress, Report, silent

DEFINITION = (
    "A film of the set is a near duplicate where its nearest other film of the set lies within the distance, in "
    "aligned pixels, that makes a synthetic film a suspect beside a training film. Films so linked form a group."
)


def near_duplicates(films: ImageSet, aligned: Neighbours, *, report: Report = silent) -> dict[str, Any]:
    """What report.json says about near duplicates.

    Args:
        films: The set.
        aligned: Its neighbours in aligned pixels, whose limit holds here too.
        report: Told when it begins and ends.

    Returns:
        {definition, limit, films, surplus, groups}: how many films are in groups, how many could go with one of each
        group kept, and the file names of each group, largest first.
    """
    report(Progress("near duplicates", 0, 1))
    found: list[list[int]] = []
    if len(films) > 1:
        distance, index = nearest_aligned(films.images, films.bits, films.images, films.bits, same=True)
        found = linked(index, distance < aligned.limit)
    report(Progress("near duplicates", 1, 1))
    return {
        "definition": DEFINITION,
        "limit": aligned.limit,
        "films": sum(map(len, found)),
        "surplus": sum(len(group) - 1 for group in found),
        "groups": [[films.file_names[row] for row in group] for group in found],
    }


def linked(index: NDArray[np.int64], near: NDArray[np.bool_]) -> list[list[int]]:
    """Groups of rows that are linked by near neighbours, largest first.

    Args:
        index: The neighbour of each row, `(N,)`.
        near: Whether it is near, `(N,)`.
    """
    first = np.arange(len(index))  # the least row that is known to be in each row's group
    for row in np.flatnonzero(near).tolist():
        one, other = sorted((int(first[row]), int(first[index[row]])))
        first[first == other] = one
    groups = [np.flatnonzero(first == row).tolist() for row in np.unique(first)]
    return sorted((group for group in groups if len(group) > 1), key=len, reverse=True)
