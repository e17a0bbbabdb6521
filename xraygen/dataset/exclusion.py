"""Films whose consent was withdrawn: kept out, and found again in what was made with them."""

import json
from collections.abc import Collection, Iterator, Sequence
from logging import getLogger
from pathlib import Path
from typing import NamedTuple

import yaml

from xraygen.dataset.curation import NearDuplicates
from xraygen.dataset.exclusion_list import ExclusionList, is_named_by_uid, paths_of
from xraygen.dataset.journal import Journal, Outcome
from xraygen.dataset.manifest import read_manifest, read_rejected
from xraygen.dataset.outcomes import Knowledge, rejected
from xraygen.dataset.pseudonyms import Pseudonyms, read_crosswalk
from xraygen.dataset.sources import SourceFile, as_text, naming_only, visible_folders
from xraygen.dataset.store import INFO_NAME, MANIFEST_NAME, REJECTED_NAME
from xraygen.errors import UsageError
from xraygen.films.transforms import PreparedFilm

REASON = "excluded"
_RUN_MARK = "config.yaml"
_PROVENANCE = "provenance.json"
_REPORT_MARK = "report.json"


def withdrawn(film: PreparedFilm, file: SourceFile, knowledge: Knowledge) -> Outcome | None:
    """The outcome of a film that the list names, or None.

    Returns:
        A rejection with the film's `image_id`, by which DATASETs under the same key know it; the `lines` of the list
        that name it; whether it is `withdrawn`, so that its copies are, too, and then its `perceptual` hash; and, where
        its patient or study is named, the pseudonyms of its `studies`.
    """
    listed = knowledge.excluded
    if not listed.entries:
        return None
    image_id = knowledge.pseudonyms.image(film.content_hash)
    source = knowledge.pseudonyms.source(str(file.name))
    # Each may know the patient by another number.
    said = [facts for facts in knowledge.said(file, film.attributes, contradicting=True) if facts]
    studies = {facts.study for facts in said} - {""}
    patients = {facts.patient for facts in said} | studies
    whose = {image_id, film.attributes.sop_instance_uid.strip()} | patients
    where = {source, str(file.name), *paths_of(file.path)}
    of_film = listed.named(whose).union(*(listed.films.get(name, ()) for name in {image_id, *where}))
    of_place = listed.named({*where, as_text(file.path.name)}).union(
        *(listed.places.get(name, ()) for name in where)
    )
    if not of_film | of_place:
        return None
    outcome = {
        **rejected(source, REASON, "The list of --exclude names the film, its study or its patient."),
        "image_id": image_id,
        "lines": listed.lines_of(of_film | of_place),
        "withdrawn": bool(of_film),
    }
    if listed.named(patients):
        outcome["studies"] = [knowledge.pseudonyms.study(study) for study in sorted(studies)]
    # One that is named by its place may be a copy of which another is wanted.
    return {**outcome, "perceptual": film.look.perceptual.hex()} if of_film else outcome


def copies_of_withdrawn(journal: Journal, bits: int) -> set[str]:
    """The sources of all films that look like one whose patient, study or image is on the list, or like such a copy.

    And of films without a patient that are of a study in which another film names a patient of the list.

    Copies of copies are looked for until there is no more: which of several that are alike came first, and was kept,
    must not decide.

    Args:
        journal: All outcomes.
        bits: As `near_bits` gives them.
    """
    copies, images, studies, looks = set[str](), set[str](), set[str](), NearDuplicates(bits)

    def remember(outcome: Outcome) -> None:
        images.add(_image_id(outcome))
        studies.update(outcome.get("studies", ()))
        if "perceptual" in outcome:
            looks.add(bytes.fromhex(outcome["perceptual"]), outcome["source"])

    for outcome in journal.all_outcomes():
        if outcome.get("withdrawn", False):
            remember(outcome)
    before = -1
    while images and len(copies) > before:
        before = len(copies)
        for outcome in journal.all_outcomes():
            undecided = outcome.get("reason") != REASON and outcome["source"] not in copies
            alike = _image_id(outcome) in images or _is_near(outcome, looks)
            if undecided and (alike or _is_of_nobody_in(outcome, studies)):
                copies.add(outcome["source"])
                remember(outcome)
    return copies


def _image_id(outcome: Outcome) -> str:
    """The image_id of a film, or "" of one that could not be read."""
    return str(outcome.get("row", outcome).get("image_id", ""))


def _is_near(outcome: Outcome, looks: NearDuplicates) -> bool:
    return "perceptual" in outcome and looks.first_near(bytes.fromhex(outcome["perceptual"])) is not None


def _is_of_nobody_in(outcome: Outcome, studies: Collection[str]) -> bool:
    """Whether a film names no patient itself, and is of one of some studies."""
    study = outcome.get("row", outcome).get("study", "")
    return outcome.get("patient_by", "patient") != "patient" and study in studies


def unless_withdrawn(outcome: Outcome, copies: Collection[str]) -> Outcome:
    """A film's outcome once all films have been read: `excluded` for what looks like a withdrawn one.

    Args:
        outcome: What the film came to when it was read.
        copies: What `copies_of_withdrawn` found.
    """
    if outcome["source"] not in copies:
        return outcome
    detail = "A copy of a film that the list of --exclude names, or another film of such a patient's study."
    return {**rejected(outcome["source"], REASON, detail), "image_id": _image_id(outcome)}


def lines_without_film(listed: ExclusionList, journal: Journal) -> int:
    """How many lines of a list name no film that could be read."""
    if not listed.entries:
        return 0
    named = {line for outcome in journal.all_outcomes() for line in outcome.get("lines", ())}
    return len(listed.lines - named)


def pseudonyms_of_excluded(
    listed: ExclusionList, pseudonyms: Pseudonyms, key: Path, dataset: Path, files: Sequence[SourceFile]
) -> frozenset[str]:
    """All that the excluded films may be called in the manifests of DATASETs under the same key.

    Args:
        listed: What `read_exclusions` read.
        pseudonyms: Those of the key.
        key: The key's file, whose crosswalk lies beside it.
        dataset: The DATASET that was just made without the films.
        files: All files that it was made of.
    """
    entries, known = listed.entries.keys(), listed.known_to(pseudonyms, key)
    names = {pseudonyms.patient(entry) for entry in entries} | {pseudonyms.study(entry) for entry in entries}
    rejections = read_rejected(dataset / REJECTED_NAME)
    sources = set(rejections.loc[rejections["reason"] == REASON, "source"])
    paths = {file.path_text for file in files if pseudonyms.source(str(file.name)) in sources}
    crosswalk = read_crosswalk(key)
    # A source alone is no name: another tree, of another patient, may have a film at the same relative path.
    of_films = crosswalk["path"].isin(paths | known.films.keys() | known.places.keys())
    of_films |= crosswalk["source"].isin(sources) & crosswalk["path"].map(is_named_by_uid).astype(bool)
    images = set(crosswalk.loc[of_films, "image_id"]) - {""}
    return frozenset((entries - {*crosswalk["source"]}) | names | images)


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
