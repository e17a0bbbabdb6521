"""Every setting of a run: typed, documented under its name, checked on construction and frozen.

Presets are whole YAML files in `xraygen.configs`. Errors name the key: `schedule.num_timestep: ...`.
"""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from xraygen.config_errors import explain
from xraygen.errors import ConfigError
from xraygen.presets import is_positive, read_overrides, read_yaml

Positive = Annotated[int, Field(ge=1)]


class Config(BaseModel):
    """Base of every config: immutable, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes `true` for 1; a user who writes `batch_size: true` meant something else."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation is not bool and bool not in get_args(annotation):
            raise ValueError("expected a number")
        return value


class DataConfig(Config):
    """What the training images look like."""

    image_size: Positive | tuple[Positive, Positive] = 64
    """Side in pixels, or [height, width]. The DATASET must have been ingested at this size."""
    channels: Literal[1, 3] = 1
    """1 for films, 3 for natural images."""
    horizontal_flip: bool = False
    """Flip half of the training images. Wrong for chest films: it moves the heart to the other side."""
    augment_probability: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How often each augmentation is applied to a training image; 0 is none. The network is told what was done to an
    image, and samples are asked for as nothing was, so that none shows it (Karras et al. 2022, app. F.2: 0.12)."""
    augment_scale: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Standard deviation of the size, as log2 of a factor (Karras et al. 2020, app. B). 0 leaves this one out."""
    augment_stretch: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The same of making wider and lower, or narrower and higher: half of Karras et al.'s, and never slantwise."""
    augment_rotation: Annotated[float, Field(ge=0, le=180)] = 5.0
    """Standard deviation of the turn in degrees, as patients are placed; Karras et al. turn all the way round."""
    augment_shift: Annotated[float, Field(ge=0, le=1)] = 0.125
    """Standard deviation of the shift across and down, as a share of the sides (Karras et al. 2020, app. B)."""
    augment_flip: bool = False
    """Flip left to right among the augmentations. Told, so that samples keep the heart where the films have it."""

    @model_validator(mode="after")
    def _flips_one_way(self) -> Self:
        if self.augment_flip and (self.horizontal_flip or not self.augment_probability):
            raise ValueError(
                "augment_flip flips images and tells the network; expected augment_probability above 0 and "
                "horizontal_flip, which does not tell it, false"
            )
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.channels, height, width


class ModelConfig(Config):
    """The U-Net of Ho et al. 2020, appendix B."""

    image_size: Positive | tuple[Positive, Positive] = 64
    """Follows data.image_size; it decides at which level attention sits."""
    in_channels: Literal[1, 3] = 1
    """Follows data.channels."""
    channels: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    """Width of the first level; a multiple of the 32 normalisation groups."""
    channel_mult: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 2, 2, 2)
    """Width of each level as a multiple of `channels`; each level halves the resolution."""
    num_res_blocks: Positive = 2
    """Residual blocks per level on the way down; one more on the way up."""
    attention_resolutions: tuple[Positive, ...] = (16,)
    """Heights in pixels at which each residual block is followed by self-attention."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout inside each residual block."""
    learns_variance: bool = False
    """Follows diffusion.variance_type: learned_range takes a second set of output channels."""
    hears_augmentation: bool = False
    """Follows data.augment_probability: above 0, a layer tells the network what was done to an image."""
    patch_size: Positive = 1
    """Fold squares of this side into channels before the first convolution, and unfold them after the last:
    the network then works at image_size / patch_size (Hoogeboom et al. 2023, sec. 3.3). 1 is the paper's."""
    checkpoint_activations: bool = False
    """Compute each block's activations again in the backward pass instead of keeping them: the same gradients bit for
    bit, at about 0.6 times the memory and 1.3 times the time."""

    @model_validator(mode="after")
    def _divides(self) -> Self:
        size = self.image_size
        factor = self.patch_size * 2 ** (len(self.channel_mult) - 1)
        for side in (size, size) if isinstance(size, int) else size:
            if side % factor:
                raise ValueError(
                    f"{len(self.channel_mult)} levels and a patch_size of {self.patch_size} need image sides that "
                    f"are multiples of {factor}, and {side} is not"
                )
        return self


