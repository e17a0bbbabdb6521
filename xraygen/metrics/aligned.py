"""How near two films are when brightness, contrast, mirroring, small shifts, turns, grain and blur do not count.

N, M films, S = 32 pixels a side, C = 24 pixels of a window, P = 81 positions of it.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from xraygen.errors import ShapeError
from xraygen.ranges import Stored, stored_to_unit

SIDE_PX = 32
"""Films are averaged down to this: grain and sharpness go."""
WINDOW_PX = 24
"""Of the query's middle, which is looked for in the other film: an eighth of its side in any direction."""
SIGMA_PX = 3.0
"""Of the neighbourhood whose mean and contrast are taken out."""
LEAST_CONTRAST = 0.02
"""Standard deviation of a neighbourhood, in [0, 1], below which there is grain rather than anatomy."""

_DEGREES = (-4, -2, 0, 2, 4)
_SCALES = (0.94, 0.97, 1.0, 1.03, 1.06)
_HALVES = ((0, 0), (0, 1), (1, 0), (1, 1))
_FILMS_AT_ONCE = 32


def nearest_aligned(
    query: Stored, query_bits: int, reference: Stored, reference_bits: int, *, same: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """1 − correlation with, and row of, the reference film that correlates best with each query film.

    Both are averaged down to S x S and normalised by the mean and the contrast of each neighbourhood. The middle window
    of the query, and of its mirror image, is correlated with every window of the reference. The film with the largest
    correlation is compared once more with the query shifted by halves of a pixel, turned by up to 4 degrees and scaled
    by up to 6 %.

    Args:
        query: uint8 or uint16, `(N, H, W)`.
        query_bits: White is stored as 2^query_bits - 1.
        reference: `(M, H, W)`, M >= 1.
        reference_bits: Of the reference.
        same: Whether both are one stack, in which no film is its own neighbour; M >= 2.

    Returns:
        float64 `(N,)` in [0, 2], 0 for a copy; rows of `reference`, int64 `(N,)`, the first one of a tie.

    Raises:
        ShapeError: If one of them is no stack of films, or there is no reference.
    """
    if query.ndim != 3 or reference.ndim != 3 or len(reference) <= same:
        raise ShapeError(
            f"Aligned neighbours need films (N, H, W) and (M, H, W) with M >= {1 + same}; given: {query.shape} and "
            f"{reference.shape}."
        )
    fine = _fine(query, query_bits)
    views = torch.cat([_views(films, _HALVES[:1]) for films in (fine, fine.flip(-1))]).flatten(
        0, 1
    )  # (2 N, C²)
    best = torch.full((len(query),), -2.0)
    index = torch.zeros(len(query), dtype=torch.int64)
    for start in range(0, len(reference), _FILMS_AT_ONCE):
        films = normalise(_fine(reference[start : start + _FILMS_AT_ONCE], reference_bits))
        windows = _windows(films)  # (m, P, C²)
        found = (views @ windows.flatten(0, 1).T).view(2, len(query), *windows.shape[:2])
        of_films = found.amax(dim=(0, 3))  # (N, m)
        if same:
            of_films.diagonal(-start).fill_(-2.0)
        value, row = of_films.max(dim=1)  # (N,)
        better = value > best
        best, index = torch.where(better, value, best), torch.where(better, start + row, index)
    rows = index.numpy()
    for start in range(0, len(query), _FILMS_AT_ONCE):
        part = slice(start, start + _FILMS_AT_ONCE)
        best[part] = torch.maximum(
            best[part], _registered(fine[part], _fine(reference[rows[part]], reference_bits))
        )
    return (1 - best.double()).clamp(min=0).numpy(), rows


def normalise(fine: Tensor, down: int = 0, right: int = 0) -> Tensor:
    """Films without brightness and contrast, float32 `(N, S, S)`, shifted by so many halves of a pixel.

    z = (x − μ) / √(σ² + LEAST_CONTRAST²) with Gaussian means and variances of each neighbourhood

    Args:
        fine: Films at twice the side, `(N, 2 S, 2 S)`, in [0, 1].
        down: 0 or 1.
        right: 0 or 1.
    """
    shifted = functional.pad(fine[:, None], (0, right, 0, down), mode="replicate")[..., down:, right:]
    x = functional.avg_pool2d(shifted, 2)  # (N, 1, S, S)
    mean = _blur(x)
    variance = (_blur(x * x) - mean * mean).clamp(min=0)
    return ((x - mean) / (variance + LEAST_CONTRAST**2).sqrt())[:, 0]


def _fine(images: Stored, bits: int) -> Tensor:
    """Films averaged down to twice the side, float32 `(N, 2 S, 2 S)`."""
    x = torch.from_numpy(stored_to_unit(images, bits))[:, None]  # (N, 1, H, W)
    size = (2 * SIDE_PX, 2 * SIDE_PX)
    return functional.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)[:, 0]


