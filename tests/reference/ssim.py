"""SSIM and MS-SSIM with one loop per window position, written from Wang et al. 2004 and 2003 in NumPy float64."""

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]

WEIGHTS = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]


def _window() -> Image:
    y, x = np.mgrid[-5:6, -5:6]
    weights = np.exp(-(x * x + y * y) / (2 * 1.5**2))
    return np.asarray(weights / weights.sum())


def _terms(a: Image, b: Image) -> tuple[Image, Image]:
    """Per position: the luminance term, and the contrast-structure term."""
    weights, c1, c2 = _window(), 0.01**2, 0.03**2
    luminance, contrast_structure = [], []
    for row in range(a.shape[0] - 10):
        for column in range(a.shape[1] - 10):
            p = a[row : row + 11, column : column + 11].astype(np.float64)
            q = b[row : row + 11, column : column + 11].astype(np.float64)
            mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
            var_p = (weights * (p - mean_p) ** 2).sum()
            var_q = (weights * (q - mean_q) ** 2).sum()
            covariance = (weights * (p - mean_p) * (q - mean_q)).sum()
            luminance.append((2 * mean_p * mean_q + c1) / (mean_p**2 + mean_q**2 + c1))
            contrast_structure.append((2 * covariance + c2) / (var_p + var_q + c2))
    return np.array(luminance), np.array(contrast_structure)


def ssim(a: Image, b: Image) -> float:
    """Mean over all positions of the whole window."""
    luminance, contrast_structure = _terms(a, b)
    return float((luminance * contrast_structure).mean())


def ms_ssim(a: Image, b: Image, scales: int) -> float:
    """The product over `scales` scales, with the first weights made to sum to 1."""
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    a, b, result = a.astype(np.float64), b.astype(np.float64), 1.0
    for scale in range(scales):
        luminance, contrast_structure = _terms(a, b)
        if scale == scales - 1:
            return float(result * max((luminance * contrast_structure).mean(), 0) ** weights[scale])
        result *= max(contrast_structure.mean(), 0) ** weights[scale]
        a, b = _halve(a), _halve(b)
    raise AssertionError


def _halve(image: Image) -> Image:
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    corners = [image[i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
    return np.asarray(np.mean(corners, axis=0))
