"""What a CSV or a folder's name says about a film."""

import gzip
import os
from pathlib import Path, PurePosixPath

import pytest

from xraygen.dataset.allowed import pooled_age
from xraygen.dataset.label_presets import CHEXPERT_FINDINGS, NIH_FINDINGS
from xraygen.dataset.labels import Facts, LabelTable, facts_from_layout, read_labels
from xraygen.errors import UsageError


def table_of(tmp_path: Path, text: str, columns: tuple[str, ...] | None = None) -> LabelTable:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    return read_labels(tmp_path / "labels.csv", columns)


def row_for(table: LabelTable, relative: str, known: Facts = Facts(), instance: str = "") -> Facts | None:  # noqa: B008 - Facts is frozen
    return table.row_of(Path("/data/root", relative), PurePosixPath(relative), known, instance)


@pytest.mark.parametrize(
    "header", ["path", "file", "file_name", "Filename", "image", "image_path", "Image Index"]
)
@pytest.mark.parametrize(
    "value", ["a/1.png", "./a/1.png", "a\\1.png", "1.png", "1", "a/1", "root/a/1.png", "/old/a/1.png"]
)
def test_a_path_matches_by_path_name_or_stem(tmp_path: Path, header: str, value: str) -> None:
    row = row_for(table_of(tmp_path, f"{header},finding\n{value},x\n"), "a/1.png")
    assert row is not None
    assert row.labels == {"finding": "x"}


@pytest.mark.parametrize("value", ["b/1.png", "11.png", "a/2.png", "1.png/a", "data/1.png"])
def test_another_path_does_not_match(tmp_path: Path, value: str) -> None:
    assert row_for(table_of(tmp_path, f"path,finding\n{value},x\n"), "a/1.png") is None


