"""Denoising diffusion, re-derived slowly from the papers: NumPy float64 and loops, nothing from the library.

[Ho]    Ho, Jain & Abbeel 2020, "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239).
[Song]  Song, Meng & Ermon 2021, "Denoising Diffusion Implicit Models" (arXiv 2010.02502).
[ND]    Nichol & Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models" (arXiv 2102.09672).
[SH]    Salimans & Ho 2022, "Progressive Distillation" (arXiv 2202.00512).
[Hang]  Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy" (arXiv 2303.09556).

The papers count t = 1 ... T; here, as in the library, t = 0 ... T - 1, so entry t is the papers' t + 1 and
alphas_cumprod_prev(0) = 1, the clean image's.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def linear_betas(num_timesteps: int, beta_start: float, beta_end: float) -> Array:
    """[Ho] sec. 4: constants increasing linearly from beta_1 to beta_T, both ends included."""
    step = (beta_end - beta_start) / (num_timesteps - 1)
    return np.array([beta_start + step * t for t in range(num_timesteps)], dtype=np.float64)


def cosine_betas(num_timesteps: int) -> Array:
    """[ND] eq. 17, s = 0.008; sec. 3.2: beta_t = 1 - abar_t / abar_{t-1}, clipped to be no larger than 0.999."""

    def f(moment: float) -> float:
        return math.cos((moment / num_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = []
    for t in range(1, num_timesteps + 1):
        abar, abar_prev = f(t) / f(0), f(t - 1) / f(0)
        betas.append(min(1 - abar / abar_prev, 0.999))
    return np.array(betas, dtype=np.float64)


def alphas_cumprod(betas: Array) -> Array:
    """[Ho] below eq. 3: abar_t = prod_{s <= t} (1 - beta_s)."""
    product, products = 1.0, []
    for beta in betas:
        product *= 1.0 - float(beta)
        products.append(product)
    return np.array(products, dtype=np.float64)


def abar_before(betas: Array, t: int) -> float:
    """abar_{t-1}; before the first step there is no noise: 1."""
    return 1.0 if t == 0 else float(alphas_cumprod(betas)[t - 1])


def snr(betas: Array, t: int) -> float:
    """[SH] sec. 2: abar_t / (1 - abar_t), alpha^2 over sigma^2."""
    abar = float(alphas_cumprod(betas)[t])
    return abar / (1 - abar)


def q_sample(betas: Array, x_start: Array, t: int, noise: Array) -> Array:
    """[Ho] eq. 4, reparameterised: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps."""
    abar = float(alphas_cumprod(betas)[t])
    return math.sqrt(abar) * x_start + math.sqrt(1 - abar) * noise


def q_sample_by_steps(betas: Array, x_start: Array, t: int, draw: Callable[[], Array]) -> Array:
    """[Ho] eq. 2, one step after the other: x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) eps_t."""
    x = x_start
    for step in range(t + 1):
        x = math.sqrt(1 - float(betas[step])) * x + math.sqrt(float(betas[step])) * draw()
    return x


def posterior_mean(betas: Array, x_start: Array, x_t: Array, t: int) -> Array:
    """[Ho] eq. 7, left."""
    beta, alpha = float(betas[t]), 1 - float(betas[t])
    abar, abar_prev = float(alphas_cumprod(betas)[t]), abar_before(betas, t)
    of_start = math.sqrt(abar_prev) * beta / (1 - abar)
    of_now = math.sqrt(alpha) * (1 - abar_prev) / (1 - abar)
    return of_start * x_start + of_now * x_t


def posterior_variance(betas: Array, t: int) -> float:
    """[Ho] eq. 7, right: (1 - abar_{t-1}) / (1 - abar_t) beta_t."""
    abar = float(alphas_cumprod(betas)[t])
    return (1 - abar_before(betas, t)) / (1 - abar) * float(betas[t])


def posterior_by_bayes(betas: Array, x_start: float, x_t: float, t: int) -> tuple[float, float]:
    """[Ho] eq. 6 from nothing but Bayes: prior q(x_{t-1} | x_0), [Ho] eq. 4, times likelihood q(x_t | x_{t-1}), eq. 2.

    Both are Gaussians in x_{t-1}, so precisions add and the mean is the precision-weighted one. Needs t >= 1.
    """
    abar_prev = abar_before(betas, t)
    prior_mean, prior_precision = math.sqrt(abar_prev) * x_start, 1 / (1 - abar_prev)
    slope, noise_variance = math.sqrt(1 - float(betas[t])), float(betas[t])
    # As a function of x_{t-1}, N(x_t; slope x_{t-1}, v) is a Gaussian about x_t / slope of variance v / slope^2.
    seen_mean, seen_precision = x_t / slope, slope**2 / noise_variance
    precision = prior_precision + seen_precision
    return (prior_mean * prior_precision + seen_mean * seen_precision) / precision, 1 / precision


def fixed_small_log_variance(betas: Array, t: int) -> float:
    """[Ho] sec. 3.2: log of eq. 7's variance; the first, log 0, is replaced by the second."""
    return math.log(posterior_variance(betas, max(t, 1)))


