"""What a feature extractor is, and what is asked of whoever loads one.

B images, C channels, H and W in pixels, F features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from xraygen.errors import ShapeError
from xraygen.progress import Report, silent

DTYPE_RULE = "stored level / (2^bits - 1) as float32, once, never through 8 bits"
"""How uint8 and uint16 become the [0, 1] that an extractor is given (`xraygen.ranges.stored_to_unit`)."""

UNPUBLISHED = "not a published hash"
"""What provenance says of weights whose publisher gives no hash to hold theirs against."""

Resize = Literal["bilinear", "bicubic"]
InceptionResize = Literal["clean-fid", "original"]
INCEPTION_RESIZES: tuple[InceptionResize, ...] = ("clean-fid", "original")


@dataclass(frozen=True)
class FeatureExtractor:
    """A fixed function from images to features, with everything that decides its numbers."""

    name: str
    """What --features calls it."""
    label: str
    """What a report calls it: FD-<label>. Never FID alone, which is a number of one network and one protocol."""
    dims: int
    """F, the number of features."""
    provenance: Mapping[str, str | int]
    """Where the weights come from, under which licence, and what is done to the pixels."""
    network: Callable[[Tensor], Tensor]
    """float32 unit (B, C, H, W) on `device` -> float32 (B, F)."""
    device: torch.device
    """Where it computes."""

    def __call__(self, images: Tensor) -> Tensor:
        """Extract.

        Args:
            images: float32, `(B, C, H, W)`, range [0, 1], C = 1 or 3.

        Returns:
            float32 CPU tensor, `(B, F)`.

        Raises:
            ShapeError: If `images` is not `(B, 1, H, W)` or `(B, 3, H, W)`.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ShapeError(
                f"Features are extracted from (B, 1, H, W) or (B, 3, H, W); given: {tuple(images.shape)}."
            )
        with torch.inference_mode():
            return self.network(images.to(self.device)).float().cpu()


@dataclass(frozen=True)
class ExtractorOptions:
    """What a user may say about extractors besides their names."""

    weights: Mapping[str, Path] = field(default_factory=dict)
    """File or folder of an extractor's weights, by its name."""
    download: bool = False
    """Whether weights that are missing may be fetched from their publisher."""
    inception_resize: InceptionResize = "clean-fid"
    """How `inception` brings an image to 299 px."""
    report: Report = silent
    """Told how far a download is."""


@dataclass(frozen=True)
class Lack:
    """What an extractor needs and this installation has not."""

    what: str
    """As `xraygen info` says it."""
    add: str
    """What to do about it."""
    downloads: bool = False
    """Whether --download would bring it."""


def resized(images: Tensor, side: int, how: Resize) -> Tensor:
    """`(B, C, H, W)` to `(B, C, side, side)`, with antialiasing; the whole film, its aspect ratio given up."""
    return functional.interpolate(images, size=(side, side), mode=how, antialias=True, align_corners=False)


def resize_rule(side: int, how: Resize) -> str:
    """The same in words, for provenance."""
    return f"{side}x{side}, {how} with antialiasing, whole film"
