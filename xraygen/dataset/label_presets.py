"""The conventions of public label files, each turned into one row per image with the columns that ingest knows.

Labels of findings become one column each: 1 present, 0 absent, -1 uncertain, empty where nothing is said. Uncertain is
thus neither a negative nor a gap, and whoever trains decides what to make of it.
"""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Literal

import pandas as pd

from xraygen.errors import UsageError

LabelPreset = Literal["nih", "chexpert", "mimic", "vindr", "hannover"]
LABEL_PRESETS: tuple[LabelPreset, ...] = ("nih", "chexpert", "mimic", "vindr", "hannover")

NIH_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia"),
    *("Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax", "No Finding"),
)
CHEXPERT_FINDINGS = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
_SIGNATURES: Mapping[LabelPreset, tuple[frozenset[str], ...]] = {
    "nih": (frozenset({"Image Index", "Finding Labels", "Patient ID"}),),
    "chexpert": (frozenset({"Path", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS}),),
    "mimic": (frozenset({"subject_id", "study_id", *CHEXPERT_FINDINGS}),),
    "vindr": (frozenset({"image_id", "Aortic enlargement", "No finding"}),),
    "hannover": (
        frozenset({"patient_id", "image_id", "projection", "admission_offset"}),
        frozenset({"patientid", "finding", "view", "modality", "filename"}),
    ),
}
_CODES = {"1": "1", "1.0": "1", "0": "0", "0.0": "0", "-1": "-1", "-1.0": "-1"}


def detect_preset(columns: Collection[str]) -> LabelPreset | None:
    """The preset whose columns a CSV has, or None."""
    return next(
        (
            preset
            for preset in LABEL_PRESETS
            if any(signature <= set(columns) for signature in _SIGNATURES[preset])
        ),
        None,
    )


def companion_files(labels: Path) -> dict[str, Path]:
    """The files of MIMIC-CXR that lie beside its labels and complete them.

    Returns:
        `metadata` (which image belongs to which study, its view) and `split`, as far as they are there.
    """
    found: dict[str, Path] = {}
    for what in ("metadata", "split"):
        name = re.sub(r"(mimic-cxr-[\d.]+-)(chexpert|negbio)", rf"\g<1>{what}", labels.name)
        if name == labels.name:
            continue
        for other in (name, name.removesuffix(".gz"), f"{name}.gz"):  # packed as the labels are, or otherwise
            if (labels.with_name(other)).is_file():
                found.setdefault(what, labels.with_name(other))
    return found


