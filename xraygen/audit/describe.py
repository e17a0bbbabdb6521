"""What report.json and report.html say about what was compared, with what, and what came out."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.audit.by_choice import choice_summary
from xraygen.audit.groups import group_caveats
from xraygen.audit.measures import MEASURES, roughly, unsure
from xraygen.audit.pair import identity
from xraygen.audit.sets import ImageSet, checkpoint_of
from xraygen.audit.verdicts import measure
from xraygen.dataset.store import Dataset

_DATASET_NOTE = (
    "“Synthetic” means the films of {name} here, which is a DATASET: they are real films, unless it was ingested from "
    "synthetic ones."
)


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
    """The SYNTHETIC, without a path; `note` says what it is where it is a DATASET, and is empty otherwise."""
    hashes = [hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() for image in films.images]
    return {
        **identity(folder),
        "films": len(films),
        "duplicates": len(hashes) - len(set(hashes)),
        "images_sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        "checkpoint": checkpoint_of(folder),
        "note": _DATASET_NOTE.format(name=films.name) if films.of_patients else "",
    }


def summarise(result: Mapping[str, Any]) -> list[str]:
    """The result in sentences."""
    first = next(iter(result["features"].values()))
    fd, kid = first["fd"], first["kid"]
    floor, privacy = fd["sets"]["real"], result["privacy"]
    of_floor = measure("fd/floor", result)
    inside = {name: f"{100 * first[name]['value']:.0f} %" for name in ("precision", "recall", "coverage")}
    note = result["synthetic"]["note"]
    sentences = [
        *([note] if note else []),
        f"{fd['name']} at N = {fd['count']}: this set is {_number(fd)} from the real test films; real films of "
        f"other patients are {_number(floor)} from them, and noise {fd['ceiling']:.4g}.",
        "The floor is 0." if of_floor is None else f"That is {of_floor:.2f} times the floor{_place(fd)}.",
        f"{kid['name']}: {_number(kid)}; real films of other patients {_number(kid['sets']['real'])}, noise "
        f"{kid['ceiling']:.4g}.",
        f"{inside['precision']} of the synthetic films look like some real film (precision; real films "
        f"{100 * first['precision']['floor']:.0f} %), {inside['recall']} of the real films like some synthetic one "
        f"(recall; {100 * first['recall']['floor']:.0f} %), and {inside['coverage']} have a synthetic film nearby "
        f"(coverage; {100 * first['coverage']['floor']:.0f} %).",
        f"{len(privacy['suspects'])} of {result['synthetic']['films']} synthetic films are suspected copies of a "
        f"training film. {privacy['gate']['sentence']}",
        f"Pairs of synthetic films have a mean MS-SSIM of {result['ms_ssim']['value']:.3f}, "
        f"pairs of real films {result['ms_ssim']['real']:.3f} (lower is more diverse).",
    ]
    return [*sentences, *choice_summary(result), *_caveats(result, fd["count"])]


def _place(fd: Mapping[str, Any]) -> str:
    """Between which sets this one lies, in words."""
    others = [entry for key, entry in fd["sets"].items() if key not in ("this", "real")]
    nearer = [entry for entry in others if entry["value"] < fd["value"]]
    farther = [entry for entry in others if entry["value"] >= fd["value"]]
    told = [f"farther than “{max(nearer, key=_value)['label']}”"] if nearer else []
    told += [f"nearer than “{min(farther, key=_value)['label']}”"] if farther else []
    return f": {' and '.join(told)}" if told else ""


def _value(entry: Mapping[str, Any]) -> float:
    return float(entry["value"])


def _caveats(result: Mapping[str, Any], count: int) -> list[str]:
    """What a reader must know before trusting the numbers."""
    caveats = [*_too_few(result, count), *group_caveats(result["groups"])]
    if duplicates := result["synthetic"]["duplicates"]:
        caveats.append(f"Exact duplicates among the synthetic films: {duplicates}.")
    if (repeats := result["near_duplicates"])["films"]:
        caveats.append(
            f"{repeats['films']} synthetic films are near duplicates of each other, in {len(repeats['groups'])} groups."
        )
    if leaks := result["privacy"]["leaks"]:
        caveats.append(f"{leaks} test films equal a training film: the DATASET's split leaks.")
    return caveats


def measured(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The measures by name: those of the first feature space, and those of the pixels."""
    first = next(iter(result["features"].values()))
    return {name: first.get(name) or result[name] for name in MEASURES if name in first or name in result}


def _too_few(result: Mapping[str, Any], count: int) -> Iterator[str]:
    """Warnings of measures that N films are too few for."""
    blind = []
    for entry in measured(result).values():
        enough = entry["enough"]
        if entry["value"] is None:
            yield f"{entry['name']} is not given: {entry['refused']}."
        elif enough["gap"] is None and (reason := unsure(entry)):
            yield f"For how many films {entry['name']} would be sure is not known: {reason}."
        elif enough["gap"] is None:
            blind.append(entry["name"])
        elif enough["count"] > count:
            yield (
                f"N = {count} is too small for {entry['name']}: its interval is too wide to tell this set from the "
                f"mildest of the known bad ones. About N = {roughly(enough['count'])} would do."
            )
    if blind:
        yield f"Blurred films, noise and a Gaussian score no worse than real films in: {', '.join(blind)}."


def _number(interval: Mapping[str, float | None]) -> str:
    """34.1 (95 %: 30.2 to 38.0)."""
    if interval["value"] is None:
        return "refused"
    return f"{interval['value']:.4g} (95 %: {interval['low']:.4g} to {interval['high']:.4g})"


def distance_table(result: Mapping[str, Any]) -> list[str]:
    """The measures as lines of text: a block per feature space and one of the pixels, sets by falling FD."""
    lines = []
    pixels = {name: result[name] for name in ("intensity", "spectrum")}
    for space, entries in {**result["features"], "pixels and spectrum": pixels}.items():
        shown = {name: entry for name, entry in entries.items() if name in MEASURES}
        first = next(iter(shown.values()))
        lines.append(
            f"{space} against {first['count']} real test films, N = {first['count']} (95 % intervals)"
        )
        order = sorted(first["sets"], key=lambda key: float(first["sets"][key]["value"]))
        for entry in shown.values():
            lines.append(f"  {entry['name']} ({entry['better']} is better)")
            lines += [f"    {entry['sets'][key]['label']:<28} {_number(entry['sets'][key])}" for key in order]
        lines.append("")
    return lines
