"""The variational bound on the likelihood, term by term in bits per dimension (Ho et al. 2020, sec. 2 and 4.3).

L = L_T + L_{T-1} + ... + L_1 + L_0 (eq. 5). With t counted from 0, entry t holds the paper's L_t: entry 0 is L_0, the
cost of the grey levels given x_1, and entry t > 0 what it costs to send the next less noisy image.

B image, C channel, H, W sides, K kept timesteps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.diffusion.densities import BITS, discretised_gaussian_log_likelihood, normal_kl, to_grid
from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.errors import UsageError


class BoundTerms(NamedTuple):
    """One term of the bound for each image of a batch, float64 `(B,)`."""

    bits_per_dim: Tensor
    """L_t, or L_0 where t is 0."""
    xstart_mse: Tensor
    """Mean squared error of pred_xstart in the range [-1, 1]."""


@dataclass(frozen=True)
class VariationalBound:
    """The whole bound of a batch of images, in bits per dimension."""

    prior: Tensor
    """L_T, float64 `(B,)`."""
    terms: Tensor
    """L_0 ... L_{K-1}, float64 `(B, K)`."""
    xstart_mse: Tensor
    """Mean squared error of pred_xstart at every t, float64 `(B, K)`."""

    @property
    def total(self) -> Tensor:
        """The bound: at least so many bits per dimension encode each image. Float64 `(B,)`."""
        return self.prior + self.terms.sum(dim=1)


@torch.inference_mode()
def bound_terms(
    model: Model,
    diffusion: GaussianDiffusion,
    x_start: Tensor,
    t: Tensor,
    noise: Tensor,
    *,
    bits: int,
    clip: bool = True,
) -> BoundTerms:
    """One term of the bound per image, each at its own t, for one draw of x_t.

    Args:
        model: The network; it gets x_t in the dtype of `x_start`.
        diffusion: Its diffusion, respaced or not.
        x_start: Images, `(B, C, H, W)`, [-1, 1], on the grid of `bits` bits; better float64.
        t: Timestep of each, `(B,)`, int64.
        noise: Standard normal, the shape of `x_start`.
        bits: Depth of the images: that of the source, not of the container.
        clip: Clip pred_xstart to [-1, 1], as the paper does.

    Returns:
        The terms and the error of pred_xstart.

    Raises:
        UsageError: If the images do not stand on the grid: their levels would have no bins.

    Source:
        Ho et al. 2020, eq. 5 and 13.
    """
    if (x_start.double() - to_grid(x_start, bits)).abs().max() > 1e-3 / 2**bits:
        raise UsageError(
            f"The images do not stand on the {2**bits} levels of {bits} bits in [-1, 1]; round them with to_grid first."
        )
    x_t = diffusion.q_sample(x_start, t, noise)
    step = diffusion.p_mean_variance(model, x_t, t, clip=clip)
    error = (step.pred_xstart.double() - x_start.double()).square().flatten(1).mean(dim=1)
    return BoundTerms(diffusion.bound_term(step, x_start, x_t, t, bits), error)


def prior_bits_per_dim(diffusion: GaussianDiffusion, x_start: Tensor) -> Tensor:
    """L_T = KL(q(x_T | x_0) || N(0, I)), the cost of starting from pure noise (Ho et al. 2020, eq. 5).

    Args:
        diffusion: Gives q.
        x_start: Images, `(B, C, H, W)`, [-1, 1].

    Returns:
        Bits per dimension of each image, float64 `(B,)`.
    """
    alpha_bar = diffusion.schedule.alphas_cumprod[-1].to(x_start.device)
    zero = torch.zeros((), dtype=torch.float64, device=x_start.device)
    kl = normal_kl(alpha_bar.sqrt() * x_start.double(), (1 - alpha_bar).log(), zero, zero)
    return BITS * kl.flatten(1).mean(dim=1)


def variational_bound(
    model: Model,
    diffusion: GaussianDiffusion,
    x_start: Tensor,
    noise: Callable[[int], Tensor],
    *,
    bits: int,
    clip: bool = True,
) -> VariationalBound:
    """The bound at every timestep: K evaluations of the network per image.

    Args:
        model: The network.
        diffusion: Its diffusion, respaced or not.
        x_start: Images, `(B, C, H, W)`, [-1, 1], on the grid of `bits` bits; better float64.
        noise: Standard normal noise `(B, C, H, W)` for each t.
        bits: Depth of the images: that of the source, not of the container.
        clip: Clip pred_xstart to [-1, 1], as the paper does.

    Returns:
        L_T and every L_t of every image.

    Raises:
        UsageError: If the images do not stand on the grid.

    Source:
        Ho et al. 2020, eq. 5.

    Example:
        >>> bound = variational_bound(model, diffusion, to_grid(x, 8), lambda t: torch.randn_like(x), bits=8)
        >>> bound.total.mean()
    """
    terms = [
        bound_terms(
            model,
            diffusion,
            x_start,
            torch.full((len(x_start),), t, device=x_start.device),
            noise(t),
            bits=bits,
            clip=clip,
        )
        for t in range(len(diffusion.schedule.timesteps))
    ]
    return VariationalBound(
        prior_bits_per_dim(diffusion, x_start),
        torch.stack([term.bits_per_dim for term in terms], dim=1),  # (B, K)
        torch.stack([term.xstart_mse for term in terms], dim=1),  # (B, K)
    )


def strata_edges(steps: int, strata: int) -> NDArray[np.int64]:
    """Borders of the strata of timesteps, int64 `[strata + 1]`, from 0 to `steps`.

    Where there are several, L_0 has one of its own, and the others grow with t, since most bits fall where there is
    little noise.
    """
    strata = min(strata, steps)
    if strata == 1:
        return np.array([0, steps])
    growth = (steps - strata) * np.linspace(0, 1, strata) ** 2
    return np.concatenate([[0], (1 + growth).round() + np.arange(strata)]).astype(np.int64)


class RateDistortion(NamedTuple):
    """What is known of the image after each number of reverse steps, means over images, float64 `(K,)`."""

    reverse_steps: Tensor
    """1 ... K, int64."""
    rate: Tensor
    """Bits per dimension sent until then."""
    distortion: Tensor
    """Root mean squared error of pred_xstart on the scale [0, 255]."""


def rate_distortion(prior: Tensor, terms: Tensor, xstart_mse: Tensor) -> RateDistortion:
    """Progressive lossy compression: how good the image is for the bits spent (Ho et al. 2020, fig. 5 and table 4).

    As in the table, n steps stand for t = K - n: its pred_xstart, and the bits that brought x_t there, so that the
    rate after all K steps is the bound without L_0.

    Args:
        prior: L_T, `(B,)`.
        terms: L_0 ... L_{K-1}, `(B, K)`.
        xstart_mse: Mean squared error of pred_xstart in [-1, 1], `(B, K)`.

    Returns:
        The curve, in the order in which an image becomes visible.
    """
    later = terms.flip(1).cumsum(1) - terms.flip(1)  # (B, K): the terms above t, t falling
    rate = prior[:, None] + later
    distortion = 127.5 * xstart_mse.flip(1).sqrt()
    return RateDistortion(torch.arange(1, terms.shape[1] + 1), rate.mean(dim=0), distortion.mean(dim=0))


class DecoderFloor(NamedTuple):
    """What L_0 costs in bits per dimension by the schedule alone, whatever the network."""

    calibrated: float
    """If the residuals of x_0 have just the decoder's variance."""
    perfect: float
    """If every residual is 0: no network goes below."""


