"""What an audit is asked to measure, and what is refused before hours of work."""

from dataclasses import dataclass, field
from pathlib import Path

from xraygen.audit.by_choice import Choices
from xraygen.audit.verdicts import Check, parse_check
from xraygen.devices import choose_device
from xraygen.errors import UsageError
from xraygen.metrics.extractors.extractor import INCEPTION_RESIZES, ExtractorOptions, InceptionResize
from xraygen.metrics.extractors.own import display_name
from xraygen.metrics.extractors.registry import check_extractor, parse_weights
from xraygen.metrics.features import FeatureExtractor, extractor_names, load_extractor
from xraygen.progress import Report, silent

CLIP = "clip"
"""Name of the extractor whose features CMMD is defined in."""


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """What an audit measures."""

    features: tuple[str, ...] = ()
    """Extractors of the Fréchet distance; the first is the one that checks are about. Default: EfficientNet-Lite0."""
    weights: tuple[str, ...] = ()
    """`NAME=PATH` of extractors whose weights are not installed with xraygen."""
    download: bool = False
    """Whether weights that are missing may be fetched from their publishers."""
    inception_resize: InceptionResize = "clean-fid"
    """How the extractor `inception` brings films to 299 px."""
    beside: tuple[Path, ...] = ()
    """More SYNTHETIC or DATASET folders to stand beside the numbers."""
    against_each: tuple[str, ...] = ()
    """Columns that the films were not told, such as the site, against each of whose words all of them are held."""
    fail_on: tuple[str, ...] = ()
    """Checks such as `fd/floor>3`; the audit fails where one holds."""
    count: int | None = None
    """N of every Fréchet distance; None takes the smallest set's size."""
    pairs: int = 500
    """Random pairs for SSIM and MS-SSIM."""
    seed: int = 0
    """Seed of every choice."""
    device: str = "auto"
    """Where features are extracted: auto, cpu or cuda[:i]."""
    quarantine: bool = False
    """Whether suspects are moved out of the SYNTHETIC, once the report is written."""
    choices: Choices = field(default_factory=Choices)
    """What is measured beyond that: utility, the membership attack, bits per dimension."""


def chosen_features(settings: AuditSettings) -> tuple[str, ...]:
    """The extractors of the distances."""
    return tuple(dict.fromkeys(settings.features)) or extractor_names()[:1]


def check_settings(settings: AuditSettings) -> list[Check]:
    """Refuse what is wrong before hours of work; the parsed checks."""
    choose_device(settings.device)
    if settings.inception_resize not in INCEPTION_RESIZES:
        raise UsageError(
            f"--inception-resize {settings.inception_resize}: expected {' or '.join(INCEPTION_RESIZES)}."
        )
    options = extractor_options(settings, silent)
    shown = [display_name(name) for name in chosen_features(settings)]
    if twice := {name for name in shown if shown.count(name) > 1}:
        raise UsageError(f"--features: two are called {min(twice)} in the report; rename one of their files.")
    for name in chosen_features(settings):
        check_extractor(name, options)
    checks = [parse_check(text) for text in settings.fail_on]
    for check in checks:
        if check.quantity.startswith("cmmd") and chosen_features(settings)[0] != CLIP:
            raise UsageError(
                f"--fail-on {check.text}: CMMD needs CLIP's features; put --features clip first."
            )
    return checks


def chosen_weights(settings: AuditSettings) -> dict[str, Path]:
    """Weights by the extractor that takes them."""
    return parse_weights(settings.weights, chosen_features(settings))


def extractor_options(settings: AuditSettings, report: Report) -> ExtractorOptions:
    """What the extractors are loaded with."""
    return ExtractorOptions(chosen_weights(settings), settings.download, settings.inception_resize, report)


def chosen_extractor(name: str, settings: AuditSettings, report: Report) -> FeatureExtractor:
    """Load one of the chosen extractors."""
    return load_extractor(name, settings.device, extractor_options(settings, report))
