"""Gaussian diffusion of Ho et al. 2020: the forward process, its posterior, the reverse step and the loss.

B batch, C channel, H, W sides. Images are in [-1, 1]; t is `(B,)` int64 in [0, K - 1], 0 the least noisy step.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from xraygen.config import DiffusionConfig
from xraygen.devices import moved
from xraygen.diffusion.densities import BITS, discretised_gaussian_log_likelihood, normal_kl, to_grid
from xraygen.diffusion.preconditioning import c_in, c_noise, c_out, c_skip, network_target
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.diffusion.spacing import Spacing
from xraygen.diffusion.threshold import Threshold, thresholded
from xraygen.errors import ShapeError, UsageError

Model = Callable[[Tensor, Tensor], Tensor]
"""A network: (x_t `(B, C, H, W)`, what it is told of t `(B,)`) -> prediction `(B, C, H, W)`, or `(B, 2 C, H, W)` where
the second half places the variance (learned_range)."""


@dataclass(frozen=True)
class ModelPrediction:
    """One reverse step p(x_{t-1} | x_t) = N(mean, exp(log_variance)), each `(B, C, H, W)` or broadcastable to it."""

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

    def respace(self, steps: int, spacing: Spacing = "uniform") -> Self:
        """The same diffusion over fewer timesteps."""
        return replace(self, schedule=self.schedule.respace(steps, spacing))

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
        """Fixed log-variance of each reverse step, float64 `(K,)` (Ho et al. 2020, sec. 3.2).

        fixed_large is beta_t, fixed_small the posterior's. The posterior's first variance is 0, so both take
        posterior_variance[1] there; it matters for L_0 only, since the last step adds no noise.
        """
        variance = self.schedule.posterior_variance.clone()
        first = variance[min(1, len(variance) - 1)].clamp(min=1e-20)
        if self.config.variance_type == "fixed_large":
            variance = self.schedule.betas.clone()
        variance[0] = first
        return variance.log()

    def learned_log_variance(self, t: Tensor, place: Tensor) -> Tensor:
        """v log(beta_t) + (1 - v) log(posterior variance) with v = (place + 1) / 2 (Nichol & Dhariwal 2021, eq. 15).

        Args:
            t: Timestep per image, `(B,)`, int64.
            place: The network's second half, `(B, C, H, W)`: -1 is the posterior's variance, 1 is beta_t.

        Returns:
            Log-variance, `(B, C, H, W)`, float64.
        """
        v = (place.double() + 1) / 2
        small = self._at(self.with_variance("fixed_small").model_log_variance(), t)
        return v * self._at(self.schedule.betas.log(), t) + (1 - v) * small

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

    def predict_xstart_from_edm(self, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """x_0 = c_skip x + c_out output, with x = x_t / sqrt(alphas_cumprod_t) (Karras et al. 2022, eq. 7)."""
        sigma, sigma_data = self._at(self.schedule.sigmas, t), self.config.sigma_data
        scale = self._at(self.schedule.alphas_cumprod, t).rsqrt()  # x_t has variance 1, Karras' x does not
        return _mix(scale * c_skip(sigma, sigma_data), x_t, c_out(sigma, sigma_data), output)

    def predict_xstart(self, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """The network's x_0, whatever it predicts; not clipped."""
        match self.config.prediction_type:
            case "epsilon":
                return self.predict_xstart_from_eps(x_t, t, output)
            case "v_prediction":
                return self.predict_xstart_from_v(x_t, t, output)
            case "edm":
                return self.predict_xstart_from_edm(x_t, t, output)
            case "sample":
                return output

    def model_output(self, model: Model, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """Ask the network, in the terms it was trained in.

        Args:
            model: The network.
            x_t: Noisy images, `(B, C, H, W)`.
            t: Timestep per image, `(B,)`, int64.

        Returns:
            Prediction `(B, C, H, W)`, and the place of the variance `(B, C, H, W)` where the network says one; both in
            the dtype of `x_t`.
        """
        if self.config.prediction_type == "edm":
            sigma = self._at(self.schedule.sigmas, t)
            scale = self._at(self.schedule.alphas_cumprod, t).rsqrt() * c_in(sigma, self.config.sigma_data)
            output = model(scale.to(x_t.dtype) * x_t, c_noise(sigma).flatten())
        else:
            output = model(x_t, moved(self.schedule.timesteps, t.device)[t])
        output = output.to(x_t.dtype)
        if output.shape[1] == x_t.shape[1]:
            return output, None
        prediction, place = output.chunk(2, dim=1)
        return prediction, place

    def denoise(self, model: Model, x_t: Tensor, t: Tensor, *, clip: bool | Threshold = True) -> Tensor:
        """The image that the network sees behind the noise: pred_xstart, `(B, C, H, W)`.

        Args:
            model: The network.
            x_t: Noisy images, `(B, C, H, W)`.
            t: Timestep per image, `(B,)`, int64.
            clip: Clip to [-1, 1], as the paper's samples do; or how else it is kept there.
        """
        output, _ = self.model_output(model, x_t, t)
        pred_xstart = self.predict_xstart(x_t, t, output)
        return thresholded(pred_xstart, clip)

    def p_mean_variance(
        self, model: Model, x_t: Tensor, t: Tensor, *, clip: bool | Threshold = True
    ) -> ModelPrediction:
        """The reverse step p(x_{t-1} | x_t) that the network implies.

        Args:
            model: Network, called with x_t and the timesteps it was trained on.
            x_t: Noisy images, `(B, C, H, W)`.
            t: Timestep per image, `(B,)`, int64 in [0, K - 1].
            clip: Clip pred_xstart to [-1, 1], as the paper's samples do; or how else it is kept there.

        Returns:
            Mean `(B, C, H, W)`, log-variance `(B, 1, 1, 1)`, or `(B, C, H, W)` if learned, float64, and pred_xstart
            `(B, C, H, W)`.

        Raises:
            ShapeError: If the variance is to be learned and the network says none.

        Source:
            Ho et al. 2020, eq. 11, in the form of eq. 7 with the predicted x_0.
        """
        output, place = self.model_output(model, x_t, t)
        return self._reverse_step(x_t, t, output, place, clip=clip)

    def _reverse_step(
        self, x_t: Tensor, t: Tensor, output: Tensor, place: Tensor | None, *, clip: bool | Threshold
    ) -> ModelPrediction:
        pred_xstart = thresholded(self.predict_xstart(x_t, t, output), clip)
        mean, _ = self.q_posterior_mean_variance(pred_xstart, x_t, t)
        if self.config.variance_type != "learned_range":
            return ModelPrediction(mean, self._at(self.model_log_variance(), t), pred_xstart)
        if place is None:
            raise ShapeError(
                f"The network returned {output.shape[1]} channels; expected {2 * x_t.shape[1]} with "
                "diffusion.variance_type=learned_range, the second half for the variance."
            )
        return ModelPrediction(mean, self.learned_log_variance(t, place), pred_xstart)

    def bound_term(self, step: ModelPrediction, x_start: Tensor, x_t: Tensor, t: Tensor, bits: int) -> Tensor:
        """L_{t-1}, and L_0 where t is 0, of each image, in bits per dimension.

        The divergence is taken from the true posterior with the true posterior's variance, whatever the model's is.

        Args:
            step: The reverse step from `x_t`.
            x_start: Images on the grid of `bits` bits, `(B, C, H, W)`, [-1, 1].
            x_t: The same, noised to t.
            t: Timestep per image, `(B,)`, int64.
            bits: Depth of the images.

        Returns:
            `(B,)`, float64.

        Source:
            Ho et al. 2020, eq. 5 and 13.
        """
        mean, variance = self.q_posterior_mean_variance(x_start, x_t, t)
        log_variance = variance.clamp(min=1e-20).log()  # 0 at t = 0, where the other branch counts
        kl = normal_kl(mean, log_variance, step.mean, step.log_variance)
        nll = -discretised_gaussian_log_likelihood(x_start, step.mean, step.log_variance, bits)
        return BITS * torch.where(t.view(-1, 1, 1, 1) == 0, nll, kl).flatten(1).mean(dim=1)

    def target(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network should predict, `(B, C, H, W)`."""
        match self.config.prediction_type:
            case "epsilon":
                return noise
            case "sample":
                return x_start
            case "v_prediction":
                return self.v_from_xstart_and_eps(x_start, t, noise)
            case "edm":
                return network_target(
                    x_start, noise, self._at(self.schedule.sigmas, t), self.config.sigma_data
                )

    def training_losses(self, model: Model, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """The loss of each image.

        The mean squared error of the prediction, weighed by the configuration: with prediction_type epsilon and
        loss_weighting simple it is L_simple, with edm and lognormal timesteps the loss of Karras et al. A learned
        variance is taught by the bound, beside it and without moving the mean. With loss_weighting bound it is the
        bound's term at t alone.

        Args:
            model: Network in training.
            x_start: Clean images, `(B, C, H, W)`, [-1, 1].
            t: Timestep per image, `(B,)`, int64 in [0, K - 1].
            noise: Standard normal, the shape of `x_start`.

        Returns:
            Loss per image, `(B,)`.

        Source:
            Ho et al. 2020, eq. 14 and 5; Hang et al. 2023, eq. 8; Nichol & Dhariwal 2021, eq. 16; Karras et al. 2022,
            eq. 8.
        """
        bits = self.config.bits
        if self.config.loss_weighting == "bound":
            x_start = to_grid(x_start, bits).to(x_start.dtype)
        x_t = self.q_sample(x_start, t, noise)
        output, place = self.model_output(model, x_t, t)
        if self.config.loss_weighting == "bound":
            step = self._reverse_step(x_t, t, output, place, clip=False)
            return self.bound_term(step, x_start, x_t, t, bits)
        error = (output - self.target(x_start, t, noise)).square().flatten(1).mean(dim=1)  # (B,)
        loss = error * moved(self.loss_weights(), t.device)[t].to(error.dtype)
        if self.config.variance_type != "learned_range":
            return loss
        step = self._reverse_step(x_t, t, output.detach(), place, clip=False)
        on_grid = to_grid(x_start, bits)
        bound = len(self.schedule.timesteps) * self.bound_term(
            step, on_grid, x_t, t, bits
        )  # mean over t is L
        return loss + self.config.bound_weight * bound.to(loss.dtype)

    def loss_weights(self) -> Tensor:
        """Weight of each timestep's squared error, float64 `(K,)`: 1, or min(SNR, gamma) in the target's units."""
        snr = self.schedule.snr
        if self.config.loss_weighting != "min_snr":
            return torch.ones_like(snr)
        weight_of_xstart = snr.clamp(max=self.config.min_snr_gamma)  # Hang et al. 2023, eq. 8
        return {
            "sample": weight_of_xstart,
            "epsilon": weight_of_xstart / snr,
            "v_prediction": weight_of_xstart / (snr + 1),
            "edm": weight_of_xstart * c_out(self.schedule.sigmas, self.config.sigma_data) ** 2,
        }[self.config.prediction_type]

    def draw_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps to train on, int64 `(count,)`: all alike, or with ln(sigma) normal (Karras et al. 2022, sec. 5)."""
        steps = len(self.schedule.timesteps)
        if self.config.timestep_sampling == "uniform":
            return torch.randint(steps, (count,), generator=generator)
        drawn = self.config.lognormal_mean + self.config.lognormal_std * torch.randn(
            count, generator=generator, dtype=torch.float64
        )
        log_sigmas = self.schedule.sigmas.log()
        between = (log_sigmas[1:] + log_sigmas[:-1]) / 2  # the nearest level of the schedule
        return torch.searchsorted(between, drawn)

    def _at(self, table: Tensor, t: Tensor) -> Tensor:
        """The table's entries at t as `(B, 1, 1, 1)`, still float64."""
        return moved(table, t.device)[t].view(-1, 1, 1, 1)


def _mix(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """a x + b y with float64 coefficients cast to the images' dtype at the last moment."""
    return a.to(x.dtype) * x + b.to(x.dtype) * y