class ScheduleConfig(Config):
    """How fast the images drown in noise."""

    kind: Literal["linear", "cosine", "sigmoid", "edm"] = "linear"
    """Shape of the noise. Linear: Ho et al. 2020, sec. 4; cosine: Nichol & Dhariwal 2021, eq. 17; sigmoid: Jabri et
    al. 2022, algorithm 3; edm: Karras et al. 2022, eq. 5."""
    num_timesteps: Annotated[int, Field(ge=2)] = 1000
    """Number of diffusion steps T."""
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    """First beta of the linear schedule."""
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Last beta of the linear schedule."""
    sigma_min: Annotated[float, Field(gt=0)] = 0.002
    """Least noise of the edm schedule, as a standard deviation beside an image in [-1, 1]. For the likelihood of deep
    pixels about one bin, 2 / (2^bits - 1)."""
    sigma_max: Annotated[float, Field(gt=0)] = 80.0
    """Most noise of the edm schedule."""
    rho: Annotated[float, Field(gt=0)] = 7.0
    """Bend of the edm schedule: larger puts more steps where there is little noise."""
    reference_size: Positive | None = None
    """Side in pixels for which `kind` was made: at a larger image_size the signal-to-noise ratio is scaled by
    (reference_size / image_size)^2, since pooling removes noise (Hoogeboom et al. 2023, sec. 3.1). None: no shift."""
    image_size: Positive | tuple[Positive, Positive] = 64
    """Follows data.image_size; it decides how far the schedule shifts."""
    zero_terminal_snr: bool = False
    """Rescale so that nothing of the image is left at the last step (Lin et al. 2024, algorithm 1)."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.beta_start > self.beta_end:
            raise ValueError("beta_start must not be larger than beta_end")
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must be smaller than sigma_max")
        return self


