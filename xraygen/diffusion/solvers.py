"""Multistep solvers of the diffusion ODE and SDE: one network evaluation per step, the earlier ones remembered.

Between two levels, with lambda = log(alpha / sigma) and h = lambda_t - lambda_s, the probability-flow ODE is solved by

    x_t = sigma_t / sigma_s x_s + sigma_t * integral of exp(lambda) x_0-hat(lambda) from lambda_s to lambda_t

(Lu et al. 2022b, proposition 4.1). A solver is a way of guessing the integrand from the evaluations it has seen. s is
the source of a step, t its target. h is infinite at the last step (sigma_t = 0), and at the first where the schedule
ends without any signal (alpha_s = 0); the formulas below are written so that both are plain numbers.

Lu et al. 2022b is "DPM-Solver++" (arXiv 2211.01095), Zhao et al. 2023 "UniPC" (arXiv 2302.04867).
"""

import math

import torch
from torch import Tensor

from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.paths import Level, StepNoise, Watch, noise_path, steps_between, unwatched
from xraygen.diffusion.threshold import Threshold
from xraygen.errors import UsageError


def decay(source: Level, target: Level) -> float:
    """exp(-h) = alpha_s sigma_t / (sigma_s alpha_t): 0 from pure noise and to the clean image."""
    return source.alpha * target.sigma / (source.sigma * target.alpha)


def ode_coefficients(source: Level, target: Level) -> tuple[float, float]:
    """x_t = a x_s + b x_0-hat, exact while x_0-hat stands still (Lu et al. 2022b, eq. 9 with k = 1; DDIM's step)."""
    return target.sigma / source.sigma, target.alpha * (1 - decay(source, target))


def sde_coefficients(source: Level, target: Level) -> tuple[float, float, float]:
    """x_t = a x_s + b x_0-hat + c noise, exact while x_0-hat stands still (Lu et al. 2022b, sec. 5)."""
    shrink = decay(source, target)
    kept = 1 - shrink**2
    return shrink * target.sigma / source.sigma, target.alpha * kept, target.sigma * math.sqrt(kept)


def midpoint_slope(before: Level, source: Level, target: Level) -> float:
    """1 / (2 r) with r = (lambda_s - lambda_before) / h (Lu et al. 2022b, algorithm 2).

    D = x_0-hat + slope (x_0-hat - x_0-hat before) then stands for the whole step. 0 where the evaluation before was at
    pure noise: a point infinitely far says nothing of the slope here.
    """
    return 0.5 * (target.log_snr - source.log_snr) / (source.log_snr - before.log_snr)


def exponential_moments(h: float, count: int) -> list[float]:
    """h * integral of exp(-(1 - u) h) u^n over u in [0, 1], for n = 1 ... count.

    What an integrand of u^n adds to the step, (lambda - lambda_s) = u h: n! phi_{n+1} of Zhao et al. 2023, in their
    data-prediction form. Integrated by parts, J_n = 1 - n / h J_{n-1} with J_0 = 1 - exp(-h). Small steps read it
    backwards, from an n where J is nothing to speak of, because forwards it subtracts nearly equal numbers.
    """
    if h > 1:
        moments = [-math.expm1(-h)]
        for n in range(1, count + 1):
            moments.append(1 - n / h * moments[-1])
        return moments[1:]
    moment, backwards = 0.0, []
    for n in range(count + 20, 1, -1):
        moment = h / n * (1 - moment)  # J_{n-1}
        backwards.append(moment)
    return backwards[: -count - 1 : -1]


def unipc_weights(h: float, ratios: list[float]) -> list[float]:
    """Weight of each difference x_0-hat_k - x_0-hat_s in the step, in units of alpha_t.

    They are those for which every polynomial through the points is integrated exactly, R_p(h) a_p B(h) = phi_p(h); a
    single point takes a = 1/2 with B(h) = exp(-h) - 1 instead (Zhao et al. 2023, sec. 3 and algorithms 1 and 2).

    Args:
        h: Step in lambda.
        ratios: r_k = (lambda_k - lambda_s) / h of each point: below 0 for earlier evaluations, 1 for the target's own.
            An infinite one, an evaluation at pure noise, is left out: its weight is 0.

    Returns:
        One weight per ratio.
    """
    near = [ratio for ratio in ratios if math.isfinite(ratio)]
    solved: list[float] = []
    if len(near) == 1:
        solved = [-0.5 * math.expm1(-h) / near[0]]
    elif near:
        powers = torch.tensor([[r**n for r in near] for n in range(1, len(near) + 1)], dtype=torch.float64)
        moments = torch.tensor(exponential_moments(h, len(near)), dtype=torch.float64)
        solved = torch.linalg.solve(powers, moments).tolist()
    found = iter(solved)
    return [next(found) if math.isfinite(ratio) else 0.0 for ratio in ratios]


def unipc_coefficients(
    levels: list[Level], target: Level, *, corrector: bool
) -> tuple[float, float, list[float]]:
    """x_t = a x_s + b x_0-hat_s + sum of c_k x_0-hat_k (Zhao et al. 2023, algorithms 2 and, `corrector`, 1).

    Args:
        levels: Where the evaluations were made, the source of the step first, then the earlier ones.
        target: Where the step leads.
        corrector: Use the evaluation at the target too (UniC); its weight is the last.

    Returns:
        a, b, and one c for each of `levels[1:]`, and for the target if `corrector`.
    """
    source = levels[0]
    a, b = ode_coefficients(source, target)
    h = target.log_snr - source.log_snr
    ratios = [(level.log_snr - source.log_snr) / h for level in levels[1:]] + [1.0] * corrector
    weights = [target.alpha * weight for weight in unipc_weights(h, ratios)]
    return a, b - sum(weights), weights


