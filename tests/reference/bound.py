"""The variational bound in bits per dimension, re-derived from the papers: NumPy float64, loops, tails by mpmath.

[Ho]  Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239).
[ND]  Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models" (arXiv 2102.09672).
[SH]  Salimans & Ho 2022, "Progressive Distillation" (arXiv 2202.00512).

Index t = 0 ... T - 1 is the papers' t + 1, so `terms[t]` is the papers' L_t: L_0 at index 0, their L_{T-1} at the last,
and L_T stands apart. Images are scaled to [-1, 1]; every term is the mean over dimensions, in bits.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import mpmath
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Predict = Callable[[Array, int], tuple[Array, Array | float]]
"""(x_t, t) -> the estimate of x_0 and the model's log-variance, of the image's shape or one number."""

BITS_PER_NAT = 1 / math.log(2)


def abars_of(betas: Array) -> Array:
    """[Ho] below eq. 3: abar_t = prod_{s <= t} (1 - beta_s)."""
    product, products = 1.0, []
    for beta in betas:
        product *= 1 - float(beta)
        products.append(product)
    return np.array(products)


def kl_bits(
    mean: Array, log_variance: Array | float, other_mean: Array, other_log_variance: Array | float
) -> float:
    """KL(N(mean, variance) || N(other_mean, other_variance)), both diagonal: mean over dimensions, bits.

    Per dimension log(s_2 / s_1) + (s_1^2 + (m_1 - m_2)^2) / (2 s_2^2) - 1/2 nats.
    """
    first, second, p, q = np.broadcast_arrays(mean, other_mean, log_variance, other_log_variance)
    nats = 0.0
    for m1, m2, v1, v2 in zip(first.flat, second.flat, p.flat, q.flat, strict=True):
        nats += 0.5 * float(v2 - v1 + math.exp(v1 - v2) + (m1 - m2) ** 2 * math.exp(-v2) - 1)
    return nats / first.size * BITS_PER_NAT


def bin_bits(lower: float, upper: float) -> float:
    """-log2 of a standard normal's probability between two points, accurate however far out they lie.

    On one side of 0 it is a difference of two upper tails (erfc), which do not round to 1; 50 digits absorb their
    cancellation.
    """
    with mpmath.workdps(50):
        a, b = mpmath.mpf(lower) / mpmath.sqrt(2), mpmath.mpf(upper) / mpmath.sqrt(2)
        if a > 0:
            twice = mpmath.erfc(a) - mpmath.erfc(b)
        elif b < 0:
            twice = mpmath.erfc(-b) - mpmath.erfc(-a)
        else:
            twice = mpmath.erf(b) - mpmath.erf(a)
        return float(-mpmath.log(twice / 2) / mpmath.log(2))


def half_width(bits: int) -> float:
    """[Ho] eq. 13: 1/255 for 8 bits; 2^b levels from -1 to 1 lie 2 / (2^b - 1) apart."""
    return 1 / (2.0**bits - 1)


def level_bits(x: float, mean: float, log_variance: float, bits: int) -> float:
    """[Ho] eq. 13 for one pixel: -log2 of the decoder's mass on x's bin; the first and last bins are open outwards."""
    half, std = half_width(bits), math.exp(log_variance / 2)
    level = round((x + 1) / 2 * (2**bits - 1))
    lower = -math.inf if level == 0 else (x - half - mean) / std
    upper = math.inf if level == 2**bits - 1 else (x + half - mean) / std
    return bin_bits(lower, upper)


def decoder_bits(x_start: Array, mean: Array, log_variance: Array | float, bits: int) -> float:
    """[Ho] eq. 13: L_0 = -log2 p(x_0 | x_1), mean over dimensions."""
    x, m, v = np.broadcast_arrays(x_start, mean, log_variance)
    pixels = [
        level_bits(float(of), float(mu), float(log_v), bits)
        for of, mu, log_v in zip(x.flat, m.flat, v.flat, strict=True)
    ]
    return sum(pixels) / len(pixels)


def posterior(betas: Array, t: int) -> tuple[float, float, float]:
    """[Ho] eq. 7: the posterior mean's coefficients of x_0 and x_t, and its variance."""
    abars, beta = abars_of(betas), float(betas[t])
    abar, abar_prev = float(abars[t]), 1.0 if t == 0 else float(abars[t - 1])
    of_start = math.sqrt(abar_prev) * beta / (1 - abar)
    of_now = math.sqrt(1 - beta) * (1 - abar_prev) / (1 - abar)
    return of_start, of_now, (1 - abar_prev) / (1 - abar) * beta


