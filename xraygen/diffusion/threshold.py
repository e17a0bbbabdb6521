"""Keeping pred_xstart where images are: a guess may lie outside [-1, 1], most of all under guidance.

B batch, C channel, H, W sides.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Threshold = Callable[[Tensor], Tensor]
"""pred_xstart `(B, C, H, W)` -> the same in [-1, 1]."""


def static_threshold(pred_xstart: Tensor) -> Tensor:
    """Clip to [-1, 1] (Ho et al. 2020; "static" in Saharia et al. 2022, sec. 2.3)."""
    return pred_xstart.clamp(-1, 1)


def dynamic_threshold(percentile: float) -> Threshold:
    """Clip to [-s, s] and divide by s, where s is a percentile of |pred_xstart| of each image, and at least 1.

    Pixels that the guess saturates are drawn back inside instead of being cut off.

    Args:
        percentile: In (0, 100].

    Source:
        Saharia et al. 2022, "Imagen", sec. 2.3, "dynamic thresholding".
    """

    def threshold(pred_xstart: Tensor) -> Tensor:
        magnitudes = pred_xstart.abs().flatten(1).float()  # (B, C H W)
        s = torch.quantile(magnitudes, percentile / 100, dim=1).clamp(min=1)  # (B,)
        s = s.to(pred_xstart.dtype).view(-1, 1, 1, 1)
        return pred_xstart.clamp(-s, s) / s

    return threshold


def thresholded(pred_xstart: Tensor, clip: bool | Threshold) -> Tensor:
    """By a threshold, by the static one (True), or not at all (False)."""
    if isinstance(clip, bool):
        return static_threshold(pred_xstart) if clip else pred_xstart
    return clip(pred_xstart)