@torch.inference_mode()
def dpmpp_sample(
    model: Model,
    diffusion: GaussianDiffusion,
    x_t: Tensor,
    step_noise: StepNoise,
    *,
    order: int = 2,
    sde: bool = False,
    start: int | None = None,
    clip: bool | Threshold = True,
    watch: Watch = unwatched,
) -> Tensor:
    """DPM-Solver++(2M) and SDE-DPM-Solver++(2M) of Lu et al. 2022b; the last step, to sigma 0, is of first order.

    Args:
        model: Trained network.
        diffusion: Its diffusion, respaced or not; its variance type does not matter here.
        x_t: Images at step `start`, `(B, C, H, W)`; standard normal when starting from the last.
        step_noise: Noise of each step; asked only when `sde`, and not at step 0.
        order: 1 (ddim with eta 0, or 1 when `sde`) or 2.
        sde: Solve the SDE (algorithm of their sec. 5) rather than the ODE (algorithm 2).
        start: Index of the step that `x_t` stands at; the noisiest by default.
        clip: Clip pred_xstart to [-1, 1], or how else it is kept there.
        watch: Told pred_xstart after each step.

    Returns:
        Images, `(B, C, H, W)`: the last pred_xstart.

    Raises:
        UsageError: If `order` or `start` is out of range.
    """
    if order not in (1, 2):
        raise UsageError(f"dpm++ was asked for order {order}; expected 1 or 2.")
    path = noise_path(diffusion.schedule)
    before = None  # pred_xstart of the step before
    for i in reversed(range(steps_between(diffusion.schedule, start))):
        source, target = path[i + 1], path[i]
        t = torch.full((len(x_t),), i, device=x_t.device)
        pred_xstart = diffusion.denoise(model, x_t, t, clip=clip)
        middle = pred_xstart
        if order == 2 and before is not None and i > 0:
            middle = pred_xstart + midpoint_slope(path[i + 2], source, target) * (pred_xstart - before)
        if sde:
            a, b, c = sde_coefficients(source, target)
            x_t = a * x_t + b * middle
            if i > 0:
                x_t = x_t + c * step_noise(i)
        else:
            a, b = ode_coefficients(source, target)
            x_t = a * x_t + b * middle
        before = pred_xstart
        watch(i, pred_xstart)
    return x_t


@torch.inference_mode()
def unipc_sample(
    model: Model,
    diffusion: GaussianDiffusion,
    x_t: Tensor,
    step_noise: StepNoise,
    *,
    order: int = 2,
    start: int | None = None,
    clip: bool | Threshold = True,
    watch: Watch = unwatched,
) -> Tensor:
    """UniPC of Zhao et al. 2023 with data prediction and B(h) = exp(-h) - 1 ("bh2").

    Each step is predicted from the evaluations so far (UniP), then corrected with the one at its own target (UniC),
    which the next step needs anyway. Orders rise from 1 at the start and fall to 1 at the end, where h is infinite.

    Args:
        model: Trained network.
        diffusion: Its diffusion, respaced or not; its variance type does not matter here.
        x_t: Images at step `start`, `(B, C, H, W)`; standard normal when starting from the last.
        step_noise: Never asked; here for the common signature.
        order: Points that predictor and corrector use, 1 to 3.
        start: Index of the step that `x_t` stands at; the noisiest by default.
        clip: Clip pred_xstart to [-1, 1], or how else it is kept there.
        watch: Told pred_xstart after each step.

    Returns:
        Images, `(B, C, H, W)`: the last pred_xstart.

    Raises:
        UsageError: If `order` or `start` is out of range.
    """
    if order not in (1, 2, 3):
        raise UsageError(f"unipc was asked for order {order}; expected 1, 2 or 3.")
    path = noise_path(diffusion.schedule)
    steps = steps_between(diffusion.schedule, start)
    corrected = x_t  # what each prediction starts from
    levels: list[Level] = []  # of the evaluations that count, the newest first, and what they saw
    seen: list[Tensor] = []
    for i in reversed(range(steps)):
        here, target = path[i + 1], path[i]
        t = torch.full((len(x_t),), i, device=x_t.device)
        pred_xstart = diffusion.denoise(model, x_t, t, clip=clip)
        if seen:
            corrected = _combine(
                corrected, unipc_coefficients(levels, here, corrector=True), [*seen, pred_xstart]
            )
        points = min(order, i + 1)
        levels, seen = [here, *levels][:points], [pred_xstart, *seen][:points]
        x_t = _combine(corrected, unipc_coefficients(levels, target, corrector=False), seen)
        watch(i, pred_xstart)
    return x_t


def _combine(x: Tensor, coefficients: tuple[float, float, list[float]], seen: list[Tensor]) -> Tensor:
    """a x + b seen_0 + sum of c_k seen_k."""
    a, b, weights = coefficients
    x = a * x + b * seen[0]
    for weight, pred_xstart in zip(weights, seen[1:], strict=True):
        x = x + weight * pred_xstart
    return x