def _views(fine: Tensor, shifts: tuple[tuple[int, int], ...]) -> Tensor:
    """The middle window at some half-pixel shifts, `(shifts, N, C²)`, centred and of length 1."""
    middle = (SIDE_PX - WINDOW_PX) // 2
    inner = slice(middle, middle + WINDOW_PX)
    halves = [normalise(fine, down, right)[:, inner, inner] for down, right in shifts]
    return _unit(torch.stack(halves).flatten(2))


def _registered(query: Tensor, reference: Tensor) -> Tensor:
    """Best correlation of film i with film i where the query may also be turned and scaled, `(n,)`."""
    windows = _windows(normalise(reference))  # (n, P, C²)
    best = torch.full((len(query),), -2.0)
    for films in (query, query.flip(-1)):
        for degrees in _DEGREES:
            for scale in _SCALES:
                turn, cosine = (
                    math.sin(math.radians(degrees)) * scale,
                    math.cos(math.radians(degrees)) * scale,
                )
                theta = torch.tensor([[cosine, -turn, 0.0], [turn, cosine, 0.0]]).expand(len(films), 2, 3)
                grid = functional.affine_grid(theta, [len(films), 1, *films.shape[1:]], align_corners=False)
                turned = functional.grid_sample(
                    films[:, None], grid, padding_mode="border", align_corners=False
                )[:, 0]
                views = _views(turned, _HALVES).transpose(0, 1)  # (n, 4, C²)
                best = torch.maximum(best, (views @ windows.transpose(1, 2)).amax(dim=(1, 2)))
    return best


def _blur(x: Tensor) -> Tensor:
    """Gaussian of SIGMA_PX over (N, 1, S, S), edges replicated."""
    return _BLUR @ x @ _BLUR.T


def _gaussian_matrix(side: int) -> Tensor:
    """The Gaussian of SIGMA_PX along one axis of `side` pixels as a matrix, `(side, side)`; its rows sum to 1.

    What lies beyond an edge is the edge's pixel, whose weight grows by it. Two products of so small matrices take a
    fraction of a convolution's time.
    """
    reach = round(3 * SIGMA_PX)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-(offsets**2) / (2 * SIGMA_PX**2))
    rows = torch.arange(side)[:, None]
    columns = (rows + offsets).clamp(0, side - 1)  # (side, 2 reach + 1)
    return torch.zeros(side, side).index_put_(
        (rows.expand_as(columns), columns), (weights / weights.sum()).expand(columns.shape), accumulate=True
    )


_BLUR = _gaussian_matrix(SIDE_PX)


def _windows(films: Tensor) -> Tensor:
    """Every window of each film, centred and of length 1, `(m, P, C²)`."""
    windows = films.unfold(1, WINDOW_PX, 1).unfold(2, WINDOW_PX, 1)  # (m, 9, 9, C, C)
    return _unit(windows.flatten(1, 2).flatten(2))


def _unit(x: Tensor) -> Tensor:
    """Centred and of length 1 along the last axis; a flat window is all but 0, and correlates with nothing."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return functional.normalize(centred, dim=-1, eps=1e-2)
