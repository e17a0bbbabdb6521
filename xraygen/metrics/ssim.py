"""Structural similarity of pairs of images, and how alike the images of one set are.

B pairs, H and W in pixels, h = H - 10 and w = W - 10 positions of the 11-pixel window that lie wholly inside.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xraygen.errors import ShapeError
from xraygen.ranges import Stored, stored_to_unit

WINDOW_PX = 11
SIGMA_PX = 1.5
C1 = 0.01**2
C2 = 0.03**2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

_PAIRS_AT_ONCE = 64
_PIXELS_AT_ONCE = 2**17
"""More pixels in one go would leave the processor's cache: three times slower."""


@dataclass(frozen=True)
class Diversity:
    """How alike random pairs of one set are; lower is more diverse."""

    ssim: float
    """Mean SSIM."""
    ssim_standard_error: float
    """Of that mean, over the choice of images and of pairs."""
    ms_ssim: float
    """Mean MS-SSIM."""
    ms_ssim_standard_error: float
    """Of that mean."""
    pairs: int
    """Pairs looked at."""
    scales: int
    """Scales in MS-SSIM: 5, or as many as the image has room for."""


@dataclass(frozen=True)
class MeanSimilarity:
    """How alike the two images of given pairs are."""

    ssim: float
    """Mean SSIM."""
    ssim_standard_error: float
    """Of that mean, over pairs that are independent."""
    ms_ssim: float
    """Mean MS-SSIM."""
    ms_ssim_standard_error: float
    """Of that mean."""
    pairs: int
    """Pairs looked at."""


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair, over every position of the window that lies wholly inside.

    SSIM = (2 μ_a μ_b + C₁)(2 σ_ab + C₂) / ((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂)), averaged over positions

    with a Gaussian window of 11 pixels, σ = 1.5 px, K₁ = 0.01, K₂ = 0.03 and a data range of 1. It is what
    scikit-image computes with gaussian_weights=True, use_sample_covariance=False, and its own cropping.

    Args:
        a: Images, float, `(B, H, W)`, range [0, 1], H and W at least 11.
        b: Their partners, same shape.

    Returns:
        `(B,)`, float64, in [-1, 1]; 1 for identical images.

    Raises:
        ShapeError: If the shapes differ, are not `(B, H, W)`, or are smaller than the window.

    Source:
        Wang et al. 2004, "Image Quality Assessment", eq. 13.
    """
    _check(a, b)
    means = []
    for x, y in _blocks(a, b):
        luminance, contrast_structure = _components(x, y)
        means.append((luminance * contrast_structure).mean(dim=(-2, -1)))
    return torch.cat(means)


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale structural similarity of each pair.

    MS-SSIM = l_S^(w_S) · Π_s cs_s^(w_s), each scale half the size of the one before (2x2 means)

    Images with a side below 176 px have no room for 5 scales: they get `ms_ssim_scales` of them, with the first
    weights divided by their sum. A negative mean of cs counts as 0, as its power would not be real.

    Args:
        a: Images, float, `(B, H, W)`, range [0, 1], H and W at least 11.
        b: Their partners, same shape.

    Returns:
        `(B,)`, float64, in [0, 1]; 1 for identical images.

    Raises:
        ShapeError: As for `ssim`.

    Source:
        Wang, Simoncelli & Bovik 2003, "Multiscale Structural Similarity", eq. 7.
    """
    return ssim_and_ms_ssim(a, b)[1]


