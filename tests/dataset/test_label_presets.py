"""The label files of public collections, in exactly their conventions."""

import gzip
from pathlib import Path, PurePosixPath

import pytest

from xraygen.dataset.label_presets import CHEXPERT_FINDINGS, LabelPreset, detect_preset
from xraygen.dataset.labels import Facts, LabelTable, PresetChoice, label_files, read_labels
from xraygen.errors import UsageError

NIH = """\
Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,Height],\
OriginalImagePixelSpacing[x,y],
00000001_000.png,Cardiomegaly,0,1,58,M,PA,2682,2749,0.143,0.143,
00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,PA,2894,2729,0.143,0.143,
00000002_000.png,No Finding,0,2,81,F,AP,2500,2048,0.171,0.171,
"""
CHEXPERT = f"""\
Path,Sex,Age,Frontal/Lateral,AP/PA,{",".join(CHEXPERT_FINDINGS)}
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Male,87,Frontal,PA,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,
CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg,Male,87,Lateral,,,,,,,,,,,,,,,
"""
MIMIC_FINDINGS = sorted(CHEXPERT_FINDINGS)  # the file's order
SICK = {"Consolidation": "1.0", "Edema": "-1.0", "Pneumonia": "0.0"}
MIMIC = f"""\
subject_id,study_id,{",".join(MIMIC_FINDINGS)}
10000032,50414267,{",".join({"No Finding": "1.0"}.get(name, "") for name in MIMIC_FINDINGS)}
10000764,57375967,{",".join(SICK.get(name, "") for name in MIMIC_FINDINGS)}
"""
MIMIC_METADATA = """\
dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,\
ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning
02aa804e-bde0afdd-112c0b34-7bc16630-4e384014,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544,21800506,213014.53,\
CHEST (PA AND LAT),postero-anterior,Erect
174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962,10000032,50414267,CHEST (PA AND LAT),LATERAL,3056,2544,21800506,213014.53,\
CHEST (PA AND LAT),lateral,Erect
096052b7-d256dc40-453a102b-fa7d01c6-1b22c6b4,10000764,57375967,CHEST (PORTABLE AP),AP,2544,3056,21321015,1801.0,\
CHEST (PORTABLE AP),antero-posterior,
"""
MIMIC_SPLIT = """\
dicom_id,study_id,subject_id,split
02aa804e-bde0afdd-112c0b34-7bc16630-4e384014,50414267,10000032,train
174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962,50414267,10000032,train
096052b7-d256dc40-453a102b-fa7d01c6-1b22c6b4,57375967,10000764,validate
"""
VINDR = """\
image_id,rad_id,Aortic enlargement,Cardiomegaly,Nodule/Mass,Other diseases,No finding
000434271f63a053c4128a0ba6352c7f,R6,0,0,0,0,1
000434271f63a053c4128a0ba6352c7f,R2,0,1,0,0,0
000434271f63a053c4128a0ba6352c7f,R3,0,0,0,0,1
00053190460d56c53cc3e57321387478,R11,1,1,0,0,0
00053190460d56c53cc3e57321387478,R2,1,0,0,0,0
"""
HANNOVER = """\
patient_id,image_id,sex,age,size,weight,admission_offset,icu_admission_offset,modality,projection,crp_offset,crp_val
024e7871,fff13f3a,f,,,,0,,CR,pa,0.0,3.0
042f06a9,b343e657,m,65,180,,0,0.0,DX,ap,0.0,5.0
"""
COHEN = """\
patientid,offset,sex,age,finding,view,modality,folder,filename,doi,url,license,clinical_notes
219,0,M,65,COVID-19,AP Supine,X-ray,images,b343e657.jpg,,https://example.org,CC BY 3.0,Mr Smith has a cough
220,5,F,,Pneumonia,L,X-ray,images,53c9be49.jpg,,https://example.org,CC BY 3.0,and so has she
"""


def read(folder: Path, text: str, name: str = "labels.csv", preset: PresetChoice = "auto") -> LabelTable:
    (folder / name).write_text(text, encoding="utf-8")
    return read_labels(folder / name, preset=preset)


def row_for(table: LabelTable, path: str) -> Facts:
    row = table.row_of(Path("/data", path), PurePosixPath(path), Facts(), "")
    assert row is not None
    return row


