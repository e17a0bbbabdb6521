"""Conditions for the diffusion, which knows of none: wrap a network that takes them into one that does not.

All wrappers return a `Model`, so that each loss, prediction type and sampler takes them as they are.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.preconditioning import c_noise
from xraygen.errors import UsageError


class ConditionalModel(Protocol):
    """A network: (x_t `(B, C, H, W)`, t `(B,)`, condition `(B, F)` or None) -> what `Model` returns."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """None tells nothing: the unconditional prediction."""
        ...


def told(model: ConditionalModel, condition: Tensor | None) -> Model:
    """The network with its conditions filled in.

    Args:
        model: The network.
        condition: `(B, F)`, or None; F = 0, no conditions at all, counts as None.
    """
    if condition is None or condition.shape[1] == 0:
        return model
    return lambda x_t, t: model(x_t, t, condition)


def guided(
    model: ConditionalModel,
    condition: Tensor | None,
    weight: float = 1.0,
    interval: tuple[float, float] | None = None,
) -> Model:
    """Classifier-free guidance: (1 - w) unconditional + w conditional prediction.

    Whatever the network predicts (noise, x_0, v, or what the edm preconditioning leaves to it) is for given x_t an
    affine function of the noise, and the two weights sum to 1: so the mixture means the same in all of these, and the
    sampler need not know of it. A learned variance is the conditional prediction's.

    Args:
        model: The network.
        condition: What is told of each image, `(B, F)`, or None.
        weight: w. 0 is the unconditional network and 1 the conditional one, each by one evaluation; more than 1 holds
            the images closer to what is told and makes them less various, by two evaluations.
        interval: Where in t, in the terms that the network is told of it (`guidance_interval`), this weight holds:
            low < t <= high. Outside it is 1, by one evaluation. None: everywhere.

    Returns:
        A network without conditions.

    Source:
        Ho & Salimans 2022, eq. 6, whose w is ours - 1; Kynkäänniemi et al. 2024, sec. 3, for the interval.
    """
    conditional, unconditional = told(model, condition), told(model, None)
    if weight == 1:
        return conditional
    if weight == 0 and interval is None:
        return unconditional

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        with_condition = conditional(x_t, t)  # (B, C, H, W), or (B, 2 C, H, W)
        inside = torch.ones_like(t, dtype=torch.bool)
        if interval is not None:
            inside = (t > interval[0]) & (t <= interval[1])  # (B,)
            if not inside.any():  # a GPU is waited for, to save an evaluation
                return with_condition
        C = x_t.shape[1]
        told_of, variance = with_condition[:, :C], with_condition[:, C:]
        mixed = (1 - weight) * unconditional(x_t, t)[:, :C] + weight * told_of
        return torch.cat([torch.where(inside.view(-1, 1, 1, 1), mixed, told_of), variance], dim=1)

    return predict


def guidance_interval(diffusion: GaussianDiffusion, low: float, high: float) -> tuple[float, float]:
    """Noise levels low < sigma <= high as the interval in t that `guided` takes.

    Args:
        diffusion: The chain that will be run, respaced or not.
        low: Least noise, a standard deviation beside an image in [-1, 1]; excluded.
        high: Most noise; included.

    Raises:
        UsageError: If no step of the chain lies between.
    """
    sigmas = diffusion.schedule.sigmas
    inside = (sigmas > low) & (sigmas <= high)
    if not inside.any():
        raise UsageError(
            f"The guidance interval from {low:g} to {high:g} holds no step of this chain; expected noise levels "
            f"between {float(sigmas.min()):.3g} and {float(sigmas.max()):.3g}."
        )
    told_of = (
        c_noise(sigmas) if diffusion.config.prediction_type == "edm" else diffusion.schedule.timesteps
    ).double()
    below, above = told_of[sigmas <= low], told_of[sigmas > high]
    # Half-way between steps, since devices may differ in the last bit of what the network is told.
    first, last = float(told_of[inside].min()), float(told_of[inside].max())
    return (
        (float(below.max()) + first) / 2 if len(below) else -math.inf,
        (last + float(above.min())) / 2 if len(above) else math.inf,
    )