def test_the_longest_common_path_decides(tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,finding\nset/train/1.png,x\nset/test/1.png,y\n")
    film = table.row_of(Path("/data/test/1.png"), PurePosixPath("1.png"), Facts(), "")
    assert film is not None
    assert film.labels == {"finding": "y"}
    assert table.row_of(Path("/data/other/1.png"), PurePosixPath("1.png"), Facts(), "") is None


def test_the_last_number_of_a_uid_is_no_suffix(tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,finding\n1.2.840.4,x\n")
    assert row_for(table, "1.2.840.4") is not None
    assert row_for(table, "1.2.840.5") is None
    assert row_for(table, "1.2.840.4.dcm") is not None


@pytest.mark.parametrize(
    ("header", "known", "instance"),
    [
        ("SOPInstanceUID", Facts(), "7"),
        ("sop_instance_uid", Facts(), "7"),
        ("StudyInstanceUID", Facts(study="7"), ""),
        ("study_id", Facts(study="7"), ""),
        ("PatientID", Facts(patient="7"), ""),
        ("subject_id", Facts(patient="7"), ""),
        ("AccessionNumber", Facts(accession="7"), ""),
        ("Accession Number", Facts(accession="7"), ""),
        ("accession", Facts(accession="7"), ""),
    ],
)
def test_a_row_matches_by_dicom_identifier(tmp_path: Path, header: str, known: Facts, instance: str) -> None:
    table = table_of(tmp_path, f"{header},finding\n7,x\n8,y\n")
    row = row_for(table, "a.dcm", known, instance)
    assert row is not None
    assert row.labels == {"finding": "x"}
    assert row_for(table, "a.dcm") is None


def test_examinations_of_a_patient_are_told_apart_by_accession_number(tmp_path: Path) -> None:
    rows = "p1;A1;normal\np1;A2;Erguss\np2;A3;normal"
    table = table_of(tmp_path, f"Patient;AccessionNumber;Befund\n{rows}\n")
    found = {
        (patient, accession): row_for(table, "a.dcm", Facts(patient=patient, accession=accession))
        for patient, accession in (
            ("p1", "A1"),
            ("p1", "A2"),
            ("p1", "A9"),
            ("p2", "A9"),
            ("p1", ""),
            ("p2", ""),
        )
    }
    said = {film: row.labels["Befund"] if row else None for film, row in found.items()}
    assert said == {
        ("p1", "A1"): "normal",
        ("p1", "A2"): "Erguss",
        ("p1", "A9"): None,  # an examination that the table does not know
        ("p2", "A9"): None,
        ("p1", ""): None,  # it may be of either
        ("p2", ""): "normal",
    }


def test_a_study_goes_before_the_accession_number(tmp_path: Path) -> None:
    table = table_of(tmp_path, "study,accession,finding\n1,A,x\n2,A,y\n")
    assert row_for(table, "a.dcm", Facts(study="2", accession="A")) == Facts(
        study="2", labels={"finding": "y"}
    )


@pytest.mark.parametrize("header", ["Patient", "AccessionNumber", "StudyInstanceUID"])
def test_rows_that_differ_about_a_group_of_films_are_not_to_be_deleted(tmp_path: Path, header: str) -> None:
    with pytest.raises(UsageError, match="would give its films the other row's labels") as caught:
        table_of(tmp_path, f"{header},Befund\n7,normal\n7,Erguss\n")
    assert "keep one" not in str(caught.value)
    assert f"cannot be told apart by {header}; add a column StudyInstanceUID" in str(caught.value)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_separator_is_what_the_header_has_most_of_outside_of_quotes(
    tmp_path: Path, separator: str
) -> None:
    header = separator.join(('"Name, Vorname; Titel"', "Patient", "Befund"))
    table = table_of(tmp_path, f"{header}\n" + separator.join(('"a, b"', "p7", "x")) + "\n")
    assert (table.label_names, table.left_out) == (("Befund",), ("Name, Vorname; Titel",))
    assert row_for(table, "a.dcm", Facts(patient="p7")) == Facts(patient="p7", labels={"Befund": "x"})


@pytest.mark.parametrize("text", ["Pfad;Befund\n1;Ödem\n", "Pfad;Größe\n1;2\n"])
def test_a_csv_of_windows_1252_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.csv").write_bytes(text.encode("windows-1252"))
    with pytest.raises(UsageError, match=r"is not UTF-8; in Excel save it as 'CSV UTF-8'.*iconv -f WINDOWS"):
        read_labels(tmp_path / "labels.csv")


def test_a_row_about_another_image_of_the_patient_does_not_match(tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,patient,finding\n1.png,7,x\n")
    assert row_for(table, "2.png", Facts(patient="7")) is None


def test_rows_give_patient_sex_age_and_view(tmp_path: Path) -> None:
    table = table_of(
        tmp_path, "image_id;Patient ID;Gender;Patient Age;View Position;finding\nq;p7;female;018M;pa;x\n"
    )
    row = row_for(table, "q.dcm")
    assert row == Facts(patient="p7", sex="F", age=1.5, view="PA", labels={"finding": "x"})


@pytest.mark.parametrize(
    ("age", "years"), [("63", 63.0), ("063Y", 63.0), ("0.5", 0.5), ("", None), ("n/a", None), ("414", None)]
)
def test_an_age_is_in_years_or_unknown(tmp_path: Path, age: str, years: float | None) -> None:
    row = row_for(table_of(tmp_path, f"path,age\n1,{age}\n"), "1.png")
    assert row is not None
    assert row.age == years


def test_what_the_film_says_counts_and_the_row_fills_the_rest() -> None:
    film = Facts(patient="own", age=0.0, labels={"a": "own", "b": ""})
    row = Facts(patient="row", age=9.0, sex="M", labels={"a": "row", "b": "row"})
    assert film.filled_from(row) == Facts(patient="own", age=0.0, sex="M", labels={"a": "own", "b": "row"})


def test_columns_that_may_name_a_patient_are_no_labels(tmp_path: Path) -> None:
    header = "path,Patient Name,birth_date,Accession Number,StudyDate,url,SeriesInstanceUID,Unnamed: 0,finding,update"
    table = table_of(tmp_path, f"{header}\n1,a,b,c,d,e,f,g,h,i\n")
    assert table.label_names == ("finding", "update")
    assert len(table.left_out) == 6  # films may be matched by the Accession Number


KEYWORDS = (
    *(
        "AcquisitionDate",
        "AcquisitionDateTime",
        "ContentDate",
        "SeriesDate",
        "PatientBirthName",
        "PatientAddress",
    ),
    *(
        "PatientTelephoneNumbers",
        "OtherPatientIDs",
        "OtherPatientNames",
        "InstitutionName",
        "InstitutionAddress",
    ),
    *(
        "ReferringPhysicianName",
        "PhysiciansOfRecord",
        "OperatorsName",
        "StationName",
        "InstitutionalDepartmentName",
    ),
)


@pytest.mark.parametrize("column", [*KEYWORDS, *map(str.lower, ["Operator Names", "hospital_name"])])
def test_a_column_named_by_a_keyword_of_dicom_may_name_a_patient_too(tmp_path: Path, column: str) -> None:
    table = table_of(tmp_path, f"path,{column},finding\n1,a,b\n")
    assert (table.label_names, table.left_out) == (("finding",), (column,))


@pytest.mark.parametrize(
    "column",
    [
        *(*NIH_FINDINGS, *CHEXPERT_FINDINGS, "Nodule/Mass", "COVID-19", "PleuralThickening", "LungOpacity"),
        *("BodyPartExamined", "class_name", "ClassName", "Finding Names", "Disease IDs", "label_names"),
        *(
            "ManufacturerModelName",
            "StudyDescription",
            "update",
            "candidate",
            "Aids",
            "grids",
            "KVP",
            "OpacityIDx",
        ),
    ],
)
def test_a_finding_is_no_name(tmp_path: Path, column: str) -> None:
    assert table_of(tmp_path, f"path,{column}\n1,a\n").label_names == (column,)


def test_an_export_by_keywords_gives_the_finding_alone_and_an_age_that_is_pooled(tmp_path: Path) -> None:
    header = "SOPInstanceUID,PatientID,PatientAge,PatientSex,ReferringPhysicianName,AcquisitionDate"
    table = table_of(
        tmp_path,
        f"{header},PatientAddress,InstitutionName,finding\n7,p7,097Y,F,Meier,20260101,A street,A ward,x\n",
    )
    assert table.label_names == ("finding",)
    row = row_for(table, "a.dcm", instance="7")
    assert row == Facts(patient="p7", age=97.0, sex="F", labels={"finding": "x"})
    assert pooled_age(row.age) == 90


def test_label_columns_picks_some(tmp_path: Path) -> None:
    table = table_of(tmp_path, "path,a,b,c\n1,x,y,z\n", ("c", "a"))
    assert table.label_names == ("a", "c")


def test_a_label_does_not_take_a_column_of_the_manifest(tmp_path: Path) -> None:
    assert table_of(tmp_path, "path,split,rows\n1,train,3\n").label_names == ("split_label", "rows_label")


@pytest.mark.parametrize(
    ("text", "columns", "sentence"),
    [
        ("finding,score\nx,1\n", None, "no column to match films by"),
        ("", None, "cannot be read as CSV"),
        ('path,a\n"1', None, "cannot be read as CSV"),
        ("path,a\n1,x\n1,y\n", None, "lines 2 and 3 have the same path"),
        ("patient,a\n1,x\n\n2,x\n1,y\n", None, "have the same patient"),
        ("path,a\n1,x\n", ("b",), "has these label columns: a"),
        ("path,birth_date\n1,x\n", ("birth_date",), "has these label columns: none"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused(
    tmp_path: Path, text: str, columns: tuple[str, ...] | None, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        table_of(tmp_path, text, columns)


def test_the_same_row_twice_is_one_row(tmp_path: Path) -> None:
    assert row_for(table_of(tmp_path, "path,a\n1,x\n1,x\n"), "1.png") is not None


def test_a_missing_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_labels(tmp_path / "nowhere.csv")


def test_a_column_names_splits_and_is_no_label(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,patient,fold,finding\n1,a,Train,x\n2,a,,y\n3,b,valid,x\n")
    table = read_labels(tmp_path / "labels.csv", split_column="fold")
    assert [row.split for row in table.rows] == ["Train", "", "valid"]
    assert table.label_names == ("finding",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "path,patient,fold\n1,a,train\n2,b,test\n3,a,test\n",
            "lines 2 and 4 put one patient into train and test",
        ),
        ("path,fold\n1,train\n2,Erika\n", "line 3, names no split"),
        ("path,part\n1,train\n", "has these columns: path, part"),
    ],
)
def test_a_split_column_that_cannot_be_used_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=sentence) as caught:
        read_labels(tmp_path / "labels.csv", split_column="fold")
    assert "Erika" not in str(caught.value)


def test_a_packed_csv_is_read(tmp_path: Path) -> None:
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(b"path,finding\n1,x\n"))
    assert row_for(read_labels(tmp_path / "labels.csv.gz"), "1.png") == Facts(labels={"finding": "x"})


def test_a_packed_csv_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress(b"path,finding\n1,x\n")[:-9])
    with pytest.raises(UsageError, match="cannot be read as CSV"):
        read_labels(tmp_path / "labels.csv.gz")


@pytest.mark.parametrize("suffix", ["zip", "ZIP", "tar", "tar.gz", "tgz", "tar.xz", "txz", "tar.bz2", "tbz2"])
def test_an_archive_is_a_folder_to_its_films(suffix: str) -> None:
    path = Path(f"/data/sick.{suffix}/1.png")
    assert facts_from_layout(path, "folders") == Facts(labels={"finding": "sick"})


def test_folders_name_findings() -> None:
    assert facts_from_layout(Path("/data/sick/1.png"), "folders") == Facts(labels={"finding": "sick"})


@pytest.mark.parametrize(
    ("path", "patient", "finding", "cause"),
    [
        ("train/PNEUMONIA/person12_bacteria_46.jpeg", "person12", "PNEUMONIA", "bacteria"),
        ("test/PNEUMONIA/person12_virus_7.jpeg", "person12", "PNEUMONIA", "virus"),
        ("train/NORMAL/IM-0115-0001.jpeg", "IM-0115", "NORMAL", ""),
        ("test/NORMAL/NORMAL2-IM-0115-0001-0002.jpeg", "IM-0115", "NORMAL", ""),
        ("train/NORMAL/other.jpeg", "", "NORMAL", ""),
    ],
)
def test_kermany_names_say_patient_finding_and_cause(
    path: str, patient: str, finding: str, cause: str
) -> None:
    facts = facts_from_layout(Path("/data", path), "kermany")
    assert facts == Facts(patient=patient, labels={"finding": finding, "cause": cause})


def test_a_folder_whose_name_is_no_text_names_a_finding_in_text() -> None:
    facts = facts_from_layout(Path(os.fsdecode(b"/in/caf\xe9/1.png")), "folders")
    assert facts == Facts(labels={"finding": "caf\\xe9"})


def test_without_a_layout_names_say_nothing() -> None:
    assert facts_from_layout(Path("/data/PNEUMONIA/person12_virus_7.jpeg"), None) == Facts()
