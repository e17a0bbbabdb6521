"""From noise to images: each sampler one function, all with the same signature.

(model, diffusion, x_t, step_noise, ...) -> x_0, where `diffusion` may be respaced to fewer steps and `step_noise(i)`
returns the standard normal noise of step i, so that the caller decides which image gets which randomness. All follow
the schedule's path of (alpha, sigma) down to (1, 0), the clean image; the multistep solvers live in solvers.py.
"""

import torch
from torch import Tensor

from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.paths import StepNoise, Watch, no_noise, noise_path, steps_between, unwatched
from xraygen.diffusion.solvers import dpmpp_sample, unipc_sample
from xraygen.diffusion.threshold import Threshold
from xraygen.errors import UsageError

__all__ = [
    "StepNoise",
    "Watch",
    "ddim_invert",
    "ddim_sample",
    "ddpm_sample",
    "dpmpp_sample",
    "no_noise",
    "unipc_sample",
]


@torch.inference_mode()
def ddpm_sample(
    model: Model,
    diffusion: GaussianDiffusion,
    x_t: Tensor,
    step_noise: StepNoise,
    *,
    start: int | None = None,
    clip: bool | Threshold = True,
    watch: Watch = unwatched,
) -> Tensor:
    """Ancestral sampling, Algorithm 2 of Ho et al. 2020.

    Args:
        model: Trained network.
        diffusion: Its diffusion, respaced or not.
        x_t: Images at step `start`, `(B, C, H, W)`; standard normal when starting from the last.
        step_noise: Noise of each step; not asked at step 0, which adds none.
        start: Index of the step that `x_t` stands at; the noisiest by default.
        clip: Clip pred_xstart to [-1, 1], as the paper's samples do; or how else it is kept there.
        watch: Told pred_xstart after each step.

    Returns:
        Images, `(B, C, H, W)`: the last pred_xstart up to a rounding, in [-1, 1] if clipped.
    """
    for i in reversed(range(steps_between(diffusion.schedule, start))):
        t = torch.full((len(x_t),), i, device=x_t.device)
        step = diffusion.p_mean_variance(model, x_t, t, clip=clip)
        x_t = step.mean
        if i > 0:
            x_t = x_t + (0.5 * step.log_variance).exp().to(x_t.dtype) * step_noise(i)
        watch(i, step.pred_xstart)
    return x_t


@torch.inference_mode()
def ddim_sample(
    model: Model,
    diffusion: GaussianDiffusion,
    x_t: Tensor,
    step_noise: StepNoise,
    *,
    eta: float = 0.0,
    start: int | None = None,
    clip: bool | Threshold = True,
    watch: Watch = unwatched,
) -> Tensor:
    """Denoising diffusion implicit models, eq. 12 of Song et al. 2021.

    Args:
        model: Trained network.
        diffusion: Its diffusion, respaced or not; its variance type does not matter here.
        x_t: Images at step `start`, `(B, C, H, W)`; standard normal when starting from the last.
        step_noise: Noise of each step; not asked when `eta` is 0, nor at step 0.
        eta: 0 is deterministic, 1 has the posterior's variance (eq. 16).
        start: Index of the step that `x_t` stands at; the noisiest by default.
        clip: Clip pred_xstart to [-1, 1], as the paper's samples do; or how else it is kept there.
        watch: Told pred_xstart after each step.

    Returns:
        Images, `(B, C, H, W)`: the last pred_xstart, in [-1, 1] if clipped.
    """
    schedule = diffusion.schedule
    for i in reversed(range(steps_between(diffusion.schedule, start))):
        t = torch.full((len(x_t),), i, device=x_t.device)
        pred_xstart = diffusion.denoise(model, x_t, t, clip=clip)
        eps = diffusion.predict_eps_from_xstart(x_t, t, pred_xstart)
        alpha_bar_prev = float(schedule.alphas_cumprod_prev[i])
        sigma = eta * float(schedule.posterior_variance[i]) ** 0.5
        x_t = alpha_bar_prev**0.5 * pred_xstart + max(1 - alpha_bar_prev - sigma**2, 0.0) ** 0.5 * eps
        if eta > 0 and i > 0:
            x_t = x_t + sigma * step_noise(i)
        watch(i, pred_xstart)
    return x_t


@torch.inference_mode()
def ddim_invert(
    model: Model,
    diffusion: GaussianDiffusion,
    x_start: Tensor,
    *,
    stop: int | None = None,
    iterations: int = 1,
    clip: bool | Threshold = False,
    watch: Watch = unwatched,
) -> Tensor:
    """The noisy images from which `ddim_sample` at eta 0 returns to these ones (Song et al. 2021, sec. 4.3).

    Each step solves eq. 12 backwards for x_i: the ddim step from x_i must give x_{i-1}. eps stands on both sides, so it
    is found by fixed-point iteration from the guess x_i = x_{i-1}; one iteration is the usual inversion, whose error
    falls with the number of steps, more make the round trip exact.

    Args:
        model: Trained network.
        diffusion: Its diffusion, respaced or not; its variance type does not matter here.
        x_start: Clean images, `(B, C, H, W)`, [-1, 1].
        stop: Index of the step to arrive at; the noisiest by default.
        iterations: Evaluations of the network per step.
        clip: Clip pred_xstart to [-1, 1], or how else it is kept there. What that cuts off cannot be inverted, so not
            by default.
        watch: Told pred_xstart after each step.

    Returns:
        Images at step `stop`, `(B, C, H, W)`.

    Raises:
        UsageError: If `stop` or `iterations` is out of range.
    """
    if iterations < 1:
        raise UsageError(
            f"ddim inversion was asked for {iterations} iterations per step; expected 1 or more."
        )
    path, x = noise_path(diffusion.schedule), x_start
    for i in range(steps_between(diffusion.schedule, stop)):
        before, here = path[i], path[i + 1]
        t = torch.full((len(x),), i, device=x.device)
        guess = x
        for _ in range(iterations):
            pred_xstart = diffusion.denoise(model, guess, t, clip=clip)
            if here.alpha == 0:  # eps is then the guess itself and says nothing of the image
                guess = (x - before.alpha * pred_xstart) / before.sigma
                continue
            eps = diffusion.predict_eps_from_xstart(guess, t, pred_xstart)
            shrink = here.alpha / before.alpha
            guess = shrink * x + (here.sigma - shrink * before.sigma) * eps
        x = guess
        watch(i, pred_xstart)
    return x
