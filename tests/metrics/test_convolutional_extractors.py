"""xrv, radimagenet and inception with random weights in the published naming, against their descriptions."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from xraygen.atomic import sha256_of
from xraygen.errors import FolderError
from xraygen.metrics import inception as network_of_fid
from xraygen.metrics.extractors import xrv as of_xrv
from xraygen.metrics.extractors.extractor import (
    INCEPTION_RESIZES,
    UNPUBLISHED,
    ExtractorOptions,
    InceptionResize,
    resized,
)
from xraygen.metrics.extractors.weights import Published
from xraygen.metrics.features import FeatureExtractor, load_extractor
from xraygen.metrics.inception import Inception, resize_like_tensorflow1, with_weights

Reference = Callable[[str], ModuleType]
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def film() -> Tensor:
    """Already of 224 px, so that no resize stands between the two."""
    return torch.rand(1, 1, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def resnet(reference: Reference) -> Weights:
    weights: Weights = reference("convolutional").resnet50_weights()
    return weights


def close(ours: Tensor, expected: Tensor) -> bool:
    # float32 through 120 layers against float64: 2e-6 of the largest feature measured
    return float((ours - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def as_whole_network(weights: Weights) -> nn.Module:
    """One flat module per layer, as deep as the names are."""
    root = nn.Module()
    for name, tensor in weights.items():
        *parts, leaf = name.split(".")
        module = root
        for part in parts:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_buffer(leaf, tensor)
    return root


def test_xrv_is_the_described_densenet_of_films_in_1024s(
    reference: Reference, film: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = reference("convolutional")
    weights = described.densenet121_weights(channels=1, classes=18)
    file = tmp_path / "xrv.pt"
    torch.save(as_whole_network(weights), file, _use_new_zipfile_serialization=False)
    ours = Published("xrv", "xrv.pt", "nowhere", sha256_of(file), 1, "Apache-2.0")
    monkeypatch.setattr(of_xrv, "PUBLISHED", {"densenet121-res224-all": ours})
    extractor = load_extractor("xrv", "cpu", ExtractorOptions({"xrv": file}))
    assert close(extractor(film), described.densenet121(2048 * film - 1024, weights))
    assert extractor.label == "XRV-densenet121-res224-all"
    assert told(extractor) == {"weights_sha256": sha256_of(file), "dims": 1024, "licence": "Apache-2.0"}


def told(extractor: FeatureExtractor) -> dict[str, object]:
    provenance = extractor.provenance
    assert {"extractor", "weights", "weights_are", "input", "dtype", "resize"} <= set(provenance)
    return {key: provenance[key] for key in ("weights_sha256", "dims", "licence")}


@pytest.mark.parametrize(
    "prefix", ["backbone.", "module.backbone.", ""], ids=["published", "parallel", "bare"]
)
def test_radimagenet_is_the_described_resnet(
    reference: Reference, resnet: Weights, film: Tensor, tmp_path: Path, prefix: str
) -> None:
    described, weights = reference("convolutional"), resnet
    numbers = {
        "conv1": 0,
        "bn1": 1,
        "layer1": 4,
        "layer2": 5,
        "layer3": 6,
        "layer4": 7,
    }  # of a Sequential of parts
    published = {}
    for name, tensor in weights.items():
        part, _, rest = name.partition(".")
        published[f"{prefix}{numbers[part]}.{rest}" if prefix else name] = tensor
    torch.save(published, tmp_path / "ResNet50.pt")
    extractor = load_extractor(
        "radimagenet", "cpu", ExtractorOptions({"radimagenet": tmp_path / "ResNet50.pt"})
    )
    assert (extractor.label, extractor.dims) == ("RadImageNet-ResNet50", 2048)
    assert extractor.provenance["weights_are"] == UNPUBLISHED
    if prefix == "backbone.":  # the forward pass is the same for all
        assert close(extractor(film), described.resnet50(2 * film.expand(-1, 3, -1, -1) - 1, weights))


def test_radimagenet_may_be_a_densenet(reference: Reference, film: Tensor, tmp_path: Path) -> None:
    described = reference("convolutional")
    weights = described.densenet121_weights(channels=3, classes=1)
    published = {
        name.replace("features.", "backbone.0."): tensor
        for name, tensor in weights.items()
        if "classifier" not in name
    }
    torch.save(published, tmp_path / "DenseNet121.pt")
    options = ExtractorOptions({"radimagenet": tmp_path / "DenseNet121.pt"})
    extractor = load_extractor("radimagenet", "cpu", options)
    assert (extractor.label, extractor.dims) == ("RadImageNet-DenseNet121", 1024)
    assert close(extractor(film), described.densenet121(2 * film.expand(-1, 3, -1, -1) - 1, weights))


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    with pytest.raises(
        FolderError, match=r"other.pt does not hold the weights of this network: \d+ are missing"
    ):
        load_extractor("radimagenet", "cpu", ExtractorOptions({"radimagenet": tmp_path / "other.pt"}))


@pytest.mark.parametrize("size", [(128, 128), (640, 512)], ids=["enlarged", "shrunk"])
def test_the_resize_of_clean_fid_is_pillows_on_floats(size: tuple[int, int]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, size).astype(np.float32)
    expected = np.asarray(Image.fromarray(levels, mode=None).resize((299, 299), Image.Resampling.BICUBIC))
    ours = resized(torch.from_numpy(levels)[None, None], 299, "bicubic")[0, 0].numpy()
    # weights of taps from places in float32 here and in float64 there: 0.002 of 255 levels measured
    assert np.abs(ours - expected).max() < 0.01


@pytest.fixture(scope="module")
def fid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Inception]:
    """FID's network with random weights, drawn once: what they are does not matter here."""
    file = tmp_path_factory.mktemp("fid") / "weights.pth"
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Inception().state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: 0.02 * torch.randn(shape, generator=generator).abs() + 0.001
        for name, shape in shapes.items()
        if "num_batches" not in name
    }
    torch.save(drawn, file)
    return file, with_weights(drawn)


@pytest.mark.parametrize("how", INCEPTION_RESIZES)
def test_inception_rounds_to_8_bits_and_resizes_as_it_was_told(
    how: InceptionResize, fid: tuple[Path, Inception], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, network = fid
    monkeypatch.setattr(network_of_fid, "SHA256", sha256_of(file))
    extractor = load_extractor(
        "inception", "cpu", ExtractorOptions({"inception": file}, inception_resize=how)
    )
    film = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    levels = (255 * film).round().expand(-1, 3, -1, -1)
    large = (
        resize_like_tensorflow1(levels, 299)
        if how == "original"
        else functional.interpolate(levels, (299, 299), mode="bicubic", antialias=True).clamp(0, 255)
    )
    with torch.inference_mode():
        expected = network.measure(large).features
    assert torch.equal(extractor(film), expected)  # the same network on the same pixels
    assert extractor.dims == 2048
    assert ("clean-fid" in extractor.label) == (how == "clean-fid")
    assert "rounded to 8 bits" in str(extractor.provenance["dtype"])
