"""How images are made from noise: the samplers by name, their steps, and images as they are stored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.paths import StepNoise, Watch, unwatched
from xraygen.diffusion.samplers import ddim_sample, ddpm_sample, dpmpp_sample, unipc_sample
from xraygen.diffusion.spacing import Spacing
from xraygen.diffusion.threshold import Threshold, dynamic_threshold
from xraygen.errors import UsageError
from xraygen.ranges import Stored, model_to_stored
from xraygen.synthesis.arithmetic import Precision

SamplerName = Literal["ddim", "ddpm", "dpm++", "dpm++-sde", "unipc"]
StepsName = Literal["draft", "default", "paper"]
ThresholdName = Literal["static", "dynamic", "none"]

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
        spacing: Which timesteps are kept (`xraygen.diffusion.spacing`).
        threshold: How the network's guess of the image is kept in [-1, 1] (`xraygen.diffusion.threshold`).
        percentile: Of the dynamic threshold; 99.5 is diffusers' choice.
        precision: In what the network is evaluated (`xraygen.synthesis.arithmetic`).
    """

    sampler: SamplerName = "ddim"
    steps: int | None = None
    eta: float = 0.0
    compute_batch: int = 16
    spacing: Spacing = "uniform"
    threshold: ThresholdName = "static"
    percentile: float = 99.5
    precision: Precision = "float32"

    @property
    def random(self) -> bool:
        """Whether the chain draws noise on its way."""
        return self.sampler in ("ddpm", "dpm++-sde") or (self.sampler == "ddim" and self.eta > 0)

    @property
    def clip(self) -> bool | Threshold:
        """As the samplers take it."""
        return (
            dynamic_threshold(self.percentile) if self.threshold == "dynamic" else self.threshold == "static"
        )


NAMED_STEPS: Mapping[StepsName, SamplerSettings] = {
    "draft": SamplerSettings("dpm++", 10, spacing="log-snr"),
    "default": SamplerSettings("dpm++", None, spacing="log-snr"),
    "paper": SamplerSettings("ddpm"),
}
"""What `--steps draft`, `default` and `paper` mean: 10, at most 20, and all timesteps. `docs/measure_steps.py` measures
draft and default against the limit of many steps; paper is Algorithm 2 of Ho et al. 2020."""


def chosen_settings(
    sampler: SamplerName | None = None,
    steps: int | StepsName | None = None,
    spacing: Spacing | None = None,
) -> SamplerSettings:
    """What is left open follows from what is said.

    Args:
        sampler: None takes the one that the name of the steps implies.
        steps: A number or a name; None takes the sampler's own number, and with no sampler "default".
        spacing: None takes that of the name, and uniform for a sampler that is named with a number or none.

    Raises:
        UsageError: If the paper's steps are asked of another sampler.
    """
    named = steps if isinstance(steps, str) else None
    if named == "paper" and sampler not in (None, "ddpm"):
        raise UsageError(f"--steps paper is ddpm over all timesteps, not {sampler}; leave out --sampler.")
    base = NAMED_STEPS[named or "default"]
    if sampler is not None and named is None:
        base = SamplerSettings(sampler)
    count = steps if isinstance(steps, int) else base.steps
    return replace(base, sampler=sampler or base.sampler, steps=count, spacing=spacing or base.spacing)


def sampling_diffusion(diffusion: GaussianDiffusion, settings: SamplerSettings) -> GaussianDiffusion:
    """The RUN's diffusion over the steps that the settings ask for."""
    timesteps = diffusion.schedule.num_timesteps
    steps = settings.steps or min(DEFAULT_STEPS.get(settings.sampler, timesteps), timesteps)
    if settings.sampler != "ddpm":
        diffusion = diffusion.with_variance(
            "fixed_small"
        )  # the others do not use the reverse step's variance
    return diffusion.respace(steps, settings.spacing)


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
    clip = settings.clip
    match settings.sampler:
        case "ddpm":
            return ddpm_sample(model, diffusion, x_t, step_noise, start=start, clip=clip, watch=watch)
        case "ddim":
            return ddim_sample(
                model, diffusion, x_t, step_noise, eta=settings.eta, start=start, clip=clip, watch=watch
            )
        case "dpm++":
            return dpmpp_sample(model, diffusion, x_t, step_noise, start=start, clip=clip, watch=watch)
        case "dpm++-sde":
            return dpmpp_sample(
                model, diffusion, x_t, step_noise, sde=True, start=start, clip=clip, watch=watch
            )
        case "unipc":
            return unipc_sample(model, diffusion, x_t, step_noise, start=start, clip=clip, watch=watch)


def as_stored(x: Tensor) -> Stored:
    """Model range `(B, C, H, W)` to 16-bit `[B, H, W]` for films, 8-bit `[B, H, W, 3]` for colour."""
    if x.shape[1] == 1:
        return model_to_stored(x[:, 0], 16)
    return model_to_stored(x.permute(0, 2, 3, 1), 8)
