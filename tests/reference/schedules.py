"""Noise schedules, re-derived slowly from the papers: NumPy float64 and loops, nothing from the library.

[ND]      Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models" (arXiv 2102.09672).
[Lu]      Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling" (arXiv 2211.01095).
[Karras]  Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364).
[Jabri]   Jabri, Fleet & Chen 2022, "Scalable Adaptive Computation for Iterative Generation" (arXiv 2212.11972).
[Chen]    Chen 2023, "On the Importance of Noise Scheduling for Diffusion Models" (arXiv 2301.10972).
[simple]  Hoogeboom, Heek & Salimans 2023, "simple diffusion" (arXiv 2301.11093).
[Lin]     Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv 2305.08891).

Index t = 0 ... T - 1 is the papers' t + 1; the abar before index 0 is the clean image's, 1. alpha^2 = abar and
sigma^2 = 1 - abar where the path preserves variance.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x)."""
    return 1 / (1 + math.exp(-x))


def betas_from_abars(abars: Array, largest: float = 1.0) -> Array:
    """[ND] eq. 19 and sec. 3.2: beta_t = 1 - abar_t / abar_{t-1}, no larger than `largest`; before index 0, abar is 1.

    With the abars of the kept moments this is respacing; [ND] cap the betas of a new schedule at 0.999.
    """
    before, betas = 1.0, []
    for abar in abars:
        betas.append(min(1 - float(abar) / before, largest))
        before = float(abar)
    return np.array(betas, dtype=np.float64)


def sigmoid_gamma(
    moment: float, start: float = -3.0, end: float = 3.0, tau: float = 1.0, least: float = 1e-9
) -> float:
    """[Chen] Algorithm 1, `sigmoid_schedule`, after [Jabri]: abar at a moment of [0, 1], no less than `least`."""
    v_start, v_end = sigmoid(start / tau), sigmoid(end / tau)
    output = sigmoid((moment * (end - start) + start) / tau)
    return min(max((v_end - output) / (v_end - v_start), least), 1.0)


def sigmoid_betas(num_timesteps: int, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Array:
    """[Chen] Algorithm 1 at the moments (t + 1) / T, before them gamma(0) = 1; betas by [ND] sec. 3.2, at most 0.999.

    The cap bites in the last entry only, where gamma has its floor: there abar is 1e-3 of the one before, not 1e-9.
    """
    abars = [sigmoid_gamma((t + 1) / num_timesteps, start, end, tau) for t in range(num_timesteps)]
    return betas_from_abars(np.array(abars), largest=0.999)


def log_snr(abar: float) -> float:
    """[simple] sec. 2: log(alpha^2 / sigma^2) = log(abar / (1 - abar))."""
    return math.log(abar) - math.log1p(-abar)


def half_log_snr(alpha: float, sigma: float) -> float:
    """[Lu] sec. 2: lambda = log(alpha / sigma), half of the log-SNR; -inf without signal, inf without noise."""
    if alpha == 0:
        return -math.inf
    if sigma == 0:
        return math.inf
    return math.log(alpha / sigma)


def resolution_shift(abars: Array, size: int, reference: int) -> Array:
    """[simple] sec. 3.1: log-SNR + 2 log(reference / size), that is SNR times (reference / size)^2; returns abars."""
    shift = 2 * math.log(reference / size)
    return np.array([sigmoid(log_snr(float(abar)) + shift) for abar in abars])


def zero_terminal_snr(betas: Array) -> Array:
    """[Lin] Algorithm 1: sqrt(abar) shifted to end at 0, scaled to keep its first value; returns betas, the last 1."""
    roots, product = [], 1.0
    for beta in betas:
        product *= 1 - float(beta)
        roots.append(math.sqrt(product))
    first, last = roots[0], roots[-1]
    roots = [(root - last) * first / (first - last) for root in roots]
    return betas_from_abars(np.array([root**2 for root in roots]))


def edm_sigmas(count: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Array:
    """[Karras] eq. 5, but rising: entry 0 is sigma_min, the last sigma_max. Needs at least two steps.

    The paper counts from the noisiest, sigma_i = (max^(1/rho) + i / (N - 1) (min^(1/rho) - max^(1/rho)))^rho.
    """
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    falling = [(high + i / (count - 1) * (low - high)) ** rho for i in range(count)]
    return np.array(falling[::-1])


def variance_preserving(sigma: float) -> tuple[float, float]:
    """[Karras] app. C.1, table 1 (VP): x_0 + sigma n scaled to keep variance is alpha x_0 + sqrt(1 - alpha^2) n.

    Returns alpha = 1 / sqrt(1 + sigma^2) and the noise's scale, sigma / sqrt(1 + sigma^2).
    """
    alpha = 1 / math.sqrt(1 + sigma**2)
    return alpha, sigma * alpha


def edm_abars(sigmas: Array) -> Array:
    """abar = alpha^2 = 1 / (1 + sigma^2) of `variance_preserving`."""
    return np.array([1 / (1 + float(sigma) ** 2) for sigma in sigmas])


def edm_sigma_of(abar: float) -> float:
    """The noise beside an unscaled image: sigma = sqrt((1 - abar) / abar); `edm_abars` the other way."""
    return math.sqrt((1 - abar) / abar)
