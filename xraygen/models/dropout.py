"""Dropout whose masks belong to the images, however the images are shared out among batches and processes.

B batch, C channel, H, W sides.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from xraygen.seeds import counted_bits

_LEVELS = 1 << 16
_ODD = 0x632BE59BD9B4E019


class KeyedDropout(nn.Dropout):
    """nn.Dropout with a key per image: zero each value with probability `p` and scale the others by 1 / (1 - p).

    A value has 16 random bits, which are a function of the image's key, the layer and the place: so p is rounded to a
    multiple of 2^-16 (0.1 to 0.100006), and the scale is that of the rounded p. Four values share one 64-bit word;
    that makes it cheaper than nn.Dropout on a CPU. Without keys it is nn.Dropout and draws from torch's generator.

    Args:
        p: Probability of zero, [0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.offset = 0
        """Added to each key; `part_streams` sets it to another number in each layer."""

    def forward(self, input: Tensor, keys: Tensor | None = None) -> Tensor:
        """Features `(B, C, H, W)` and the key of each image, int64 `(B,)`, to features."""
        x = input
        if not self.training or self.p == 0:
            return x
        if keys is None:
            return functional.dropout(x, self.p, training=True)
        dropped = round(self.p * _LEVELS)
        words = counted_bits(keys + self.offset, -(-x[0].numel() // 4))
        bits = words.view(torch.int16)  # (B, >= CHW)
        keep = (bits[:, : x[0].numel()] >= dropped - _LEVELS // 2).view(x.shape)  # int16 begins at -2^15
        return torch.where(keep, x * (_LEVELS / (_LEVELS - dropped)), 0.0)


def part_streams(network: nn.Module) -> None:
    """Give each dropout of a network a stream of its own."""
    layers = [module for module in network.modules() if isinstance(module, KeyedDropout)]
    for number, layer in enumerate(layers, start=1):
        layer.offset = (number * _ODD) % (1 << 63)
