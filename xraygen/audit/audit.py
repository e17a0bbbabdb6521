"""SYNTHETIC -> REPORT: how good a set of synthetic films is, and whether one of them is a copy of a patient's."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.audit.by_choice import check_choices, measure_choices
from xraygen.audit.describe import describe_real, describe_synthetic, summarise
from xraygen.audit.fidelity import Comparison, choose, chosen_from, equal_count, reference_sets
from xraygen.audit.gallery import films_to_show, named_films
from xraygen.audit.groups import by_group, check_against_each
from xraygen.audit.likeness import similarities
from xraygen.audit.measures import KNOWN_BAD, in_features, in_pixels
from xraygen.audit.pair import check_pair
from xraygen.audit.privacy import Neighbours, find_aligned, find_neighbours, privacy_report
from xraygen.audit.quarantine import check_quarantine, quarantine_suspects
from xraygen.audit.render import Evidence, check_out, write_report
from xraygen.audit.repeats import near_duplicates
from xraygen.audit.sets import (
    ImageSet,
    check_set,
    count_films,
    read_real,
    read_set,
    read_told,
    weights_that_made,
)
from xraygen.audit.settings import (
    CLIP,
    AuditSettings,
    check_settings,
    chosen_extractor,
    chosen_features,
    chosen_weights,
)
from xraygen.audit.verdicts import Check, judge, parse_check
from xraygen.dataset.store import Dataset
from xraygen.devices import choose_device, environment
from xraygen.metrics.extractors.own import display_name
from xraygen.metrics.features import FeatureExtractor, extract
from xraygen.metrics.manifold import realism
from xraygen.progress import Progress, Report, silent

FORMAT_VERSION = 3
COPY_SPACES = 2
"""Copies are looked for in the first --features and, always, in the aligned pixels."""


@dataclass(frozen=True, eq=False)
class _Material:
    """What is compared."""

    real: Dataset
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    synthetic: ImageSet
    count: int
    rows: NDArray[np.int64]
    """The N test films of the distances."""
    sets: Mapping[str, Comparison]
    """`this`, the references, and `beside:NAME`; N films each."""


def plan(real: Path, synthetic: Path, out: Path, settings: AuditSettings) -> dict[str, Any]:
    """What `audit` would do; raises what it would raise before the work begins, and writes nothing."""
    choose_device(settings.device)
    dataset = _checked(real, synthetic, out, settings, check_settings(settings), dry_run=True)
    available = _available(dataset, synthetic, count_films(synthetic), settings)
    for folder in settings.beside:
        available[str(folder)] = count_films(folder)
    return {
        "films": available,
        "count": equal_count(available, settings.count),
        "features": [display_name(name) for name in chosen_features(settings)],
        "fail_on": [parse_check(text).text for text in settings.fail_on],
    }


def audit(
    real: Path, synthetic: Path, out: Path, settings: AuditSettings, *, report: Report = silent
) -> dict[str, Any]:
    """Compare a SYNTHETIC with the real films of a DATASET, and write a REPORT.

    Args:
        real: DATASET: fidelity is measured against its test split, copies are looked for in its train split.
        synthetic: SYNTHETIC (or another DATASET).
        out: REPORT folder, made or overwritten: report.html and figures/ without any real film or name of a training
            film, report-confidential.html with real films, report-confidential.json with the names of training films,
            and report.json without either, which is written last.
        settings: What to measure.
        report: Told how far the work is.

    Returns:
        What report.json holds.

    Raises:
        UsageError: If a setting is wrong.
        FolderError: If a folder is not what it should be, the sizes differ, or `out` holds something else or the
            REPORT of other sets.
    """
    checks = check_settings(settings)
    _checked(real, synthetic, out, settings, checks)
    material = _gather(real, synthetic, settings, report)
    measured, spaces, shown = _measured(material, settings, report)
    measured |= _by_choice(synthetic, material, settings, report)
    result: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "real": describe_real(material.real, material.train, material.test),
        "synthetic": describe_synthetic(synthetic, material.synthetic),
        "settings": {
            **asdict(settings),
            "features": [display_name(name) for name in chosen_features(settings)],
            "weights": [f"{name}={path.name}" for name, path in chosen_weights(settings).items()],
            "beside": [folder.name for folder in settings.beside],
            "against_each": list(settings.against_each),
            "fail_on": list(settings.fail_on),
            "count": material.count,
            "choices": settings.choices.to_json(),
        },
        **measured,
    }
    result["verdicts"] = judge(checks, result)
    result["summary"] = summarise(result)
    result["environment"] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **environment(choose_device(settings.device)),
    }
    evidence = Evidence(
        synthetic=material.synthetic,
        real=material.real,
        test=material.test,
        train=material.train,
        spaces=spaces,
        shown=shown,
    )
    report(Progress("write report", 0, 1))
    write_report(out, result, evidence)
    report(Progress("write report", 1, 1))
    if settings.quarantine:
        quarantine_suspects(synthetic, result)
    return result


def _checked(
    real: Path,
    synthetic: Path,
    out: Path,
    settings: AuditSettings,
    checks: list[Check],
    *,
    dry_run: bool = False,
) -> Dataset:
    """The DATASET, if both sets and the settings go together, and the report may be written; no set is read."""
    check_out(out)
    if settings.quarantine:
        check_quarantine(synthetic, dry_run=dry_run)
    dataset = read_real(real)
    for folder in (synthetic, *settings.beside):
        check_set(folder, dataset.info.size)
    check_pair(out, dataset, synthetic)
    check_choices(settings.choices, dataset, synthetic, checks)
    check_against_each(settings.against_each, dataset, read_told(synthetic), synthetic)
    return dataset


def _measured(
    material: _Material, settings: AuditSettings, report: Report
) -> tuple[dict[str, Any], tuple[Neighbours, ...], dict[str, NDArray[np.int64]]]:
    """All numbers, as report.json holds them, the spaces in which copies were looked for, and which films to show."""
    features: dict[str, Any] = {}
    first, *others = chosen_features(settings)
    fidelity, groups, nearby, real_as = _in_first_features(first, material, settings, report)
    features[display_name(first)] = fidelity
    for name in others:
        extractor = chosen_extractor(name, settings, report)
        known = {"real": _of_real(extractor, material, report)}
        features[extractor.name] = _fidelity(extractor, material, known, settings, report)
    spaces = (nearby, _aligned_copies(material, report))
    test = material.real.gather(material.rows)
    pixels = in_pixels(test, material.real.info.bits, material.sets, settings.seed, report=report)
    similar = similarities(
        material.synthetic,
        material.real,
        material.test,
        material.train,
        nearby,
        {key: material.sets[key] for key in KNOWN_BAD},
        pairs=settings.pairs,
        seed=settings.seed,
        report=report,
    )
    shown = films_to_show(material.synthetic, real_as, spaces, settings.seed)
    numbers = {
        "films": named_films(shown, material.synthetic, real_as),
        "features": features,
        **pixels,
        **similar,
        "privacy": privacy_report(spaces, material.synthetic.file_names, len(material.train)),
        "near_duplicates": near_duplicates(material.synthetic, spaces[-1], report=report),
        "groups": groups,
    }
    return numbers, spaces, shown


def _by_choice(
    synthetic: Path, material: _Material, settings: AuditSettings, report: Report
) -> dict[str, Any]:
    """Utility, membership and bits per dimension, None where not asked for."""
    return measure_choices(
        settings.choices,
        material.real,
        material.synthetic,
        lambda: chosen_extractor(chosen_features(settings)[0], settings, report),
        made_by=weights_that_made(synthetic),
        seed=settings.seed,
        device=settings.device,
        report=report,
    )


def _in_first_features(
    name: str, material: _Material, settings: AuditSettings, report: Report
) -> tuple[dict[str, Any], dict[str, Any], Neighbours, NDArray[np.float64]]:
    """The measures, those of groups, the nearest training films, and how realistic each film is."""
    extractor, films = chosen_extractor(name, settings, report), material.synthetic
    real = _of_real(extractor, material, report)
    synthetic = extract(extractor, films.images, films.bits, report=report, task="synthetic films")
    both = (real, synthetic)
    fidelity = _fidelity(extractor, material, {"real": real, "this": synthetic}, settings, report)
    groups = by_group(
        extractor,
        material.real,
        films,
        both,
        count=material.count,
        seed=settings.seed,
        against_each=settings.against_each,
        report=report,
    )
    return fidelity, groups, _copies(extractor, material, *both), realism(real[material.test], synthetic)


def _of_real(extractor: FeatureExtractor, material: _Material, report: Report) -> NDArray[np.float32]:
    """Features of all films of the DATASET."""
    real = material.real
    return extract(extractor, real.images, real.info.bits, report=report, task="real films")


def _available(dataset: Dataset, synthetic: Path, films: int, settings: AuditSettings) -> dict[str, int]:
    """How many films of each kind there are."""
    return {
        "the test split": len(dataset.indices("test")),
        "the train split": len(dataset.indices("train")),
        str(synthetic): films,
    }


def _gather(real: Path, synthetic: Path, settings: AuditSettings, report: Report) -> _Material:
    """Read all sets and choose N films of each."""
    dataset = read_real(real)
    size = dataset.info.size
    films = read_set(synthetic, size, report=report)
    available = _available(dataset, synthetic, len(films), settings)
    others = [(folder, read_set(folder, size, report=report)) for folder in settings.beside]
    available |= {str(folder): len(other) for folder, other in others}
    count = equal_count(available, settings.count)
    train, test = dataset.indices("train"), dataset.indices("test")
    sets = {
        "this": chosen_from(films, count, settings.seed, "this set", f"{count} films of {films.name}.")
    } | reference_sets(dataset, train, count, settings.seed, report=report)
    for number, (_, other) in enumerate(others):
        key = f"beside:{other.name}"
        unique = f"{key}-{number + 1}" if key in sets else key
        sets[unique] = chosen_from(
            other, count, settings.seed, f"beside: {other.name}", f"{count} films of {other.name}."
        )
    return _Material(
        real=dataset,
        train=train,
        test=test,
        synthetic=films,
        count=count,
        rows=test[choose(len(test), count, settings.seed, "test")],
        sets=sets,
    )


def _fidelity(
    extractor: FeatureExtractor,
    material: _Material,
    known: Mapping[str, NDArray[np.float32]],
    settings: AuditSettings,
    report: Report,
) -> dict[str, Any]:
    """All measures in one feature space, as report.json holds them.

    `known` are the features of all films of the DATASET, under `real`, and of the SYNTHETIC, under `this`, if it is
    there: what was chosen from them is not extracted again.
    """
    features: dict[str, NDArray[np.float32]] = {}
    for done, (name, chosen) in enumerate(material.sets.items()):
        report(Progress(f"sets to compare ({extractor.label})", done, len(material.sets)))
        if name in known and chosen.rows is not None:
            features[name] = known[name][chosen.rows]
        else:
            features[name] = extract(extractor, chosen.images, chosen.bits)
    report(Progress(f"sets to compare ({extractor.label})", len(material.sets), len(material.sets)))
    measured: dict[str, Any] = in_features(
        known["real"][material.rows],
        features,
        material.sets,
        extractor.label,
        settings.seed,
        of_clip=extractor.name == CLIP,
        report=report,
    )
    return {**measured, "extractor": dict(extractor.provenance)}


def _copies(
    extractor: FeatureExtractor,
    material: _Material,
    real_features: NDArray[np.float32],
    synthetic: NDArray[np.float32],
) -> Neighbours:
    """Nearest training films in one feature space."""
    return find_neighbours(
        extractor.name,
        extractor.label,
        synthetic=synthetic,
        train=real_features[material.train],
        test=real_features[material.test],
        spaces=COPY_SPACES,
    )


def _aligned_copies(material: _Material, report: Report) -> Neighbours:
    """Nearest training films by aligned pixels."""
    report(Progress("copies (aligned pixels)", 0, 1))
    real, bits = material.real, material.real.info.bits
    found = find_aligned(
        (material.synthetic.images, material.synthetic.bits),
        (real.gather(material.train), bits),
        (real.gather(material.test), bits),
        spaces=COPY_SPACES,
    )
    report(Progress("copies (aligned pixels)", 1, 1))
    return found
