"""A run's configuration as diffusers' JSON files, both ways.

diffusers' defaults are not the paper's (sines and cosines swapped, symmetric padding, eight channels per head), so
every key that bears on the result is looked at, and one that is missing counts as diffusers' default.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from pydantic import ValidationError
from torch import nn

from xraygen.config import ModelConfig, RunConfig, ScheduleConfig
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import FolderError, UsageError
from xraygen.models.unet import UNet

DIFFUSERS_VERSION = "0.42.1"
"""The version whose layout is written."""

_DOWN, _DOWN_ATTENTION, _UP, _UP_ATTENTION = "DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"


@dataclass(frozen=True)
class _Fixed:
    """A key of diffusers that must have one meaning: their default, and the values that mean what we do."""

    default: Any
    allowed: tuple[Any, ...]
    why: str


_UNET: dict[str, _Fixed] = {
    "center_input_sample": _Fixed(False, (False,), "the images are in [-1, 1] already"),
    "time_embedding_type": _Fixed("positional", ("positional",), "the time is told in sines and cosines"),
    "freq_shift": _Fixed(0, (1,), "the exponents of the paper's frequencies end at 1"),
    "flip_sin_to_cos": _Fixed(True, (False,), "the paper's sines come before the cosines"),
    "mid_block_type": _Fixed("UNetMidBlock2D", ("UNetMidBlock2D",), "the middle is block, attention, block"),
    "mid_block_scale_factor": _Fixed(1, (1,), "nothing is scaled in the middle"),
    "downsample_padding": _Fixed(1, (0,), "the paper pads right and bottom only"),
    "downsample_type": _Fixed("conv", ("conv",), "the paper downsamples by a convolution"),
    "upsample_type": _Fixed("conv", ("conv",), "the paper upsamples by nearest neighbour and a convolution"),
    "act_fn": _Fixed("silu", ("silu", "swish"), "the paper's activation is swish"),
    "norm_num_groups": _Fixed(32, (32,), "the paper normalises 32 groups"),
    "attn_norm_num_groups": _Fixed(None, (None, 32), "the paper normalises 32 groups"),
    "norm_eps": _Fixed(1e-5, (1e-6,), "that is the paper's"),
    "resnet_time_scale_shift": _Fixed("default", ("default",), "the time is added, it scales nothing"),
    "add_attention": _Fixed(True, (True,), "the middle of the network attends"),
    "class_embed_type": _Fixed(None, (None,), "xraygen's network knows no classes"),
    "num_class_embeds": _Fixed(None, (None,), "xraygen's network knows no classes"),
    "num_train_timesteps": _Fixed(None, (None,), "it is the size of a learned time embedding"),
}
_UNET_SHAPE: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": (_DOWN, _DOWN_ATTENTION, _DOWN_ATTENTION, _DOWN_ATTENTION),
    "up_block_types": (_UP_ATTENTION, _UP_ATTENTION, _UP_ATTENTION, _UP),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "time_embedding_dim": None,
}
"""The other keys of the network, with diffusers' defaults."""

_SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "PNDMScheduler")
_SCHEDULER: dict[str, _Fixed] = {
    "clip_sample": _Fixed(True, (True,), "xraygen clips x_0 to the range of the images"),
    "clip_sample_range": _Fixed(1.0, (1.0,), "xraygen clips x_0 to the range of the images"),
    "thresholding": _Fixed(False, (False,), "xraygen clips x_0 to the range of the images"),
    "predict_epsilon": _Fixed(True, (True, None), "prediction_type says what is predicted"),
}
_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "variance_type": "fixed_small",
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}
"""The other keys of the scheduler, with diffusers' defaults."""
_SAMPLING = {
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
_SCHEDULER_WITHOUT_EFFECT = {
    *_SAMPLING,
    "set_alpha_to_one",
    "skip_prk_steps",
    "tensor_format",
    "timestep_values",
}
"""Which timesteps diffusers' samplers take, and what no longer means anything; not what the network learned."""
_KINDS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
_VARIANCES = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",  # the same variance, computed by way of its logarithm
    "fixed_large": "fixed_large",
    "learned_range": "learned_range",
}
_OWN_SCHEDULE = "_xraygen_schedule"
"""Beside a table of betas, the settings that made it; diffusers passes over keys that begin with an underscore."""


