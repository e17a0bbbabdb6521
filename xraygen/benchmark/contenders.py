"""The same network as three libraries build it, each with the optimiser and the average that its users run.

xraygen: fused Adam, all weights averaged at once. diffusers, as its train_unconditional.py: AdamW as torch gives it and
EMAModel. MONAI, as its tutorial of diffusion models: Adam as torch gives it, and no average.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from xraygen.config import ModelConfig
from xraygen.models.unet import UNet
from xraygen.training.ema import ema_copy, update_ema

_LEARNING_RATE = 1e-4
_DECAY = 0.9999
_CLIP = 1.0


@dataclass(frozen=True)
class Contender:
    """A network in training.

    Attributes:
        name: Library, and how it is run where that is not as usual.
        network: What is trained.
        predict: Noisy images `(B, C, H, W)` and timesteps `(B,)` to the prediction.
        optimizer: Over the network's parameters.
        average: Updates the moving average of the weights; does nothing where users of the library keep none.
        clips: Whether the library's users clip the gradient.
    """

    name: str
    network: nn.Module
    predict: Callable[[Tensor, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    average: Callable[[], object]
    clips: bool

    def step(self, x_t: Tensor, t: Tensor, noise: Tensor, autocast: AbstractContextManager[Any]) -> None:
        """One training step: loss, gradients, optimiser, average."""
        with autocast:
            loss = functional.mse_loss(self.predict(x_t, t), noise)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clips:
            nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP)
        self.update()
        self.optimizer.zero_grad()

    def update(self) -> None:
        """Optimiser and average alone."""
        self.optimizer.step()
        self.average()


def contenders(
    config: ModelConfig, device: torch.device, *, compiled: bool = False
) -> Iterator[Contender | str]:
    """Each library's network of one configuration; for one that is not installed, a sentence that says so.

    Args:
        config: The network: patch_size 1, no dropout.
        device: Where it is trained.
        compiled: Also ours compiled, in the order of memory that suits a GPU.
    """
    yield ours(config, device)
    if compiled:
        yield ours(config, device, compiled=True)
    for build, library in ((diffusers_peer, "diffusers"), (monai_peer, "MONAI")):
        try:
            yield build(config, device)
        except ImportError as error:
            yield f"{library} is not compared: {error}; `pip install 'xraygen[bench]'` brings it."


def ours(config: ModelConfig, device: torch.device, *, compiled: bool = False) -> Contender:
    """Fused Adam, one call for the whole average, attention in one piece."""
    network = UNet(config).to(device).train()
    if compiled:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = ema_copy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE, fused=True)
    return Contender(
        "xraygen, compiled" if compiled else "xraygen",
        network,
        torch.compile(network, dynamic=False) if compiled else network,
        optimizer,
        lambda: update_ema(average, network, _DECAY),
        clips=True,
    )


def attending_levels(config: ModelConfig) -> list[bool]:
    """Which levels attend, the finest first."""
    size = config.image_size
    height = size if isinstance(size, int) else size[0]
    return [height >> level in config.attention_resolutions for level in range(len(config.channel_mult))]


def diffusers_peer(config: ModelConfig, device: torch.device) -> Contender:
    """UNet2DModel in the settings of google/ddpm-cifar10-32, AdamW and EMAModel."""
    from diffusers import UNet2DModel  # noqa: PLC0415 - an extra
    from diffusers.training_utils import EMAModel  # noqa: PLC0415 - an extra

    down = ["AttnDownBlock2D" if attends else "DownBlock2D" for attends in attending_levels(config)]
    size = config.image_size
    network = UNet2DModel(
        sample_size=size if isinstance(size, int) else size[0],
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        block_out_channels=tuple(mult * config.channels for mult in config.channel_mult),
        layers_per_block=config.num_res_blocks,
        down_block_types=down,
        up_block_types=[name.replace("Down", "Up") for name in reversed(down)],
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    )
    network = network.to(device).train()
    average = EMAModel(network.parameters(), decay=_DECAY)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE)
    return Contender(
        "diffusers",
        network,
        lambda x_t, t: network(x_t, t).sample,
        optimizer,
        lambda: average.step(network.parameters()),
        clips=True,
    )


def monai_peer(config: ModelConfig, device: torch.device) -> Contender:
    """DiffusionModelUNet with one head per attention, Adam."""
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet  # noqa: PLC0415 - seconds to import

    widths = [mult * config.channels for mult in config.channel_mult]
    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        channels=widths,
        attention_levels=attending_levels(config),
        num_res_blocks=config.num_res_blocks,
        num_head_channels=widths,
        norm_num_groups=32,
    )
    network = network.to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    return Contender("MONAI", network, network, optimizer, lambda: None, clips=False)


def autocast_to(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast for bfloat16, and nothing for float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
