"""What is known of a film besides its pixels: a CSV's rows, or what the names of folders and files say."""

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import pandas as pd

from xraygen.dataset.label_presets import LabelPreset, apply_preset, companion_files, detect_preset
from xraygen.dataset.manifest import manifest_columns
from xraygen.dataset.sources import as_text
from xraygen.dataset.split import parse_split
from xraygen.errors import UsageError

Layout = Literal["folders", "kermany"]
LAYOUTS: tuple[Layout, ...] = ("folders", "kermany")
PresetChoice = Literal["auto", "none"] | LabelPreset

_ROLES: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file", "file_name", "filename", "image", "image_path", "image_index"),
    "image_id": ("image_id", "imageid", "dicom_id"),
    "instance": ("sopinstanceuid", "sop_instance_uid"),
    "study": ("study", "study_id", "studyid", "study_uid", "studyinstanceuid", "study_instance_uid"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id"),
    "sex": ("sex", "gender", "patient_sex", "patient_gender", "patientsex", "patientgender"),
    "age": ("age", "patient_age", "patientage"),
    "view": ("view", "view_position", "viewposition", "projection", "ap_pa"),
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
_PER_IMAGE = ("path", "image_id", "instance")
_NAMED = (
    "category class condition diagnosis disease finding label lesion model organ part pathology region view"
)
_NOT_AFTER_THESE = "".join(rf"(?<!{what}_)" for what in _NAMED.split())
"""A class_name is no patient's."""
_NEVER_A_LABEL = re.compile(
    r"(^|_)(uid|mrn|ssn|dob|birth|birthdate|date|accession|address|phone|email|url|physician|surname)(_|$)"
    rf"|(^|_){_NOT_AFTER_THESE}(names?|ids)(_|$)|(^|_)(telephone|addresses|physicians)(_|$)"
    r"|^(patients?|first|last|full)name$|^accessionnumber$|uid$|^unnamed_\d+$|birth_?date$|^studydate$"
)
_IMAGE_SUFFIX = re.compile(
    r"\.(dcm|dicom|dic|png|jpe?g|tiff?|bmp|jp2|jls|nii|nii\.gz|nrrd|mha)$", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one film; empty where nothing is. Patient and study are the hospital's own identifiers."""

    patient: str = ""
    study: str = ""
    sex: str = ""
    """M, F or O."""
    age: float | None = None
    """In years."""
    view: str = ""
    """PA, AP, LL and the like."""
    split: str = ""
    """The split that a column names for it, in the column's own word."""
    labels: Mapping[str, str] = field(default_factory=dict)

    def filled_from(self, other: "Facts") -> "Facts":
        """These facts, and the other's where these are silent."""
        return Facts(
            patient=self.patient or other.patient,
            study=self.study or other.study,
            sex=self.sex or other.sex,
            age=other.age if self.age is None else self.age,
            view=self.view or other.view,
            split=self.split or other.split,
            labels={**other.labels, **{name: value for name, value in self.labels.items() if value}},
        )


def layout_label_names(layout: Layout | None) -> tuple[str, ...]:
    """The label columns that a layout fills."""
    return {None: (), "folders": ("finding",), "kermany": ("finding", "cause")}[layout]


def facts_from_layout(path: Path, layout: Layout | None) -> Facts:
    """What the names of a file and of its folder say.

    folders: label `finding` is the folder's name, or that of the archive without .zip.

    kermany: the paediatric films of Kermany et al. 2018 (doi:10.17632/rscbjbr9sj): `finding` is the folder's name
    (NORMAL or PNEUMONIA), `cause` is bacteria or virus, and the patient is `personN`, or the number N in `IM-N-...`
    and `NORMAL2-IM-N-...`, wherever in train/ and test/ it occurs. Limits: neither number is verified as a patient.
    Numbers seem to have been reused (most of the persons in test/ also occur in train/, many with both causes, and
    328 IM numbers occur with and without NORMAL2), so that films of different children may share a patient here.
    That keeps more films together than need be; a child who has two numbers is not recognised.

    Args:
        path: The file, with its folder.
        layout: How to read it, or None for nothing.
    """
    if layout is None:
        return Facts()
    finding = re.sub(r"\.zip$", "", as_text(path.absolute().parent.name), flags=re.IGNORECASE)
    if layout == "folders":
        return Facts(labels={"finding": finding})
    sick = re.match(r"(person\d+)_(bacteria|virus)_", path.name)
    well = re.match(r"(?:NORMAL2-)?(IM-\d+)-", path.name)
    patient = sick[1] if sick else well[1] if well else ""
    return Facts(patient=patient, labels={"finding": finding, "cause": sick[2] if sick else ""})


@dataclass(frozen=True)
class LabelTable:
    """A CSV with one row per image, study or patient, ready to be asked."""

    label_names: tuple[str, ...]
    """The label columns, in the CSV's order."""
    left_out: tuple[str, ...]
    """Columns that look like names, dates or addresses and are therefore no labels."""
    rows: tuple[Facts, ...]
    keys: Mapping[str, Mapping[str, int | None]]
    """For each way of matching: key -> row; None where the key is ambiguous."""
    preset: LabelPreset | None = None
    """The convention by which it was read."""

    def row_of(self, path: Path, relative: PurePosixPath, known: Facts, instance: str) -> Facts | None:
        """The row that speaks of a film.

        Tried in this order: path, image_id, SOP Instance UID; where the CSV has no column for any of these, study,
        or else patient. A path matches if all of it ends the film's path, or if all of the film's relative path ends
        it, with or without the image's suffix: a row `b/1.png` does not speak of the film `a/1.png`, a row `1.png`
        or `1` does.

        Args:
            path: The film's absolute path.
            relative: Its path relative to the sources.
            known: What the film itself and its layout say.
            instance: Its SOP Instance UID, or "".

        Returns:
            The row, or None if there is none.
        """
        for way, key in _keys_of_film(path, relative, known, instance):
            row = self.keys.get(way, {}).get(key)
            if row is not None:
                return self.rows[row]
        return None


def read_labels(
    file: Path,
    label_columns: Sequence[str] | None = None,
    preset: PresetChoice = "auto",
    split_column: str | None = None,
) -> LabelTable:
    """Read a CSV of labels; commas, or semicolons where the first line has no comma.

    Args:
        file: The CSV, UTF-8, with a header; packed with gzip if its name ends in .gz.
        label_columns: The columns wanted as labels; None for all that are not recognised as something else.
        preset: A public collection's convention, see `apply_preset`; auto: the one that the header shows, if any.
        split_column: The column that names a split for each row.

    Raises:
        UsageError: If the file is missing, no CSV, has no column to match films by, lacks a wanted column, says two
            different things about one image, or puts a patient into two splits.
    """
    written = _read_table(file)
    convention = detect_preset(written.columns) if preset == "auto" else None if preset == "none" else preset
    table = written
    if convention is not None:
        beside = {what: _read_table(path) for what, path in companion_files(file).items()}
        table = apply_preset(convention, file, written, beside if convention == "mimic" else {})
    splits = _splits(file, written, table, split_column)
    if split_column is not None or convention == "mimic":
        table = table.drop(
            columns=[split_column, "split"] if convention == "mimic" else split_column, errors="ignore"
        )
    roles = {column: _ROLE_OF.get(_plain(column)) for column in table.columns}
    if not set(roles.values()) & {*_PER_IMAGE, "study", "patient"}:
        raise UsageError(
            f"{file} has no column to match films by; name one path, image_id, SOPInstanceUID, study or patient."
        )
    candidates = [column for column in table.columns if roles[column] is None]
    private = [column for column in candidates if _may_name_a_patient(column)]
    wanted = [column for column in candidates if column not in private]
    if label_columns is not None:
        _check_wanted(file, label_columns, wanted)
        wanted = [column for column in wanted if column in label_columns]
    rows = tuple(
        _facts_of_row(dict(zip(table.columns, values, strict=True)), roles, wanted, split)
        for values, split in zip(table.itertuples(index=False, name=None), splits, strict=True)
    )
    _check_splits(file, rows)
    return LabelTable(
        label_names=tuple(_label_name(column) for column in wanted),
        left_out=tuple(private),
        rows=rows,
        keys=_index(file, table, roles, rows),
        preset=convention,
    )


def label_files(labels: Path | None, preset: PresetChoice) -> list[Path]:
    """All files that `read_labels` would read."""
    if labels is None:
        return []
    return [labels, *(companion_files(labels).values() if preset in ("auto", "mimic") else ())]


def _splits(file: Path, written: pd.DataFrame, table: pd.DataFrame, column: str | None) -> list[str]:
    """What the column says, row by row; "" where there is none."""
    if column is None:
        return [""] * len(table)
    source = next((it for it in (table, written) if column in it.columns and len(it) == len(table)), None)
    if source is None:
        names = ", ".join(dict.fromkeys([*written.columns, *table.columns]))
        raise UsageError(f"--split-column {column}: {file} has these columns: {names}.")
    words = [str(word) for word in source[column]]
    for number, word in enumerate(words, 2):
        if word and parse_split(word) is None:
            raise UsageError(
                f"--split-column {column}: {file}, line {number}, names no split; write train, validation or test, or "
                "nothing."
            )
    return words


def _check_splits(file: Path, rows: Sequence[Facts]) -> None:
    """Refuse a patient in two splits before a day of reading; by lines, as logs name no patient."""
    first: dict[str, tuple[int, str]] = {}
    for number, row in enumerate(rows, 2):
        split = parse_split(row.split)
        if not row.patient or split is None:
            continue
        line, earlier = first.setdefault(row.patient, (number, split))
        if earlier != split:
            raise UsageError(
                f"{file}: lines {line} and {number} put one patient into {earlier} and {split}; choose one split for "
                "all films of a patient."
            )


def _read_table(file: Path) -> pd.DataFrame:
    """All columns as stripped text."""
    try:
        opener = gzip.open if file.suffix.lower() == ".gz" else open
        with opener(file, "rt", encoding="utf-8-sig") as lines:
            header = lines.readline()
        separator = "," if "," in header or ";" not in header else ";"
        table = pd.read_csv(
            file, sep=separator, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        )
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise UsageError(f"--labels {file} cannot be read as CSV: {' '.join(str(error).split())}") from None
    return table.assign(**{column: table[column].str.strip() for column in table.columns})


def _check_wanted(file: Path, label_columns: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a --label-columns that the CSV does not have or that is no label."""
    for name in label_columns:
        if name not in known:
            raise UsageError(
                f"--label-columns {name}: {file} has these label columns: {', '.join(known) or 'none'}."
            )


def _plain(column: str) -> str:
    """Patient ID -> patient_id."""
    return re.sub(r"[^a-z0-9]+", "_", column.strip().lower()).strip("_")


def _may_name_a_patient(column: str) -> bool:
    """Whether a column's name is that of a name, date, number or address; AcquisitionDate is acquisition_date too."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column)
    return any(_NEVER_A_LABEL.search(_plain(name)) for name in (column, words))


def _label_name(column: str) -> str:
    """The column's name, out of the way of the manifest's own."""
    return f"{column}_label" if column in manifest_columns([]) else column


def _facts_of_row(
    row: Mapping[str, str], roles: Mapping[str, str | None], label_columns: Sequence[str], split: str
) -> Facts:
    """One row; where two columns have one role the first that is filled counts."""

    def first(role: str) -> str:
        return next((row[column] for column in row if roles[column] == role and row[column]), "")

    return Facts(
        patient=first("patient"),
        study=first("study"),
        sex=_sex(first("sex")),
        age=_age_years(first("age")),
        view=first("view").upper(),
        split=split,
        labels={_label_name(column): row[column] for column in label_columns},
    )


def _sex(text: str) -> str:
    """DICOM's codes (PS3.3 C.7.1.1): M, F, O, and "" for what is not understood."""
    return {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}.get(text.lower(), "")


def _age_years(text: str) -> float | None:
    """Years as 63 or 63.5, or DICOM's age string 063Y, 018M (PS3.5 6.2); None where it is no age of a person."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([DWMY]?)", text.upper())
    if not match:
        return None
    years = float(match[1]) * {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12}.get(match[2], 1.0)
    return years if years <= 130 else None


def _stem(name: str) -> str:
    """Without the suffix of an image; the last number of a UID is none."""
    return _IMAGE_SUFFIX.sub("", name)


def _endings(path: str) -> Iterator[str]:
    """The path a/b/c ends in a/b/c, b/c and c."""
    parts = path.split("/")
    return ("/".join(parts[first:]) for first in range(len(parts)))


def _keys_of_film(
    path: Path, relative: PurePosixPath, known: Facts, instance: str
) -> Iterator[tuple[str, str]]:
    """Every (way, key) under which a row may speak of the film, best first."""
    for shorten in (str, _stem):
        suffix = "" if shorten is str else " stem"
        endings = list(_endings(shorten(path.as_posix()).lstrip("/")))
        yield from (("path" + suffix, ending) for ending in endings)
        shortest = len(shorten(str(relative)))
        yield from (("path end" + suffix, ending) for ending in endings if len(ending) >= shortest)
    yield "image_id", path.name
    yield "image_id", _stem(path.name)
    for way, key in (("instance", instance), ("study", known.study), ("patient", known.patient)):
        if key:
            yield way, key


def _index(
    file: Path, table: pd.DataFrame, roles: Mapping[str, str | None], rows: Sequence[Facts]
) -> dict[str, dict[str, int | None]]:
    """Key -> row for each way of matching that the CSV's columns allow."""
    present = set(roles.values())
    ways = [role for role in _PER_IMAGE if role in present] or [
        next(role for role in ("study", "patient") if role in present)
    ]
    keys: dict[str, dict[str, int | None]] = {}
    for column in table.columns:
        way = roles[column]
        if way not in ways:
            continue
        assert way is not None
        for number, value in enumerate(table[column]):
            if not value:
                continue
            key = value.replace("\\", "/").removeprefix("./").lstrip("/") if way == "path" else value
            earlier = keys.setdefault(way, {}).setdefault(key, number)
            if earlier is not None and rows[earlier] != rows[number]:
                raise UsageError(
                    f"{file}: lines {earlier + 2} and {number + 2} have the same {column} and say different things; "
                    "keep one of them."
                )
    for path, row in list(keys.get("path", {}).items()):
        if row is not None:
            _add_looser_keys(keys, path, row, rows)
    return keys


def _add_looser_keys(
    keys: dict[str, dict[str, int | None]], path: str, row: int, rows: Sequence[Facts]
) -> None:
    """Further keys for a path: without its suffix, and by its endings; ambiguous where two rows share one."""
    loose = [("path stem", _stem(path))]
    for ending in _endings(path):
        loose += [("path end", ending), ("path end stem", _stem(ending))]
    for way, key in loose:
        earlier = keys.setdefault(way, {}).setdefault(key, row)
        if earlier is not None and rows[earlier] != rows[row]:
            keys[way][key] = None