class JsonFile:
    """One JSON file of a diffusers folder, and how its keys are refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FolderError(f"{path} cannot be read as JSON: {' '.join(str(error).split())}.") from None
        if not isinstance(self.values, dict):
            raise FolderError(f"{path} holds no keys; expected a configuration that diffusers wrote.")

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Say which key is not as it must be."""
        given = repr(self.values[key]) if key in self.values else "missing, which means diffusers' default"
        raise FolderError(f"{self.path}: {key} is {given}; expected {expected}.")

    def take(
        self, class_names: Sequence[str], fixed: dict[str, _Fixed], free: dict[str, Any]
    ) -> dict[str, Any]:
        """The free keys' values, after the class and the fixed keys have been checked and none is unknown."""
        if self.values.get("_class_name") not in class_names:
            self.refuse("_class_name", " or ".join(class_names))
        for key, rule in fixed.items():
            if not _is_one_of(self.values.get(key, rule.default), rule.allowed):
                self.refuse(key, f"{rule.allowed[0]!r}, since {rule.why}")
        return {key: self.values.get(key, default) for key, default in free.items()}

    def refuse_unknown(self, known: set[str]) -> None:
        """A key that nobody here has heard of may change what the network computes."""
        for key in self.values:
            if key not in known and not key.startswith("_"):
                self.refuse(key, f"only keys that xraygen knows: {', '.join(sorted(known))}")


def run_config_from(unet: JsonFile, scheduler: JsonFile) -> RunConfig:
    """The configuration of the run that a folder's two files describe; its training settings are defaults.

    Raises:
        FolderError: If a key asks for another network or another process than xraygen's, by the key's name.
    """
    shape = unet.take(["UNet2DModel"], _UNET, _UNET_SHAPE)
    unet.refuse_unknown({*_UNET, *_UNET_SHAPE})
    process = scheduler.take(_SCHEDULERS, _SCHEDULER, _SCHEDULE)
    scheduler.refuse_unknown({*_SCHEDULER, *_SCHEDULE, *_SCHEDULER_WITHOUT_EFFECT})
    if not _is_one_of(process["variance_type"], list(_VARIANCES)):
        scheduler.refuse("variance_type", " or ".join(_VARIANCES))
    variance = _VARIANCES[process["variance_type"]]
    size, model = _model_section(unet, shape, learns_variance=variance == "learned_range")
    sections = {
        "data": {"image_size": size, "channels": shape["in_channels"]},
        "model": model,
        "schedule": _schedule_section(scheduler, process),
        "diffusion": {"prediction_type": process["prediction_type"], "variance_type": variance},
    }
    try:
        config = RunConfig.model_validate(sections)
    except ValidationError as error:
        problem = error.errors()[0]
        said = [".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")]
        raise FolderError(
            f"{unet.path} and {scheduler.path} describe no run of xraygen's: {': '.join(filter(None, said))}."
        ) from None
    if norm_groups(config.model) != {32}:
        unet.refuse(
            "block_out_channels", "a first width of 128 or more: narrower, xraygen normalises fewer groups"
        )
    return config


