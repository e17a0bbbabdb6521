"""From noise to images: each sampler one function, all with the same signature.

(model, diffusion, x_t, step_noise, ...) -> x_0, where `diffusion` may be respaced to fewer steps and `step_noise(i)`
returns the standard normal noise of step i, so that the caller decides which image gets which randomness.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.errors import UsageError

StepNoise = Callable[[int], Tensor]
"""Index of the step -> standard normal noise `(B, C, H, W)`."""


def no_noise(step: int) -> Tensor:
    """The step noise of a deterministic chain, which never asks for it."""
    raise UsageError(f"Step {step} of this chain is random (eta above 0, or ddpm) and was given no noise.")


Watch = Callable[[int, Tensor], None]
"""Called after each step with its index and pred_xstart `(B, C, H, W)`."""


def _unwatched(step: int, pred_xstart: Tensor) -> None:
    """Watch nothing."""


@torch.inference_mode()
def ddpm_sample(
    model: Model,
    diffusion: GaussianDiffusion,
    x_t: Tensor,
    step_noise: StepNoise,
    *,
    start: int | None = None,
    watch: Watch = _unwatched,
) -> Tensor:
    """Ancestral sampling, Algorithm 2 of Ho et al. 2020.

    Args:
        model: Trained network.
        diffusion: Its diffusion, respaced or not.
        x_t: Images at step `start`, `(B, C, H, W)`; standard normal when starting from the last.
        step_noise: Noise of each step; not asked at step 0, which adds none.
        start: Index of the step that `x_t` stands at; the noisiest by default.
        watch: Told pred_xstart after each step.

    Returns:
        Images, `(B, C, H, W)`, in [-1, 1] up to the last step's clipping.
    """
    for i in reversed(range(_steps(diffusion, start))):
        t = torch.full((len(x_t),), i, device=x_t.device)
        step = diffusion.p_mean_variance(model, x_t, t)
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
    watch: Watch = _unwatched,
) -> Tensor:
    """Denoising diffusion implicit models, eq. 12 of Song et al. 2021.

    Args:
        model: Trained network.
        diffusion: Its diffusion, respaced or not; its variance type does not matter here.
        x_t: Images at step `start`, `(B, C, H, W)`; standard normal when starting from the last.
        step_noise: Noise of each step; not asked when `eta` is 0, nor at step 0.
        eta: 0 is deterministic, 1 has the posterior's variance (eq. 16).
        start: Index of the step that `x_t` stands at; the noisiest by default.
        watch: Told pred_xstart after each step.

    Returns:
        Images, `(B, C, H, W)`, in [-1, 1].
    """
    schedule = diffusion.schedule
    for i in reversed(range(_steps(diffusion, start))):
        t = torch.full((len(x_t),), i, device=x_t.device)
        output = diffusion.model_output(model, x_t, t)
        pred_xstart = diffusion.predict_xstart(x_t, t, output).clamp(-1, 1)
        eps = diffusion.predict_eps_from_xstart(x_t, t, pred_xstart)
        alpha_bar_prev = float(schedule.alphas_cumprod_prev[i])
        sigma = eta * float(schedule.posterior_variance[i]) ** 0.5
        x_t = alpha_bar_prev**0.5 * pred_xstart + max(1 - alpha_bar_prev - sigma**2, 0.0) ** 0.5 * eps
        if eta > 0 and i > 0:
            x_t = x_t + sigma * step_noise(i)
        watch(i, pred_xstart)
    return x_t


def _steps(diffusion: GaussianDiffusion, start: int | None) -> int:
    """How many steps lie between `start` and the image, both included."""
    return len(diffusion.schedule.timesteps) if start is None else start + 1