def fixed_large_log_variance(betas: Array, t: int) -> float:
    """[Ho] sec. 3.2: log beta_t; the first entry is replaced by the second posterior variance's (the paper's code)."""
    return math.log(posterior_variance(betas, 1)) if t == 0 else math.log(float(betas[t]))


def xstart_from_eps(betas: Array, x_t: Array, t: int, eps: Array) -> Array:
    """[Ho] eq. 15: x_0 = (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t)."""
    abar = float(alphas_cumprod(betas)[t])
    return (x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar)


def eps_from_xstart(betas: Array, x_t: Array, t: int, x_start: Array) -> Array:
    """[Ho] eq. 15 solved for eps."""
    abar = float(alphas_cumprod(betas)[t])
    return (x_t - math.sqrt(abar) * x_start) / math.sqrt(1 - abar)


def v_from_xstart_and_eps(betas: Array, t: int, x_start: Array, eps: Array) -> Array:
    """[SH] sec. 4 and app. D: v = alpha_t eps - sigma_t x_0, with alpha^2 = abar and sigma^2 = 1 - abar."""
    abar = float(alphas_cumprod(betas)[t])
    return math.sqrt(abar) * eps - math.sqrt(1 - abar) * x_start


def xstart_from_v(betas: Array, x_t: Array, t: int, v: Array) -> Array:
    """[SH] app. D: x_0 = alpha_t x_t - sigma_t v."""
    abar = float(alphas_cumprod(betas)[t])
    return math.sqrt(abar) * x_t - math.sqrt(1 - abar) * v


def eps_from_v(betas: Array, x_t: Array, t: int, v: Array) -> Array:
    """[SH] app. D: eps = sigma_t x_t + alpha_t v."""
    abar = float(alphas_cumprod(betas)[t])
    return math.sqrt(1 - abar) * x_t + math.sqrt(abar) * v


def ancestral_step(betas: Array, x_t: Array, t: int, eps: Array, noise: Array, variance_type: str) -> Array:
    """[Ho] Algorithm 2, lines 3 and 4, with x_0's estimate clipped to [-1, 1]; no noise at the last step (t = 0)."""
    pred_xstart = np.clip(xstart_from_eps(betas, x_t, t, eps), -1, 1)
    mean = posterior_mean(betas, pred_xstart, x_t, t)
    if t == 0:
        return mean
    log_variance = {"fixed_small": fixed_small_log_variance, "fixed_large": fixed_large_log_variance}
    return mean + math.sqrt(math.exp(log_variance[variance_type](betas, t))) * noise


def ddim_sigma(abar: float, abar_prev: float, eta: float) -> float:
    """[Song] eq. 16."""
    return eta * math.sqrt((1 - abar_prev) / (1 - abar)) * math.sqrt(1 - abar / abar_prev)