def unet_settings(config: RunConfig) -> dict[str, Any]:
    """unet/config.json of a run's network.

    Raises:
        UsageError: If diffusers' UNet2DModel cannot express it.
    """
    model = config.model
    if config.conditions.columns:
        raise UsageError(
            f"This network is told {', '.join(config.conditions.columns)}, and diffusers' UNet2DModel knows no such "
            "conditions; only networks without conditions can be exported."
        )
    if model.patch_size != 1:
        raise UsageError(
            f"model.patch_size is {model.patch_size}, and diffusers' UNet2DModel folds no patches; "
            "only networks with patch_size 1 can be exported."
        )
    groups = norm_groups(model)
    if groups != {32}:
        raise UsageError(
            f"This network normalises {_listed(groups)} groups (model.channels is {model.channels}), and diffusers' "
            "UNet2DModel one number everywhere, the paper's 32; only networks with channels >= 128 can be exported."
        )
    widths = [model.channels * mult for mult in model.channel_mult]
    size = model.image_size
    height = size if isinstance(size, int) else size[0]
    attends = [height >> level in model.attention_resolutions for level in range(len(widths))]
    shape = {
        "sample_size": size if isinstance(size, int) else list(size),
        "in_channels": model.in_channels,
        "out_channels": _output_channels(model.in_channels, learns_variance=model.learns_variance),
        "down_block_types": [_DOWN_ATTENTION if attending else _DOWN for attending in attends],
        "up_block_types": [_UP_ATTENTION if attending else _UP for attending in reversed(attends)],
        "block_out_channels": widths,
        "layers_per_block": model.num_res_blocks,
        "dropout": model.dropout,
        "attention_head_dim": None,
        "time_embedding_dim": None,
    }
    return {**_class("UNet2DModel"), **{key: rule.allowed[0] for key, rule in _UNET.items()}, **shape}


def scheduler_settings(config: RunConfig) -> dict[str, Any]:
    """scheduler/scheduler_config.json of a run's process; a schedule that diffusers lacks goes as its betas.

    Raises:
        UsageError: If diffusers has no such prediction.
    """
    schedule = config.schedule
    if config.diffusion.prediction_type == "edm":
        raise UsageError(
            "diffusion.prediction_type is edm, and DDPMPipeline has no such preconditioning; only epsilon, sample and "
            "v_prediction can be exported."
        )
    named = schedule.kind in _KINDS and schedule.reference_size is None
    table: dict[str, Any] = (
        {"beta_schedule": _KINDS[schedule.kind], "trained_betas": None}
        if named
        else {
            "beta_schedule": "linear",
            "trained_betas": NoiseSchedule.from_config(schedule).betas.tolist(),
            _OWN_SCHEDULE: schedule.model_dump(mode="json"),
        }
    )
    return {
        **_class("DDPMScheduler"),
        "num_train_timesteps": schedule.num_timesteps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        **table,
        "variance_type": config.diffusion.variance_type,
        "prediction_type": config.diffusion.prediction_type,
        "rescale_betas_zero_snr": named and schedule.zero_terminal_snr,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "thresholding": False,
        **_SAMPLING,
    }


def model_index() -> dict[str, Any]:
    """model_index.json: which class reads which sub-folder."""
    parts = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    return {**_class("DDPMPipeline"), **parts}


def norm_groups(model: ModelConfig) -> set[int]:
    """How many groups the network's normalisations have; diffusers knows one number for all."""
    with torch.device("meta"):
        network = UNet(model)
    return {module.num_groups for module in network.modules() if isinstance(module, nn.GroupNorm)}


def _model_section(
    unet: JsonFile, shape: dict[str, Any], *, learns_variance: bool
) -> tuple[Any, dict[str, Any]]:
    """The image size, and the `model` section of a network whose fixed keys are right."""
    widths, size = shape["block_out_channels"], shape["sample_size"]
    sides = [size, size] if isinstance(size, int) else size
    if not (_whole_numbers(sides) and len(sides) == 2):
        unet.refuse("sample_size", "the images' side, or [height, width]")
    if not (_whole_numbers(widths) and widths):
        unet.refuse("block_out_channels", "a list of the levels' widths")
    if any(width % widths[0] for width in widths):
        unet.refuse("block_out_channels", f"multiples of the first, {widths[0]}")
    attends = _attending(unet, shape)
    head = shape["attention_head_dim"]
    attending_widths = [width for width, attending in zip(widths, attends, strict=True) if attending]
    if head is not None and any(width != head for width in [*attending_widths, widths[-1]]):
        unet.refuse("attention_head_dim", "None, since the paper's attention has one head")
    if shape["time_embedding_dim"] not in (None, 4 * widths[0]):
        unet.refuse("time_embedding_dim", f"None or {4 * widths[0]}, four times the first width")
    if not _is_one_of(shape["in_channels"], (1, 3)):
        unet.refuse("in_channels", "1 for grey images or 3 for colour")
    outputs = _output_channels(shape["in_channels"], learns_variance=learns_variance)
    if shape["out_channels"] != outputs:
        unet.refuse("out_channels", f"{outputs}, by in_channels and the scheduler's variance_type")
    return size if isinstance(size, int) else tuple(size), {
        "channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": shape["layers_per_block"],
        "attention_resolutions": [sides[0] >> level for level, attending in enumerate(attends) if attending],
        "dropout": shape["dropout"],
    }


