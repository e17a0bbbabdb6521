"""Thresholds of pred_xstart against a slow NumPy re-derivation."""

import numpy as np
import pytest
import torch

from xraygen.diffusion.threshold import dynamic_threshold, static_threshold, thresholded
from xraygen.seeds import torch_generator


def slow_percentile(values: list[float], percentile: float) -> float:
    """With linear interpolation between the order statistics."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percentile / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@pytest.mark.parametrize("percentile", [50, 90, 99.5, 100])
@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_dynamic_is_saharias_for_each_image(percentile: float, scale: float) -> None:
    x = scale * torch.randn((3, 1, 5, 7), generator=torch_generator(0, "threshold"))
    x[1] *= 0.1
    measured = dynamic_threshold(percentile)(x).numpy()
    for image, out in zip(x.numpy(), measured, strict=True):
        s = max(1.0, slow_percentile([abs(float(v)) for v in image.flatten()], percentile))
        expected = np.clip(image, -s, s) / s
        np.testing.assert_allclose(out, expected, atol=1e-6)  # float32's rounding
    assert np.abs(measured).max() <= 1


def test_what_lies_inside_is_left_alone_to_the_bit() -> None:
    x = torch.rand((2, 1, 4, 4), generator=torch_generator(0, "inside")) * 2 - 1
    for clip in (True, False, static_threshold, dynamic_threshold(99.5)):
        assert torch.equal(thresholded(x, clip), x)


def test_an_image_is_thresholded_by_itself() -> None:
    x = torch.randn((4, 1, 3, 3), generator=torch_generator(0, "alone")) * 3
    threshold = dynamic_threshold(80)
    assert torch.equal(threshold(x)[2:3], threshold(x[2:3]))


def test_static_clips_and_none_does_not() -> None:
    x = torch.tensor([-3.0, -1, 0.5, 2]).view(1, 1, 2, 2)
    assert thresholded(x, True).flatten().tolist() == [-1, -1, 0.5, 1]
    assert torch.equal(thresholded(x, False), x)
