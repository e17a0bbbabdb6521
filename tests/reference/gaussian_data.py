"""Data that are exactly Gaussian: everything a diffusion model approximates is known in closed form.

[Ho]      Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239).
[Karras]  Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364).

x_0 ~ N(mu, Sigma) over D pixels, Sigma = U diag(s) U^T: `basis` is U (its columns the eigenvectors), `spectrum` is s.
x_t = alpha x_0 + sigma noise, so x_t ~ N(alpha mu, alpha^2 Sigma + sigma^2 I) in the same basis, and everything below
happens component by component. Index t = 0 ... T - 1 is the papers' t + 1.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def covariance(basis: Array, spectrum: Array) -> Array:
    """Sigma = U diag(s) U^T."""
    return sum(
        (s * np.outer(u, u) for s, u in zip(spectrum, basis.T, strict=True)), np.zeros((basis.shape[0],) * 2)
    )


def in_basis(basis: Array, gains: Array, vector: Array) -> Array:
    """U diag(gains) U^T vector."""
    total = np.zeros_like(vector)
    for gain, u in zip(gains, basis.T, strict=True):
        total = total + gain * float(u @ vector) * u
    return total


def optimal_denoiser(
    alpha: float, sigma: float, x_t: Array, mean: Array, basis: Array, spectrum: Array
) -> Array:
    """E[x_0 | x_t] = mu + cov(x_0, x_t) var(x_t)^-1 (x_t - alpha mu): gains alpha s / (alpha^2 s + sigma^2)."""
    gains = np.array([alpha * s / (alpha**2 * s + sigma**2) for s in spectrum])
    return mean + in_basis(basis, gains, x_t - alpha * mean)


def remaining_variance(alpha: float, sigma: float, spectrum: Array) -> Array:
    """var(x_0 | x_t) by component: s sigma^2 / (alpha^2 s + sigma^2), the error that no denoiser can avoid."""
    return np.array([s * sigma**2 / (alpha**2 * s + sigma**2) for s in spectrum])


def ode_map(
    s: tuple[float, float], t: tuple[float, float], x: Array, mean: Array, basis: Array, spectrum: Array
) -> Array:
    """[Karras] eq. 1, solved exactly from point s to point t, each (alpha, sigma).

    The flow keeps every component's number of standard deviations from its mean, so (x_t - alpha_t mu) is
    (x_s - alpha_s mu) times sqrt((alpha_t^2 s + sigma_t^2) / (alpha_s^2 s + sigma_s^2)). At t = (1, 0) it is the image.
    """
    gains = [
        math.sqrt((t[0] ** 2 * v + t[1] ** 2) / (s[0] ** 2 * v + s[1] ** 2)) for v in map(float, spectrum)
    ]
    return t[0] * mean + in_basis(basis, np.array(gains), x - s[0] * mean)


def affine_map(function: Callable[[Array], Array], size: int) -> tuple[Array, Array]:
    """The M and b of an affine function of `size` numbers, M x + b: b = f(0), M e_i = f(e_i) - f(0).

    With the optimal denoiser and no clipping every sampler is one. Where it draws noise, the noises are inputs like the
    start: let the function take them all in one vector, whose covariance is then the identity.
    """
    offset = function(np.zeros(size))
    columns = [function(unit) - offset for unit in np.eye(size)]
    return np.stack(columns, axis=1), offset


def push(function: Callable[[Array], Array], mean: Array, variance: Array) -> tuple[Array, Array]:
    """Mean and covariance of an affine function of a random vector: M mean + b, M variance M^T."""
    matrix, offset = affine_map(function, mean.size)
    return matrix @ mean + offset, matrix @ variance @ matrix.T


def push_step(step: Callable[[Array, Array], Array], mean: Array, variance: Array) -> tuple[Array, Array]:
    """`push` through one noisy step x <- step(x, z), z ~ N(0, I) of x's size; for chains whose steps keep no memory."""
    zero = np.zeros_like(mean)
    mean_out, variance_out = push(lambda x: step(x, zero), mean, variance)
    spread, _ = affine_map(lambda z: step(zero, z), mean.size)
    return mean_out, variance_out + spread @ spread.T


def sigma_points(size: int) -> Array:
    """2 `size` points of equal weight, +-sqrt(size) e_i, with mean 0 and covariance I: (2 size, size).

    Their average of any quadratic function is its expectation under N(0, I), exactly: no sampling error.
    """
    units = math.sqrt(size) * np.eye(size)
    return np.concatenate([units, -units])


