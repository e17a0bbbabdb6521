"""Films whose consent was withdrawn: kept out, and found again in what was made with them."""

import csv
import json
from collections.abc import Collection, Iterator, Sequence
from logging import getLogger
from pathlib import Path
from typing import NamedTuple

import yaml

from xraygen.dataset.journal import Journal, Outcome
from xraygen.dataset.manifest import read_manifest, read_rejected
from xraygen.dataset.outcomes import Knowledge, rejected
from xraygen.dataset.pseudonyms import Pseudonyms, crosswalk_path, read_crosswalk
from xraygen.dataset.sources import SourceFile, naming_only, visible_folders
from xraygen.dataset.store import INFO_NAME, MANIFEST_NAME, REJECTED_NAME
from xraygen.errors import UsageError
from xraygen.films.transforms import PreparedFilm

REASON = "excluded"
_RUN_MARK = "config.yaml"
_PROVENANCE = "provenance.json"
_REPORT_MARK = "report.json"


def read_exclusions(path: Path) -> frozenset[str]:
    """Read a list of films to leave out.

    Args:
        path: A text file or CSV. Each line (of a CSV: its first cell) is a PatientID, a StudyInstanceUID, a
            SOPInstanceUID, a file's name or path, or an image_id of manifest.csv or flags.csv or a source of
            rejected.csv under the same key; lines that start with # are comments.

    Raises:
        UsageError: If it cannot be read or lists nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"--exclude {path} cannot be read; expected a text file in UTF-8, one film a line."
        ) from None
    entries = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    entries |= {_first_cell(line, separator) for line in entries for separator in ",;\t"}
    entries -= {""}
    if not entries:
        raise UsageError(f"--exclude {path} lists nothing; expected a patient, study, film or path a line.")
    return frozenset(entries)


def _first_cell(line: str, separator: str) -> str:
    """The first cell of one line: a quote that is left open in it must not swallow the patients of the next lines."""
    try:
        return next(csv.reader([line], delimiter=separator))[0].strip()
    except csv.Error:  # a cell longer than any name
        return ""


def withdrawn(film: PreparedFilm, file: SourceFile, knowledge: Knowledge) -> Outcome | None:
    """The outcome of a film that the list names, or None.

    Returns:
        A rejection with the film's `image_id`, by which DATASETs under the same key know it, and whether it is
        `withdrawn`, so that identical films are, too.
    """
    if not knowledge.excluded:
        return None
    image_id = knowledge.pseudonyms.image(film.content_hash)
    source = knowledge.pseudonyms.source(str(file.name))
    whose = {image_id, film.attributes.sop_instance_uid.strip()}
    for facts in knowledge.said(file, film.attributes):  # each may know the patient by another number
        whose |= {facts.patient, facts.study} if facts else set()
    where = {source, str(file.path), str(file.name), file.path.name}
    if not ((whose | where) - {""}) & knowledge.excluded:
        return None
    outcome = rejected(source, REASON, "The list of --exclude names the film, its study or its patient.")
    # One that is named by its place may be a copy of which another is wanted.
    return {**outcome, "image_id": image_id, "withdrawn": bool((whose - {""}) & knowledge.excluded)}


def withdrawn_images(journal: Journal) -> frozenset[str]:
    """The image_ids of films that the list names by patient, study, SOP Instance UID or image_id."""
    return frozenset(
        outcome["image_id"] for outcome in journal.all_outcomes() if outcome.get("withdrawn", False)
    )


def unless_withdrawn(outcome: Outcome, withdrawn: Collection[str], gone: set[str]) -> Outcome:
    """A film's outcome once all films have been read: `excluded` for what looks like a withdrawn one.

    Args:
        outcome: What the film came to when it was read.
        withdrawn: What `withdrawn_images` found.
        gone: Sources of the films that were turned away here, in order; this one is added if it is.
    """
    image_id = outcome.get("row", outcome).get("image_id", "")
    if outcome.get("reason") == REASON or not (image_id in withdrawn or outcome.get("like") in gone):
        return outcome
    gone.add(outcome["source"])
    detail = "The same or nearly the same picture as a film that the list of --exclude names."
    return {**rejected(outcome["source"], REASON, detail), "image_id": image_id}


def with_sources(entries: Collection[str], key: Path) -> frozenset[str]:
    """A list, and the sources of the films whose image_id is on it.

    Args:
        entries: What `read_exclusions` read.
        key: The key's file. Its crosswalk knows the film even if it has another image_id now: that depends on how
            coarsely JPEG 2000 is decoded.
    """
    if not entries or not crosswalk_path(key).exists():
        return frozenset(entries)
    crosswalk = read_crosswalk(key)
    return frozenset({*entries, *crosswalk.loc[crosswalk["image_id"].isin({*entries}), "source"]})


def pseudonyms_of_excluded(
    entries: Collection[str], pseudonyms: Pseudonyms, key: Path, dataset: Path
) -> frozenset[str]:
    """All that the excluded films may be called in the manifests of DATASETs under the same key.

    Args:
        entries: What `read_exclusions` read.
        pseudonyms: Those of the key.
        key: The key's file, whose crosswalk lies beside it.
        dataset: The DATASET that was just made without the films.
    """
    names = {pseudonyms.patient(entry) for entry in entries} | {pseudonyms.study(entry) for entry in entries}
    refused = read_rejected(dataset / REJECTED_NAME)
    sources = set(refused.loc[refused["reason"] == REASON, "source"])
    crosswalk = read_crosswalk(key)
    images = set(crosswalk.loc[crosswalk["source"].isin(sources), "image_id"]) - {""}
    return frozenset({*entries} | names | sources | images)


def datasets_with(names: Collection[str], folders: Sequence[Path]) -> dict[Path, str]:
    """The DATASETs at or below some folders that hold one of the films.

    Args:
        names: Pseudonyms of patients, studies, sources or images.
        folders: Where to look.

    Returns:
        Each DATASET's `content_sha256` by its folder, in order of the paths.
    """
    found = {}
    for info in _files_named(INFO_NAME, folders):
        if not (info.parent / MANIFEST_NAME).is_file():
            continue
        try:
            manifest = read_manifest(info.parent / MANIFEST_NAME)
        except ValueError:
            getLogger(__name__).warning(
                "%s cannot be read: whether its DATASET holds films of --exclude is not known.",
                info.parent / MANIFEST_NAME,
            )
            continue
        if manifest[["image_id", "source", "patient", "study"]].isin(set(names)).to_numpy().any():
            found[info.parent] = str(_json_of(info).get("content_sha256", ""))
    return found


def made_with(content_sha256s: Collection[str], folders: Sequence[Path]) -> list[Path]:
    """What was made with some DATASETs, by whatever way.

    RUNs that were trained on them, or started from the weights of such a RUN (train.init_from, `xraygen import`); the
    SYNTHETICs, PATHs and LIKELIHOODs of all these weights; LIKELIHOODs and REPORTs that measured one of the DATASETs,
    and REPORTs on such SYNTHETICs.

    Args:
        content_sha256s: What dataset.json says of the DATASETs.
        folders: Where to look, with all folders in them.

    Returns:
        Folders: RUNs first, then what they made, then REPORTs. A RUN that was started from weights which nothing below
        the folders names any more is not found.
    """
    told = [
        *map(_told_by_run, _files_named(_RUN_MARK, folders)),
        *(origin for path in _files_named(_PROVENANCE, folders) for origin in _told_by_provenance(path)),
        *map(_told_by_report, _files_named(_REPORT_MARK, folders)),
    ]
    weights: set[str] = set()
    while True:
        named = [origin for origin in told if origin.data & {*content_sha256s} or origin.start & weights]
        found = weights.union(*(origin.weights for origin in named))
        if found == weights:
            return list(dict.fromkeys(origin.folder for origin in named))
        weights = found


class _Origin(NamedTuple):
    """What a folder says of what it was made with, in hashes."""

    folder: Path
    data: set[str]
    """DATASETs."""
    start: set[str]
    """Weights that others made."""
    weights: set[str]
    """Weights that were made with the same."""


def _told_by_run(config: Path) -> _Origin:
    run = config.parent
    data = _text_at(_json_of(run / INFO_NAME), "content_sha256")
    start = _start_of(_yaml_of(config))
    hashes = [_json_of(path) for path in sorted(run.glob("checkpoints/*/hashes.json"))]
    weights = {str(digest) for entry in hashes for digest in entry.values()}
    # One that was imported names no DATASET, and holds another RUN's weights to the bit.
    return _Origin(run, data, start if data else start | weights, weights)


def _told_by_provenance(path: Path) -> Iterator[_Origin]:
    """The weights that made a folder, and the DATASET that it measured."""
    told = _json_of(path)
    weights = _text_at(told, "checkpoint", "ema_sha256")
    start = _start_of(told.get("config")) | weights
    yield _Origin(path.parent, _text_at(told, "dataset_sha256"), start, weights)
    yield _Origin(path.parent, _text_at(told, "settings", "dataset_sha256"), set(), set())


def _told_by_report(path: Path) -> _Origin:
    told = _json_of(path)
    start = {
        *_text_at(told, "synthetic", "checkpoint", "ema_sha256"),
        *_text_at(told, "membership", "checkpoint", "ema_sha256"),
    }
    return _Origin(path.parent, _text_at(told, "real", "content_sha256"), start, set())


def _start_of(config: object) -> set[str]:
    """The weights from which a RUN with this configuration was started."""
    return {start.removeprefix("sha256:") for start in _text_at(config, "train", "init_from")}


def _text_at(values: object, *keys: str) -> set[str]:
    """The text that stands there in objects in objects, if there is one."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return {values} if isinstance(values, str) and values else set()


def check_folders(folders: Sequence[Path]) -> None:
    """Refuse to search what is no folder."""
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"--also-search {folder} is no folder; give one that holds DATASETs, RUNs or SYNTHETICs."
            )


def _files_named(name: str, folders: Sequence[Path]) -> Iterator[Path]:
    """Files of that name at or below the folders, each once, links followed, without what is hidden."""
    seen = set()
    check_folders(folders)
    for folder in folders:
        with naming_only(folder):
            for here, files in visible_folders(folder):
                path = here / name
                if name in files and path.resolve() not in seen:
                    seen.add(path.resolve())
                    yield path


def _json_of(path: Path) -> dict[str, object]:
    """What a JSON file holds; nothing where it is damaged or no object."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _yaml_of(path: Path) -> object:
    """What a YAML file holds; nothing where it is damaged."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
