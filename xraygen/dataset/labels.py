"""What is known of a film besides its pixels: a CSV's rows, or what the names of folders and files say."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import pandas as pd

from xraygen.dataset.allowed import coded_view
from xraygen.dataset.label_csv import read_csv
from xraygen.dataset.label_guess import may_be_a_label, may_name_a_patient
from xraygen.dataset.label_matching import BY_IDENTIFIER, PER_GROUP, PER_IMAGE, keys_of_film, row_by_key
from xraygen.dataset.label_presets import LabelPreset, apply_preset, companion_files, detect_preset
from xraygen.dataset.label_roles import roles_of
from xraygen.dataset.manifest import manifest_columns
from xraygen.dataset.sources import as_text
from xraygen.dataset.split import parse_split
from xraygen.errors import UsageError

Layout = Literal["folders", "kermany"]
LAYOUTS: tuple[Layout, ...] = ("folders", "kermany")
PresetChoice = Literal["auto", "none"] | LabelPreset

_SEXES = {
    **dict.fromkeys(("m", "male", "männlich", "maennlich"), "M"),
    **dict.fromkeys(("f", "female", "w", "weiblich"), "F"),
    **dict.fromkeys(("o", "other", "d", "divers"), "O"),
}
"""DICOM's codes (PS3.3 C.7.1.1) of English and German words."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one film; empty where nothing is. Identifiers are the hospital's own."""

    patient: str = ""
    study: str = ""
    accession: str = ""
    """The film's own Accession Number, by which a row may speak of it; it goes nowhere."""
    sex: str = ""
    """M, F or O."""
    age: float | None = None
    """In years."""
    view: str = ""
    """PA, AP, LL and the like."""
    split: str = ""
    """The split that a column names for it, in the column's own word."""
    labels: Mapping[str, str] = field(default_factory=dict)
    instance: str = field(default="", compare=False)
    """The SOP Instance UID that a row names; rows that differ in it alone say the same."""
    patient_by_name: bool = field(default=False, compare=False)
    """Whether only the name of a file says who the patient is, which a row may know better."""

    def filled_from(self, other: "Facts") -> "Facts":
        """These facts, and the other's where these are silent."""
        return Facts(
            patient=self.patient or other.patient,
            study=self.study or other.study,
            accession=self.accession or other.accession,
            sex=self.sex or other.sex,
            age=other.age if self.age is None else self.age,
            view=_clearer_view(self.view, other.view),
            split=self.split or other.split,
            labels={**other.labels, **{name: value for name, value in self.labels.items() if value}},
            instance=self.instance or other.instance,
            patient_by_name=self.patient_by_name if self.patient else other.patient_by_name,
        )

    def contradicts(self, film: "Facts", instance: str) -> bool:
        """Whether this row names another patient, study or SOP Instance UID than a film does.

        Patients' numbers that Excel or pandas wrote (4711 or 4711.0 of 004711) are none other; neither is a study's
        number another study than a UID.

        Args:
            film: What the film itself and its layout say.
            instance: Its SOP Instance UID, or "".
        """
        patients = ("", "") if film.patient_by_name else (_bare(self.patient), _bare(film.patient))
        studies = (self.study, film.study) if _is_uid(self.study) and _is_uid(film.study) else ("", "")
        pairs = (patients, studies, (self.instance, instance))
        return any(said and own and said != own for said, own in pairs)


def _clearer_view(first: str, second: str) -> str:
    """The first view that is one, or else the first text: THORAX PA must not hide that a CSV says PA."""
    return next((view for view in (first, second) if coded_view(view)), first or second)


def _bare(patient: str) -> str:
    return re.sub(r"^0+(?=.)|\.0$", "", patient.casefold())


def _is_uid(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+){2,}", text) is not None


_ARCHIVE = re.compile(r"\.(zip|tar|(tar\.|t)(gz|xz|bz2))$", re.IGNORECASE)


def layout_label_names(layout: Layout | None) -> tuple[str, ...]:
    """The label columns that a layout fills."""
    return {None: (), "folders": ("finding",), "kermany": ("finding", "cause")}[layout]


