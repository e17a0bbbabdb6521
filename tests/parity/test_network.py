"""The paper's two networks against diffusers' UNet2DModel and MONAI's DiffusionModelUNet, with the same weights."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xraygen.config import ModelConfig, load_config
from xraygen.interop.names import diffusers_names
from xraygen.models.blocks import timestep_embedding
from xraygen.models.unet import UNet
from xraygen.seeds import torch_generator

diffusers = pytest.importorskip("diffusers")
monai_unet = pytest.importorskip("monai.networks.nets.diffusion_model_unet")

WIDTHS = {"cifar10": (128, 256, 256, 256), "celebahq-256": (128, 128, 256, 256, 512, 512)}
ATTENDING_LEVEL = {"cifar10": 1, "celebahq-256": 4}
PARAMETERS = {
    ("cifar10", 3): 35_746_307,
    ("celebahq-256", 3): 113_673_219,
    ("cifar10", 1): 35_741_697,
    ("celebahq-256", 1): 113_668_609,
}
T = torch.tensor([17, 999])


def preset_model(preset: str, channels: int = 3) -> ModelConfig:
    """The preset's network, without dropout's effect since it is evaluated, in colour or grey."""
    return load_config(preset, [f"data.channels={channels}"]).model


def diffusers_unet(preset: str, channels: int = 3) -> Any:
    """UNet2DModel in the settings of google/ddpm-cifar10-32 and google/ddpm-celebahq-256, without memory."""
    levels = range(len(WIDTHS[preset]))
    down = ["AttnDownBlock2D" if level == ATTENDING_LEVEL[preset] else "DownBlock2D" for level in levels]
    with torch.device("meta"):
        return diffusers.UNet2DModel(
            sample_size=load_config(preset).data.shape[1],
            in_channels=channels,
            out_channels=channels,
            block_out_channels=WIDTHS[preset],
            layers_per_block=2,
            down_block_types=down,
            up_block_types=[name.replace("Down", "Up") for name in reversed(down)],
            attention_head_dim=None,
            norm_eps=1e-6,
            norm_num_groups=32,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
        )


def redrawn(config: ModelConfig) -> UNet:
    """The network with weights that keep every layer's output of size 1: fresh ones predict almost nothing."""
    with torch.device("meta"):
        network = UNet(config)
    generator = torch_generator(0, "test", "redrawn")

    def draw(name: str, tensor: Tensor) -> Tensor:
        normal = torch.randn(tensor.shape, generator=generator)
        if tensor.ndim > 1:
            return normal / math.sqrt(tensor[0].numel())  # the fan in
        return 0.1 * normal + (1.0 if "norm" in name and name.endswith("weight") else 0.0)

    weights = {name: draw(name, tensor) for name, tensor in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def with_weights_of(theirs: nn.Module, ours: UNet, rename: Callable[[str], str] = str) -> nn.Module:
    """Their network on our tensors."""
    names, weights = diffusers_names(ours), ours.state_dict()
    theirs.load_state_dict({rename(names[name]): tensor for name, tensor in weights.items()}, assign=True)
    return theirs.eval().requires_grad_(False)


def noisy(config: ModelConfig, side: int) -> Tensor:
    shape = (len(T), config.in_channels, side, side)
    return torch.randn(shape, generator=torch_generator(0, "test", "x_t"))


@pytest.mark.parametrize(("preset", "channels"), list(PARAMETERS))
def test_both_networks_have_the_papers_parameters(preset: str, channels: int) -> None:
    with torch.device("meta"):
        ours = UNet(preset_model(preset, channels))
    theirs = diffusers_unet(preset, channels)
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (ours, theirs)]
    assert counts == [PARAMETERS[preset, channels]] * 2


@pytest.mark.parametrize(
    ("preset", "channels", "side"),
    [("cifar10", 3, 32), ("cifar10", 1, 32), ("celebahq-256", 3, 64)],
    ids=["cifar10", "cifar10 grey", "celebahq-256"],
)
def test_the_prediction_is_diffusers(numerics: Any, preset: str, channels: int, side: int) -> None:
    config = preset_model(preset, channels)
    ours = redrawn(config)
    x_t, t = noisy(config, side), T
    if preset == "celebahq-256":  # six levels: one image is enough for its time
        x_t, t = x_t[:1], T[1:]
    prediction = ours(x_t, t)
    assert float(prediction.std()) > 0.1
    theirs = with_weights_of(diffusers_unet(preset, channels), ours)(x_t, t).sample
    numerics.check(f"unet-diffusers-{preset}", prediction, theirs)


