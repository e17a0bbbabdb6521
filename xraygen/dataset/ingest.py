"""Films -> DATASET: every file seen ends in manifest.csv or in rejected.csv.

Files are read in the order of their paths by any number of processes; what they come to is kept in a journal beside the
DATASET, shard by shard, and becomes the DATASET at the end, in one rename. The same sources, settings and key give the
same bytes, however often the work was interrupted and however many processes did it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from xraygen import __version__
from xraygen.atomic import atomic_folder, remove_leftovers_of, sole_writer, write_json
from xraygen.dataset.checks import check
from xraygen.dataset.curation import near_bits
from xraygen.dataset.exclusion import (
    copies_of_withdrawn,
    datasets_with,
    lines_without_film,
    made_with,
    pseudonyms_of_excluded,
)
from xraygen.dataset.exclusion_list import NOTHING, read_exclusions
from xraygen.dataset.flags import FLAGS_NAME, flag_counts, write_flags
from xraygen.dataset.ingest_settings import IngestSettings, IngestSummary
from xraygen.dataset.journal import Journal, open_journal
from xraygen.dataset.labels import Facts, LabelTable, Layout, label_files, layout_label_names, read_labels
from xraygen.dataset.manifest import read_rejected, write_manifest, write_rejected
from xraygen.dataset.outcomes import Knowledge
from xraygen.dataset.overview import write_overview
from xraygen.dataset.plan import Plan, is_done, plan_of
from xraygen.dataset.pseudonyms import (
    crosswalk_path,
    default_key_path,
    open_key,
    write_crosswalk,
)
from xraygen.dataset.reading import read_films
from xraygen.dataset.sources import Listing, SourceFile, look_through
from xraygen.dataset.spacing import nominal_spacing
from xraygen.dataset.split import chosen_splits, empty_splits, parse_fractions, split_patients
from xraygen.dataset.store import (
    FORMAT_VERSION,
    IMAGES_NAME,
    INFO_NAME,
    MANIFEST_NAME,
    REJECTED_NAME,
    SPLITS,
    DatasetInfo,
    content_sha256,
    open_dataset,
)
from xraygen.dataset.tally import Tally, tally
from xraygen.dataset.tars import forget_unpacked
from xraygen.dataset.workers import Limits
from xraygen.errors import UsageError, XraygenError
from xraygen.films.transforms import PrepareSettings
from xraygen.progress import Report, silent


def files_to_read(sources: Sequence[str | Path], out: Path, settings: IngestSettings) -> list[SourceFile]:
    """The files that `ingest` with the same arguments would see; touches nothing.

    Raises:
        UsageError: If a source does not exist, or as `check`.
        XraygenError: If the sources hold no file.
    """
    return _listing(sources, out, settings).files


def _listing(sources: Sequence[str | Path], out: Path, settings: IngestSettings) -> Listing:
    """`files_to_read`, and how many folders were passed over."""
    check(out, settings)
    key = settings.key or default_key_path(out)
    own = [out, key, crosswalk_path(key), *label_files(settings.labels, settings.label_preset)]
    own += [settings.exclude] if settings.exclude else []
    listing = look_through(sources, own)
    if not listing.files:
        raise XraygenError(
            f"{', '.join(map(str, sources))} holds no file; give the folder that holds the films, and by its own name "
            "one that xraygen made."
        )
    return listing


def read_label_table(settings: IngestSettings, files: Sequence[SourceFile]) -> LabelTable | None:
    """The CSV of labels, if there is one.

    Raises:
        UsageError: If it cannot be used, or knows films by name only and none of `files`.
    """
    if settings.labels is None:
        return None
    table = read_labels(settings.labels, settings.label_columns, settings.label_preset, settings.split_column)
    by_name = set(table.keys) <= {"path", "path stem", "path end", "path end stem", "image_id"}
    if by_name and not any(table.row_of(file.path, file.name, Facts(), "") for file in files):
        raise UsageError(_no_row_matches(settings))
    return table


def ingest(
    sources: Sequence[str | Path],
    out: str | Path,
    settings: IngestSettings,
    report: Report = silent,
    executor: Executor | None = None,
) -> IngestSummary:
    """Make a DATASET of films. Killed at any moment, the same call goes on where it was.

    Args:
        sources: Folders, files or patterns; see `list_sources`.
        out: The DATASET folder to write; it must not exist, be empty, or be what the same call made earlier.
        settings: What becomes of the films.
        report: Told after each file.
        executor: Where to read the films, such as `dask_executor`'s; None for processes as the settings say.

    Returns:
        Counts, also of the rejected files.

    Raises:
        UsageError: If a source is missing, the labels do not fit, or `out` holds something else.
        XraygenError: If there is no file, or none can be used.
        FolderError: If another process is making `out`.
        OSError: If the disk is full or fails, or a film that was listed is gone; nothing is left under the name `out`.
    """
    out = Path(out)
    files, passed_over = _listing(sources, out, settings)
    key_path = settings.key or default_key_path(out)
    table = read_label_table(settings, files)
    excluded = read_exclusions(settings.exclude) if settings.exclude else NOTHING
    pseudonyms = open_key(key_path)
    plan = plan_of(files, settings, pseudonyms)
    already_done = is_done(out, plan)
    if already_done:
        Journal(_work_of(out)).remove()  # what a run left that was killed while it removed it
    else:
        names = _label_names(settings.layout, table)
        unwanted = excluded.known_to(pseudonyms, key_path)
        knowledge = Knowledge(pseudonyms, settings.layout, table, names, unwanted)
        pool = settings.workers if executor is None else executor
        already_done = _work_alone(files, out, key_path, settings, knowledge, plan, pool, report)
    summary = _summarise(out, key_path, settings, table, already_done, passed_over)
    if not settings.also_search:
        return summary
    names_of_excluded = pseudonyms_of_excluded(excluded, pseudonyms, key_path, out, files)
    datasets = datasets_with(names_of_excluded, settings.also_search)
    made = made_with(set(datasets.values()), settings.also_search)
    return replace(summary, made_with_excluded=tuple(map(str, [*datasets, *made])))


def _label_names(layout: Layout | None, table: LabelTable | None) -> tuple[str, ...]:
    """All label columns: the layout's, then the CSV's."""
    return tuple(dict.fromkeys([*layout_label_names(layout), *(table.label_names if table else ())]))


def _no_row_matches(settings: IngestSettings) -> str:
    return (
        f"--labels {settings.labels}: no row speaks of any of the films; compare its paths or identifiers with the "
        "films' own."
    )


def _work_of(out: Path) -> Path:
    """The hidden folder of the work that is under way."""
    return out.with_name(f".{out.name}.ingest")


def _work_alone(
    files: Sequence[SourceFile],
    out: Path,
    key: Path,
    settings: IngestSettings,
    knowledge: Knowledge,
    plan: Plan,
    pool: Executor | int | None,
    report: Report,
) -> bool:
    """Read the films and make the DATASET, or say that another process has just made it; refused while one does."""
    work = _work_of(out)
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    with sole_writer(work):
        already_done = is_done(out, plan)
        if not already_done:
            _make_room(out)
            journal = open_journal(work, plan.plan + plan.states)
            limits = Limits(settings.seconds_per_file)
            read_films(
                *(files, settings.prepare, knowledge, journal, pool, report, limits),
                *(settings.curation, settings.views),
            )
            forget_unpacked()
            _make_dataset(files, out, key, settings, knowledge, journal, plan)
        Journal(work).remove()
    return already_done


def _make_room(out: Path) -> None:
    """Remove the empty folder whose place the DATASET takes, before the films are read: that of a mount cannot be."""
    if not out.exists():
        return
    try:
        out.rmdir()
    except OSError as error:
        raise UsageError(
            f"{out} is an empty folder that cannot be replaced ({error.strerror}); choose another --out, such as a "
            "folder in it."
        ) from None


def _make_dataset(
    files: Sequence[SourceFile],
    out: Path,
    key: Path,
    settings: IngestSettings,
    knowledge: Knowledge,
    journal: Journal,
    plan: Plan,
) -> None:
    """Complete journal -> crosswalk and DATASET."""
    bits = near_bits(settings.curation, settings.prepare)
    counted = tally(journal, copies_of_withdrawn(journal, bits) if knowledge.excluded.entries else ())
    assert counted.seen == len(files)
    _check_usable(counted, settings, journal)
    write_crosswalk(key, pd.DataFrame({**counted.names, "path": [file.path_text for file in files]}))
    _assemble(out, counted, settings, knowledge, journal, plan)


def _check_usable(counted: Tally, settings: IngestSettings, journal: Journal) -> None:
    """Refuse to make a DATASET of nothing, or one that names patients."""
    if not counted.accepted:
        journal.remove()  # so that films can be read again once a codec is installed
        reasons = counted.rejected["reason"]
        reason, count = Counter(reasons).most_common(1)[0]
        detail = counted.rejected["detail"][reasons.index(reason)]
        raise XraygenError(
            f"none of the {counted.seen} files could be used; the commonest reason is {reason} ({count}): {detail}"
        )
    if settings.labels is not None and not counted.matched:
        raise UsageError(_no_row_matches(settings))
    for name, values in counted.labels.items():
        if 2 * counted.telling[name] > sum(map(bool, values)):
            raise UsageError(
                f"the label {name} repeats the films' patients, studies or file names, which must not get into the "
                "DATASET; leave it out with --label-columns, or choose another --layout."
            )


def _assemble(
    out: Path,
    counted: Tally,
    settings: IngestSettings,
    knowledge: Knowledge,
    journal: Journal,
    plan: Plan,
) -> None:
    """Journal -> DATASET, in one rename."""
    manifest = counted.manifest_table()
    assert manifest["image_id"].is_unique
    patients, column = counted.manifest["patient"], settings.split_column
    chosen = chosen_splits(*counted.split_words(), column) if column else {}
    manifest["split"] = split_patients(
        patients, parse_fractions(settings.split), knowledge.pseudonyms, chosen
    )
    by_key = {"patients_split_by_key": len({*patients} - {*chosen})} if column else {}
    unmatched = lines_without_film(knowledge.excluded, journal)
    counts = {"exclude_lines_without_film": unmatched, "studies_of_two_patients": counted.torn_studies}
    told = {**by_key, **{name: count for name, count in counts.items() if count}}
    rejected = len(counted.rejected["reason"])
    assert counted.seen == counted.accepted + rejected
    remove_leftovers_of(out)
    with atomic_folder(out) as aside:
        _write_images(aside / IMAGES_NAME, journal, counted.kept, settings.prepare)
        write_manifest(aside / MANIFEST_NAME, manifest, knowledge.label_names)
        write_rejected(aside / REJECTED_NAME, counted.rejected)
        write_flags(aside / FLAGS_NAME, counted.flags)
        images = np.load(aside / IMAGES_NAME, mmap_mode="r")
        write_overview(aside, images, settings.prepare.bits, counted.thumbnails)
        info = DatasetInfo(
            format_version=FORMAT_VERSION,
            created_by=f"xraygen {__version__}",
            size=settings.prepare.size,
            bits=settings.prepare.bits,
            channels=1,
            settings={**settings.to_json(), **told, **_spacing(manifest, settings.prepare), **plan.to_json()},
            counts={"seen": counted.seen, "accepted": counted.accepted, "rejected": rejected},
            label_names=knowledge.label_names,
            content_sha256=content_sha256(aside),
            flags=flag_counts(counted.flags),
            voi=dict(sorted(counted.voi.items())),
        )
        write_json(aside / INFO_NAME, info.to_json())


def _spacing(manifest: pd.DataFrame, prepare: PrepareSettings) -> dict[str, list[float]]:
    """The nominal pixel spacing, where it means anything; a RUN keeps it for the films that it makes."""
    spacing = nominal_spacing(manifest, prepare)
    return {} if spacing is None else {"pixel_spacing_mm": list(spacing)}


def _write_images(path: Path, journal: Journal, kept: Sequence[bool], prepare: PrepareSettings) -> None:
    """Copy the shards' images into one .npy: written, not mapped, so that a full disk is an error and no crash."""
    stay = np.array(kept, bool)  # [m]
    dtype = np.dtype("<u2" if prepare.bits > 8 else "u1")
    header = {"descr": dtype.str, "fortran_order": False, "shape": (int(stay.sum()), *prepare.size)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for shard in range(len(journal)):
            images = journal.images(shard)
            assert images.dtype == dtype or not len(images)
            file.write(images[stay[: len(images)]].tobytes())
            stay = stay[len(images) :]


def _summarise(
    out: Path,
    key: Path,
    settings: IngestSettings,
    table: LabelTable | None,
    already_done: bool,
    passed_over: int,
) -> IngestSummary:
    """What the DATASET says about itself."""
    dataset = open_dataset(out)
    manifest, names = dataset.manifest, list(dataset.info.label_names)
    reasons = Counter(read_rejected(out / REJECTED_NAME)["reason"])
    by_split = manifest.groupby("split")["patient"]
    images, patients = by_split.size(), by_split.nunique()
    return IngestSummary(
        dataset=out,
        seen=dataset.info.counts["seen"],
        accepted=dataset.info.counts["accepted"],
        rejected=dict(reasons.most_common()),
        images={split: int(images.get(split, 0)) for split in SPLITS},
        patients={split: int(patients.get(split, 0)) for split in SPLITS},
        label_names=dataset.info.label_names,
        unlabelled=int((manifest[names] == "").all(axis=1).sum()) if names else 0,
        left_out=table.left_out if table else (),
        key=key,
        crosswalk=crosswalk_path(key),
        already_done=already_done,
        flags=dataset.info.flags,
        views=dict(Counter(manifest["view"]).most_common()),
        notes=_notes(
            settings,
            table,
            dataset.info,
            {split: int(patients.get(split, 0)) for split in SPLITS},
            passed_over,
        ),
    )


def _notes(
    settings: IngestSettings,
    table: LabelTable | None,
    info: DatasetInfo,
    patients: Mapping[str, int],
    passed_over: int,
) -> tuple[str, ...]:
    """What was decided for the user, or by chance."""
    notes = []
    if table is not None and table.preset is not None:
        notes.append(f"the labels were read in the convention {table.preset} (--label-preset)")
    by_key = info.settings.get("patients_split_by_key", 0)
    if by_key:
        notes.append(f"the split column is silent on {by_key} patients, whom the key and --split divided")
    unmatched = info.settings.get("exclude_lines_without_film", 0)
    if unmatched:
        notes.append(
            f"lines of the list of --exclude that name no film that could be read: {unmatched}; compare how they are "
            "written with the films' identifiers and paths"
        )
    torn = info.settings.get("studies_of_two_patients", 0)
    if torn:
        notes.append(
            f"studies whose films name two patients or more, and that may be in two splits: {torn}; their films that "
            "name none keep to themselves (manifest.csv shows one study with several patients)"
        )
    if passed_over:
        notes.append(
            f"folders that xraygen made, and whose pictures were not read: {passed_over}; name one as a SOURCE to read "
            "them"
        )
    empty = empty_splits(patients, parse_fractions(settings.split)) if not settings.split_column else ""
    return (*notes, empty) if empty else tuple(notes)
