"""The pieces of the U-Net of Ho et al. 2020, appendix B.

B batch, C channel, H, W sides, D embedding. Swish is torch's silu.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from xraygen.models.dropout import KeyedDropout

GROUPS = 32
GROUP_NORM_EPS = 1e-6
ALMOST_ZERO = 1e-10
"""Scale of the layers that start as zero: the second convolution of a residual block and the like."""


def variance_scaling_(layer: nn.Conv2d | nn.Linear, scale: float = 1.0) -> None:
    """Draw weights uniformly with variance scale / mean(fan_in, fan_out); biases 0 (Ho et al. 2020, code)."""
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def conv(in_channels: int, out_channels: int, kernel: int = 3, scale: float = 1.0) -> nn.Conv2d:
    """A convolution that keeps the size."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    variance_scaling_(layer, scale)
    return layer


def dense(in_features: int, out_features: int, scale: float = 1.0) -> nn.Linear:
    """A linear layer."""
    layer = nn.Linear(in_features, out_features)
    variance_scaling_(layer, scale)
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with the paper's 32 groups, fewer where a group would have less than 4 channels.

    A group of one channel would take out again the constant that the time embedding adds to it: at a width of 32,
    the paper's 32 groups leave a block deaf to the timestep.
    """
    return nn.GroupNorm(min(GROUPS, channels // 4), channels, eps=GROUP_NORM_EPS)


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of t at geometrically falling frequencies.

    frequency_i = exp(-log(10000) i / (dim / 2 - 1))

    Args:
        t: Timesteps, `(B,)`, counted from 0.
        dim: Size D of the embedding, even.

    Returns:
        `(B, D)`, float32, order [sin | cos].

    Source:
        Vaswani et al. 2017, sec. 3.5, in the form of Ho et al. 2020's code.
    """
    half = dim // 2
    frequencies = torch.exp(
        torch.arange(half, dtype=torch.float32, device=t.device) * (-math.log(10_000) / (half - 1))
    )
    angles = t.float()[:, None] * frequencies  # (B, D / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)  # (B, D)


class ResidualBlock(nn.Module):
    """Two normalised convolutions around the time embedding, beside a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = conv(in_channels, out_channels)
        self.time = dense(embedding, out_channels)
        self.norm2 = group_norm(out_channels)
        self.dropout = KeyedDropout(dropout)
        self.conv2 = conv(out_channels, out_channels, scale=ALMOST_ZERO)
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else conv(in_channels, out_channels, kernel=1)
        )

    def forward(self, x: Tensor, embedding: Tensor, dropout_keys: Tensor | None = None) -> Tensor:
        """Features `(B, C, H, W)` and time embedding `(B, D)` to features of `out_channels`."""
        h = self.conv1(functional.silu(self.norm1(x)))  # (B, C', H, W)
        h = h + self.time(functional.silu(embedding))[:, :, None, None]
        h = self.conv2(self.dropout(functional.silu(self.norm2(h)), dropout_keys))
        out: Tensor = self.shortcut(x) + h
        return out


class SelfAttention(nn.Module):
    """One head over all positions, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.q = dense(channels, channels)
        self.k = dense(channels, channels)
        self.v = dense(channels, channels)
        self.out = dense(channels, channels, scale=ALMOST_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        """Features to features of the same shape `(B, C, H, W)`."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, HW, C)
        q, k, v = self.q(tokens), self.k(tokens), self.v(tokens)
        attended = functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[
            :, 0
        ]  # (B, HW, C)
        out: Tensor = self.out(attended).transpose(1, 2).reshape(x.shape)  # (B, C, H, W)
        return x + out


class Downsample(nn.Module):
    """Halve the sides: 3x3 convolution of stride 2, padded right and bottom by one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)
        variance_scaling_(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, C, H / 2, W / 2)`."""
        out: Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Double the sides: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to `(B, C, 2 H, 2 W)`."""
        out: Tensor = self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out
