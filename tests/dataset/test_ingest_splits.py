"""Splits of whole DATASETs: by the key, extended, or from a column."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError

WriteDicom = Callable[..., Path]


@pytest.fixture
def films(tmp_path: Path, write_dicom: WriteDicom) -> Path:
    """24 films of 12 patients."""
    for number in range(24):
        write_dicom(tmp_path / f"films/{number:02}.dcm", number, f"P{number // 2}")
    return tmp_path / "films"


def splits_of(dataset: Path) -> dict[str, str]:
    manifest = open_dataset(dataset).manifest
    pairs = manifest[["patient", "split"]].drop_duplicates()
    assert pairs["patient"].is_unique
    return dict(zip(pairs["patient"], pairs["split"], strict=True))


def with_labels(settings: IngestSettings, folder: Path, rows: str) -> IngestSettings:
    (folder / "labels.csv").write_text(f"file,fold\n{rows}")
    return replace(settings, labels=folder / "labels.csv", split_column="fold")


def test_a_dataset_is_extended_without_moving_anybody(
    films: Path, settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    ingest([films], tmp_path / "small", settings)
    for number in range(100, 130):
        write_dicom(films / f"{number}.dcm", number, f"P{number}")
    ingest([films], tmp_path / "large", settings)
    small, large = splits_of(tmp_path / "small"), splits_of(tmp_path / "large")
    assert (len(small), len(large)) == (12, 42)
    assert small.items() <= large.items()


def test_a_split_that_stayed_empty_is_said(films: Path, settings: IngestSettings, tmp_path: Path) -> None:
    summary = ingest([films / "00.dcm", films / "01.dcm"], tmp_path / "one", settings)
    (note,) = summary.notes
    assert note.startswith("no patient came into")
    assert "with 1 patients" in note


def test_a_column_decides_and_the_key_divides_the_others(
    films: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([films], tmp_path / "by key", settings)
    chosen = with_labels(settings, tmp_path, "00.dcm,test\n03.dcm,valid\n")
    summary = ingest([films], tmp_path / "dataset", chosen)
    manifest = open_dataset(tmp_path / "dataset").manifest
    assert list(manifest["split"][:4]) == ["test", "test", "validation", "validation"]
    by_key, now = splits_of(tmp_path / "by key"), splits_of(tmp_path / "dataset")
    named = set(manifest["patient"][:4])
    assert {patient: split for patient, split in by_key.items() if patient not in named} == {
        patient: split for patient, split in now.items() if patient not in named
    }
    assert summary.notes == ("the split column is silent on 10 patients, whom the key and --split divided",)
    again = ingest([films], tmp_path / "dataset", chosen)
    assert again.already_done
    assert again.notes == summary.notes
    assert "fold" not in open_dataset(tmp_path / "dataset").info.label_names


def test_a_patient_in_two_splits_is_refused_even_if_only_the_films_know(
    films: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    chosen = with_labels(settings, tmp_path, "00.dcm,train\n01.dcm,test\n02.dcm,train\n")
    with pytest.raises(UsageError, match=r"--split-column fold puts images of patient P[0-9a-f]{32} "):
        ingest([films], tmp_path / "dataset", chosen)
    assert not (tmp_path / "dataset").exists()
    ingest([films], tmp_path / "dataset", with_labels(settings, tmp_path, "00.dcm,train\n"))


def test_mimics_companion_files_are_no_films(films: Path, settings: IngestSettings, tmp_path: Path) -> None:
    findings = (
        "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
        "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
    )
    name = "mimic-cxr-2.0.0-{}.csv"
    (films / name.format("chexpert")).write_text(f"subject_id,study_id,{findings}\n1,2,1.0{',' * 13}\n")
    (films / name.format("metadata")).write_text("dicom_id,subject_id,study_id,ViewPosition\n00,1,2,AP\n")
    labelled = replace(settings, labels=films / name.format("chexpert"))
    summary = ingest([films], tmp_path / "dataset", labelled)
    assert (summary.seen, summary.accepted, summary.unlabelled) == (24, 24, 23)
    (films / name.format("metadata")).write_text("dicom_id,subject_id,study_id,ViewPosition\n01,1,2,AP\n")
    with pytest.raises(UsageError, match="made from other files"):
        ingest([films], tmp_path / "dataset", labelled)


@pytest.mark.parametrize("study", ["", "1.2.3"])
def test_a_copy_that_knows_its_patient_tells_it_to_the_one_that_is_kept(
    study: str, settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """x stood alone, or with its study, and y with the patient: in two splits under one key of five or so."""
    write_dicom(tmp_path / "in/anon/x.dcm", 0, study=study)
    write_dicom(tmp_path / "in/orig/x.dcm", 0, "P")
    write_dicom(tmp_path / "in/orig/y.dcm", 1, "P")
    write_dicom(tmp_path / "in/orig/z.dcm", 2, study="1.2.3")  # of x's patient where that is of this study
    ingest([tmp_path / "in"], tmp_path / "dataset", settings)
    patients = list(open_dataset(tmp_path / "dataset").manifest["patient"])
    assert patients[0] == patients[1]
    assert (patients[2] == patients[0]) == bool(study)
    crosswalk = pd.read_csv(f"{settings.key}.crosswalk.csv", dtype=str)
    assert list(crosswalk["patient"][:3]) == [patients[0]] * 3


def test_a_copy_that_knows_less_or_another_patient_changes_nothing(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(tmp_path / "in/a.dcm", 0, "P")
    for name, patient in (("b", ""), ("c", "Q")):
        write_dicom(tmp_path / f"in/{name}.dcm", 0, patient)
    write_dicom(tmp_path / "in/d.dcm", 1, "P")
    ingest([tmp_path / "in"], tmp_path / "dataset", settings)
    assert open_dataset(tmp_path / "dataset").manifest["patient"].nunique() == 1


def test_a_near_duplicate_tells_its_patient_through_its_study(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """a knows nothing, its copy b the study, and c, a copy of another film of the study, the patient."""
    write_dicom(tmp_path / "in/a.dcm", 0)
    write_dicom(tmp_path / "in/b.dcm", 0, study="1.2.3")
    write_dicom(tmp_path / "in/b2.dcm", 1, study="1.2.3")
    write_dicom(tmp_path / "in/c.dcm", 1, "P")
    film = pydicom.dcmread(tmp_path / "in/c.dcm")
    film.PixelData = np.maximum(film.pixel_array, 40).tobytes()  # 1 % of the range
    film.save_as(tmp_path / "in/c.dcm")
    write_dicom(tmp_path / "in/d.dcm", 3, "P")
    summary = ingest([tmp_path / "in"], tmp_path / "dataset", settings)
    assert summary.rejected == {"duplicate": 1, "near_duplicate": 1}
    assert open_dataset(tmp_path / "dataset").manifest["patient"].nunique() == 1
