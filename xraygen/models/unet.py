"""The U-Net of Ho et al. 2020, appendix B: 35,746,307 parameters for CIFAR10, 113,673,219 for CelebA-HQ 256.

B batch, C channel, H, W sides, D embedding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xraygen.config import ModelConfig
from xraygen.errors import ShapeError
from xraygen.models.augmentation import AUGMENTATIONS, augmentation_layer
from xraygen.models.blocks import (
    ALMOST_ZERO,
    Downsample,
    ResidualBlock,
    SelfAttention,
    Upsample,
    conv,
    dense,
    group_norm,
    timestep_embedding,
)
from xraygen.models.conditions import ConditionEmbedding
from xraygen.models.dropout import part_streams


class _Stage(nn.Module):
    """A residual block and, at some resolutions, self-attention after it."""

    def __init__(
        self, in_channels: int, out_channels: int, embedding: int, *, attention: bool, dropout: float
    ) -> None:
        super().__init__()
        self.block = ResidualBlock(in_channels, out_channels, embedding, dropout)
        self.attention = SelfAttention(out_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, dropout_keys: Tensor | None) -> Tensor:
        out: Tensor = self.attention(self.block(x, embedding, dropout_keys))
        return out


def level_heights(config: ModelConfig) -> tuple[int, ...]:
    """Height of the network's features in pixels, level by level."""
    height = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    return tuple(height // config.patch_size >> level for level in range(len(config.channel_mult)))


def for_inference(network: "UNet") -> "UNet":
    """The network itself, its weights laid out as convolutions like them best where no gradient is asked for."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


class UNet(nn.Module):
    """Predicts, from a noisy image and its timestep, what the diffusion's prediction_type says.

    Every weight is drawn from torch's global generator; seed it before, as `xraygen.training` does.

    Args:
        config: Widths, levels, attention and dropout.
        conditions: Number of categories of each condition that the network is told, CONTINUOUS for a number; by
            default it is told none. Their weights are drawn after all others, and those for augmentations last, so that
            the others are those of the network without.
    """

    def __init__(self, config: ModelConfig, conditions: Sequence[int] = ()) -> None:
        super().__init__()
        self.config = config
        width, dropout = config.channels, config.dropout
        embedding = 4 * width
        patched = config.in_channels * config.patch_size**2
        attends = [height in config.attention_resolutions for height in level_heights(config)]

        self.time = nn.Sequential(dense(width, embedding), nn.SiLU(), dense(embedding, embedding))
        self.conv_in = conv(patched, width)

        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        skips = [width]
        channels = width
        last = len(config.channel_mult) - 1
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                self.down.append(
                    _Stage(channels, mult * width, embedding, attention=attends[level], dropout=dropout)
                )
                channels = mult * width
                skips.append(channels)
            if level < last:
                self.down.append(Downsample(channels))
                skips.append(channels)

        self.middle = nn.ModuleList(
            [
                _Stage(channels, channels, embedding, attention=True, dropout=dropout),
                _Stage(channels, channels, embedding, attention=False, dropout=dropout),
            ]
        )

        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for _ in range(config.num_res_blocks + 1):
                self.up.append(
                    _Stage(
                        channels + skips.pop(),
                        mult * width,
                        embedding,
                        attention=attends[level],
                        dropout=dropout,
                    )
                )
                channels = mult * width
            if level > 0:
                self.up.append(Upsample(channels))

        self.norm_out = group_norm(channels)
        self.conv_out = conv(channels, 2 * patched if config.learns_variance else patched, scale=ALMOST_ZERO)
        part_streams(self)
        self.conditions = ConditionEmbedding(conditions, embedding) if conditions else None
        self.augmentation = augmentation_layer(width) if config.hears_augmentation else None

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        condition: Tensor | None = None,
        dropout_keys: Tensor | None = None,
        augmentation: Tensor | None = None,
        *,
        condition_embedding: Tensor | None = None,
    ) -> Tensor:
        """Predict from noisy images.

        Args:
            x_t: Noisy images, `(B, C, H, W)`, float.
            t: Timestep of each image, `(B,)`, int64, 0 the least noisy; or another number that says the noise.
            condition: What is told of each image, `(B, F)`, float, as `xraygen.models.conditions` says; None tells
                nothing of any, and is the unconditional network.
            dropout_keys: Key of each image's dropout masks, int64 `(B,)`; None draws them from torch's generator.
            augmentation: What was done to each image in training, `(B, A)`, float, as `xraygen.models.augmentation`
                says; None, or A = 0, for images as they are.
            condition_embedding: Instead of `condition`, what `self.conditions` makes of it, `(B, D)`: two of these can
                be mixed, which as numbers of categories they cannot.

        Returns:
            Prediction, `(B, C, H, W)`; `(B, 2 C, H, W)` if the network learns the variance too.

        Raises:
            ShapeError: If the network does not know as many conditions, or these augmentations.
        """
        patch = self.config.patch_size
        frequencies = timestep_embedding(t, self.config.channels).to(self.conv_in.weight.dtype)
        if augmentation is not None and augmentation.shape[1] > 0:
            if self.augmentation is None or augmentation.shape[1] != len(AUGMENTATIONS):
                knows = 0 if self.augmentation is None else len(AUGMENTATIONS)
                raise ShapeError(
                    f"augmentation is {tuple(augmentation.shape)}; expected {knows} numbers per image, or None."
                )
            frequencies = frequencies + self.augmentation(augmentation)
        embedding = self.time(frequencies)  # (B, D)
        if condition is not None:
            if self.conditions is None:
                raise ShapeError(
                    "This network was built without conditions and was given some; expected None."
                )
            embedding = embedding + self.conditions(condition)
        elif condition_embedding is not None:
            embedding = embedding + condition_embedding
        x = self.conv_in(functional.pixel_unshuffle(x_t, patch))  # (B, width, H / patch, W / patch)
        skips = [x]
        for layer in self.down:
            x = self._stage(layer, x, embedding, dropout_keys) if isinstance(layer, _Stage) else layer(x)
            skips.append(x)
        for stage in self.middle:
            x = self._stage(stage, x, embedding, dropout_keys)
        for layer in self.up:
            if isinstance(layer, _Stage):
                x = self._stage(layer, torch.cat([x, skips.pop()], dim=1), embedding, dropout_keys)
            else:
                x = layer(x)
        out = self.conv_out(functional.silu(self.norm_out(x)))  # (B, C' patch^2, H / patch, W / patch)
        return functional.pixel_shuffle(out, patch)  # (B, C', H, W)

    def _stage(self, stage: nn.Module, x: Tensor, embedding: Tensor, dropout_keys: Tensor | None) -> Tensor:
        """One stage, whose activations are kept for the backward pass or computed again in it."""
        if self.config.checkpoint_activations and self.training and torch.is_grad_enabled():
            out: Tensor = checkpoint(
                stage,
                x,
                embedding,
                dropout_keys,
                use_reentrant=False,
                preserve_rng_state=dropout_keys is None and self.config.dropout > 0,
            )
            return out
        plain: Tensor = stage(x, embedding, dropout_keys)
        return plain