def model_log_variance(betas: Array, t: int, variance_type: str) -> float:
    """[Ho] sec. 3.2: log of eq. 7's variance or of beta_t; for both, index 0 has that of posterior_variance[1]."""
    if t == 0:
        return math.log(posterior(betas, 1)[2])
    return math.log({"fixed_small": posterior(betas, t)[2], "fixed_large": float(betas[t])}[variance_type])


def learned_range_log_variance(betas: Array, t: int, fraction: Array) -> Array:
    """[ND] eq. 15: v log beta_t + (1 - v) log beta~_t; the network's channel in [-1, 1] gives v = (channel + 1) / 2.

    At index 0 log beta~ is that of index 1, as for `fixed_small`, and log beta_t is its own.
    """
    smallest = math.log(posterior(betas, max(t, 1))[2])
    return fraction * math.log(float(betas[t])) + (1 - fraction) * smallest


def xstart_of(abar: float, x_t: Array, output: Array, prediction_type: str, *, clip: bool = True) -> Array:
    """[Ho] eq. 15 for epsilon, [SH] app. D for v_prediction: the estimate of x_0, clipped to [-1, 1] if asked."""
    alpha, sigma = math.sqrt(abar), math.sqrt(1 - abar)
    if prediction_type == "epsilon":
        x_start = (x_t - sigma * output) / alpha
    elif prediction_type == "v_prediction":
        x_start = alpha * x_t - sigma * output
    else:
        assert prediction_type == "sample"
        x_start = output
    return np.clip(x_start, -1, 1) if clip else x_start


def prior_bits(betas: Array, x_start: Array) -> float:
    """[Ho] eq. 5: L_T = KL(q(x_T | x_0) || N(0, I)); 0 where the schedule ends at zero SNR."""
    abar = float(abars_of(betas)[-1])
    return kl_bits(math.sqrt(abar) * x_start, math.log(1 - abar), np.zeros(1), 0.0)


def term_bits(
    betas: Array, x_start: Array, x_t: Array, t: int, prediction: tuple[Array, Array | float], bits: int
) -> float:
    """[Ho] eq. 5: L_{t-1} = KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)); at index 0, L_0 = -log p(x_0 | x_1).

    q has the posterior's variance, whatever the model's: the two differ unless it is `fixed_small`. At index 0 the
    posterior mean's coefficients are 1 and 0, so the decoder's mean is the estimate of x_0.
    """
    pred_xstart, log_variance = prediction
    of_start, of_now, variance = posterior(betas, t)
    mean = of_start * pred_xstart + of_now * x_t
    if t == 0:
        return decoder_bits(x_start, mean, log_variance, bits)
    return kl_bits(of_start * x_start + of_now * x_t, math.log(variance), mean, log_variance)


class Bound(NamedTuple):
    """One image's bound: L_T, every L_t by index, and the mean squared errors of x_0's estimates and of their eps."""

    prior: float
    terms: Array
    xstart_mse: Array
    eps_mse: Array


