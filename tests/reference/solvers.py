"""Samplers on a path of (alpha, sigma), re-derived from the papers: NumPy float64, loops, nothing from the library.

[Song]    Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models" (arXiv 2010.02502).
[Karras]  Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364).
[Lu]      Lu et al. 2022, "DPM-Solver++: Fast Solver for Guided Sampling" (arXiv 2211.01095).
[Zhao]    Zhao et al. 2023, "UniPC: A Unified Predictor-Corrector Framework" (arXiv 2302.04867).

A path is two arrays, noisiest first: point i has x = alphas[i] x_0 + sigmas[i] noise, and the last is alpha = 1,
sigma = 0. `denoise(x, i)` is the estimate of x_0 at point i, never asked for at sigma = 0. A chain returns its state at
every point, N + 1 of them. lambda = log(alpha / sigma); h is lambda's step; s is the point left, t the one reached.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Denoise = Callable[[Array, int], Array]
Point = tuple[float, float]
"""(alpha, sigma)."""


def half_log_snr(point: Point) -> float:
    """[Lu] sec. 2: lambda = log(alpha / sigma); -inf without signal, inf without noise."""
    alpha, sigma = point
    if alpha == 0:
        return -math.inf
    return math.inf if sigma == 0 else math.log(alpha / sigma)


def points_of(alphas: Array, sigmas: Array) -> list[Point]:
    """The path, point by point."""
    return [(float(a), float(s)) for a, s in zip(alphas, sigmas, strict=True)]


def ddim_step(
    s: Point, t: Point, x: Array, x_start: Array, noise: Array | None = None, eta: float = 0.0
) -> Array:
    """[Song] eq. 12 and 16 between two points (variance preserving where eta > 0); nothing is clipped."""
    eps = (x - s[0] * x_start) / s[1]
    if eta == 0 or noise is None:
        return t[0] * x_start + t[1] * eps
    added = eta * t[1] / s[1] * math.sqrt(1 - s[0] ** 2 / t[0] ** 2)
    return t[0] * x_start + math.sqrt(t[1] ** 2 - added**2) * eps + added * noise


def ddim(denoise: Denoise, alphas: Array, sigmas: Array, x: Array) -> list[Array]:
    """[Song] eq. 12 with eta = 0 from the path's first point to its last."""
    points, states = points_of(alphas, sigmas), [x]
    for i in range(1, len(points)):
        states.append(ddim_step(points[i - 1], points[i], states[-1], denoise(states[-1], i - 1)))
    return states


def ddim_invert_step(
    clean: Point, noisy: Point, x: Array, eps_at: Callable[[Array], Array], iterations: int = 1
) -> Array:
    """[Song] sec. 4.3, backwards: the x_i that one DDIM step takes to `x`, by fixed-point iterations.

    x = clean_alpha (x_i - noisy_sigma eps) / noisy_alpha + clean_sigma eps, solved for x_i, with eps = `eps_at(guess)`
    at the noisier point; the first guess is `x`. One iteration is one evaluation; one alone is plain inversion.
    """
    guess = x
    for _ in range(iterations):
        eps = eps_at(guess)
        guess = noisy[0] * (x - clean[1] * eps) / clean[0] + noisy[1] * eps
    return guess


def ddim_invert(denoise: Denoise, alphas: Array, sigmas: Array, x: Array, iterations: int = 1) -> list[Array]:
    """`ddim_invert_step` from the path's last point (an image) to its first; the states, image first."""
    points, states = points_of(alphas, sigmas), [x]

    def eps_of(i: int) -> Callable[[Array], Array]:
        return lambda guess: (guess - points[i][0] * denoise(guess, i)) / points[i][1]

    for i in reversed(range(len(points) - 1)):
        states.append(ddim_invert_step(points[i + 1], points[i], states[-1], eps_of(i), iterations))
    return states


def dpmpp_first_step(s: Point, t: Point, x: Array, x_start: Array) -> Array:
    """[Lu] prop. 4.1, x_0 held (DPM-Solver++1): x_t = sigma_t / sigma_s x_s - alpha_t (e^-h - 1) x_0; it is DDIM."""
    h = half_log_snr(t) - half_log_snr(s)
    return t[1] / s[1] * x - t[0] * (math.exp(-h) - 1) * x_start


def second_order_estimate(
    lambdas: tuple[float, float, float], x_start: Array, x_start_before: Array
) -> Array:
    """[Lu] Algorithm 2: D = (1 + 1 / 2r) x_0(s) - 1 / 2r x_0(before s), r = h_before / h; lambdas of before, s, t."""
    r = (lambdas[1] - lambdas[0]) / (lambdas[2] - lambdas[1])
    return (1 + 1 / (2 * r)) * x_start - 1 / (2 * r) * x_start_before


