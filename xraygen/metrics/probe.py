"""A linear probe: the simplest classifier on features, with one optimum, so that nothing of it is chance.

N films, F features, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

WEIGHT_DECAY = 1e-2
"""Of two classes: of the squared length of the difference of their weights, beside a mean of losses."""

_STEPS = 500
_GRADIENT = 1e-7
_SMALLEST_DEVIATION = 1e-6


@dataclass(frozen=True, eq=False)
class Probe:
    """Logistic regression on standardised features."""

    mean: Tensor  # (F,), float64
    deviation: Tensor  # (F,)
    weights: Tensor  # (F, K)
    offset: Tensor  # (K,)

    def log_odds(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Log odds of each class against all others, float64 `(N, K)`."""
        return log_odds(self._standardised(features) @ self.weights + self.offset)

    def _standardised(self, features: NDArray[np.floating[Any]]) -> Tensor:
        return (torch.from_numpy(np.ascontiguousarray(features)).double() - self.mean) / self.deviation


def fit_probe(
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
    classes: int,
    *,
    start: Probe | None = None,
) -> Probe:
    """Fit to the only optimum: mean cross entropy + WEIGHT_DECAY · 2 Σ_k |w_k - w⁰_k|².

    Args:
        features: `(N, F)`.
        labels: `(N,)`, in [0, K - 1].
        classes: K.
        start: A probe of other films to fine-tune: its weights take the place of 0 as w⁰, and its standardisation is
            kept. Where an optimum is the only one, this is what it can mean to begin elsewhere.

    Source:
        Li et al. 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks" (L2-SP), for w⁰.
    """
    x = torch.from_numpy(np.ascontiguousarray(features)).double()
    y = torch.from_numpy(labels)
    if start is None:
        mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0) + _SMALLEST_DEVIATION
        prior, offset = torch.zeros(x.shape[1], classes, dtype=torch.float64), torch.zeros(classes).double()
    else:
        mean, deviation, prior, offset = start.mean, start.deviation, start.weights, start.offset
    x = (x - mean) / deviation  # (N, F)
    weights = prior.clone().requires_grad_()
    offset = offset.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights, offset],
        max_iter=_STEPS,
        tolerance_grad=_GRADIENT,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(x @ weights + offset, y)
        value = value + 2 * WEIGHT_DECAY * (weights - prior).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Probe(mean, deviation, weights.detach(), offset.detach())


def log_odds(logits: Tensor) -> NDArray[np.float64]:
    """ln p_k / (1 - p_k) of softmax probabilities, float64 `(N, K)`, without rounding at either end."""
    K = logits.shape[1]
    others = torch.stack(
        [logits[:, [j for j in range(K) if j != k]].logsumexp(dim=1) for k in range(K)], dim=1
    )
    odds: NDArray[np.float64] = (logits - others).double().cpu().numpy()
    return odds