def facts_from_layout(path: Path, layout: Layout | None) -> Facts:
    """What the names of a file and of its folder say.

    folders: label `finding` is the folder's name, or that of the archive without .zip or .tar.xz.

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
    finding = _ARCHIVE.sub("", as_text(path.absolute().parent.name))
    if layout == "folders":
        return Facts(labels={"finding": finding})
    sick = re.match(r"(person\d+)_(bacteria|virus)_", path.name)
    well = re.match(r"(?:NORMAL2-)?(IM-\d+)-", path.name)
    patient = sick[1] if sick else well[1] if well else ""
    labels = {"finding": finding, "cause": sick[2] if sick else ""}
    return Facts(patient=patient, labels=labels, patient_by_name=True)


@dataclass(frozen=True)
class LabelTable:
    """A CSV with one row per image, study or patient, ready to be asked."""

    label_names: tuple[str, ...]
    """The label columns, in the CSV's order."""
    left_out: tuple[str, ...]
    """Columns whose names or values may be those of persons, dates, numbers or free text: no labels."""
    rows: tuple[Facts, ...]
    keys: Mapping[str, Mapping[str, int | None]]
    """For each way of matching: key -> row; None where the key is ambiguous."""
    preset: LabelPreset | None = None
    """The convention by which it was read."""

    def row_of(
        self, path: Path, relative: PurePosixPath, known: Facts, instance: str, *, contradicting: bool = False
    ) -> Facts | None:
        """The row that speaks of a film.

        Tried in this order: SOP Instance UID, path, image_id; where the CSV has no column for any of these, study, or
        else Accession Number, or else patient; patient also for films without an Accession Number, where all rows of
        the patient say the same. A path matches if all of it ends the film's path, with or without the image's suffix:
        a row `b/1.png` does not speak of the film `a/1.png`, a row `1.png` or `1` does. Folders that all rows begin
        with may be called otherwise on this disk, as long as a folder and all of the film's relative path agree. A
        row found by a name does not speak of a film that it contradicts, but for those of public collections.

        Args:
            path: The film's absolute path.
            relative: Its path relative to the sources.
            known: What the film itself and its layout say.
            instance: Its SOP Instance UID, or "".
            contradicting: Whether a row that contradicts the film counts too.

        Returns:
            The row, or None if there is none.
        """
        own = {"instance": instance, **{way: getattr(known, way) for way in PER_GROUP}}
        if known.accession and "accession" in self.keys:  # else a row of another examination might speak
            del own["patient"]
        # Public collections give each image a name of its own, and patients numbers that their DICOMs may lack.
        sure = BY_IDENTIFIER if self.preset is None else (*BY_IDENTIFIER, *self.keys)
        for way, key in keys_of_film(path, relative, own):
            number = self.keys.get(way, {}).get(key)
            if number is None:
                continue
            row = self.rows[number]
            if contradicting or way in sure or not row.contradicts(known, instance):
                return row
        return None


def read_labels(
    file: Path,
    label_columns: Sequence[str] | None = None,
    preset: PresetChoice = "auto",
    split_column: str | None = None,
) -> LabelTable:
    """Read a CSV of labels; commas, semicolons or tabs, whichever the first line has most of.

    Args:
        file: The CSV, UTF-8, with a header; packed with gzip if its name ends in .gz.
        label_columns: The columns wanted as labels; None for all that look like labels, by name and by value. What is
            named here may have any values, but no name that a person's data have.
        preset: A public collection's convention, see `apply_preset`; auto: the one that the header shows, if any.
        split_column: The column that names a split for each row.

    Raises:
        UsageError: If the file is missing, no CSV, has no column to match films by, lacks a wanted column, says two
            different things about one image, or puts a patient into two splits.
    """
    written = read_csv(file)
    convention = detect_preset(written.columns) if preset == "auto" else None if preset == "none" else preset
    table = written
    if convention is not None:
        beside = {what: read_csv(path) for what, path in companion_files(file).items()}
        table = apply_preset(convention, file, written, beside if convention == "mimic" else {})
    splits = _splits(file, written, table, split_column)
    if split_column is not None or convention == "mimic":
        table = table.drop(
            columns=[split_column, "split"] if convention == "mimic" else split_column, errors="ignore"
        )
    roles = roles_of(table.columns)
    if not set(roles.values()) & {*PER_IMAGE, *PER_GROUP}:
        raise UsageError(
            f"{file} has no column to match films by; name one path, image_id, SOPInstanceUID, study, accession or "
            "patient."
        )
    wanted, private = _choose_labels(file, table, roles, label_columns)
    rows = tuple(
        _facts_of_row(dict(zip(table.columns, values, strict=True)), roles, wanted, split)
        for values, split in zip(table.itertuples(index=False, name=None), splits, strict=True)
    )
    _check_splits(file, rows)
    return LabelTable(
        label_names=tuple(_label_name(column) for column in wanted),
        left_out=tuple(private),
        rows=rows,
        keys=row_by_key(file, table, roles, rows),
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


def _choose_labels(
    file: Path, table: pd.DataFrame, roles: Mapping[str, str | None], label_columns: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The label columns, and those that are none because they may name a patient, each in the CSV's order."""
    candidates = [column for column in table.columns if roles[column] is None]
    private = [column for column in candidates if may_name_a_patient(column)]
    nameable = [column for column in candidates if column not in private]
    if label_columns is not None:
        _check_wanted(file, label_columns, nameable, private)
        return [column for column in nameable if column in label_columns], private
    wanted = [column for column in nameable if may_be_a_label(column, list(table[column]))]
    return wanted, [column for column in candidates if column not in wanted]


def _check_wanted(
    file: Path, label_columns: Sequence[str], known: Sequence[str], private: Sequence[str]
) -> None:
    """Refuse a --label-columns that the CSV does not have or that is no label."""
    for name in label_columns:
        if name in known:
            continue
        why = (
            "; a column of that name may name a patient: rename it if it does not" if name in private else ""
        )
        raise UsageError(
            f"--label-columns {name}: {file} has these label columns: {', '.join(known) or 'none'}{why}."
        )


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
        instance=first("instance"),
    )


def _sex(text: str) -> str:
    """M, F, O, and "" for what is not understood."""
    return _SEXES.get(text.lower(), "")


def _age_years(text: str) -> float | None:
    """Years as 63, 63.5 or 63 J, or DICOM's age string 063Y, 018M (PS3.5 6.2); None where it is no age of a person."""
    match = re.fullmatch(r"(\d+(?:[.,]\d+)?)\s*([DWMYJ]?)", text.upper())
    if not match:
        return None
    years = float(match[1].replace(",", ".")) * {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12}.get(
        match[2], 1.0
    )
    return years if years <= 130 else None
