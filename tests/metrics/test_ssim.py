from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from xraygen.errors import ShapeError
from xraygen.metrics.ssim import Diversity, diversity, ms_ssim, ms_ssim_scales, ssim, ssim_and_ms_ssim

Reference = Callable[[str], ModuleType]
Quantity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def pair(
    height: int, width: int, *, seed: int = 0, noise: float = 0.2
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    a = 0.5 + 0.4 * np.sin(x / 5) * np.cos(y / 7) + 0.05 * rng.standard_normal((height, width))
    b = a + noise * rng.standard_normal((height, width))
    return np.clip(a, 0, 1), np.clip(b, 0, 1)


def stack(*images: NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images))


@pytest.mark.parametrize("shape", [(11, 11), (12, 40), (64, 64), (97, 130)])
def test_ssim_agrees_with_scikit_image(shape: tuple[int, ...]) -> None:
    a, b = pair(*shape)
    expected = structural_similarity(a, b, gaussian_weights=True, use_sample_covariance=False, data_range=1.0)
    assert ssim(stack(a), stack(b)).item() == pytest.approx(expected, abs=1e-12)  # both are float64


def test_ssim_agrees_with_scikit_image_on_flat_bright_films() -> None:
    a = np.full((32, 32), 0.98)
    b = a + 0.002 * np.random.default_rng(0).standard_normal((32, 32))
    expected = structural_similarity(a, b, gaussian_weights=True, use_sample_covariance=False, data_range=1.0)
    assert ssim(stack(a), stack(b)).item() == pytest.approx(expected, abs=1e-10)


def test_ssim_agrees_with_one_loop_per_position(reference: Reference) -> None:
    a, b = pair(16, 19)
    assert ssim(stack(a), stack(b)).item() == pytest.approx(reference("ssim").ssim(a, b), abs=1e-12)


@pytest.mark.parametrize(("height", "width", "scales"), [(12, 14, 1), (25, 23, 2), (44, 46, 3)])
def test_ms_ssim_agrees_with_one_loop_per_position(
    reference: Reference, height: int, width: int, scales: int
) -> None:
    a, b = pair(height, width)
    expected = reference("ssim").ms_ssim(a, b, scales)
    assert ms_ssim(stack(a), stack(b)).item() == pytest.approx(expected, abs=1e-12)


def test_both_at_once_are_what_each_is_alone() -> None:
    first, second = pair(44, 46), pair(44, 46, seed=1)
    a, b = (stack(*images) for images in zip(first, second, strict=True))
    single, multi = ssim_and_ms_ssim(a, b)
    assert torch.equal(single, ssim(a, b))  # the same operations in the same order
    alone = [ms_ssim(stack(x), stack(y)).item() for x, y in (first, second)]
    assert multi.tolist() == pytest.approx(alone, abs=1e-12)  # in one block and in two


@pytest.mark.parametrize("quantity", [ssim, ms_ssim])
def test_an_image_equals_itself(quantity: Quantity) -> None:
    a, _ = pair(48, 48)
    assert quantity(stack(a), stack(a)).item() == pytest.approx(1, abs=1e-12)


def test_ms_ssim_of_opposite_images_is_0_and_not_nan() -> None:
    a = torch.from_numpy(np.random.default_rng(0).random((1, 44, 44)))
    assert ms_ssim(a, 1 - a).item() == 0


@pytest.mark.parametrize("quantity", [ssim, ms_ssim])
def test_a_pair_does_not_depend_on_the_others_of_its_batch(quantity: Quantity) -> None:
    a, b = (torch.rand(9, 180, 180, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    alone = torch.cat([quantity(x[None], y[None]) for x, y in zip(a, b, strict=True)])
    assert torch.allclose(quantity(a, b), alone, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("side", "scales"), [(11, 1), (21, 1), (22, 2), (44, 3), (64, 3), (88, 4), (175, 4), (176, 5), (1024, 5)]
)
def test_an_image_gets_as_many_scales_as_it_has_room_for(side: int, scales: int) -> None:
    assert ms_ssim_scales(side, side + 3) == scales


@pytest.mark.parametrize("quantity", [ssim, ms_ssim])
@pytest.mark.parametrize(
    ("shape_a", "shape_b", "words"),
    [
        ((1, 10, 40), (1, 10, 40), "at least 11x11"),
        ((2, 20, 20), (1, 20, 20), "one shape"),
        ((20, 20), (20, 20), "one shape"),
    ],
)
def test_images_that_have_no_similarity_are_refused(
    quantity: Quantity, shape_a: tuple[int, ...], shape_b: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ShapeError, match=words):
        quantity(torch.zeros(shape_a), torch.zeros(shape_b))


def levels(images: NDArray[np.float64]) -> NDArray[np.uint16]:
    return np.rint(images * 65535).astype(np.uint16)


def test_a_set_of_one_repeated_film_has_no_diversity() -> None:
    a, _ = pair(24, 24)
    found = diversity(levels(np.stack([a] * 6)), 16, generator=torch.Generator().manual_seed(0))
    assert found.ssim == pytest.approx(1, abs=1e-12)
    assert found.ssim_standard_error == pytest.approx(0, abs=1e-9)
    assert (found.pairs, found.scales) == (15, 2)


def test_diversity_draws_different_pairs_and_the_same_ones_for_a_seed() -> None:
    images = levels(np.random.default_rng(0).random((30, 16, 16)))
    first, again, other = (
        diversity(images, 16, pairs=40, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.ssim != other.ssim
    assert first.pairs == 40


@pytest.mark.parametrize("pairs", [30, 190], ids=["some-pairs", "all-pairs"])
def test_standard_error_is_the_spread_over_sets(pairs: int) -> None:
    rng = np.random.default_rng(0)
    texture = rng.standard_normal((12, 12))

    def one_set(seed: int) -> Diversity:
        strength = rng.random((20, 1, 1))  # films share a texture in different strengths
        images = 0.5 + 0.1 * strength * texture + 0.02 * rng.standard_normal((20, 12, 12))
        return diversity(
            levels(images.clip(0, 1)), 16, pairs=pairs, generator=torch.Generator().manual_seed(seed)
        )

    found = [one_set(seed) for seed in range(60)]
    spread = np.std([one.ssim for one in found], ddof=1)
    # The spread of 60 sets is itself known to 9 %; the jackknife's bias at 20 images adds to that.
    assert np.mean([one.ssim_standard_error for one in found]) == pytest.approx(spread, rel=0.35)


def test_diversity_of_one_film_is_refused() -> None:
    with pytest.raises(ShapeError, match="two images"):
        diversity(np.zeros((1, 16, 16), np.uint16), 16, generator=torch.Generator())
