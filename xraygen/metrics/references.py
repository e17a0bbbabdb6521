"""Sets of known quality to stand beside a number: what does a distance of 40 mean?

N images, H and W in pixels, all in unit range [0, 1].
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from xraygen.errors import ShapeError

Unit = NDArray[np.float32]

_ROWS_AT_ONCE = 256
_FILMS_AT_ONCE = 32
"""A convolution may keep films of one channel in a layout of eight: all at once would take many times their memory."""


def gaussian_like(images: Unit, count: int, generator: torch.Generator) -> Unit:
    """Draw from the Gaussian with the pixel mean and covariance of `images`.

    With X the centred images as rows and z standard normal, μ + zX / √(N − 1) has the covariance
    XᵀX / (N − 1) exactly, without that (HW x HW) matrix ever being made. Each sample looks like a blurred average
    chest: first and second moments are right, and nothing else is.

    Args:
        images: Unit range, `(N, H, W)`, N >= 2.
        count: How many to draw.
        generator: A CPU generator.

    Returns:
        float32, `(count, H, W)`, clipped to [0, 1].

    Raises:
        ShapeError: If there are fewer than two images.
    """
    if images.ndim != 3 or len(images) < 2:
        raise ShapeError(f"A covariance needs at least two images (N, H, W); given: {images.shape}.")
    rows = torch.from_numpy(np.ascontiguousarray(images)).flatten(1)  # (N, HW)
    mean = rows.mean(dim=0)
    z = torch.randn(count, len(rows), generator=generator) / math.sqrt(len(rows) - 1)
    samples = mean.repeat(count, 1)  # (count, HW)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        samples.addmm_(z[:, block], rows[block] - mean)
    return samples.clamp_(0, 1).reshape(count, *images.shape[1:]).numpy()


def noise(count: int, shape: tuple[int, int], generator: torch.Generator) -> Unit:
    """Uniform noise in [0, 1], float32 `(count, H, W)`: what an untrained network would be glad to beat."""
    return torch.rand(count, *shape, generator=generator).numpy()


def blurred(images: Unit, sigma_px: float) -> Unit:
    """Real images through a Gaussian blur: right in every large structure, and without the fine ones.

    Args:
        images: Unit range, `(N, H, W)`.
        sigma_px: Standard deviation of the blur in pixels, above 0; cut off at 3 of them, edges replicated.

    Returns:
        float32, `(N, H, W)`, in [0, 1].
    """
    reach = max(1, math.ceil(3 * sigma_px))
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma_px**2))
    kernel = kernel / kernel.sum()
    blurry = np.empty(images.shape, dtype=np.float32)
    for start in range(0, len(images), _FILMS_AT_ONCE):
        part = slice(start, start + _FILMS_AT_ONCE)
        x = torch.from_numpy(np.ascontiguousarray(images[part]))[:, None]  # (n, 1, H, W)
        x = _along(x, kernel.view(1, 1, -1, 1), (0, 0, reach, reach))
        x = _along(x, kernel.view(1, 1, 1, -1), (reach, reach, 0, 0))
        blurry[part] = x[:, 0].clamp(0, 1).numpy()
    return blurry


def _along(x: Tensor, kernel: Tensor, edges: tuple[int, int, int, int]) -> Tensor:
    """One axis of the blur."""
    return functional.conv2d(functional.pad(x, edges, mode="replicate"), kernel)
