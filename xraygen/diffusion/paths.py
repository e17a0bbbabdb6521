"""The one footing of all samplers: a path of noise levels x_t = alpha x_0 + sigma eps that ends at the clean image.

Level 0 is the clean image, (1, 0); level i + 1 is step i of the schedule, 0 the least noisy. Step i of a chain goes
from level i + 1 down to level i, so its source is `path[i + 1]` and its target `path[i]`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import UsageError

StepNoise = Callable[[int], Tensor]
"""Index of the step -> standard normal noise `(B, C, H, W)`."""

Watch = Callable[[int, Tensor], None]
"""Called after each step with its index and pred_xstart `(B, C, H, W)`."""


def no_noise(step: int) -> Tensor:
    """The step noise of a deterministic chain, which never asks for it."""
    raise UsageError(
        f"Step {step} of this chain is random (eta above 0, sde, or ddpm) and was given no noise."
    )


def unwatched(step: int, pred_xstart: Tensor) -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class Level:
    """One noise level: x = alpha x_0 + sigma eps, with alpha^2 + sigma^2 = 1."""

    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """lambda = log(alpha / sigma), half the log-SNR (Lu et al. 2022b, sec. 2): inf if clean, -inf if noise."""
        if self.alpha == 0:
            return -math.inf
        return math.inf if self.sigma == 0 else math.log(self.alpha / self.sigma)


def noise_path(schedule: NoiseSchedule) -> list[Level]:
    """The K + 1 levels of a schedule, the clean image first."""
    noisy = [Level(math.sqrt(abar), math.sqrt(1 - abar)) for abar in schedule.alphas_cumprod.tolist()]
    return [Level(1.0, 0.0), *noisy]


def steps_between(schedule: NoiseSchedule, noisiest: int | None) -> int:
    """How many steps lie between the image and step `noisiest` (the last by default), both included."""
    length = len(schedule.timesteps)
    if noisiest is not None and not 0 <= noisiest < length:
        raise UsageError(
            f"Step {noisiest} of the chain was asked for; expected 0 to {length - 1}, its steps."
        )
    return length if noisiest is None else noisiest + 1
