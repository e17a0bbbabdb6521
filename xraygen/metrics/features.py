"""What a distance between sets of images is measured in: features, extracted once and kept on disk.

B, N images, C channels, H and W in pixels, F features. The extractors are in `xraygen.metrics.extractors`.
"""

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from xraygen.atomic import atomic_file
from xraygen.memory import freed_memory_kept
from xraygen.metrics.extractors.extractor import ExtractorOptions, FeatureExtractor
from xraygen.metrics.extractors.registry import extractor_names, load_extractor
from xraygen.metrics.extractors.weights import cache_folder
from xraygen.progress import Progress, Report, silent
from xraygen.ranges import Stored, stored_to_unit

__all__ = [
    "ExtractorOptions",
    "FeatureExtractor",
    "cache_folder",
    "extract",
    "extractor_names",
    "load_extractor",
]

BATCH_SIZE = 32
"""Images per forward pass, always: the last batch is padded, since kernels give other bits at other shapes."""

_SHARD_IMAGES = 32 * BATCH_SIZE
_EXTRACTION_VERSION = 1
"""Part of the cache's key; raised when the same extractor would give other numbers."""
_ONLY_TOLD = ("weights", "weights_are", "licence")
"""Provenance that decides no number: what the file of weights is called, and whose it is."""


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
        if known is None:
            with freed_memory_kept():
                known = _extract_shard(extractor, shard, bits)
            _write_shard(file, known)
        features[start : start + len(shard)] = known
    report(Progress(f"{task} ({extractor.label})", len(images), len(images)))
    return features


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
        "provenance": {key: value for key, value in extractor.provenance.items() if key not in _ONLY_TOLD},
        "bits": bits,
        "device": extractor.device.type,
        "version": _EXTRACTION_VERSION,
    }
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', extractor.name)}-{digest[:16]}"


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