def decoder_floor(diffusion: GaussianDiffusion, bits: int) -> DecoderFloor:
    """The bits that the decoder's own width costs: the likelihood cannot tell levels inside sigma_1 apart.

    With beta_1 = 1e-4 and a fixed variance it is 1.96, 5.97 and 9.97 bits at 8, 12 and 16 bits. For the likelihood of
    deep pixels, let the schedule begin at a sigma of about one bin.

    Args:
        diffusion: Gives the decoder's variance. A learned one lies between posterior_variance[1], taken for `perfect`,
            and the noise of x_1, taken for `calibrated`, since a pixel that its neighbours do not tell is known no
            better.
        bits: Depth of the pixels.

    Source:
        Ho et al. 2020, eq. 13; the expectation over the residual by the trapezoidal rule.
    """
    least = diffusion
    if diffusion.config.variance_type == "learned_range":
        least = diffusion.with_variance("fixed_small")
    low = least.model_log_variance()[0]
    high = low if least is diffusion else diffusion.schedule.betas[0].log()
    z = torch.linspace(-12, 12, 9601, dtype=torch.float64)  # standard deviations; the rest weighs 1e-33
    weight = (-z.square() / 2).exp()
    zero = torch.zeros_like(z)
    nll = -BITS * discretised_gaussian_log_likelihood(zero, z * (0.5 * high).exp(), high, bits)
    perfect = -BITS * discretised_gaussian_log_likelihood(zero[:1], zero[:1], low, bits)
    return DecoderFloor(float((weight * nll).sum() / weight.sum()), float(perfect))
