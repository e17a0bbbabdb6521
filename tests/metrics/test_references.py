import numpy as np
import pytest
import torch

from xraygen.errors import ShapeError
from xraygen.metrics.references import blurred, gaussian_like, noise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_gaussian_like_has_the_mean_and_covariance_of_the_images() -> None:
    rng = np.random.default_rng(0)
    images = (0.5 + 0.02 * rng.standard_normal((300, 12)) @ rng.standard_normal((12, 12))).astype(np.float32)
    drawn = gaussian_like(images.reshape(300, 3, 4), 40_000, generator()).reshape(-1, 12)
    assert np.allclose(drawn.mean(0), images.mean(0), atol=0.002)  # 5 standard errors of 40,000 draws
    scale = np.cov(images.T).diagonal().max()
    assert np.allclose(np.cov(drawn.T), np.cov(images.T), atol=0.03 * scale)


def test_gaussian_like_works_with_fewer_images_than_pixels_and_stays_in_their_span() -> None:
    images = np.random.default_rng(0).uniform(0.45, 0.55, (3, 8, 8)).astype(np.float32)
    drawn = gaussian_like(images, 10, generator()).reshape(10, -1)
    basis = (images - images.mean(0)).reshape(3, -1)
    residual = np.linalg.lstsq(basis.T, (drawn - images.mean(0).reshape(-1)).T, rcond=None)[0]
    assert np.allclose(basis.T @ residual, (drawn - images.mean(0).reshape(-1)).T, atol=1e-5)  # float32


def test_gaussian_like_is_clipped_and_follows_its_seed() -> None:
    images = np.random.default_rng(0).random((5, 6, 6), dtype=np.float32)
    first, again, other = (gaussian_like(images, 20, generator(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.min() >= 0
    assert first.max() <= 1
    assert first.dtype == np.float32


def test_gaussian_like_needs_two_images() -> None:
    with pytest.raises(ShapeError, match="two images"):
        gaussian_like(np.zeros((1, 4, 4), np.float32), 3, generator())


def test_noise_is_uniform() -> None:
    grain = noise(50, (20, 30), generator())
    assert grain.shape == (50, 20, 30)
    assert grain.mean() == pytest.approx(0.5, abs=0.01)  # 6 standard errors of 30,000 pixels
    assert grain.var() == pytest.approx(1 / 12, abs=0.002)


def test_blurring_a_point_gives_the_gaussian() -> None:
    point = np.zeros((1, 21, 21), np.float32)
    point[0, 10, 10] = 1
    soft = blurred(point, 1.5)[0]
    y, x = np.mgrid[-10:11, -10:11]
    expected = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    assert np.allclose(soft, expected / expected.sum(), atol=1e-4)  # cut off at 3 sigma


def test_blurring_keeps_a_flat_film() -> None:
    flat = np.full((2, 16, 12), 0.3, np.float32)
    assert np.allclose(blurred(flat, 2.0), flat, atol=1e-6)