def ddim_step(abar: float, abar_prev: float, x_t: Array, eps: Array, noise: Array, eta: float) -> Array:
    """[Song] eq. 12 between any two moments of the chain, x_0's estimate clipped to [-1, 1].

    Where clipping moved x_0, eps is the one that explains x_t with it, so that the two still add up to x_t.
    """
    pred_xstart = np.clip((x_t - math.sqrt(1 - abar) * eps) / math.sqrt(abar), -1, 1)
    eps = (x_t - math.sqrt(abar) * pred_xstart) / math.sqrt(1 - abar)
    sigma = ddim_sigma(abar, abar_prev, eta)
    direction = math.sqrt(1 - abar_prev - sigma**2) * eps
    return math.sqrt(abar_prev) * pred_xstart + direction + sigma * noise


def simple_loss(target: Array, prediction: Array) -> Array:
    """[Ho] eq. 14, per image: the mean over pixels of the squared error."""
    losses = []
    for image_target, image_prediction in zip(target, prediction, strict=True):
        differences = (image_target - image_prediction).ravel()
        losses.append(sum(float(d) ** 2 for d in differences) / differences.size)
    return np.array(losses)


def min_snr_weight(betas: Array, t: int, prediction_type: str, gamma: float) -> float:
    """[Hang] sec. 3.4: min(SNR, gamma) on the error of x_0.

    An error of x_0 is SNR^-1/2 of the error of eps ([Ho] eq. 15), and (SNR + 1)^-1/2 of that of v, since
    sigma_t^2 = 1 / (SNR + 1); the weights of the squared errors are divided accordingly.
    """
    ratio = snr(betas, t)
    divisor = {"sample": 1.0, "epsilon": ratio, "v_prediction": ratio + 1}[prediction_type]
    return min(ratio, gamma) / divisor


def sinusoidal_embedding(t: int, channels: int) -> Array:
    """[Ho] app. B (the Transformer's): sines, then cosines, of t exp(-log(1e4) i / (half - 1))."""
    half = channels // 2
    sines, cosines = [], []
    for i in range(half):
        angle = t * math.exp(-math.log(10000.0) * i / (half - 1))
        sines.append(math.sin(angle))
        cosines.append(math.cos(angle))
    return np.array(sines + cosines)


def ema(weights: Iterable[float], decay: float, *, warmup: bool) -> float:
    """[Ho] app. B: average <- decay average + (1 - decay) weights, from the first weights as they are.

    Updates are counted from 1; with warm-up the decay of each is min(decay, (1 + step) / (10 + step)).
    """
    average: float | None = None
    for step, weight in enumerate(weights):
        if average is None:
            average = weight
            continue
        now = min(decay, (1 + step) / (10 + step)) if warmup else decay
        average = now * average + (1 - now) * weight
    assert average is not None
    return average


def mix_paper(
    betas: Array, ends: tuple[Array, Array], t: int, lam: float, noises: tuple[Array, Array]
) -> Array:
    """[Ho] sec. 4.4: xbar_t = (1 - lambda) x_t + lambda x'_t, each end with its own noise."""
    first, second = (q_sample(betas, x, t, noise) for x, noise in zip(ends, noises, strict=True))
    return (1 - lam) * first + lam * second


def mix_shared_noise(betas: Array, ends: tuple[Array, Array], t: int, lam: float, noise: Array) -> Array:
    """The same mix, both ends with one noise: the mix of the images, noised once."""
    return mix_paper(betas, ends, t, lam, (noise, noise))


def mix_noise_variance(mode: str, lam: float) -> float:
    """Variance of the mix's noise in units of 1 - abar_t: independent terms add in squares, equal ones linearly."""
    return (1 - lam) ** 2 + lam**2 if mode == "paper" else 1.0


def gaussian_data_eps(abar: float, x_t: Array, mean: float, std: float) -> Array:
    """The best eps for data N(mean, std^2) pixel by pixel: jointly Gaussian with x_t, so E[x_0 | x_t] is linear.

    E[x_0 | x_t] = mean + cov(x_0, x_t) / var(x_t) (x_t - E[x_t]), then [Ho] eq. 15.
    """
    gain = math.sqrt(abar) * std**2 / (abar * std**2 + 1 - abar)
    x_start = mean + gain * (x_t - math.sqrt(abar) * mean)
    return (x_t - math.sqrt(abar) * x_start) / math.sqrt(1 - abar)


