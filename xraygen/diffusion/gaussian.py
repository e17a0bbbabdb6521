"""Gaussian diffusion of Ho et al. 2020: the forward process, its posterior, the reverse step and the loss.

B batch, C channel, H, W sides. Images are in [-1, 1]; t is `(B,)` int64 in [0, K - 1], 0 the least noisy step.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from xraygen.config import DiffusionConfig
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import ShapeError, UsageError

Model = Callable[[Tensor, Tensor], Tensor]
"""A network: (x_t `(B, C, H, W)`, t `(B,)` int64) -> prediction `(B, C, H, W)`."""


@dataclass(frozen=True)
class ModelPrediction:
    """One reverse step p(x_{t-1} | x_t) = N(mean, exp(log_variance)), each `(B, C, H, W)` or broadcastable."""

    mean: Tensor
    log_variance: Tensor
    pred_xstart: Tensor


@dataclass(frozen=True)
class GaussianDiffusion:
    """The equations, for one schedule and one meaning of the network's output."""

    schedule: NoiseSchedule
    config: DiffusionConfig

    def __post_init__(self) -> None:
        if (
            self.config.variance_type == "fixed_large"
            and len(self.schedule.timesteps) < self.schedule.num_timesteps
        ):
            raise UsageError(
                "The variance fixed_large holds only for all timesteps (with 50 of 1000 it leaves so much noise "
                "that FID rises from 3 to 85); sample with every step, or with ddim, or with "
                "diffusion.variance_type=fixed_small."
            )

    def respace(self, steps: int) -> Self:
        """The same diffusion over fewer timesteps."""
        return replace(self, schedule=self.schedule.respace(steps))

    def with_variance(self, variance_type: str) -> Self:
        """The same diffusion with another variance of the reverse step."""
        return replace(self, config=self.config.model_copy(update={"variance_type": variance_type}))

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Sample x_t from q(x_t | x_0): add `t + 1` steps of noise at once.

        x_t = sqrt(alphas_cumprod_t) x_0 + sqrt(1 - alphas_cumprod_t) noise

        Args:
            x_start: Clean images, `(B, C, H, W)`, float, [-1, 1].
            t: Timestep per image, `(B,)`, int64 in [0, K - 1]; 0 is the least noisy.
            noise: Standard normal, the shape of `x_start`.

        Returns:
            Noisy images, `(B, C, H, W)`, dtype of `x_start`. Not clipped.

        Raises:
            ShapeError: If `noise` and `x_start` differ in shape.

        Source:
            Ho et al. 2020, eq. 4.
        """
        if noise.shape != x_start.shape:
            raise ShapeError(
                f"noise is {tuple(noise.shape)} and x_start {tuple(x_start.shape)}; expected one shape."
            )
        alpha_bar = self._at(self.schedule.alphas_cumprod, t)
        return _mix(alpha_bar.sqrt(), x_start, (1 - alpha_bar).sqrt(), noise)

    def q_posterior_mean_variance(self, x_start: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of q(x_{t-1} | x_t, x_0).

        Args:
            x_start: Clean images, `(B, C, H, W)`, [-1, 1].
            x_t: Noisy images of the same shape.
            t: Timestep per image, `(B,)`, int64; at 0 the mean is `x_start` and the variance 0.

        Returns:
            Mean `(B, C, H, W)`, dtype of `x_t`, and variance `(B, 1, 1, 1)`, float64.

        Source:
            Ho et al. 2020, eq. 6 and 7.
        """
        alpha_bar = self._at(self.schedule.alphas_cumprod, t)
        alpha_bar_prev = self._at(self.schedule.alphas_cumprod_prev, t)
        beta = self._at(self.schedule.betas, t)
        coef1 = alpha_bar_prev.sqrt() * beta / (1 - alpha_bar)
        coef2 = (1 - beta).sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar)
        return _mix(coef1, x_start, coef2, x_t), self._at(self.schedule.posterior_variance, t)

    def model_log_variance(self) -> Tensor:
        """Log-variance of each reverse step, float64 `(K,)` (Ho et al. 2020, sec. 3.2).

        fixed_large is beta_t, fixed_small the posterior's. The posterior's first variance is 0, so both take
        posterior_variance[1] there; it matters for L_0 only, since the last step adds no noise.
        """
        large = self.config.variance_type == "fixed_large"
        variance = (self.schedule.betas if large else self.schedule.posterior_variance).clone()
        variance[0] = self.schedule.posterior_variance[min(1, len(variance) - 1)]
        return variance.clamp(min=1e-20).log()

    def predict_xstart_from_eps(self, x_t: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_0 = (x_t - sqrt(1 - alphas_cumprod_t) eps) / sqrt(alphas_cumprod_t) (Ho et al. 2020, eq. 15)."""
        alpha_bar = self._at(self.schedule.alphas_cumprod, t)
        return _mix(alpha_bar.rsqrt(), x_t, -(1 / alpha_bar - 1).sqrt(), eps)

    def predict_eps_from_xstart(self, x_t: Tensor, t: Tensor, x_start: Tensor) -> Tensor:
        """eps = (x_t - sqrt(alphas_cumprod_t) x_0) / sqrt(1 - alphas_cumprod_t) (eq. 4, solved for the noise)."""
        alpha_bar = self._at(self.schedule.alphas_cumprod, t)
        return _mix((1 - alpha_bar).rsqrt(), x_t, -(alpha_bar / (1 - alpha_bar)).sqrt(), x_start)

    def predict_xstart_from_v(self, x_t: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """x_0 = sqrt(alphas_cumprod_t) x_t - sqrt(1 - alphas_cumprod_t) v (Salimans & Ho 2022, app. D)."""
        alpha_bar = self._at(self.schedule.alphas_cumprod, t)
        return _mix(alpha_bar.sqrt(), x_t, -(1 - alpha_bar).sqrt(), v)

    def v_from_xstart_and_eps(self, x_start: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """v = sqrt(alphas_cumprod_t) eps - sqrt(1 - alphas_cumprod_t) x_0 (Salimans & Ho 2022, app. D)."""
        alpha_bar = self._at(self.schedule.alphas_cumprod, t)
        return _mix(alpha_bar.sqrt(), eps, -(1 - alpha_bar).sqrt(), x_start)

    def predict_xstart(self, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """The network's x_0, whatever it predicts; not clipped."""
        match self.config.prediction_type:
            case "epsilon":
                return self.predict_xstart_from_eps(x_t, t, output)
            case "v_prediction":
                return self.predict_xstart_from_v(x_t, t, output)
            case "sample":
                return output

    def model_output(self, model: Model, x_t: Tensor, t: Tensor) -> Tensor:
        """Ask the network, in the timesteps of the schedule it was trained on; float32 or better."""
        told = self.schedule.timesteps.to(t.device)[t]
        return model(x_t, told).to(x_t.dtype)

    def p_mean_variance(self, model: Model, x_t: Tensor, t: Tensor, *, clip: bool = True) -> ModelPrediction:
        """The reverse step p(x_{t-1} | x_t) that the network implies.

        Args:
            model: Network, called with x_t and the timesteps it was trained on.
            x_t: Noisy images, `(B, C, H, W)`.
            t: Timestep per image, `(B,)`, int64 in [0, K - 1].
            clip: Clip pred_xstart to [-1, 1], as the paper's samples do.

        Returns:
            Mean `(B, C, H, W)`, log-variance `(B, 1, 1, 1)` float64, pred_xstart `(B, C, H, W)`.

        Source:
            Ho et al. 2020, eq. 11, in the form of eq. 7 with the predicted x_0.
        """
        pred_xstart = self.predict_xstart(x_t, t, self.model_output(model, x_t, t))
        if clip:
            pred_xstart = pred_xstart.clamp(-1, 1)
        mean, _ = self.q_posterior_mean_variance(pred_xstart, x_t, t)
        return ModelPrediction(mean, self._at(self.model_log_variance(), t), pred_xstart)

    def training_losses(self, model: Model, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The loss of each image: mean squared error of the prediction, weighed by the configuration.

        With prediction_type epsilon and loss_weighting simple it is L_simple.

        Args:
            model: Network in training.
            x_start: Clean images, `(B, C, H, W)`, [-1, 1].
            t: Timestep per image, `(B,)`, int64 in [0, K - 1].
            noise: Standard normal, the shape of `x_start`.

        Returns:
            Loss per image, `(B,)`, float32.

        Source:
            Ho et al. 2020, eq. 14; weights: Hang et al. 2023, eq. 8.
        """
        x_t = self.q_sample(x_start, t, noise)
        output = self.model_output(model, x_t, t)
        target = {
            "epsilon": lambda: noise,
            "sample": lambda: x_start,
            "v_prediction": lambda: self.v_from_xstart_and_eps(x_start, t, noise),
        }[self.config.prediction_type]()
        error = (output - target).square().flatten(1).mean(dim=1)  # (B,)
        return error * self.loss_weights().to(t.device)[t].to(error.dtype)

    def loss_weights(self) -> Tensor:
        """Weight of each timestep's squared error, float64 `(K,)`: 1, or min(SNR, gamma) in the target's units."""
        snr = self.schedule.snr
        if self.config.loss_weighting == "simple":
            return torch.ones_like(snr)
        weight_of_xstart = snr.clamp(max=self.config.min_snr_gamma)
        return {
            "sample": weight_of_xstart,
            "epsilon": weight_of_xstart / snr,
            "v_prediction": weight_of_xstart / (snr + 1),
        }[self.config.prediction_type]

    def _at(self, table: Tensor, t: Tensor) -> Tensor:
        """The table's entries at t as `(B, 1, 1, 1)`, still float64."""
        return table.to(t.device)[t].view(-1, 1, 1, 1)


def _mix(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """a x + b y with float64 coefficients cast to the images' dtype at the last moment."""
    return a.to(x.dtype) * x + b.to(x.dtype) * y
