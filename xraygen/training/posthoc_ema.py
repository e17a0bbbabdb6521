"""Averages whose length is chosen after training (Karras et al. 2024, "Analyzing and Improving the Training Dynamics
of Diffusion Models", arXiv 2312.02696, sec. 3 and app. C).

A power-function average weighs the weights of step tau by tau^gamma, so that its width is a fixed share of the run,
sigma_rel, however long that is. Two of them are kept in training, and their snapshots combined by least squares into
any other. Step t counts from 1; the initial weights are in no average.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.errors import UsageError
from xraygen.models.unet import UNet

SIGMA_RELS = (0.05, 0.10)
"""Widths of the two averages that are kept, as the paper has them."""
LARGEST_SIGMA_REL = 0.28
"""gamma = 0 weighs all steps alike, at 12^-1/2 = 0.289."""

Array = NDArray[np.float64]


class Profile(NamedTuple):
    """An average: up to which step, and how wide."""

    step: int
    sigma_rel: float


def sigma_rel_of(gamma: float) -> float:
    """sigma_rel = (gamma + 1)^1/2 (gamma + 2)^-1 (gamma + 3)^-1/2 (eq. 123)."""
    return float((gamma + 1) ** 0.5 / (gamma + 2) / (gamma + 3) ** 0.5)


def gamma_of(sigma_rel: float) -> float:
    """The largest root of gamma^3 + 7 gamma^2 + (16 - sigma_rel^-2) gamma + 12 - sigma_rel^-2 (eq. 126, algorithm 2).

    Raises:
        UsageError: If sigma_rel is not above 0 and at most LARGEST_SIGMA_REL.
    """
    if not 0 < sigma_rel <= LARGEST_SIGMA_REL:
        raise UsageError(
            f"A relative width (sigma_rel) of {sigma_rel} cannot be had; expected more than 0 and at most "
            f"{LARGEST_SIGMA_REL}, such as 0.05."
        )
    inverse = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def beta_at(step: int, gamma: float) -> float:
    """beta_gamma(t) = (1 - 1/t)^(gamma + 1), the decay of step t (eq. 127)."""
    return float((1 - 1 / step) ** (gamma + 1))


def inner_products(first: Sequence[Profile], second: Sequence[Profile]) -> Array:
    """Integrals of p_a(tau) p_b(tau) over the run, for all pairs of profiles (eq. 151).

    p_{t, gamma}(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) on [0, t], so that with m = min(t_a, t_b)

        <p_a, p_b> = (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1)
                     (m / t_a)^gamma_a (m / t_b)^gamma_b m / (t_a t_b).

    Returns:
        `(len(first), len(second))`, float64.
    """
    t_a, gamma_a = (values[:, None] for values in _steps_and_gammas(first))
    t_b, gamma_b = (values[None, :] for values in _steps_and_gammas(second))
    m = np.minimum(t_a, t_b)
    overlap: Array = (m / t_a) ** gamma_a * (m / t_b) ** gamma_b * m / (t_a * t_b)
    products: Array = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * overlap
    return products


def _steps_and_gammas(profiles: Sequence[Profile]) -> tuple[Array, Array]:
    steps = np.array([profile.step for profile in profiles], dtype=np.float64)
    return steps, np.array([gamma_of(profile.sigma_rel) for profile in profiles], dtype=np.float64)


def combination(snapshots: Sequence[Profile], target: Profile) -> Array:
    """Weights of the snapshots whose sum is nearest to the target's profile in the square mean (algorithm 3).

    The normal equations A x = b hold the inner products of the snapshots with each other and with the target. Snapshots
    of many steps are nearly alike, and A nearly singular; the least of the solutions is taken, which also keeps the
    rounding of what was stored small.

    Returns:
        `(len(snapshots),)`, float64, of sum 1: a constant is averaged to itself.
    """
    a, b = inner_products(snapshots, snapshots), inner_products(snapshots, [target])
    x: Array = np.asarray(np.linalg.lstsq(a, b[:, 0], rcond=1e-12)[0], dtype=np.float64)
    return np.asarray(x / x.sum(), dtype=np.float64)


def error_of(snapshots: Sequence[Profile], target: Profile) -> float:
    """How far the combined profile is from the target's: the distance in the square mean over the target's norm."""
    x = combination(snapshots, target)
    squared = (
        x @ inner_products(snapshots, snapshots) @ x
        - 2 * x @ inner_products(snapshots, [target])[:, 0]
        + inner_products([target], [target])[0, 0]
    )
    return float(np.sqrt(max(squared, 0.0) / inner_products([target], [target])[0, 0]))


class PowerAverages:
    """The averages that are kept in training, beside the ordinary one.

    Args:
        model: The network in training; its weights are where each average starts.
        sigma_rels: Width of each.
    """

    def __init__(self, model: UNet, sigma_rels: Sequence[float] = SIGMA_RELS) -> None:
        self.sigma_rels = tuple(sigma_rels)
        self._names = [name for name, _ in model.named_parameters()]
        self._gammas = [gamma_of(sigma_rel) for sigma_rel in sigma_rels]
        self._averages = [[weight.detach().clone() for weight in model.parameters()] for _ in sigma_rels]

    @torch.no_grad()
    def update(self, model: UNet, step: int) -> None:
        """Take in the weights after optimiser step `step`, counted from 1: theta <- beta theta + (1 - beta) new."""
        weights: list[Tensor] = list(model.parameters())
        for gamma, average in zip(self._gammas, self._averages, strict=True):
            torch._foreach_lerp_(average, weights, 1 - beta_at(step, gamma))

    def tensors(self, number: int) -> dict[str, Tensor]:
        """One average by the names of the network's weights; the tensors are those that `update` changes."""
        return dict(zip(self._names, self._averages[number], strict=True))

    def to_state(self) -> list[dict[str, Tensor]]:
        """What a checkpoint holds, so that a run goes on with the same bits."""
        return [
            {name: tensor.cpu() for name, tensor in self.tensors(number).items()}
            for number in range(len(self._gammas))
        ]

    @torch.no_grad()
    def load_state(self, state: Sequence[Mapping[str, Tensor]]) -> None:
        """Put back what `to_state` gave."""
        for number, tensors in enumerate(state):
            for name, mine in self.tensors(number).items():
                mine.copy_(tensors[name])