def ancestral_moments(betas: Array, mean: float, std: float, variance_type: str) -> tuple[float, float]:
    """Mean and standard deviation that Algorithm 2 ends with when its denoiser is `gaussian_data_eps`, unclipped.

    Every step is x <- a x + b + sigma z with known a, b and sigma, so the chain's moments need no sampling.
    """
    now, variance = 0.0, 1.0
    log_variance = {"fixed_small": fixed_small_log_variance, "fixed_large": fixed_large_log_variance}[
        variance_type
    ]
    abars = alphas_cumprod(betas)

    def best_step(x: float, t: int) -> float:
        point, abar = np.array([x]), float(abars[t])
        pred = xstart_from_eps(betas, point, t, gaussian_data_eps(abar, point, mean, std))
        return float(posterior_mean(betas, pred, point, t)[0])

    for t in reversed(range(len(betas))):
        offset = best_step(0.0, t)
        slope = best_step(1.0, t) - offset
        added = math.exp(log_variance(betas, t)) if t > 0 else 0.0
        now, variance = slope * now + offset, slope**2 * variance + added
    return now, math.sqrt(variance)


def ddim_moments(abars: Array, mean: float, std: float) -> tuple[float, float]:
    """Mean and standard deviation where deterministic [Song] eq. 12 ends; `abars` of the kept moments, ascending."""
    now, scale = 0.0, 1.0
    for k in reversed(range(len(abars))):
        abar, abar_prev = float(abars[k]), 1.0 if k == 0 else float(abars[k - 1])
        ends = []
        for x in (0.0, 1.0):
            eps = float(gaussian_data_eps(abar, np.array([x]), mean, std)[0])
            pred = (x - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
            ends.append(math.sqrt(abar_prev) * pred + math.sqrt(1 - abar_prev) * eps)
        slope = ends[1] - ends[0]
        now, scale = slope * now + ends[0], abs(slope) * scale
    return now, scale


def downsample(image: Array, kernel: Array, bias: Array) -> Array:
    """Stride-2 3x3 convolution, zero-padded right and bottom by one: `image` (C, H, W), `kernel` (O, C, 3, 3)."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 1, width + 1))
    padded[:, :height, :width] = image
    out = np.zeros((kernel.shape[0], (height - 2) // 2 + 1, (width - 2) // 2 + 1))
    for o in range(out.shape[0]):
        for row in range(out.shape[1]):
            for column in range(out.shape[2]):
                window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                out[o, row, column] = float((window * kernel[o]).sum()) + float(bias[o])
    return out


def self_attention(tokens: Array, weights: tuple[Array, Array, Array]) -> Array:
    """One head over `tokens` (N, C): softmax over the keys of q k^T C^-1/2, times v; q, k, v weights are (C, C)."""
    count, channels = tokens.shape
    q, k, v = (tokens @ weight.T for weight in weights)
    out = np.zeros_like(tokens)
    for i in range(count):
        scores = [float(q[i] @ k[j]) / math.sqrt(channels) for j in range(count)]
        powers = [math.exp(score - max(scores)) for score in scores]
        for j in range(count):
            out[i] += powers[j] / sum(powers) * v[j]
    return out


def group_norm(image: Array, groups: int, eps: float = 1e-6) -> Array:
    """Each group of channels of `image` (C, H, W) to mean 0 and (biased) variance 1; no scale and shift."""
    size = image.shape[0] // groups
    out = np.zeros_like(image)
    for g in range(groups):
        part = image[g * size : (g + 1) * size]
        out[g * size : (g + 1) * size] = (part - part.mean()) / math.sqrt(float(part.var()) + eps)
    return out


def fan_average_bound(fan_in: int, fan_out: int, scale: float) -> float:
    """[Ho] code, variance scaling: uniform on +-sqrt(3 scale / mean of the fans), whose variance is scale / mean."""
    return math.sqrt(3 * scale / ((fan_in + fan_out) / 2))
