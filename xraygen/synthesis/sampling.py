"""How images are made from noise: the samplers by name, their steps, and images as they are stored."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.paths import StepNoise, Watch, unwatched
from xraygen.diffusion.samplers import ddim_sample, ddpm_sample, dpmpp_sample, unipc_sample
from xraygen.ranges import Stored, model_to_stored

SamplerName = Literal["ddim", "ddpm", "dpm++", "dpm++-sde", "unipc"]

DEFAULT_STEPS = {"ddim": 50, "dpm++": 20, "dpm++-sde": 20, "unipc": 20}
"""Evaluations of the network per image where none are asked for; ddpm takes all timesteps."""


@dataclass(frozen=True)
class SamplerSettings:
    """How images are made from noise.

    Attributes:
        sampler: ddpm (ancestral, Ho et al. 2020), ddim (Song et al. 2021), dpm++ and dpm++-sde (DPM-Solver++ 2M and its
            stochastic form, Lu et al. 2022) or unipc (Zhao et al. 2023).
        steps: Evaluations of the network per image; None takes `DEFAULT_STEPS`, and all of them for ddpm.
        eta: Randomness of ddim: 0 none, 1 as much as the posterior.
        compute_batch: Images computed together, always as many: a smaller batch is padded, since torch's kernels
            give other bits at other shapes; so it is part of an image's provenance.
    """

    sampler: SamplerName = "ddim"
    steps: int | None = None
    eta: float = 0.0
    compute_batch: int = 16

    @property
    def random(self) -> bool:
        """Whether the chain draws noise on its way."""
        return self.sampler in ("ddpm", "dpm++-sde") or (self.sampler == "ddim" and self.eta > 0)


def sampling_diffusion(diffusion: GaussianDiffusion, settings: SamplerSettings) -> GaussianDiffusion:
    """The RUN's diffusion over the steps that the settings ask for."""
    timesteps = diffusion.schedule.num_timesteps
    steps = settings.steps or min(DEFAULT_STEPS.get(settings.sampler, timesteps), timesteps)
    if settings.sampler != "ddpm":
        diffusion = diffusion.with_variance(
            "fixed_small"
        )  # the others do not use the reverse step's variance
    return diffusion.respace(steps)


def sample(
    model: Model,
    diffusion: GaussianDiffusion,
    x_t: Tensor,
    step_noise: StepNoise,
    settings: SamplerSettings,
    *,
    start: int | None = None,
    watch: Watch = unwatched,
) -> Tensor:
    """Noise to images, `(B, C, H, W)`, by the sampler that the settings name; arguments as in `ddpm_sample`."""
    match settings.sampler:
        case "ddpm":
            return ddpm_sample(model, diffusion, x_t, step_noise, start=start, watch=watch)
        case "ddim":
            return ddim_sample(model, diffusion, x_t, step_noise, eta=settings.eta, start=start, watch=watch)
        case "dpm++":
            return dpmpp_sample(model, diffusion, x_t, step_noise, start=start, watch=watch)
        case "dpm++-sde":
            return dpmpp_sample(model, diffusion, x_t, step_noise, sde=True, start=start, watch=watch)
        case "unipc":
            return unipc_sample(model, diffusion, x_t, step_noise, start=start, watch=watch)


def as_stored(x: Tensor) -> Stored:
    """Model range `(B, C, H, W)` to 16-bit `[B, H, W]` for films, 8-bit `[B, H, W, 3]` for colour."""
    if x.shape[1] == 1:
        return model_to_stored(x[:, 0], 16)
    return model_to_stored(x.permute(0, 2, 3, 1), 8)
