"""Distances that need no network: how often each grey occurs, and how much power each frequency has.

N films, H and W in pixels, B bins of grey, R rings of frequency. What is kept of each film is small, so
that the distance of any choice of films costs nothing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from xraygen.errors import ShapeError
from xraygen.ranges import Stored, stored_to_unit

BINS = 256

Float = NDArray[np.float64]

_FILMS_AT_ONCE = 32
_LEAST_POWER = 1e-15
"""A flat film has no power at all, and a logarithm needs some."""


@dataclass(frozen=True, eq=False)
class FilmStatistics:
    """What is kept of a set of films."""

    greys: Float
    """Share of each film's pixels in each of BINS equal bins of [0, 1], `(N, B)`."""
    power: Float
    """Mean power of each film in each ring of frequency, `(N, R)`."""
    frequency: Float
    """Of the rings, in cycles per pixel, up to 0.5, `(R,)`."""


def film_statistics(images: Stored, bits: int) -> FilmStatistics:
    """Greys and power of each film.

    Power is that of the film less its mean, under a Hann window that hides the edges: |FFT|² / (H W), averaged
    over the frequencies of a ring.

    Args:
        images: uint8 or uint16, `(N, H, W)`.
        bits: White is stored as 2^bits - 1.

    Raises:
        ShapeError: If `images` is not `(N, H, W)` with at least one film.
    """
    if images.ndim != 3 or not len(images):
        raise ShapeError(f"Statistics of films need (N, H, W) with N >= 1; given: {images.shape}.")
    height, width = images.shape[1:]
    window = torch.from_numpy(np.hanning(height)[:, None] * np.hanning(width))
    ring, frequency = _rings(height, width)
    members, first = _members(ring)
    levels = stored_to_unit(np.arange(2**bits, dtype=np.uint16), bits)
    bin_of = np.minimum(levels * BINS, BINS - 1).astype(np.int64)  # (2^bits,)
    greys = np.empty((len(images), BINS))
    power = np.empty((len(images), len(frequency)))
    for start in range(0, len(images), _FILMS_AT_ONCE):
        films = images[start : start + _FILMS_AT_ONCE]
        unit = torch.from_numpy(stored_to_unit(films, bits)).double()  # (n, H, W)
        transformed = torch.fft.rfft2((unit - unit.mean(dim=(1, 2), keepdim=True)) * window)
        squares = (transformed.abs().square() / unit[0].numel()).flatten(1).numpy()[:, members]
        rows = slice(start, start + len(films))
        power[rows] = np.add.reduceat(squares, first, axis=1) / np.diff(first, append=len(members))
        greys[rows] = [np.bincount(bin_of[film].ravel(), minlength=BINS) / film.size for film in films]
    return FilmStatistics(greys, power, frequency)


def intensity_distance(greys_a: Float, greys_b: Float) -> float:
    """Wasserstein-1 distance between the greys of two sets: by how much grey must move, on average.

    W₁ = ∫₀¹ |F_a(g) − F_b(g)| dg with the cumulative shares F of all pixels of a set.

    Args:
        greys_a: Of `FilmStatistics`, `(N, B)`.
        greys_b: `(M, B)`.

    Returns:
        In [0, 1], of the way from black to white.

    Source:
        Vallender 1974, "Calculation of the Wasserstein distance between probability distributions on the line".
    """
    gap = np.cumsum(greys_a.mean(axis=0)) - np.cumsum(greys_b.mean(axis=0))  # (B,)
    return float(np.abs(gap).mean())


def spectrum_distance(power_a: Float, power_b: Float) -> float:
    """How far apart two radial power spectra are, in decibels.

    d = √( mean over rings of (10 log₁₀ (P_a / P_b))² ) with the mean power P of a set: 3 dB is twice the power.

    Args:
        power_a: Of `FilmStatistics`, `(N, R)`.
        power_b: `(M, R)`, of films of the same size.

    Returns:
        At least 0.

    Source:
        The log-spectral distance of Gray & Markel 1976, over rings of spatial frequency.
    """
    ratio = np.log10(mean_power(power_a) / mean_power(power_b))  # (R,)
    return float(10 * np.sqrt((ratio**2).mean()))


def mean_power(power: Float) -> Float:
    """Mean power of a set by ring, `(R,)`, never 0."""
    mean: Float = np.maximum(power.mean(axis=0), _LEAST_POWER)
    return mean


def _rings(height: int, width: int) -> tuple[NDArray[np.int64], Float]:
    """Ring of each frequency of an rfft2, −1 for none, `(H, W / 2 + 1)`, and the middle of each ring, `(R,)`."""
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    edges = np.linspace(0, 0.5, min(height, width) // 2 + 1)
    ring = np.digitize(radius, edges) - 1
    inside = (ring < len(edges) - 1) & (radius > 0)
    kept, numbers = np.unique(ring[inside], return_inverse=True)
    renumbered = np.full(ring.shape, -1, dtype=np.int64)
    renumbered[inside] = numbers
    return renumbered, ((edges[:-1] + edges[1:]) / 2)[kept]


def _members(ring: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frequencies in the order of their rings, by their place in an rfft2, and the first of each ring among them."""
    order = np.argsort(ring, axis=None, kind="stable")
    order = order[np.count_nonzero(ring < 0) :]
    return order, np.flatnonzero(np.diff(ring.ravel()[order], prepend=-1))
