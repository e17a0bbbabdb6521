"""What this installation can do: versions, device, decoders, feature extractors, extras, and what is missing."""

import re
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import numpy as np
import torch
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from xraygen.devices import choose_device, environment
from xraygen.errors import FilmError
from xraygen.films.decoders import decode
from xraygen.films.encoders import pixel_data
from xraygen.metrics.extractors.registry import extractor_names, lacking
from xraygen.presets import preset_names, shipped_models
from xraygen.ranges import Stored

_SIDE = 16
_LOSSY_TOLERANCE = 4
"""Levels by which JPEG at quality 95 may move a smooth ramp."""
_EXTRA = re.compile(r"""^(?P<package>[\w.-]+)[^;]*;.*\bextra\s*==\s*["'](?P<extra>[\w-]+)["']""")


def installation(device: str = "auto") -> dict[str, Any]:
    """What there is here and what is missing.

    Args:
        device: "auto", "cpu" or "cuda[:i]".

    Returns:
        JSON-ready: `environment` (versions and machine), `gpus`, `decoders` (per family of transfer syntaxes: None if a
        small film of it was decoded just now, else what went wrong), `features` (per extractor: what it lacks and
        what to do about it, None where it is all there), `extras` (per extra: the packages that are missing and the
        command that adds them), `presets` and `models`.
    """
    target = choose_device(device)
    return {
        "environment": environment(target),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "decoders": {name: _trial(*trial) for name, trial in _TRIALS.items()},
        "features": {name: _features(name) for name in extractor_names()},
        "extras": _extras(),
        "presets": preset_names(),
        "models": shipped_models(),
    }


_TRIALS = {
    "uncompressed": (ExplicitVRLittleEndian, 12),
    "RLE": (RLELossless, 12),
    "JPEG baseline": (JPEGBaseline8Bit, 8),
    "JPEG extended": (JPEGExtended12Bit, 12),
    "JPEG lossless": (JPEGLosslessSV1, 12),
    "JPEG-LS": (JPEGLSLossless, 12),
    "JPEG 2000": (JPEG2000Lossless, 12),
    "HTJ2K": (HTJ2KLossless, 16),
}
"""Transfer syntax and bits per family."""


def _trial(syntax: str, bits: int) -> str | None:
    """Encode a small ramp, and decode it as a film is decoded."""
    kind: type[np.unsignedinteger[Any]] = np.uint8 if bits == 8 else np.uint16
    ramp: Stored = np.linspace(0, 2**bits - 1, _SIDE**2).astype(kind).reshape(_SIDE, _SIDE)
    film = Dataset()
    film.Rows = film.Columns = _SIDE
    film.SamplesPerPixel, film.PixelRepresentation = 1, 0
    film.PhotometricInterpretation = "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit = 8 * ramp.itemsize, bits, bits - 1
    try:
        film.PixelData = pixel_data(ramp, syntax)
        decoded = decode(film, UID(syntax))
    except FilmError as error:
        return error.detail
    except Exception as error:  # noqa: BLE001 - a codec that cannot be loaded raises whatever it likes
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    lossy = syntax in (JPEGBaseline8Bit, JPEGExtended12Bit)
    off = int(np.abs(decoded.astype(np.int64) - ramp.astype(np.int64)).max())
    return f"off by {off} levels" if off > (_LOSSY_TOLERANCE * 2 ** (bits - 8) if lossy else 0) else None


def _features(name: str) -> dict[str, str | None]:
    """What an extractor lacks here, and the option or command that adds it."""
    lack = lacking(name)
    return {"lacks": None, "add": None} if lack is None else {"lacks": lack.what, "add": lack.add}


def _extras() -> dict[str, dict[str, Any]]:
    """Every extra of the package, and which of its packages are missing."""
    extras: dict[str, list[str]] = {}
    for requirement in requires("xraygen") or []:
        if match := _EXTRA.match(requirement):
            extras.setdefault(match["extra"], []).append(match["package"])
    missing = {extra: [name for name in names if not _is_there(name)] for extra, names in extras.items()}
    return {
        extra: {"missing": names, "add": f"pip install 'xraygen[{extra}]'" if names else None}
        for extra, names in missing.items()
    }


def _is_there(package: str) -> bool:
    """Whether a package is installed."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