def bound(
    betas: Array, x_start: Array, noise_at: Callable[[int], Array], predict: Predict, bits: int
) -> Bound:
    """[Ho] eq. 5 for one image, every t with its own noise; bits/dim are `prior` + the sum of `terms`."""
    abars = abars_of(betas)
    terms, xstart_mse, eps_mse = [], [], []
    for t in range(len(betas)):
        abar, noise = float(abars[t]), noise_at(t)
        x_t = math.sqrt(abar) * x_start + math.sqrt(1 - abar) * noise
        prediction = predict(x_t, t)
        terms.append(term_bits(betas, x_start, x_t, t, prediction, bits))
        eps = (x_t - math.sqrt(abar) * prediction[0]) / math.sqrt(1 - abar)
        xstart_mse.append(float(np.mean((prediction[0] - x_start) ** 2)))
        eps_mse.append(float(np.mean((eps - noise) ** 2)))
    return Bound(prior_bits(betas, x_start), np.array(terms), np.array(xstart_mse), np.array(eps_mse))


def total_bits(result: Bound) -> float:
    """[Ho] eq. 5: L_T + sum of L_{t-1} + L_0, bits per dimension."""
    return result.prior + sum(float(term) for term in result.terms)


def eps_weight(betas: Array, t: int, variance: float) -> float:
    """[Ho] eq. 12: beta^2 / (2 sigma^2 alpha (1 - abar)), nats per squared error of eps."""
    beta, abar = float(betas[t]), float(abars_of(betas)[t])
    return beta**2 / (2 * variance * (1 - beta) * (1 - abar))


def variance_mismatch_bits(betas: Array, variance_type: str) -> float:
    """What the sum of L_{t-1} lacks, per dimension, if KL takes the model's variance for the posterior's as well.

    Then each KL is (m_1 - m_2)^2 / (2 s^2) and lacks 1/2 (log(s^2 / beta~) - 1 + beta~ / s^2) nats, whatever the
    means: KL(N(m, beta~_t) || N(m, s_t^2)), summed over indices t >= 1 ([Ho] eq. 5; L_0 has no posterior).
    """
    missing = 0.0
    for t in range(1, len(betas)):
        log_posterior = math.log(posterior(betas, t)[2])
        missing += kl_bits(
            np.zeros(1), log_posterior, np.zeros(1), model_log_variance(betas, t, variance_type)
        )
    return missing


def rate_distortion(result: Bound) -> list[tuple[int, float, float]]:
    """[Ho] sec. 4.3, table 4: (reverse steps done, rate in bits/dim, RMSE on [0, 255]), from 1 step to T.

    After n steps the receiver holds x at index T - n: the rate is L_T and the terms of every index above T - n, the
    distortion is that of x_0's estimate there. At n = T the rate is all of the bound but L_0.
    """
    last, points = len(result.terms), []
    for steps in range(1, last + 1):
        rate = result.prior + sum(float(result.terms[t]) for t in range(last - steps + 1, last))
        points.append((steps, rate, 127.5 * math.sqrt(float(result.xstart_mse[last - steps]))))
    return points


def decoder_floor(variance: float, bits: int) -> float:
    """Expected -log2 of [Ho] eq. 13 when the residual is N(0, variance), as the decoder says; an inner level.

    By the trapezoid rule, exact to rounding for smooth functions under a Gaussian. A model whose residuals are smaller
    than the decoder says pays less: down to `decoder_least`, with none at all.
    """
    half, step, total = half_width(bits) / math.sqrt(variance), 0.1, 0.0
    for k in range(-120, 121):
        z = k * step
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        total += step * density * bin_bits(z - half, z + half)
    return total


def decoder_least(variance: float, bits: int) -> float:
    """-log2 of the decoder's mass on an inner level's bin when its mean is right: no model has a smaller L_0."""
    half = half_width(bits) / math.sqrt(variance)
    return bin_bits(-half, half)


def hybrid_loss(simple: float, term: float, num_timesteps: int) -> float:
    """[ND] eq. 16, lambda = 0.001: L_simple + lambda L_vlb, where T L_t (bits/dim) at a uniform t estimates L_vlb."""
    return simple + 0.001 * num_timesteps * term