def entropy_bits(spectrum: Array) -> float:
    """Differential entropy per dimension: the mean of 1/2 log2(2 pi e s)."""
    return sum(0.5 * math.log2(2 * math.pi * math.e * float(s)) for s in spectrum) / len(spectrum)


def quantised_entropy_bits(spectrum: Array, bits: int) -> float:
    """Entropy per pixel at `bits` bits, for bins well below the data's spread: h - log2 of the width, 2 / (2^b - 1)."""
    return entropy_bits(spectrum) - math.log2(2 / (2**bits - 1))


def abars_of(betas: Array) -> list[float]:
    """[Ho] below eq. 3, with the clean image's 1 in front: entry t is the abar before index t."""
    abars = [1.0]
    for beta in betas:
        abars.append(abars[-1] * (1 - float(beta)))
    return abars


def reverse_variance(betas: Array, t: int, spectrum: Array) -> Array:
    """var(x_{t-1} | x_t) by component: [Ho] eq. 7's variance and what x_0's uncertainty adds through eq. 7's mean.

    It is beta_t for s = 1 and beta~_t for s = 0, and lies between for s between: the two choices of [Ho] sec. 3.2. With
    it the reverse chain is exact at any number of steps, and the bound loses nothing but the prior's mismatch.
    """
    abars, beta = abars_of(betas), float(betas[t])
    abar_prev, abar = abars[t], abars[t + 1]
    of_start = math.sqrt(abar_prev) * beta / (1 - abar)
    remaining = remaining_variance(math.sqrt(abar), math.sqrt(1 - abar), spectrum)
    return (1 - abar_prev) / (1 - abar) * beta + of_start**2 * remaining


def expected_prior_bits(betas: Array, mean: Array, spectrum: Array) -> float:
    """E[L_T] per dimension: KL(N(sqrt(abar) x_0, 1 - abar) || N(0, 1)), whose mean square is known."""
    abar = abars_of(betas)[-1]
    square = (float(mean @ mean) + float(spectrum.sum())) / mean.size
    return 0.5 * (abar * square - abar - math.log1p(-abar)) / math.log(2)


def expected_term_bits(betas: Array, t: int, spectrum: Array, variance: Array | float) -> float:
    """E[L_{t-1}] at index t >= 1 with the optimal denoiser, unclipped; at 0, E[L_0] as a density, no bins.

    `variance` is the model's: one number, or one per component, which is one per pixel only where U is the identity.
    The posterior's mean misses by its coefficient of x_0 times x_0's error, whose mean square is `remaining_variance`.
    For bins well below the decoder's sigma, L_0 of pixels is this less log2 of the bins' width.
    """
    model, nats = np.broadcast_to(np.asarray(variance, dtype=np.float64), spectrum.shape), 0.0
    if t == 0:
        exact = reverse_variance(betas, 0, spectrum)
        for v, p in zip(model, exact, strict=True):
            nats += 0.5 * (math.log(2 * math.pi * v) + p / v)
        return nats / len(spectrum) / math.log(2)
    beta_tilde = float(reverse_variance(betas, t, np.zeros(1))[0])
    for v, p in zip(model, reverse_variance(betas, t, spectrum), strict=True):
        nats += 0.5 * (math.log(v / beta_tilde) - 1 + p / v)
    return nats / len(spectrum) / math.log(2)


def expected_bound_bits(
    betas: Array, mean: Array, spectrum: Array, variance_at: Callable[[int], Array | float]
) -> float:
    """[Ho] eq. 5 in expectation, per dimension, as a density: never below `entropy_bits`. See `expected_term_bits`."""
    total = expected_prior_bits(betas, mean, spectrum)
    for t in range(len(betas)):
        total += expected_term_bits(betas, t, spectrum, variance_at(t))
    return total


def prior_gap_bits(betas: Array, mean: Array, spectrum: Array) -> float:
    """KL(q(x_T) || N(0, I)) per dimension: all that the bound loses with `reverse_variance` as the model's."""
    abar, nats = abars_of(betas)[-1], 0.5 * abars_of(betas)[-1] * float(mean @ mean)
    for s in map(float, spectrum):
        excess = abar * (s - 1)  # the variance of x_T less 1
        nats += 0.5 * (excess - math.log1p(excess))
    return nats / len(spectrum) / math.log(2)