def _attending(unet: JsonFile, shape: dict[str, Any]) -> list[bool]:
    """Whether each level attends, from the blocks on the way down, which those on the way up must mirror."""
    down, up = shape["down_block_types"], shape["up_block_types"]
    levels = len(shape["block_out_channels"])
    if (
        not _is_list(down)
        or len(down) != levels
        or any(block not in (_DOWN, _DOWN_ATTENTION) for block in down)
    ):
        unet.refuse(
            "down_block_types", f"one of {_DOWN} and {_DOWN_ATTENTION} for each of block_out_channels"
        )
    mirrored = [_UP_ATTENTION if block == _DOWN_ATTENTION else _UP for block in reversed(down)]
    if not _is_list(up) or list(up) != mirrored:
        unet.refuse("up_block_types", f"{mirrored}, the mirror of down_block_types")
    return [block == _DOWN_ATTENTION for block in down]


def _schedule_section(scheduler: JsonFile, process: dict[str, Any]) -> dict[str, Any]:
    """The `schedule` section of a scheduler whose fixed keys are right."""
    if process["trained_betas"] is not None:
        return _schedule_of_betas(scheduler, process["trained_betas"])
    kinds = {theirs: ours for ours, theirs in _KINDS.items()}
    if not _is_one_of(process["beta_schedule"], list(kinds)):
        scheduler.refuse("beta_schedule", " or ".join(kinds))
    return {
        "kind": kinds[process["beta_schedule"]],
        "num_timesteps": process["num_train_timesteps"],
        "beta_start": process["beta_start"],
        "beta_end": process["beta_end"],
        "zero_terminal_snr": process["rescale_betas_zero_snr"],
    }


def _schedule_of_betas(scheduler: JsonFile, betas: Any) -> dict[str, Any]:
    """The settings that made a table of betas which xraygen exported; other tables have none."""
    expected = "None, or the table that xraygen's own export wrote with its settings beside it"
    try:
        table = torch.tensor(betas, dtype=torch.float64)
        section = ScheduleConfig.model_validate(scheduler.values.get(_OWN_SCHEDULE))
        made = NoiseSchedule.from_config(section).betas
    except (TypeError, ValueError, RuntimeError):
        scheduler.refuse("trained_betas", expected)
    # Other machines' exp and cos may differ in their last bits, and so may the table made from them.
    if table.shape != made.shape or not torch.allclose(table, made, rtol=1e-9, atol=0):
        scheduler.refuse("trained_betas", expected)
    return section.model_dump()


def _output_channels(channels: int, *, learns_variance: bool) -> int:
    return 2 * channels if learns_variance else channels


def _class(name: str) -> dict[str, Any]:
    return {"_class_name": name, "_diffusers_version": DIFFUSERS_VERSION}


def _is_one_of(value: Any, allowed: Sequence[Any]) -> bool:
    """Equality that does not take True for 1."""
    return any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in allowed)


def _is_list(values: Any) -> bool:
    return isinstance(values, list | tuple)


def _whole_numbers(values: Any) -> bool:
    return _is_list(values) and all(type(value) is int and value > 0 for value in values)


def _listed(groups: set[int]) -> str:
    return " or ".join(str(number) for number in sorted(groups))
