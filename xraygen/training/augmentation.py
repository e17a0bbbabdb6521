"""Augmentation that does not leak: films are moved, scaled, stretched and turned, and the network is told how.

So a few hundred films give more to learn from, and samples do not show it: they are asked for as films to which
nothing was done. Brightness and contrast are left alone, since air is black, at the end of the range, and what goes
beyond is cut off.

B images, C channel, H, W sides, A augmentations.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from xraygen.config import DataConfig
from xraygen.models.augmentation import AUGMENTATIONS

_BLACK = -1.0
_SUPERSAMPLING = 2


def no_labels(count: int) -> Tensor:
    """The labels of a run without augmentation, `(B, 0)`."""
    return torch.empty(count, 0)


def draw_labels(config: DataConfig, count: int, generator: torch.Generator) -> Tensor:
    """What is done to each image of a batch: each augmentation with `augment_probability`, on its own.

    Args:
        config: Which augmentations, and how often.
        count: Images in the whole batch.
        generator: Keyed by the step.

    Returns:
        `(B, A)`, float32, in the order of AUGMENTATIONS: standard normal where one is applied, 1 for a flip, else 0.

    Source:
        Karras et al. 2022, table 6; the two shifts come together there too.
    """
    sizes = (config.augment_scale, config.augment_stretch, config.augment_rotation, config.augment_shift)
    wanted = torch.tensor([size > 0 for size in sizes] + [config.augment_flip])
    applied = torch.rand(count, len(wanted), generator=generator) < config.augment_probability  # (B, A - 1)
    scale, stretch, rotation, shift, flip = (applied & wanted).unbind(1)
    amounts = torch.randn(count, len(AUGMENTATIONS) - 1, generator=generator)  # (B, A - 1)
    amounts = amounts.masked_fill(~torch.stack([scale, stretch, rotation, shift, shift], dim=1), 0.0)
    return torch.cat([amounts, flip[:, None].float()], dim=1)  # (B, A)


def augmented(x: Tensor, labels: Tensor, config: DataConfig) -> Tensor:
    """Images as their labels say: flipped, then scaled and stretched, turned and shifted, in this order.

    Beyond the border all is black, as beyond a collimator and in a film's padding; its mirror image, as in Karras et
    al., would add necks and abdomens that no film has. Each pixel is the mean of four bicubic samples: two to a side
    are as many as a film needs that shrinks to half.

    Args:
        x: Images, `(B, C, H, W)`, float, range [-1, 1].
        labels: What is done to each, `(B, A)`, on the same device.
        config: The sizes that the labels are multiples of.

    Returns:
        Images of the same shape, dtype and range; the same bits where a label is zeros, and a flip alone is exact.
    """
    height, width = x.shape[2:]
    moves, flips = labels[:, :-1], labels[:, -1]
    x = torch.where((flips > 0).view(-1, 1, 1, 1), x.flip(-1), x)
    points = _sources(moves, height, width, config).to(x.dtype)
    # Here the image is (B, C, 2 H, 2 W).
    fine = functional.grid_sample(x - _BLACK, points, "bicubic", "zeros", align_corners=False)
    moved = (functional.avg_pool2d(fine, _SUPERSAMPLING) + _BLACK).clamp(-1, 1)  # (B, C, H, W)
    return torch.where((moves != 0).any(dim=1).view(-1, 1, 1, 1), moved, x)


def _sources(moves: Tensor, height: int, width: int, config: DataConfig) -> Tensor:
    """Where in the old image each sample of the new ones lies, `(B, 2 H, 2 W, 2)`: x, y from -1 to 1 along the sides.

    In pixels from the centre, x right and y down, a point p goes to R D p + s: D = diag(2^(scale + stretch),
    2^(scale - stretch)), R turns clockwise, s is the shift. So a point q comes from D^-1 R^T (q - s).

    All in float64 and element by element, so that an image's points do not depend on its neighbours in the batch.
    """
    scale, stretch, turn, across, down = moves.double()[:, :, None, None].unbind(1)  # each (B, 1, 1)
    scale, stretch = config.augment_scale * scale, config.augment_stretch * stretch
    turn = math.radians(config.augment_rotation) * turn
    x = _centres(width, moves.device)[None, None, :] - width * config.augment_shift * across  # (B, 1, 2 W)
    y = _centres(height, moves.device)[None, :, None] - height * config.augment_shift * down  # (B, 2 H, 1)
    source_x = (-scale - stretch).exp2() * (turn.cos() * x + turn.sin() * y)  # (B, 2 H, 2 W)
    source_y = (-scale + stretch).exp2() * (turn.cos() * y - turn.sin() * x)
    return torch.stack([source_x * (2 / width), source_y * (2 / height)], dim=-1)


def _centres(side: int, device: torch.device) -> Tensor:
    """Where the samples of a side lie, in pixels from its middle."""
    fine = torch.arange(side * _SUPERSAMPLING, dtype=torch.float64, device=device)
    return (fine + 0.5) / _SUPERSAMPLING - side / 2