def mimic(folder: Path, *, split: bool = True, metadata: bool = True) -> Path:
    files = {
        "chexpert": MIMIC,
        "metadata": MIMIC_METADATA if metadata else "",
        "split": MIMIC_SPLIT if split else "",
    }
    for what, text in files.items():
        if text:
            (folder / f"mimic-cxr-2.0.0-{what}.csv").write_text(text)
    return folder / "mimic-cxr-2.0.0-chexpert.csv"


@pytest.mark.parametrize(
    ("text", "preset"),
    [
        *((NIH, "nih"), (CHEXPERT, "chexpert"), (MIMIC, "mimic"), (VINDR, "vindr"), (HANNOVER, "hannover")),
        *(
            (COHEN, "hannover"),
            (MIMIC_METADATA, None),
            ("path,finding\n1,x\n", None),
            ("image_id,rad_id\n1,2\n", None),
        ),
    ],
)
def test_the_header_shows_the_convention(text: str, preset: LabelPreset | None) -> None:
    assert detect_preset(text.splitlines()[0].split(",")) == preset


def test_nih_findings_become_columns(tmp_path: Path) -> None:
    table = read(tmp_path, NIH)
    assert table.preset == "nih"
    assert len(table.label_names) == 15
    row = row_for(table, "images/00000001_001.png")
    assert (row.patient, row.age, row.sex, row.view) == ("1", 58.0, "M", "PA")
    assert {name for name, value in row.labels.items() if value == "1"} == {"Cardiomegaly", "Emphysema"}
    assert set(row.labels.values()) == {"0", "1"}
    assert row_for(table, "images/00000002_000.png").labels["No Finding"] == "1"


def test_a_public_collections_row_speaks_of_a_film_whose_patient_has_another_number(tmp_path: Path) -> None:
    table, path = read(tmp_path, NIH), Path("/data/00000001_001.dcm")
    row = table.row_of(path, PurePosixPath(path.name), Facts(patient="rsna-1"), "1.2.3")
    assert row is not None
    assert row.patient == "1"


def test_nihs_second_version_is_read_too(tmp_path: Path) -> None:
    text = NIH.replace("Patient Gender", "Patient Sex").replace(",58,M", ",058Y,M")
    assert row_for(read(tmp_path, text), "00000001_000.png") == row_for(
        read(tmp_path, NIH), "00000001_000.png"
    )


def test_chexpert_tells_absent_uncertain_and_unmentioned_apart(tmp_path: Path) -> None:
    table = read(tmp_path, CHEXPERT)
    assert table.label_names == CHEXPERT_FINDINGS
    first = row_for(table, "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg")
    assert (first.patient, first.study, first.age) == ("patient00001", "patient00001/study1", 68.0)
    assert (first.sex, first.view) == ("F", "AP")
    assert (first.labels["No Finding"], first.labels["Pneumothorax"], first.labels["Edema"]) == ("1", "0", "")
    second = row_for(table, "train/patient00002/study2/view1_frontal.jpg")
    assert (second.labels["Edema"], second.labels["Fracture"]) == ("-1", "1")
    lateral = row_for(table, "train/patient00002/study2/view2_lateral.jpg")
    assert (lateral.patient, lateral.view, set(lateral.labels.values())) == ("patient00002", "LATERAL", {""})


def test_a_studys_labels_hold_for_each_image_of_mimic(tmp_path: Path) -> None:
    table = read_labels(mimic(tmp_path))
    assert table.preset == "mimic"
    assert table.label_names == CHEXPERT_FINDINGS
    path = "files/p10/p10000032/s50414267/174413ec-4ec4c1f7-34ea26b7-c5f994f8-79ef1962.jpg"
    row = row_for(table, path)
    assert (row.patient, row.study, row.view) == ("10000032", "50414267", "LATERAL")
    assert row.labels["No Finding"] == "1"
    other = row_for(table, "096052b7-d256dc40-453a102b-fa7d01c6-1b22c6b4.dcm")
    assert (other.labels["Consolidation"], other.labels["Edema"], other.labels["Pneumonia"]) == (
        "1",
        "-1",
        "0",
    )
    assert other.labels["Cardiomegaly"] == ""


def test_mimics_own_split_can_be_taken(tmp_path: Path) -> None:
    table = read_labels(mimic(tmp_path), split_column="split")
    assert [row.split for row in table.rows] == ["train", "train", "validate"]
    assert "split" not in " ".join(table.label_names)


