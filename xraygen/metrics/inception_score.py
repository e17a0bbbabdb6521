"""The Inception Score: how surely each image is of a class, and how evenly the set is spread over the classes.

N images, K classes. It knows nothing of the training set, and means nothing for images that are none of the classes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xraygen.errors import ShapeError

SPLITS = 10
_SUM_TOLERANCE = 1e-3
"""By how much float32 probabilities of a thousand classes may miss 1."""


class InceptionScore(NamedTuple):
    """Mean over the splits, and their standard deviation (of the splits as a population, as in the authors' code)."""

    mean: float
    deviation: float


def inception_score(probabilities: NDArray[np.floating[Any]], splits: int = SPLITS) -> InceptionScore:
    """exp E_x KL(p(y|x) ‖ p(y)), over each split of the images in their order.

    p(y) is the mean of p(y|x) over the split, so the score depends on how many images a split holds.

    Args:
        probabilities: p(y|x) of each image, `(N, K)`, non-negative, each row with the sum 1.
        splits: Parts of N as equal as can be, 1 to N; the paper's are 10 of 5,000.

    Returns:
        Mean and standard deviation of the splits' scores, each in [1, K].

    Raises:
        ShapeError: If the probabilities are none, or there are fewer images than splits.

    Source:
        Salimans et al. 2016, "Improved Techniques for Training GANs", sec. 4.

    Example:
        >>> inception_score(np.eye(4), splits=1).mean
        4.0
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or not 1 <= splits <= len(p):
        raise ShapeError(
            f"An Inception Score of {splits} splits needs probabilities (N, K) of at least as many images; "
            f"given: {p.shape}."
        )
    if not (p >= 0).all() or np.abs(p.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
        raise ShapeError("Class probabilities are not negative and add up to 1; given: others.")
    scores = [_score(part) for part in np.array_split(p, splits)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(p: NDArray[np.float64]) -> float:
    """The score of one split, `(n, K)`; 0 log 0 is 0."""
    marginal = p.mean(axis=0)  # (K,)
    ratio = np.divide(p, marginal, out=np.ones_like(p), where=p > 0)
    return float(np.exp((p * np.log(ratio)).sum(axis=1).mean()))
