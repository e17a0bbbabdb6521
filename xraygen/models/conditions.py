"""What a network is told besides the noise level: its conditions, as one vector added to the time embedding.

B batch, F conditions, D embedding. A condition tensor is `(B, F)`, float: the number of a category, or a continuous
value scaled to [0, 1]. NaN is a value that is not known, and the network has a vector of its own for that. A row of
DROPPED is a film of which nothing was told, as classifier-free guidance wants it: the network is then the unconditional
one, and nothing is added. So "the sex is not recorded" and "any film whatsoever" are two different questions.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from xraygen.errors import ShapeError
from xraygen.models.blocks import dense

DROPPED = math.inf
"""Fills a row of a condition tensor whose film is told nothing."""
CONTINUOUS = 0
"""Where a condition's number of categories stands: it has none, it is a number in [0, 1]."""
HARMONICS = 8
"""Cosines by which a number is told. The last has a period of a quarter of the range: an age, not a birthday."""


class ConditionEmbedding(nn.Module):
    """Conditions to one vector; 0 for each film at the start of training, whatever it is told.

    The parts are summed, so that many labels of one film (multi-label) are the sum of their vectors; a layer after the
    sum lets them bear on each other. Its weights start at zero: a conditional network starts as the unconditional one.

    Args:
        sizes: Number of categories of each condition; CONTINUOUS for a number.
        embedding: Size D of the time embedding.
    """

    def __init__(self, sizes: Sequence[int], embedding: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            _Number(embedding) if size == CONTINUOUS else _Category(size, embedding) for size in sizes
        )
        self.out = dense(embedding, embedding)
        nn.init.zeros_(self.out.weight)

    def forward(self, condition: Tensor) -> Tensor:
        """Condition tensor `(B, F)` to `(B, D)`, 0 where a row is DROPPED.

        Raises:
            ShapeError: If F is not the number of conditions.
        """
        if condition.shape[1] != len(self.parts):
            raise ShapeError(
                f"condition is {tuple(condition.shape)}; expected {len(self.parts)} conditions per image."
            )
        parts = [part(value) for part, value in zip(self.parts, condition.unbind(1), strict=True)]
        out: Tensor = self.out(functional.silu(torch.stack(parts).sum(dim=0)))  # (B, D)
        dropped = condition.isinf().all(dim=1, keepdim=True)  # (B, 1)
        return out.masked_fill(dropped, 0.0)


class _Category(nn.Module):
    """A vector per category, and one for a value that is not known."""

    def __init__(self, size: int, embedding: int) -> None:
        super().__init__()
        self.size = size
        self.vectors = nn.Embedding(size + 1, embedding)  # the last: not known
        with torch.no_grad():
            self.vectors.weight[size].zero_()

    def forward(self, value: Tensor) -> Tensor:
        """`(B,)` to `(B, D)`."""
        unknown = float(self.size)
        number = value.nan_to_num(nan=unknown, posinf=unknown).long()
        out: Tensor = self.vectors(number)
        return out


class _Number(nn.Module):
    """Cosines of a number in [0, 1], and a vector for one that is not known."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.project = dense(HARMONICS, embedding)
        self.unknown = nn.Parameter(torch.zeros(embedding))

    def forward(self, value: Tensor) -> Tensor:
        """`(B,)` to `(B, D)`: features cos(pi k value), k = 1 ... HARMONICS, projected."""
        harmonics = torch.arange(1, HARMONICS + 1, device=value.device)
        known = value.isfinite()[:, None]  # (B, 1)
        angles = math.pi * value.nan_to_num(0.0, 0.0)[:, None] * harmonics  # (B, HARMONICS)
        features = angles.cos().to(self.unknown.dtype)  # (B, HARMONICS)
        return torch.where(known, self.project(features), self.unknown)