def test_mimics_packed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    labels = mimic(tmp_path)
    for path in tmp_path.glob("*.csv"):
        (tmp_path / "packed" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    packed = tmp_path / "packed" / f"{labels.name}.gz"
    assert read_labels(packed) == read_labels(labels)
    assert len(label_files(packed, "auto")) == 3


@pytest.mark.parametrize("packed", [["metadata", "split"], ["metadata"], ["chexpert"], ["chexpert", "split"]])
def test_mimics_files_may_be_packed_or_not_each_by_itself(tmp_path: Path, packed: list[str]) -> None:
    (tmp_path / "mixed").mkdir()
    labels = mimic(tmp_path)
    for path in tmp_path.glob("*.csv"):
        other = tmp_path / "mixed" / path.name
        if path.stem.rsplit("-", 1)[1] in packed:
            other.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        else:
            other.write_bytes(path.read_bytes())
    (mixed,) = (tmp_path / "mixed").glob("*chexpert*")
    assert read_labels(mixed, split_column="split") == read_labels(labels, split_column="split")
    assert len(label_files(mixed, "auto")) == 3


def test_another_csv_has_no_files_beside_it(tmp_path: Path) -> None:
    for name in ("labels.csv", "labels.csv.gz"):
        (tmp_path / name).touch()
    assert label_files(tmp_path / "labels.csv.gz", "auto") == [tmp_path / "labels.csv.gz"]


def test_mimics_labels_without_its_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="put MIMIC-CXR's metadata file"):
        read_labels(mimic(tmp_path, metadata=False))


def test_the_majority_of_vindrs_radiologists_counts_and_a_tie_is_uncertain(tmp_path: Path) -> None:
    table = read(tmp_path, VINDR)
    three = row_for(table, "train/000434271f63a053c4128a0ba6352c7f.dicom").labels
    assert three == dict(zip(table.label_names, ("0", "0", "0", "0", "1"), strict=True))
    two = row_for(table, "00053190460d56c53cc3e57321387478.png").labels
    assert (two["Aortic enlargement"], two["Cardiomegaly"], two["No finding"]) == ("1", "-1", "0")


def test_vindrs_consensus_of_the_test_set_is_taken_as_it_is(tmp_path: Path) -> None:
    text = "image_id,Aortic enlargement,No finding\na1,1,0\nb2,0,1\n"
    assert row_for(read(tmp_path, text), "a1.dicom").labels == {"Aortic enlargement": "1", "No finding": "0"}


def test_hannovers_projection_is_a_view_and_its_measurements_are_labels(tmp_path: Path) -> None:
    table = read(tmp_path, HANNOVER)
    row = row_for(table, "png/b343e657.png")
    assert (row.patient, row.sex, row.age, row.view) == ("042f06a9", "M", 65.0, "AP")
    assert row.labels["crp_val"] == "5.0"
    assert "modality" not in table.label_names


def test_the_free_text_of_the_covid_collection_stays_out(tmp_path: Path) -> None:
    table = read(tmp_path, COHEN)
    assert table.label_names == ("finding",)
    row = row_for(table, "images/53c9be49.jpg")
    assert row == Facts(patient="220", sex="F", view="LATERAL", labels={"finding": "Pneumonia"})
    assert row_for(table, "b343e657.jpg").view == "AP SUPINE"


def test_a_preset_can_be_switched_off(tmp_path: Path) -> None:
    table = read(tmp_path, HANNOVER, preset="none")
    assert table.preset is None
    assert "modality" in table.label_names


@pytest.mark.parametrize(
    ("preset", "column"),
    [
        ("nih", "Finding Labels"),
        ("chexpert", "AP/PA"),
        ("mimic", "Atelectasis"),
        ("vindr", "Aortic enlargement"),
    ],
)
def test_a_preset_that_does_not_fit_is_refused(tmp_path: Path, preset: LabelPreset, column: str) -> None:
    with pytest.raises(UsageError, match=f"--label-preset {preset}: .* has no column '{column}'"):
        read(tmp_path, "path,finding\n1,x\n", preset=preset)


def test_a_split_column_beside_a_preset_is_no_label(tmp_path: Path) -> None:
    lines = [
        line + fold for line, fold in zip(NIH.splitlines(), ("fold", "train", "train", "test"), strict=True)
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    table = read_labels(tmp_path / "labels.csv", split_column="fold")
    assert [row.split for row in table.rows] == ["train", "train", "test"]
    assert "fold" not in table.label_names