def apply_preset(
    preset: LabelPreset, file: Path, table: pd.DataFrame, companions: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Bring a label file into the form that `read_labels` reads: path or image_id, patient, study, sex, age, view.

    nih: ChestX-ray14 (Wang et al. 2017, doi:10.1109/CVPR.2017.369), `Data_Entry_2017.csv` and its second version: the
    findings that | separates become 15 columns of 1 and 0.

    chexpert: CheXpert (Irvin et al. 2019, arXiv:1901.07031), `train.csv` and `valid.csv`: patient and study come from
    the path; a lateral film's view is LATERAL, for its side is not said.

    mimic: MIMIC-CXR-JPG (Johnson et al. 2019, arXiv:1901.07042), `mimic-cxr-2.0.0-chexpert.csv` or `-negbio.csv`: the
    labels of a study hold for each of its images, which the metadata file beside it lists; column `split` comes from
    the split file if that is beside it, too.

    vindr: VinDr-CXR (Nguyen et al. 2022, doi:10.1038/s41597-022-01498-w), `image_labels_train.csv` and
    `image_labels_test.csv`: what most of an image's radiologists say counts, and -1 where they are even. Patients are
    not known, so that each image stands for one.

    hannover: the COVID-19 image repository of Hannover Medical School (doi:10.6084/m9.figshare.12275009), `data.csv`,
    all of whose measurements stay labels; or the `metadata.csv` of the collection of Cohen et al. 2020
    (arXiv:2006.11988), of which only `finding` does, for its notes are free text.

    Args:
        preset: Whose convention it is.
        file: The CSV's name, for sentences.
        table: All its columns as text.
        companions: The files beside it, by what they are.

    Returns:
        One row per image, as text.

    Raises:
        UsageError: If a column or a companion is missing.
    """
    columns = set(table.columns)
    lacking = min((sorted(needed - columns) for needed in _SIGNATURES[preset]), key=len)
    if lacking:
        raise UsageError(
            f"--label-preset {preset}: {file} has no column {lacking[0]!r}; choose another preset, or none."
        )
    if preset == "mimic":
        return _mimic(file, table, companions)
    readers: Mapping[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
        "nih": _nih,
        "chexpert": _chexpert,
        "vindr": _vindr,
        "hannover": _hannover,
    }
    return readers[preset](table)


def _columns(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """The columns that there are of these, renamed."""
    present = {old: new for old, new in names.items() if old in table.columns}
    return table[list(present)].rename(columns=present)


def _coded(table: pd.DataFrame, findings: Collection[str]) -> pd.DataFrame:
    """1.0 -> 1, -1.0 -> -1; what is none of the codes stays as it is."""
    return pd.DataFrame({name: [_CODES.get(value, value) for value in table[name]] for name in findings})


def _beside(*tables: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table.reset_index(drop=True) for table in tables], axis=1)


def _nih(table: pd.DataFrame) -> pd.DataFrame:
    names = {
        "Image Index": "path",
        "Patient ID": "patient",
        "Patient Age": "age",
        "Patient Gender": "sex",
        "Patient Sex": "sex",
        "View Position": "view",
    }
    said = [{word.strip() for word in text.split("|")} for text in table["Finding Labels"]]
    findings = pd.DataFrame(
        {
            name: [("1" if name in words else "0") if words != {""} else "" for words in said]
            for name in NIH_FINDINGS
        }
    )
    return _beside(_columns(table, names), findings)


def _chexpert(table: pd.DataFrame) -> pd.DataFrame:
    places = [re.search(r"(patient\d+)[/\\](study\d+)", path) for path in table["Path"]]
    lateral = table["Frontal/Lateral"].str.lower() == "lateral"
    facts = pd.DataFrame(
        {
            "patient": [place[1] if place else "" for place in places],
            "study": [f"{place[1]}/{place[2]}" if place else "" for place in places],
            "view": table["AP/PA"].mask(lateral, "LATERAL"),
        }
    )
    return _beside(
        _columns(table, {"Path": "path", "Sex": "sex", "Age": "age"}), facts, _coded(table, CHEXPERT_FINDINGS)
    )


def _mimic(file: Path, table: pd.DataFrame, companions: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    if "metadata" not in companions:
        raise UsageError(
            f"{file} has labels of studies and not of images; put MIMIC-CXR's metadata file "
            "(mimic-cxr-2.0.0-metadata.csv or .csv.gz) beside it."
        )
    names = {"dicom_id": "image_id", "study_id": "study", "subject_id": "patient", "ViewPosition": "view"}
    images = _columns(companions["metadata"], names)
    if set(names.values()) - set(images.columns):
        raise UsageError(f"the metadata file beside {file} needs the columns {', '.join(names)}.")
    labels = _beside(table[["study_id"]], _coded(table, CHEXPERT_FINDINGS)).drop_duplicates("study_id")
    images = images.merge(labels, how="left", left_on="study", right_on="study_id").drop(columns="study_id")
    if {"dicom_id", "split"} <= set(companions.get("split", pd.DataFrame()).columns):
        splits = companions["split"][["dicom_id", "split"]].drop_duplicates("dicom_id")
        images = images.merge(splits, how="left", left_on="image_id", right_on="dicom_id")
        images = images.drop(columns="dicom_id")
    return images.fillna("")


def _vindr(table: pd.DataFrame) -> pd.DataFrame:
    findings = [name for name in table.columns if name not in ("image_id", "rad_id")]
    coded = _coded(table, findings)
    readings: dict[str, list[tuple[str, ...]]] = {}
    for image, words in zip(table["image_id"], coded.itertuples(index=False, name=None), strict=True):
        readings.setdefault(image, []).append(words)
    rows = [
        [image, *(_majority(words) for words in zip(*said, strict=True))] for image, said in readings.items()
    ]
    return pd.DataFrame(rows, columns=["image_id", *findings])


def _majority(words: tuple[str, ...]) -> str:
    """What most readers of one image say of one finding; -1 where they are even, "" where none says anything."""
    balance = words.count("1") - words.count("0")
    if not balance:
        return "-1" if set(words) & {"0", "1", "-1"} else ""
    return "1" if balance > 0 else "0"


def _hannover(table: pd.DataFrame) -> pd.DataFrame:
    if "patientid" in table.columns:
        names = {"filename": "path", "patientid": "patient"}
        kept = {name: name for name in ("sex", "age", "view", "finding")}
        table = _columns(table, {**names, **kept})
    else:
        table = table.drop(columns=["modality"], errors="ignore").rename(columns={"projection": "view"})
    return table.assign(view=["LATERAL" if view == "L" else view for view in table["view"]])
