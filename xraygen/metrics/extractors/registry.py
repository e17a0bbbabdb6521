"""Extractors by name: which there are, what each lacks here, and how one is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from xraygen.devices import choose_device
from xraygen.errors import UsageError
from xraygen.metrics.extractors.efficientnet import efficientnet_lite0
from xraygen.metrics.extractors.extractor import ExtractorOptions, FeatureExtractor, Lack
from xraygen.metrics.extractors.inception import inception, lacks_inception
from xraygen.metrics.extractors.own import is_own, own
from xraygen.metrics.extractors.pixels import pixels
from xraygen.metrics.extractors.radimagenet import lacks_radimagenet, radimagenet
from xraygen.metrics.extractors.vision_transformers import lacks_transformer, transformer
from xraygen.metrics.extractors.weights import refusal
from xraygen.metrics.extractors.xrv import lacks_xrv, xrv

_DEFAULT = ExtractorOptions()


@dataclass(frozen=True)
class Entry:
    """An extractor that has not been loaded."""

    load: Callable[[torch.device, ExtractorOptions], FeatureExtractor]
    lacks: Callable[[ExtractorOptions], Lack | None] | None = None
    """What it needs besides what is installed with xraygen; None where it needs nothing."""


ENTRIES: dict[str, Entry] = {
    "efficientnet-lite0": Entry(efficientnet_lite0),
    "pixels": Entry(pixels),
    "inception": Entry(inception, lacks_inception),
    "xrv": Entry(xrv, lacks_xrv),
    "radimagenet": Entry(radimagenet, lacks_radimagenet),
    "dinov2": Entry(transformer("dinov2"), lacks_transformer("dinov2")),
    "rad-dino": Entry(transformer("rad-dino"), lacks_transformer("rad-dino")),
    "clip": Entry(transformer("clip"), lacks_transformer("clip")),
}
"""The first is the default."""


def extractor_names() -> tuple[str, ...]:
    """The names that `load_extractor` knows besides users' functions; the first is the default."""
    return tuple(ENTRIES)


def load_extractor(name: str, device: str = "auto", options: ExtractorOptions = _DEFAULT) -> FeatureExtractor:
    """Load a feature extractor.

    Args:
        name: One of `extractor_names()`, or a user's `package.module:function`.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1".
        options: Weights, and whether they may be fetched.

    Raises:
        UsageError: If the name or the device is unknown, or weights are missing or others.
        FolderError: If weights cannot be read or fetched.
    """
    target = choose_device(device)
    if is_own(name):
        return own(name, target, options)
    return _entry(name).load(target, options)


def check_extractor(name: str, options: ExtractorOptions = _DEFAULT) -> None:
    """Refuse, before hours of work, an extractor that could not be loaded for want of something.

    Raises:
        UsageError: If the name is unknown, or what it needs is not here and may not be fetched.
    """
    if is_own(name):
        own(name, torch.device("cpu"), options)
        return
    entry = _entry(name)
    lack = entry.lacks(options) if entry.lacks is not None else None
    if lack is not None and not (lack.downloads and options.download):
        raise UsageError(refusal(name, lack))


def lacking(name: str) -> Lack | None:
    """What an extractor would need that is not here."""
    entry = ENTRIES[name]
    return entry.lacks(_DEFAULT) if entry.lacks is not None else None


def parse_weights(texts: Sequence[str], features: Sequence[str]) -> dict[str, Path]:
    """--weights NAME=PATH of each extractor, or --weights PATH where only one of them takes any.

    Args:
        texts: As given.
        features: The extractors that were chosen.

    Raises:
        UsageError: If a path belongs to no chosen extractor, or it is not clear to which.
    """
    taking = [name for name in features if name in ENTRIES and ENTRIES[name].lacks is not None]
    found = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (equals and name in ENTRIES):
            if len(taking) != 1:
                raise UsageError(
                    f"--weights {text}: expected NAME=PATH, NAME being one of --features that takes weights "
                    f"({', '.join(taking) or 'none was chosen'})."
                )
            name, path = taking[0], text
        if name not in taking:
            raise UsageError(f"--weights {text}: --features {name} was not chosen, or takes no weights.")
        if name in found:
            raise UsageError(f"--weights {text}: {name} has weights already.")
        found[name] = Path(path)
    return found


def _entry(name: str) -> Entry:
    """By name."""
    if name not in ENTRIES:
        raise UsageError(
            f"--features {name}: unknown; known: {', '.join(ENTRIES)}, and your own package.module:function."
        )
    return ENTRIES[name]
