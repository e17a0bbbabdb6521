"""Which row speaks of which film, from the file to the manifest."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from pydicom import dcmread

from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.labels import Facts, facts_from_layout, read_labels
from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError


def test_each_examination_of_a_patient_gets_its_own_row_and_its_number_goes_nowhere(
    settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    for number in range(6):  # three patients, two examinations each, in the order of the paths
        path = write_dicom(tmp_path / f"in/{number}.dcm", number, f"PAT-{number // 2}", f"1.2.{number}")
        film = dcmread(path)
        film.AccessionNumber = f"ACC90817-{number}"
        film.save_as(path)
    rows = "\n".join(
        f"PAT-{number // 2};ACC90817-{number};{('normal', 'Erguss')[number % 2]}" for number in range(6)
    )
    (tmp_path / "labels.csv").write_text(f"Patient;AccessionNumber;Befund\n{rows}\n")
    ingest([tmp_path / "in"], tmp_path / "dataset", replace(settings, labels=tmp_path / "labels.csv"))
    assert list(open_dataset(tmp_path / "dataset").manifest["Befund"]) == ["normal", "Erguss"] * 3
    written = [*(tmp_path / "dataset").iterdir(), *tmp_path.glob("fixed.key*")]
    assert not [path.name for path in written if b"ACC90817" in path.read_bytes()]


def finding_of(
    folder: Path,
    text: str,
    path: str,
    source: str,
    known: Facts = Facts(),  # noqa: B008 - Facts is frozen
    instance: str = "",
) -> str | None:
    """What the CSV says of the film `path`, whose source is the folder `source`; None where no row speaks of it."""
    (folder / "labels.csv").write_text(text)
    relative = PurePosixPath(path).relative_to(source)
    row = read_labels(folder / "labels.csv").row_of(Path(path), relative, known, instance)
    return row.labels["finding"] if row else None


def test_a_name_that_recurs_does_not_give_a_patient_the_row_of_another(
    settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    for number, patient in enumerate("ABC"):
        write_dicom(tmp_path / f"in/{patient}/IM1.dcm", number, f"PAT-{patient}", f"1.2.{number}")
    (tmp_path / "labels.csv").write_text("file,patient_id,finding\nIM1.dcm,PAT-A,sick\n")
    summary = ingest(
        [tmp_path / "in"], tmp_path / "dataset", replace(settings, labels=tmp_path / "labels.csv")
    )
    assert list(open_dataset(tmp_path / "dataset").manifest["finding"]) == ["sick", "", ""]
    assert summary.unlabelled == 2


UID = "1.2.276.0.7230010.{}"


@pytest.mark.parametrize(
    ("columns", "row", "known", "instance", "found"),
    [
        ("file,patient", "1.dcm,7", Facts(patient="7"), "", True),
        ("file,patient", "1.dcm,7", Facts(patient="8"), "", False),
        ("file,patient", "1.dcm,7", Facts(), "", True),
        ("file,patient", "1.dcm,", Facts(patient="8"), "", True),
        ("file,patient", "1.dcm,7", Facts(patient="007"), "", True),  # Excel drops zeros
        ("file,patient", "1.dcm,7.0", Facts(patient="7"), "", True),  # and pandas adds one
        ("file,patient", "1.dcm,pat-7", Facts(patient="PAT-7"), "", True),
        ("image_id,patient", "1,7", Facts(patient="8"), "", False),
        ("file,StudyInstanceUID", f"1.dcm,{UID.format(1)}", Facts(study=UID.format(1)), "", True),
        ("file,StudyInstanceUID", f"1.dcm,{UID.format(1)}", Facts(study=UID.format(2)), "", False),
        ("file,study_id", "1.dcm,50414267", Facts(study=UID.format(2)), "", True),  # a number is no UID
        ("file,SOPInstanceUID", f"1.dcm,{UID.format(1)}", Facts(), "", True),
        ("file,SOPInstanceUID", f"1.dcm,{UID.format(1)}", Facts(), UID.format(2), False),
        ("SOPInstanceUID,patient", f"{UID.format(1)},7", Facts(patient="8"), UID.format(1), True),  # a pseudonym
    ],
)  # fmt: skip
def test_a_row_found_by_a_name_does_not_speak_of_a_film_that_it_contradicts(
    tmp_path: Path, columns: str, row: str, known: Facts, instance: str, *, found: bool
) -> None:
    said = finding_of(tmp_path, f"{columns},finding\n{row},x\n", "/data/in/1.dcm", "/data", known, instance)
    assert said == ("x" if found else None)


def test_a_patient_whom_only_a_files_name_tells_is_no_contradiction(tmp_path: Path) -> None:
    path = Path("/data/NORMAL/IM-0115-0001.jpeg")
    known = Facts(sex="F").filled_from(facts_from_layout(path, "kermany"))
    assert known.patient == "IM-0115"
    text = f"file,patient,finding\n{path.name},child 9,x\n"
    assert finding_of(tmp_path, text, str(path), "/data", known) == "x"


def test_the_sop_instance_uid_goes_before_a_path(tmp_path: Path) -> None:
    text = f"path,SOPInstanceUID,finding\n1.dcm,{UID.format(1)},x\n2.dcm,{UID.format(2)},y\n3.dcm,,z\n"
    found = [
        finding_of(tmp_path, text, f"/data/{name}.dcm", "/data", instance=UID.format(uid))
        for name, uid in ((1, 2), (2, 2), (3, 3), (1, 3))
    ]
    assert found == ["y", "y", "z", None]


@pytest.mark.parametrize(
    ("header", "key"), [("SOPInstanceUID", UID), ("path", "{}/IM1.dcm"), ("DICOM ID", "im{}")]
)
def test_names_that_recur_are_no_keys_where_a_better_one_tells_the_films_apart(
    tmp_path: Path, header: str, key: str
) -> None:
    rows = "".join(f"IM1.dcm,{key.format(number)},{number},F{number}\n" for number in range(3))
    text = f"file,{header},patient_id,finding\n{rows}"
    for number in range(3):
        path = f"/data/{number}/im{number}.dcm" if header == "DICOM ID" else f"/data/{number}/IM1.dcm"
        said = finding_of(tmp_path, text, path, "/data", Facts(), UID.format(number))
        assert said == f"F{number}"
    assert finding_of(tmp_path, text, "/data/IM1.dcm", "/data") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("file,a\nIM1.dcm,x\nIM1.dcm,y\n", "give their paths with the folders, or add a column SOPInstanceUID"),
        ("image_id,a\nIM1,x\nIM1,y\n", "give their paths with the folders, or add a column SOPInstanceUID"),
        ("file,SOPInstanceUID,a\nIM1.dcm,1,x\nIM1.dcm,,y\n", "lines 2 and 3 have the same file"),
        ("file,a\np/IM1.dcm,x\np/IM1.dcm,y\n", "keep one of them"),
        ("file,SOPInstanceUID,a\n1.dcm,1,x\n2.dcm,1,y\n1.dcm,1,z\n", "lines 2 and 4 have the same file"),
        ("accession,patient,a\n1,p,x\n1,q,y\n", "lines 2 and 3 have the same accession"),
    ],
)  # fmt: skip
def test_rows_that_nothing_tells_apart_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=sentence) as caught:
        read_labels(tmp_path / "labels.csv")
    assert ("keep one" in str(caught.value)) == ("p/IM1" in text)


CHEXPERT = ("CheXpert-v1.0/train/patient1/study1/view1.jpg", "CheXpert-v1.0/train/patient2/study1/view1.jpg")


@pytest.mark.parametrize(
    ("paths", "film", "source", "found"),
    [
        (("b/0.png", "b/1.png"), "/g/a/0.png", "/g/a", False),
        (("b/0.png", "b/1.png"), "/g/b/0.png", "/g/b", True),
        (("a/0.png", "b/0.png"), "/g/b/0.png", "/g/b", False),  # the other row's
        (("p1/study1/0.png", "p2/study1/1.png"), "/g/p3/study1/0.png", "/g/p3", False),
        (("0.png", "b/1.png"), "/g/a/0.png", "/g/a", True),
        (("0.png", "b/1.png"), "/g/a/1.png", "/g/a", False),
        (CHEXPERT, "/data/CheXpert-v1.0/train/patient1/study1/view1.jpg", "/data", True),
        (CHEXPERT, "/data/chexpert/train/patient1/study1/view1.jpg", "/data/chexpert", True),
        (CHEXPERT, "/data/train/patient1/study1/view1.jpg", "/data/train", True),
        (CHEXPERT, "/data/training/patient1/study1/view1.jpg", "/data/training", True),
        (CHEXPERT, "/data/train/patient1/study1/view1.jpg", "/data/train/patient1/study1", True),
        (CHEXPERT, "/data/train/patient3/study1/view1.jpg", "/data/train/patient3", False),
        (CHEXPERT, "/data/valid/patient1/study2/view1.jpg", "/data/valid", False),
    ],
)
def test_the_folders_of_a_row_agree_with_the_films_but_for_those_that_all_rows_begin_with(
    tmp_path: Path, paths: tuple[str, str], film: str, source: str, *, found: bool
) -> None:
    text = f"path,finding\n{paths[0]},x\n{paths[1]},{'x' if 'p3' in film else 'y'}\n"
    assert (finding_of(tmp_path, text, film, source) == "x") == found
