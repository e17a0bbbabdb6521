"""FD and KID against torchmetrics with a feature module of its own, and FD against scipy's matrix square root."""

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from xraygen.metrics.frechet import frechet_distance_of_features
from xraygen.metrics.kernel import kernel_distance

Features = NDArray[np.float64]


class Flat(nn.Module):
    """The images are the features, `(B, F)`."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.num_features = dims

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def samples(count: int, dims: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Features:
    spectrum = np.arange(1, dims + 1) ** -0.5
    drawn = np.random.default_rng(seed).standard_normal((count, dims))
    return np.asarray(scale * drawn * spectrum + shift * spectrum)


def as_images(features: Features) -> Tensor:
    return torch.from_numpy(features)[:, None, None, :]  # (N, 1, 1, F)


@pytest.mark.parametrize(
    ("count", "dims"), [(400, 32), (60, 96)], ids=["more-samples-than-features", "fewer"]
)
def test_fd_agrees_with_torchmetrics(count: int, dims: int) -> None:
    a, b = samples(count, dims, 0), samples(count, dims, 1, 1.2, 0.5)
    metric = FrechetInceptionDistance(
        feature=Flat(dims), normalize=True, input_img_size=(1, 1, dims)
    ).set_dtype(torch.float64)
    metric.update(as_images(a), real=True)
    metric.update(as_images(b), real=False)
    # Below F samples, their eigenvalues of a product that is not symmetric are rounded at 1e-16 of the largest, and its
    # roots at 1e-8.
    assert frechet_distance_of_features(a, b) == pytest.approx(float(metric.compute()), rel=1e-6)


@pytest.mark.parametrize(("count", "dims"), [(400, 32), (200, 64)])
def test_fd_agrees_with_the_matrix_square_root_of_scipy(count: int, dims: int) -> None:
    a, b = samples(count, dims, 2), samples(count, dims, 3, 0.8, 0.3)
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    expected = shift + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root).real
    assert frechet_distance_of_features(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_kid_agrees_with_torchmetrics() -> None:
    a, b = samples(120, 32, 0), samples(120, 32, 1, 1.2, 0.5)
    metric = KernelInceptionDistance(feature=Flat(32), subsets=1, subset_size=120, normalize=True)
    metric.set_dtype(torch.float64)
    metric.update(as_images(a), real=True)
    metric.update(as_images(b), real=False)
    assert kernel_distance(a, b).value == pytest.approx(float(metric.compute()[0]), rel=1e-6)