class DiffusionConfig(Config):
    """What the network predicts and how its error is weighed."""

    prediction_type: Literal["epsilon", "sample", "v_prediction", "edm"] = "epsilon"
    """epsilon: the noise (Ho et al. 2020, eq. 14); sample: x_0; v_prediction: Salimans & Ho 2022, app. D; edm: what the
    preconditioning of Karras et al. 2022, eq. 7, leaves to the network."""
    variance_type: Literal["fixed_small", "fixed_large", "learned_range"] = "fixed_large"
    """Variance of the reverse step: the posterior's (fixed_small), beta_t (fixed_large), or between the two where the
    network says (learned_range: Nichol & Dhariwal 2021, eq. 15)."""
    loss_weighting: Literal["simple", "min_snr", "bound"] = "simple"
    """simple: L_simple, all timesteps alike; min_snr: Hang et al. 2023, eq. 8; bound: the variational bound itself, in
    bits per dimension (Ho et al. 2020, eq. 5)."""
    min_snr_gamma: Annotated[float, Field(gt=0)] = 5.0
    """Largest signal-to-noise ratio that counts, when loss_weighting is min_snr."""
    bound_weight: Annotated[float, Field(ge=0)] = 0.001
    """Weight of the bound beside the loss, when variance_type is learned_range (Nichol & Dhariwal 2021, eq. 16)."""
    bits: Annotated[int, Field(ge=1, le=16)] = 8
    """Depth of the pixels whose likelihood the bound counts in training: that of the films, not of the file."""
    timestep_sampling: Literal["uniform", "lognormal"] = "uniform"
    """How often each step is trained: all alike, or with ln(sigma) normal (Karras et al. 2022, sec. 5)."""
    lognormal_mean: float = -1.2
    """Mean of ln(sigma), when timestep_sampling is lognormal."""
    lognormal_std: Annotated[float, Field(gt=0)] = 1.2
    """Standard deviation of ln(sigma), when timestep_sampling is lognormal."""
    sigma_data: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviation of the training pixels in [-1, 1], as the edm preconditioning takes it."""


class TrainConfig(Config):
    """How the network is fitted."""

    batch_size: Positive = 128
    """Images per step over all processes."""
    micro_batch_size: Positive | None = None
    """Most images that one process computes at once: a larger share is taken in parts whose gradients add up to those
    of the whole. None: all at once."""
    max_steps: Annotated[int, Field(ge=0)] = 100_000
    """Steps after which training is done; 0 writes the untrained network."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    """Adam's learning rate after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 5000
    """Steps over which the learning rate rises linearly from 0."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    """Decay per step of the exponential moving average of the weights."""
    ema_warmup: bool = False
    """Start with a short average, min(ema_decay, (1 + step) / (10 + step)): needed for runs below 50,000 steps."""
    posthoc_ema: bool = False
    """Keep two more averages and snapshots of them, from which `xraygen ema` makes one of any length after training
    (Karras et al. 2024)."""
    posthoc_ema_every: Positive = 1000
    """Steps between snapshots of the two averages; each takes as much disk as the network's weights in float32."""
    posthoc_ema_keep: Positive = 200
    """How many of the newest snapshots stay on disk."""
    gradient_clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest global norm of the gradient."""
    save_every: Positive = 5000
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 3
    """How many of the newest checkpoints stay on disk, beside the one that is best on validation films."""
    skips_before_rollback: Positive = 10
    """Steps in a row without a finite loss and gradient after which training goes back to the last good checkpoint and
    on from there with other films and noise. Such steps leave the weights alone; it is noticed with the log."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 2
    """How often it goes back before it gives up."""
    stop_at_gap: Annotated[float, Field(gt=0)] | None = None
    """End training when, at three successive saves, held-out films cost this share more than training films (0.2 is
    20 %). None: never."""
    sample_every: Positive = 5000
    """Steps between sample grids."""
    sample_count: Positive = 16
    """Images in a sample grid."""
    sample_steps: Positive = 50
    """DDIM steps per sample in the grids."""
    log_every: Positive = 50
    """Steps between lines of log.jsonl and TensorBoard points."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """Arithmetic of the network; bfloat16 is for GPUs and CPUs with AMX, float64 for proofs."""
    data_on_device: bool | Literal["auto"] = "auto"
    """Keep the training films in the device's memory. auto: on a GPU, if they take a quarter of what is free."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the network with torch.compile. auto: on a GPU where Triton and a C compiler are installed; on a
    CPU it costs more than it gains."""
    channels_last: bool | Literal["auto"] = "auto"
    """Keep the weights and activations of the network with the channels last in memory. auto: on a GPU."""
    init_from: str | None = None
    """Folder of a RUN whose averaged weights training starts from, such as a model that was shipped. The new RUN
    records the weights by hash and not the path."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Who is told curves and sample grids, beside log.jsonl; wandb and mlflow where they are installed."""
    seed: int = 0
    """Seed of the weights, the order of the data, noise, dropout and augmentation."""

    def images_at_once(self, processes: int) -> int:
        """Most images that one of these processes, which share each batch, takes through the network at once."""
        share = ceil(self.batch_size / processes)
        return min(share, self.micro_batch_size or share)


ConditionKind = Literal["categorical", "multi_label", "continuous"]


class ConditionsConfig(Config):
    """What the network is told of a film besides the noise level. By default nothing."""

    columns: tuple[str, ...] = ()
    """Columns of the DATASET's manifest: view, sex, age and label columns. `conditions.columns=[finding,sex,age]`."""
    kinds: dict[str, ConditionKind] = {}
    """How columns are read, where not as inferred. categorical: one of the words that the train split holds;
    multi_label: 1 present, 0 absent, anything else not known; continuous: a number, scaled to the train split's range.
    Inferred: age is continuous, label columns of nothing but 1, 0 and -1 are multi_label, all others categorical."""
    drop_probability: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of training images of which the network is told nothing, so that it is the unconditional network too, as
    guidance needs (Ho & Salimans 2022, algorithm 1)."""
    hide_probability: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Where there are several columns: how often each single one is hidden in training as if it were not known, so that
    `generate` may be told some and not others. With one column it does nothing."""

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError("columns names a column twice")
        for name in self.kinds:
            if name not in self.columns:
                raise ValueError(f"kinds speaks of {name}, which is not among columns")
        return self