MONAI_NAMES = {
    r"^(conv_in)": r"\1.conv",
    r"^time_embedding\.linear_1": "time_embed.0",
    r"^time_embedding\.linear_2": "time_embed.2",
    r"^mid_block\.resnets\.0": "middle_block.resnet_1",
    r"^mid_block\.resnets\.1": "middle_block.resnet_2",
    r"^mid_block\.attentions\.0": "middle_block.attention",
    r"^conv_norm_out": "out.0",
    r"^conv_out": "out.2.conv",
    r"\.(conv1|conv2)\.": r".\1.conv.",
    r"\.conv_shortcut\.": ".skip_connection.conv.",
    r"\.group_norm\.": ".norm.",
    r"\.(to_[qkv])\.": r".attn.\1.",
    r"\.to_out\.0\.": ".attn.out_proj.",
    r"\.downsamplers\.0\.conv": ".downsampler.op.conv",
    r"\.upsamplers\.0\.conv": ".upsampler.postconv.conv",
}


def monai_name(name: str) -> str:
    """MONAI's name of a tensor, by diffusers'."""
    for pattern, replacement in MONAI_NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def monai_pair() -> tuple[UNet, nn.Module]:
    """Our network of the cifar10 preset and MONAI's, on the same weights."""
    pytest.importorskip("einops", reason="MONAI's attention needs it")
    ours, widths = redrawn(preset_model("cifar10")), WIDTHS["cifar10"]
    with torch.device("meta"):
        theirs = monai_unet.DiffusionModelUNet(
            spatial_dims=2,
            in_channels=3,
            out_channels=3,
            num_res_blocks=2,
            channels=widths,
            attention_levels=[level == ATTENDING_LEVEL["cifar10"] for level in range(len(widths))],
            norm_num_groups=32,
            norm_eps=1e-6,
            num_head_channels=widths,  # one head
        )
    return ours, with_weights_of(theirs, ours, monai_name)


def pad_right_and_bottom(self: Any, x: Tensor, emb: Tensor | None = None) -> Tensor:
    """Our downsampling, as a method of MONAI's."""
    conv = self.op.conv
    out: Tensor = functional.conv2d(functional.pad(x, (0, 1, 0, 1)), conv.weight, conv.bias, stride=2)
    return out


@pytest.fixture
def put_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`put_in("time", "padding")` replaces those definitions of MONAI's by ours, for one test."""

    def replace(*parts: str) -> None:
        if "time" in parts:
            monkeypatch.setattr(monai_unet, "get_timestep_embedding", timestep_embedding)
        if "padding" in parts:
            monkeypatch.setattr(monai_unet.DiffusionUnetDownsample, "forward", pad_right_and_bottom)

    return replace


def test_the_prediction_is_monais_with_our_time_and_padding(
    numerics: Any, monai_pair: tuple[UNet, nn.Module], put_in: Callable[..., None]
) -> None:
    ours, theirs = monai_pair
    x_t = noisy(ours.config, 32)
    prediction = ours(x_t, T)
    assert float(prediction.std()) > 0.1
    put_in("time", "padding")
    numerics.check("unet-monai", prediction, theirs(x_t, T))


@pytest.mark.parametrize(
    ("row", "parts"),
    [("unet-monai-as-it-is", ()), ("unet-monai-padding", ("time",)), ("unet-monai-time", ("padding",))],
)
def test_monai_differs_by_its_definitions(
    numerics: Any,
    monai_pair: tuple[UNet, nn.Module],
    put_in: Callable[..., None],
    row: str,
    parts: tuple[str, ...],
) -> None:
    ours, theirs = monai_pair
    x_t = noisy(ours.config, 32)
    put_in(*parts)
    prediction, other = ours(x_t, T), theirs(x_t, T)
    numerics.check(row, prediction, other)
    assert float((prediction - other).abs().max() / other.abs().max()) > 1e-2
