"""FID's network without its weights: random ones, in ours, in its description and in torch-fidelity's, agree."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from xraygen.errors import UsageError
from xraygen.metrics.inception import Inception, load_inception, resize_like_tensorflow1, with_weights


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Random, of a size that keeps activations near 1 through the depth; norms with their own means and variances."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Inception().state_dict().items()}
    drawn = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            drawn[name] = 1 + noise.abs()
        elif name.endswith("bn.weight"):
            drawn[name] = 1.5 + 0.1 * noise
        elif len(shape) > 1:
            drawn[name] = noise * (2 / shape[1:].numel()) ** 0.5
        elif "num_batches" not in name:
            drawn[name] = 0.1 * noise
    return drawn


def test_it_has_the_parameters_of_the_published_file(weights: dict[str, Tensor]) -> None:
    """torchvision's Inception-v3 has 21,785,568 without its classes and auxiliary head; here 1,008 classes follow."""
    learned = [tensor for name, tensor in weights.items() if "running" not in name]
    assert sum(tensor.numel() for tensor in learned) == 21_785_568 + 1008 * 2049


def test_the_old_resize_is_the_formula_of_tensorflow_1() -> None:
    image = np.random.default_rng(0).random((5, 7))
    resized = np.empty((11, 11))
    for row in range(11):
        for column in range(11):
            y, x = row * 5 / 11, column * 7 / 11
            top, left = int(y), int(x)
            below, right = min(top + 1, 4), min(left + 1, 6)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[below, left] + (image[below, right] - image[below, left]) * (x - left)
            resized[row, column] = upper + (lower - upper) * (y - top)
    ours = resize_like_tensorflow1(torch.from_numpy(image)[None, None], 11)[0, 0].numpy()
    assert np.abs(ours - resized).max() < 1e-6  # places are float32, as there


def test_the_same_random_weights_give_the_numbers_of_the_description(
    weights: dict[str, Tensor], reference: Callable[[str], ModuleType]
) -> None:
    images = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(1))  # resized to themselves
    with torch.inference_mode():
        features, probabilities = reference("inception").inception((255 * images - 128) / 128, weights)
        ours = with_weights(weights)(images)
    # ours in float32 through 94 layers, the description in float64
    assert (ours.features - features).abs().max() < 1e-5 * features.abs().max()
    assert (ours.probabilities - probabilities).abs().max() < 1e-4 * probabilities.max()


def test_the_same_random_weights_give_torch_fidelitys_numbers(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    torch.save(weights, tmp_path / "weights.pth")
    theirs = module.FeatureExtractorInceptionV3(
        "reference", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(tmp_path / "weights.pth")
    )
    images = torch.randint(
        0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    with torch.inference_mode():
        features, logits = theirs(images)
        ours = with_weights(weights)(images / 255)
    # float32 through 94 layers, convolutions summed in another order: 5e-7 and 1.5e-7 with torch-fidelity 0.4.0
    assert (ours.features - features).abs().max() < 1e-5 * features.abs().max()
    assert (ours.probabilities - logits.softmax(dim=1)).abs().max() < 1e-5 * logits.softmax(dim=1).max()


def test_weights_that_do_not_define_fid_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        load_inception(tmp_path / "none.pth", torch.device("cpu"))
    (tmp_path / "other.pth").write_bytes(b"weights")
    with pytest.raises(UsageError, match="with other weights a distance is no FID"):
        load_inception(tmp_path / "other.pth", torch.device("cpu"))
