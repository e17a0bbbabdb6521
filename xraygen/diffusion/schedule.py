"""How fast the images drown in noise: betas and all that follows from them, in float64, computed once and frozen.

T timesteps, K <= T of them kept; index 0 is the least noisy.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from xraygen.config import ScheduleConfig
from xraygen.diffusion.spacing import Spacing, kept_timesteps
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


def sigmoid_betas(num_timesteps: int, max_beta: float = 0.999) -> Tensor:
    """Betas whose cumulative alpha falls like a sigmoid from -3 to 3 (Jabri et al. 2022, alg. 3). Float64 `(T,)`."""
    values = torch.linspace(-3, 3, num_timesteps + 1, dtype=torch.float64).sigmoid()
    alpha_bar = (values[-1] - values) / (values[-1] - values[0])  # (T + 1,), from 1 to 0
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta)


def edm_sigmas(num_timesteps: int, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    """Noise levels in equal steps of their rho-th root (Karras et al. 2022, eq. 5). Float64 `(T,)`, rising."""
    roots = torch.linspace(sigma_min ** (1 / rho), sigma_max ** (1 / rho), num_timesteps, dtype=torch.float64)
    sigmas: Tensor = roots**rho
    return sigmas


def alphas_cumprod_from_sigmas(sigmas: Tensor) -> Tensor:
    """x_0 + sigma eps, scaled to variance 1: alphas_cumprod = 1 / (1 + sigma^2) (Song et al. 2021, app. B)."""
    return 1 / (1 + sigmas**2)


def shift_snr(alphas_cumprod: Tensor, factor: float) -> Tensor:
    """Multiply the signal-to-noise ratio by (reference / size)^2 (Hoogeboom et al. 2023, sec. 3.1)."""
    return factor * alphas_cumprod / (1 - alphas_cumprod + factor * alphas_cumprod)


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Stretch sqrt(alphas_cumprod) so that the last is 0 and the first stays (Lin et al. 2024, algorithm 1)."""
    root = alphas_cumprod.sqrt()
    rescaled: Tensor = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return rescaled


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
        """The schedule of these betas, float64 `(T,)`, each in (0, 1); the last may be 1."""
        if betas.dtype != torch.float64 or betas.ndim != 1 or not ((betas > 0) & (betas <= 1)).all():
            raise UsageError("betas must be a float64 vector with every entry above 0 and up to 1.")
        return cls._of(betas, torch.cumprod(1 - betas, dim=0))

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> Self:
        """The schedule that passes through these alphas_cumprod, float64 `(T,)`, falling inside [0, 1)."""
        betas = 1 - alphas_cumprod / _shifted(alphas_cumprod)
        if alphas_cumprod.dtype != torch.float64 or alphas_cumprod.ndim != 1 or not (betas > 0).all():
            raise UsageError(
                "alphas_cumprod must be a float64 vector that falls from entry to entry, from below 1."
            )
        return cls._of(betas, alphas_cumprod)

    @classmethod
    def _of(cls, betas: Tensor, alphas_cumprod: Tensor) -> Self:
        if (alphas_cumprod[:-1] <= 0).any():
            raise UsageError(
                "Only the last step of a schedule may have no signal left; one before it has none."
            )
        return cls(
            betas=betas,
            alphas_cumprod=alphas_cumprod,
            alphas_cumprod_prev=_shifted(alphas_cumprod),
            timesteps=torch.arange(len(betas)),
            num_timesteps=len(betas),
        )

    @classmethod
    def from_config(cls, config: ScheduleConfig) -> Self:
        """The schedule that a configuration describes: its kind, then the shift, then zero terminal SNR."""
        schedule = cls._of_kind(config)
        if config.reference_size is not None:
            size = config.image_size
            pixels = size**2 if isinstance(size, int) else size[0] * size[1]
            schedule = cls.from_alphas_cumprod(
                shift_snr(schedule.alphas_cumprod, config.reference_size**2 / pixels)
            )
        if config.zero_terminal_snr:
            schedule = cls.from_alphas_cumprod(rescale_zero_terminal_snr(schedule.alphas_cumprod))
        return schedule

    @classmethod
    def _of_kind(cls, config: ScheduleConfig) -> Self:
        steps = config.num_timesteps
        match config.kind:
            case "linear":
                return cls.from_betas(linear_betas(steps, config.beta_start, config.beta_end))
            case "cosine":
                return cls.from_betas(cosine_betas(steps))
            case "sigmoid":
                return cls.from_betas(sigmoid_betas(steps))
            case "edm":
                sigmas = edm_sigmas(steps, config.sigma_min, config.sigma_max, config.rho)
                return cls.from_alphas_cumprod(alphas_cumprod_from_sigmas(sigmas))

    def respace(self, steps: int, spacing: Spacing = "uniform") -> Self:
        """Keep `steps` of the timesteps, the last always among them.

        The betas are those of the shorter chain that passes through the same alphas_cumprod, so every formula
        holds unchanged (Nichol & Dhariwal 2021, sec. 4).

        Args:
            steps: How many timesteps to keep, 1 ... K.
            spacing: Which (`xraygen.diffusion.spacing`).

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
        kept = kept_timesteps(self.alphas_cumprod, steps, spacing)
        shorter = type(self).from_alphas_cumprod(self.alphas_cumprod[kept])
        return replace(shorter, timesteps=self.timesteps[kept], num_timesteps=self.num_timesteps)

    @property
    def alphas(self) -> Tensor:
        """1 - beta."""
        return 1 - self.betas

    @property
    def posterior_variance(self) -> Tensor:
        """Variance of q(x_{t-1} | x_t, x_0); 0 at t = 0 (Ho et al. 2020, eq. 7)."""
        return self.betas * (1 - self.alphas_cumprod_prev) / (1 - self.alphas_cumprod)

    @property
    def sigmas(self) -> Tensor:
        """Noise beside an image of size 1, sqrt((1 - alphas_cumprod) / alphas_cumprod) (Karras et al. 2022)."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio, alphas_cumprod / (1 - alphas_cumprod) (Kingma et al. 2021, eq. 2)."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)


def _shifted(alphas_cumprod: Tensor) -> Tensor:
    """The entry before each one; nothing is noisy before the first step."""
    return torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