def dpmpp_2m_estimate(points: Sequence[Point], i: int, estimates: Sequence[Array]) -> Array:
    """The D of the step to point i: first order where there is no step before, or none of finite length to go on.

    A first point without signal (zero terminal SNR) has lambda = -inf: r = inf, which is first order too.
    """
    lambdas = [half_log_snr(point) for point in points]
    if i == 1 or lambdas[i] == math.inf:
        return estimates[i - 1]
    return second_order_estimate(
        (lambdas[i - 2], lambdas[i - 1], lambdas[i]), estimates[i - 1], estimates[i - 2]
    )


def dpmpp_2m(denoise: Denoise, alphas: Array, sigmas: Array, x: Array) -> list[Array]:
    """[Lu] Algorithm 2, DPM-Solver++(2M): one evaluation a step; the first step and one into sigma = 0 first order."""
    points, states, estimates = points_of(alphas, sigmas), [x], []
    for i in range(1, len(points)):
        estimates.append(denoise(states[-1], i - 1))
        d = dpmpp_2m_estimate(points, i, estimates)
        states.append(dpmpp_first_step(points[i - 1], points[i], states[-1], d))
    return states


def sde_dpmpp_step(s: Point, t: Point, x: Array, d: Array, noise: Array) -> Array:
    """[Lu] SDE-DPM-Solver++: x_t = sigma_t / sigma_s e^-h x_s + alpha_t (1 - e^-2h) D + sigma_t sqrt(1 - e^-2h) z."""
    h = half_log_snr(t) - half_log_snr(s)
    kept, new = t[1] / s[1] * math.exp(-h), 1 - math.exp(-2 * h)
    return kept * x + t[0] * new * d + t[1] * math.sqrt(new) * noise


def sde_dpmpp_2m(
    denoise: Denoise, alphas: Array, sigmas: Array, x: Array, noises: Sequence[Array]
) -> list[Array]:
    """[Lu] SDE-DPM-Solver++(2M): `dpmpp_2m`'s D in the stochastic step; one noise a step, the last unused.

    The paper writes the second-order term as alpha_t (1 - e^-2h) / 2 times the difference over r: the same D.
    """
    points, states, estimates = points_of(alphas, sigmas), [x], []
    for i in range(1, len(points)):
        estimates.append(denoise(states[-1], i - 1))
        d = dpmpp_2m_estimate(points, i, estimates)
        states.append(sde_dpmpp_step(points[i - 1], points[i], states[-1], d, noises[i - 1]))
    return states


def psi(n: int, h: float) -> float:
    """[Zhao] app. (data prediction): psi_n(h) = int_0^1 e^-(1-d)h d^(n-1) / (n-1)! dd, n >= 1.

    By parts psi_{n+1} = (1/n! - psi_n) / h; for short steps, where that cancels, the series sum_k (-h)^k / (n + k)!.
    """
    if h < 1:
        return sum((-h) ** k / math.factorial(n + k) for k in range(25))
    value = (1 - math.exp(-h)) / h
    for m in range(1, n):
        value = (1 / math.factorial(m) - value) / h
    return value


def unipc_weights(rs: Sequence[float], h: float) -> list[float]:
    """[Zhao] theorem 3.1, data prediction: the a_m of the points at lambda_s + r_m h; B(h) = e^h - 1, taken at -h.

    Row n = 1 ... p of the order conditions is sum_m a_m (r_m h)^(n-1) B = h^n n! psi_{n+1}, each divided by h^(n-1)
    here; B is 1 - e^-h with the sign taken out front. So B cancels, but for a single unknown, which the paper sets to
    1/2 for any h: that meets its one condition to the order needed.
    """
    if len(rs) == 1:
        return [0.5]
    b_of_h = 1 - math.exp(-h)
    rows = [[r ** (n - 1) for r in rs] for n in range(1, len(rs) + 1)]
    right = [h * math.factorial(n) * psi(n + 1, h) / b_of_h for n in range(1, len(rs) + 1)]
    return [float(a) for a in np.linalg.solve(np.array(rows), np.array(right))]


def unipc_step(s: Point, t: Point, x: Array, x_start: Array, others: Sequence[tuple[float, Array]]) -> Array:
    """[Zhao] app., UniP and UniC in data prediction: DDIM's step, and alpha_t B(h) sum_m a_m / r_m D_m.

    `others` holds (lambda_m, x_0 there): earlier points make UniP-p of p - 1 of them; with the point reached itself
    (r = 1, x_0 at the predicted state) p of them make UniC-p. D_m = x_0(m) - x_0(s), r_m = (lambda_m - lambda_s) / h.
    """
    lambda_s = half_log_snr(s)
    h = half_log_snr(t) - lambda_s
    b_of_h = 1 - math.exp(-h)  # the h -> -h of data prediction: B(-h) = e^-h - 1, and a minus before it
    result = t[1] / s[1] * x + t[0] * b_of_h * x_start
    rs = [1.0 if lam == half_log_snr(t) else (lam - lambda_s) / h for lam, _ in others]
    weights = unipc_weights(rs, h) if rs else []
    for a, r, (_, estimate) in zip(weights, rs, others, strict=True):
        result = result + t[0] * b_of_h * a / r * (estimate - x_start)
    return result


