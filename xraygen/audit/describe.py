"""What report.json and report.html say about what was compared, with what, and what came out."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.atomic import sha256_of
from xraygen.audit.sets import METADATA_NAME, PROVENANCE_NAME, ImageSet
from xraygen.audit.verdicts import measure
from xraygen.dataset.store import Dataset
from xraygen.metrics.ssim import Diversity

_SMALL_COUNT = 100


def alike(synthetic: Diversity, real: Diversity, name: str) -> dict[str, float]:
    """One of the two similarities, as report.json holds it."""
    return {
        "value": getattr(synthetic, name),
        "standard_error": getattr(synthetic, f"{name}_standard_error"),
        "pairs": synthetic.pairs,
        "real": getattr(real, name),
        "real_standard_error": getattr(real, f"{name}_standard_error"),
        "real_pairs": real.pairs,
    }


def describe_real(real: Dataset, train: NDArray[np.int64], test: NDArray[np.int64]) -> dict[str, Any]:
    """The DATASET, without a path."""
    info = real.info
    patients = real.manifest["patient"]
    return {
        "name": real.folder.name,
        "films": len(real),
        "train": {"films": len(train), "patients": int(patients.iloc[train].nunique())},
        "test": {"films": len(test), "patients": int(patients.iloc[test].nunique())},
        "size": list(info.size),
        "bits": info.bits,
        "content_sha256": info.content_sha256,
    }


def describe_synthetic(folder: Path, films: ImageSet) -> dict[str, Any]:
    """The SYNTHETIC, without a path."""
    hashes = [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in films.images]
    files = [folder / METADATA_NAME, folder / PROVENANCE_NAME]
    return {
        "name": films.name,
        "films": len(films),
        "duplicates": len(hashes) - len(set(hashes)),
        "images_sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        "files_sha256": {file.name: sha256_of(file) for file in files if file.is_file()},
        "checkpoint": _checkpoint(folder / PROVENANCE_NAME),
    }


def _checkpoint(provenance: Path) -> dict[str, Any] | None:
    """Which checkpoint made the films; None for films that do not say."""
    try:
        return dict(json.loads(provenance.read_text(encoding="utf-8"))["checkpoint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def summarise(result: Mapping[str, Any]) -> list[str]:
    """The result in sentences."""
    fd = next(iter(result["features"].values()))["fd"]
    floor, privacy = fd["sets"]["real"], result["privacy"]
    sentences = [
        f"{fd['name']} at N = {fd['count']}: this set is {_number(fd)} from the real test films; real films of "
        f"other patients are {_number(floor)} from them, and noise {fd['ceiling']:.4g}.",
        f"That is {measure('fd/floor', result):.2f} times the floor." if fd["floor"] else "The floor is 0.",
        f"{len(privacy['suspects'])} of {result['synthetic']['films']} synthetic films are suspected copies of a "
        f"training film; about {privacy['expected_by_chance']:.2g} would be by chance in a set without any copy.",
        f"Pairs of synthetic films have a mean MS-SSIM of {result['ms_ssim']['value']:.3f}, "
        f"pairs of real films {result['ms_ssim']['real']:.3f} (lower is more diverse).",
    ]
    return [*sentences, *_caveats(result, fd["count"])]


def _caveats(result: Mapping[str, Any], count: int) -> list[str]:
    """What a reader must know before trusting the numbers."""
    caveats = []
    if count < _SMALL_COUNT:
        caveats.append(
            f"N = {count} is small: trust the order of the sets more than any ratio of two distances."
        )
    if duplicates := result["synthetic"]["duplicates"]:
        caveats.append(f"Exact duplicates among the synthetic films: {duplicates}.")
    if leaks := result["privacy"]["leaks"]:
        caveats.append(f"{leaks} test films equal a training film: the DATASET's split leaks.")
    return caveats


def _number(interval: Mapping[str, float]) -> str:
    """34.1 (95 %: 30.2 to 38.0)."""
    return f"{interval['value']:.4g} (95 %: {interval['low']:.4g} to {interval['high']:.4g})"


def distance_table(result: Mapping[str, Any]) -> list[str]:
    """The Fréchet distances as lines of text, nearest first."""
    lines = []
    for entry in result["features"].values():
        fd = entry["fd"]
        lines.append(f"{fd['name']} from {fd['count']} real test films, N = {fd['count']}")
        for item in sorted(fd["sets"].values(), key=lambda item: float(item["value"])):
            times = f"{item['value'] / fd['floor']:8.2f} x floor" if fd["floor"] else ""
            lines.append(
                f"  {item['label']:<28} {item['value']:10.4g}  [{item['low']:.4g}, {item['high']:.4g}]  {times}"
            )
    return lines
