"""Gaussian densities as the bound needs them: a divergence, and the chance of a grey level.

Everything is computed in float64, whatever comes in: a term of 0.001 bits is a difference of numbers near 1.
"""

import math

import torch
from torch import Tensor

BITS = 1 / math.log(2)
"""Bits in a nat."""


def normal_kl(mean1: Tensor, log_variance1: Tensor, mean2: Tensor, log_variance2: Tensor) -> Tensor:
    """KL(N(mean1, variance1) || N(mean2, variance2)) of every pixel, in nats.

    Args:
        mean1: Any shape.
        log_variance1: Broadcastable to it.
        mean2: Broadcastable to it.
        log_variance2: Broadcastable to it.

    Returns:
        Divergence per pixel, float64, at least 0 up to rounding.

    Source:
        Ho et al. 2020, the terms of eq. 5 in closed form.
    """
    lv1, lv2 = log_variance1.double(), log_variance2.double()
    distance = (mean1.double() - mean2.double()).square()
    return 0.5 * (lv2 - lv1 + (lv1 - lv2).exp() - 1 + distance * (-lv2).exp())


def bin_half_width(bits: int) -> float:
    """Half the distance of two grey levels of `bits` bits spread over [-1, 1]: 1/255 for 8 bits."""
    levels: int = 2**bits - 1
    return 1 / levels


def discretised_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor, bits: int) -> Tensor:
    """Log-probability of each pixel's grey level under N(mean, variance), in nats.

    The Gaussian is integrated over the level's bin; only the first level's bin is open to the left and only the last
    one's to the right. Differences of log-CDFs keep their digits in both tails, and where the bin is narrow.

    Args:
        x: Pixels that stand on the grid of 2^bits levels in [-1, 1], any shape.
        mean: Mean of each, broadcastable.
        log_variance: Log-variance of each, broadcastable.
        bits: Depth of the grid.

    Returns:
        Log-probability per pixel, float64, at most 0.

    Source:
        Ho et al. 2020, eq. 13, with 1/255 as 1 / (2^bits - 1).
    """
    half = bin_half_width(bits)
    x, mean, std = x.double(), mean.double(), (0.5 * log_variance.double()).exp()
    lower, upper = (x - half - mean) / std, (x + half - mean) / std
    swap = (
        lower + upper > 0
    )  # by symmetry both ends may be taken from the left tail, where log-CDFs are exact
    lower, upper = torch.where(swap, -upper, lower), torch.where(swap, -lower, upper)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    inside = log_upper + (-torch.expm1(log_lower - log_upper)).log()
    first = torch.special.log_ndtr((x + half - mean) / std)
    last = torch.special.log_ndtr((mean - x + half) / std)
    return torch.where(x < -1 + half, first, torch.where(x > 1 - half, last, inside))


def to_grid(x: Tensor, bits: int) -> Tensor:
    """The nearest of the 2^bits grey levels in [-1, 1], float64."""
    levels: int = 2**bits - 1
    return ((x.double().clamp(-1, 1) + 1) / 2 * levels).round() / levels * 2 - 1