_FOLLOW = (
    "model.image_size",
    "model.in_channels",
    "model.learns_variance",
    "model.hears_augmentation",
    "schedule.image_size",
)
"""Settings that are said once, in another section."""


class RunConfig(Config):
    """The whole configuration of a run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    conditions: ConditionsConfig = ConditionsConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_what_follows(cls, values: Any) -> Any:
        """Fill the settings in `_FOLLOW` from the sections that decide them."""
        if not isinstance(values, dict):
            return values
        sections = {name: values.get(name, {}) for name in ("data", "model", "schedule", "diffusion")}
        if not all(isinstance(section, dict) for section in sections.values()):
            return values
        image_size = sections["data"].get("image_size", DataConfig().image_size)
        model = {
            "image_size": image_size,
            "in_channels": sections["data"].get("channels", DataConfig().channels),
            "learns_variance": sections["diffusion"].get("variance_type") == "learned_range",
            "hears_augmentation": is_positive(sections["data"].get("augment_probability", 0)),
        }
        return {
            **values,
            "model": {**model, **sections["model"]},
            "schedule": {"image_size": image_size, **sections["schedule"]},
        }

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        follows = (
            self.model.image_size == self.data.image_size == self.schedule.image_size
            and self.model.in_channels == self.data.channels
            and self.model.learns_variance == (self.diffusion.variance_type == "learned_range")
            and self.model.hears_augmentation == (self.data.augment_probability > 0)
        )
        if not follows:
            raise ValueError(f"{', '.join(_FOLLOW)} follow other settings; leave them out")
        return self

    @model_validator(mode="after")
    def _last_step_can_be_learned(self) -> Self:
        """With no signal left at the last step, neither the noise nor a weight or a draw by signal teaches it."""
        if not self.schedule.zero_terminal_snr:
            return self
        if self.diffusion.prediction_type in ("epsilon", "edm"):
            raise ValueError(
                "schedule.zero_terminal_snr leaves no image in the last step, and from its noise alone none can be "
                "predicted; expected diffusion.prediction_type v_prediction or sample, and it is "
                f"{self.diffusion.prediction_type}"
            )
        if self.diffusion.loss_weighting == "min_snr":
            raise ValueError(
                "diffusion.loss_weighting min_snr gives the last step of schedule.zero_terminal_snr a weight of 0, so "
                "that it is never learned; expected simple or bound"
            )
        if self.diffusion.timestep_sampling == "lognormal":
            raise ValueError(
                "diffusion.timestep_sampling lognormal never draws the last step of schedule.zero_terminal_snr, whose "
                "sigma is infinite, so that it is never learned; expected uniform"
            )
        return self

    def to_yaml(self) -> str:
        """The resolved configuration, as `load_config` reads it back."""
        return str(OmegaConf.to_yaml(OmegaConf.create(self.model_dump(mode="json"))))


def load_config(preset_or_path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a preset or a YAML file and apply overrides.

    Args:
        preset_or_path: A preset's name, such as `cifar10`, or the path of a YAML file.
        overrides: Assignments such as `train.batch_size=64`, applied in order.

    Returns:
        The frozen configuration.

    Raises:
        ConfigError: If the preset is unknown, the file unreadable, or a key misspelt or out of range.

    Example:
        >>> load_config("cifar10", ["train.batch_size=64"]).train.batch_size
        64
    """
    content, changes = read_yaml(preset_or_path), read_overrides(overrides)
    try:
        values = OmegaConf.merge(content, changes)
        return RunConfig.model_validate(OmegaConf.to_container(values, resolve=False))
    except (OmegaConfBaseException, TypeError):
        raise ConfigError(
            f"--set {' '.join(overrides)} puts a list or a section where {preset_or_path} has something else; "
            "expected key=value, such as model.channel_mult=[1,2,2]."
        ) from None
    except ValidationError as error:
        raise ConfigError(f"{preset_or_path}: {explain(error, RunConfig, _FOLLOW)}") from None