def unipc_order(i: int, steps: int, order: int, *, lower_at_end: bool) -> int:
    """[Zhao] order schedule: no more than there are points, and fewer at the end, whose last step is first order."""
    return min(order, i, steps + 1 - i) if lower_at_end else min(order, i)


def unipc(
    denoise: Denoise,
    alphas: Array,
    sigmas: Array,
    x: Array,
    order: int = 2,
    *,
    corrector: bool = True,
    lower_at_end: bool = True,
) -> list[Array]:
    """[Zhao] Algorithms 1 and 2: predict with UniP-p, evaluate once there, correct with UniC-p by that value.

    The value at the predicted point is kept for later steps, not computed anew at the corrected one; so the last point
    is not corrected. Points without signal have no finite lambda and are left out of the history. Where the order is
    not lowered at the end (to see the order itself) the path must end at sigma > 0.
    """
    points, states = points_of(alphas, sigmas), [x]
    lambdas = [half_log_snr(point) for point in points]
    estimates, steps = [denoise(x, 0)], len(points) - 1
    for i in range(1, steps + 1):
        p = unipc_order(i, steps, order, lower_at_end=lower_at_end)
        s, t, now = points[i - 1], points[i], estimates[i - 1]
        before = [(lambdas[m], estimates[m]) for m in range(i - 2, i - 1 - p, -1) if lambdas[m] > -math.inf]
        state = unipc_step(s, t, states[-1], now, before)
        if i < steps:
            estimates.append(denoise(state, i))
            if corrector:
                state = unipc_step(s, t, states[-1], now, [*before, (lambdas[i], estimates[i])])
        states.append(state)
    return states


def edm_preconditioning(sigma: float, sigma_data: float = 0.5) -> tuple[float, float, float, float]:
    """[Karras] table 1: c_skip, c_out, c_in, c_noise."""
    total = sigma**2 + sigma_data**2
    c_skip, c_out = sigma_data**2 / total, sigma * sigma_data / math.sqrt(total)
    return c_skip, c_out, 1 / math.sqrt(total), math.log(sigma) / 4


def edm_denoise(
    network: Callable[[Array, float], Array], x: Array, sigma: float, sigma_data: float = 0.5
) -> Array:
    """[Karras] eq. 7: D(x; sigma) = c_skip x + c_out F(c_in x, c_noise), for x = x_0 + sigma n."""
    c_skip, c_out, c_in, c_noise = edm_preconditioning(sigma, sigma_data)
    return c_skip * x + c_out * network(c_in * x, c_noise)


def edm_target(x_start: Array, noise: Array, sigma: float, sigma_data: float = 0.5) -> Array:
    """[Karras] eq. 8: what F should return, (x_0 - c_skip (x_0 + sigma n)) / c_out."""
    c_skip, c_out, _, _ = edm_preconditioning(sigma, sigma_data)
    return (x_start - c_skip * (x_start + sigma * noise)) / c_out


def edm_loss_weight(sigma: float, sigma_data: float = 0.5) -> float:
    """[Karras] table 1: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, on the squared error of D; 1 / c_out^2."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def edm_level(normal: float, p_mean: float = -1.2, p_std: float = 1.2) -> float:
    """[Karras] table 1: ln sigma ~ N(P_mean, P_std^2), from a standard normal draw."""
    return math.exp(p_mean + p_std * normal)


def heun(denoise: Denoise, alphas: Array, sigmas: Array, x: Array) -> list[Array]:
    """[Karras] Algorithm 1: dx/dsigma = (x - D) / sigma by Heun's rule, Euler into sigma = 0; second order.

    The paper's state has no scale: it is x / alpha, with noise sigma / alpha. Needs alpha > 0 at every point.
    """
    points, states, scaled = points_of(alphas, sigmas), [x], x / float(alphas[0])
    levels = [sigma / alpha for alpha, sigma in points]

    def slope(state: Array, i: int) -> Array:
        return (state - denoise(points[i][0] * state, i)) / levels[i]

    for i in range(len(points) - 1):
        length, first = levels[i + 1] - levels[i], slope(scaled, i)
        euler = scaled + length * first
        scaled = euler if levels[i + 1] == 0 else scaled + length * (first + slope(euler, i + 1)) / 2
        states.append(points[i + 1][0] * scaled)
    return states