def ssim_and_ms_ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both of each pair, in little more time than the second alone: its finest scale is what SSIM is made of.

    Args:
        a: Images, float, `(B, H, W)`, range [0, 1], H and W at least 11.
        b: Their partners, same shape.

    Returns:
        `ssim(a, b)` and `ms_ssim(a, b)`, each `(B,)`, float64.

    Raises:
        ShapeError: As for `ssim`.
    """
    _check(a, b)
    single, multi = zip(*(_of_block(x, y) for x, y in _blocks(a, b)), strict=True)
    return torch.cat(single), torch.cat(multi)


def ms_ssim_scales(height: int, width: int) -> int:
    """How many of the 5 scales an image of this size has room for: the smallest must hold the window."""
    return min(len(SCALE_WEIGHTS), 1 + math.floor(math.log2(max(1.0, min(height, width) / WINDOW_PX))))


def diversity(images: Stored, bits: int, *, pairs: int = 500, generator: torch.Generator) -> Diversity:
    """Mean SSIM and MS-SSIM of random pairs of different images of one set.

    Args:
        images: uint8 or uint16, `(N, H, W)`, N >= 2.
        bits: White is stored as 2^bits - 1.
        pairs: How many pairs to draw, without repeats; all of them where there are no more.
        generator: A CPU generator that chooses the pairs.

    Returns:
        Both means with standard errors: a jackknife over images, since pairs that share one are not independent.

    Raises:
        ShapeError: If there are fewer than two images or they are smaller than the window.
    """
    if images.ndim != 3 or len(images) < 2:
        raise ShapeError(f"Diversity needs at least two images (N, H, W); given: {images.shape}.")
    chosen = _draw_pairs(len(images), pairs, generator)  # (P, 2)
    single, multi = [], []
    for block in torch.split(chosen, _PAIRS_AT_ONCE):
        a, b = (torch.from_numpy(stored_to_unit(images[np.asarray(side)], bits)) for side in block.T)
        found = ssim_and_ms_ssim(a, b)
        single.append(found[0])
        multi.append(found[1])
    ssims, ms_ssims = torch.cat(single), torch.cat(multi)  # (P,)
    return Diversity(
        ssim=float(ssims.mean()),
        ssim_standard_error=_standard_error(ssims, chosen),
        ms_ssim=float(ms_ssims.mean()),
        ms_ssim_standard_error=_standard_error(ms_ssims, chosen),
        pairs=len(chosen),
        scales=ms_ssim_scales(*images.shape[1:]),
    )


def similarity_of_pairs(a: Stored, a_bits: int, b: Stored, b_bits: int) -> MeanSimilarity:
    """Mean SSIM and MS-SSIM of image i of one stack with image i of another.

    Args:
        a: uint8 or uint16, `(N, H, W)`, N >= 1.
        a_bits: White of a is stored as 2^a_bits - 1.
        b: Their partners, `(N, H, W)`.
        b_bits: White of b is stored as 2^b_bits - 1.

    Raises:
        ShapeError: If the shapes differ, or the images are smaller than the window.
    """
    single, multi = [], []
    for start in range(0, len(a), _PAIRS_AT_ONCE):
        rows = slice(start, start + _PAIRS_AT_ONCE)
        x = torch.from_numpy(stored_to_unit(a[rows], a_bits))
        y = torch.from_numpy(stored_to_unit(b[rows], b_bits))
        found = ssim_and_ms_ssim(x, y)
        single.append(found[0])
        multi.append(found[1])
    ssims, ms_ssims = torch.cat(single), torch.cat(multi)  # (N,)
    errors = [math.sqrt(float(of.var()) / len(of)) if len(of) > 1 else 0.0 for of in (ssims, ms_ssims)]
    return MeanSimilarity(float(ssims.mean()), errors[0], float(ms_ssims.mean()), errors[1], len(ssims))


def _check(a: Tensor, b: Tensor) -> None:
    """Same shape, (B, H, W), and room for the window."""
    if a.ndim != 3 or a.shape != b.shape:
        raise ShapeError(
            f"SSIM needs two stacks (B, H, W) of one shape; given: {tuple(a.shape)} and {tuple(b.shape)}."
        )
    if min(a.shape[1:]) < WINDOW_PX:
        raise ShapeError(
            f"SSIM needs images of at least {WINDOW_PX}x{WINDOW_PX} px; given: {a.shape[1]}x{a.shape[2]}."
        )


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A few pairs at a time, float64."""
    pairs = max(1, _PIXELS_AT_ONCE // (a.shape[-2] * a.shape[-1]))
    for x, y in zip(torch.split(a, pairs), torch.split(b, pairs), strict=True):
        yield x.double(), y.double()


def _of_block(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and MS-SSIM of one block of pairs, (B,) each."""
    scales = ms_ssim_scales(x.shape[-2], x.shape[-1])
    weights = [weight / sum(SCALE_WEIGHTS[:scales]) for weight in SCALE_WEIGHTS[:scales]]
    similarity = []  # SSIM of each scale, (B,)
    product = torch.ones(len(x), dtype=torch.float64, device=x.device)
    for scale, weight in enumerate(weights):
        luminance, contrast_structure = _components(x, y)
        similarity.append((luminance * contrast_structure).mean(dim=(-2, -1)))
        last = scale == scales - 1
        term = similarity[-1] if last else contrast_structure.mean(dim=(-2, -1))
        product = product * term.clamp(min=0) ** weight
        if not last:
            x, y = (functional.avg_pool2d(images[:, None], 2)[:, 0] for images in (x, y))  # (B, H / 2, W / 2)
    return similarity[0], product


def _components(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure maps, each (B, h, w)."""
    moments = _blur(
        torch.stack((a, b, a * a + b * b, a * b))
    )  # (4, B, h, w): of variances only the sum is asked for
    mean_a, mean_b, squares, product = moments.unbind()
    mean_squares, mean_product = mean_a * mean_a + mean_b * mean_b, mean_a * mean_b
    luminance = (2 * mean_product + C1) / (mean_squares + C1)
    contrast_structure = (2 * (product - mean_product) + C2) / (squares - mean_squares + C2)
    return luminance, contrast_structure


def _blur(x: Tensor) -> Tensor:
    """Gaussian window means of (..., H, W) at the (..., h, w) positions that lie wholly inside.

    Eleven shifted additions per axis: on a CPU several times quicker than a convolution with so small a kernel.
    """
    offsets = torch.arange(WINDOW_PX, dtype=torch.float64) - WINDOW_PX // 2
    kernel = torch.exp(-(offsets**2) / (2 * SIGMA_PX**2))
    weights: list[float] = (kernel / kernel.sum()).tolist()
    for axis in (-2, -1):
        positions = x.shape[axis] - WINDOW_PX + 1
        total = x.narrow(axis, 0, positions) * weights[0]
        for shift in range(1, WINDOW_PX):
            total.add_(x.narrow(axis, shift, positions), alpha=weights[shift])
        x = total
    return x


def _draw_pairs(count: int, pairs: int, generator: torch.Generator) -> Tensor:
    """Different unordered pairs of different images, int64 (P, 2)."""
    if pairs >= count * (count - 1) // 2:
        return torch.combinations(torch.arange(count), 2)
    drawn: dict[tuple[int, int], None] = {}
    while len(drawn) < pairs:
        first = torch.randint(count, (pairs,), generator=generator)
        second = (first + torch.randint(1, count, (pairs,), generator=generator)) % count
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            drawn.setdefault((min(a, b), max(a, b)))
    return torch.tensor(list(drawn)[:pairs])


def _standard_error(values: Tensor, pairs: Tensor) -> float:
    """Of the mean over pairs: delete-one-image jackknife.

    A pair is left out with either of its images, so the jackknife counts the chance of drawing it twice; once is
    taken off again (Efron & Stein 1981). Never below what independent pairs would have.
    """
    total = len(values)
    if total < 3:
        return 0.0
    images = int(pairs.max()) + 1
    lost = torch.zeros(images, dtype=torch.float64).index_add_(0, pairs.T.flatten(), values.repeat(2))
    share = torch.bincount(pairs.flatten(), minlength=images)
    used = (share > 0) & (share < total)
    without = (values.sum() - lost[used]) / (total - share[used])
    n = int(used.sum())
    jackknife = (n - 1) / n * (without - without.mean()).square().sum()
    independent = values.var() / total
    return math.sqrt(max(float(jackknife - independent), float(independent)))
