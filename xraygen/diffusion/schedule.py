"""How fast the images drown in noise: betas and all that follows from them, in float64, computed once and frozen.

T timesteps, K <= T of them kept; index 0 is the least noisy.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from xraygen.config import ScheduleConfig
from xraygen.errors import UsageError


def linear_betas(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """Betas in equal steps from first to last, both included (Ho et al. 2020, sec. 4). Float64 `(T,)`."""
    return torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)


def cosine_betas(num_timesteps: int, max_beta: float = 0.999) -> Tensor:
    """Betas whose cumulative alpha falls like a squared cosine (Nichol & Dhariwal 2021, eq. 17). Float64 `(T,)`."""
    offset = 0.008
    time = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    alpha_bar = torch.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2  # (T + 1,)
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


@dataclass(frozen=True)
class NoiseSchedule:
    """The tables of Ho et al. 2020, sec. 2 and 3, each float64 `(K,)`.

    Attributes:
        betas: Variance added at each step.
        alphas_cumprod: Product of 1 - beta up to and including t.
        alphas_cumprod_prev: The same up to t - 1; the first entry is 1.
        timesteps: The t that the network is told at each index, int64; 0 ... T - 1 unless respaced.
        num_timesteps: T of the schedule that the network was trained on.
    """

    betas: Tensor
    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor
    timesteps: Tensor
    num_timesteps: int

    @classmethod
    def from_betas(cls, betas: Tensor) -> Self:
        """The schedule of these betas, float64 `(T,)`, each in (0, 1)."""
        if betas.dtype != torch.float64 or betas.ndim != 1 or not ((betas > 0) & (betas < 1)).all():
            raise UsageError("betas must be a float64 vector with every entry between 0 and 1.")
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        return cls(
            betas=betas,
            alphas_cumprod=alphas_cumprod,
            alphas_cumprod_prev=_shifted(alphas_cumprod),
            timesteps=torch.arange(len(betas)),
            num_timesteps=len(betas),
        )

    @classmethod
    def from_config(cls, config: ScheduleConfig) -> Self:
        """The schedule that a configuration describes."""
        if config.kind == "cosine":
            return cls.from_betas(cosine_betas(config.num_timesteps))
        return cls.from_betas(linear_betas(config.num_timesteps, config.beta_start, config.beta_end))

    def respace(self, steps: int) -> Self:
        """Keep `steps` of the timesteps, evenly spaced and the last always among them.

        The betas are those of the shorter chain that passes through the same alphas_cumprod, so every formula
        holds unchanged (Nichol & Dhariwal 2021, sec. 4).

        Args:
            steps: How many timesteps to keep, 1 ... K.

        Raises:
            UsageError: If there are fewer timesteps than that.
        """
        length = len(self.timesteps)
        if not 1 <= steps <= length:
            raise UsageError(
                f"{steps} sampling steps were asked for; expected 1 to {length}, the schedule's own."
            )
        if steps == length:
            return self
        kept = torch.linspace(length - 1, 0, steps, dtype=torch.float64).round().long().flip(0)
        alphas_cumprod = self.alphas_cumprod[kept]
        alphas_cumprod_prev = _shifted(alphas_cumprod)
        return type(self)(
            betas=1 - alphas_cumprod / alphas_cumprod_prev,
            alphas_cumprod=alphas_cumprod,
            alphas_cumprod_prev=alphas_cumprod_prev,
            timesteps=self.timesteps[kept],
            num_timesteps=self.num_timesteps,
        )

    @property
    def alphas(self) -> Tensor:
        """1 - beta."""
        return 1 - self.betas

    @property
    def posterior_variance(self) -> Tensor:
        """Variance of q(x_{t-1} | x_t, x_0); 0 at t = 0 (Ho et al. 2020, eq. 7)."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio, alphas_cumprod / (1 - alphas_cumprod) (Kingma et al. 2021, eq. 2)."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)


def _shifted(alphas_cumprod: Tensor) -> Tensor:
    """The entry before each one; nothing is noisy before the first step."""
    return torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
