"""What a column of a CSV is, by its header."""

from pathlib import Path

import pytest

from xraygen.dataset.label_roles import roles_of
from xraygen.dataset.labels import read_labels


@pytest.mark.parametrize(
    "header",
    [
        *(
            "age",
            "patient_age",
            "Alter",
            "Age (years)",
            "age_years",
            "AgeAtStudy",
            "Age at exam [y]",
            "AGE_IN_YEARS",
        ),
        *(
            "PatientAgeYears",
            "patientage_years",
            "Patientenalter",
            "Alter bei Untersuchung",
            "Alter (Jahre)",
            "Edad",
        ),
        *("StudyAge", "Idade (anos)", "Età", "Leeftijd"),
    ],
)
def test_an_age_is_pooled_whatever_its_header_adds(header: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"path,{header}\n1,93\n2,97.5\n", encoding="utf-8")
    table = read_labels(tmp_path / "labels.csv")
    assert (table.label_names, table.left_out) == ((), ())
    assert [row.age for row in table.rows] == [93.0, 97.5]


@pytest.mark.parametrize(
    "header",
    [
        "age_group",
        "AgeMonths",
        "age_days",
        "bone_age",
        "Maternal Age",
        "dosage",
        "stage",
        "image_y",
        "age_at_death",
    ],
)
def test_another_age_is_not_the_patients_at_the_film(header: str) -> None:
    assert roles_of([header]) == {header: None}


@pytest.mark.parametrize(("one", "other"), [("Age", "AgeAtStudy"), ("Age (years)", "AgeAtStudy")])
def test_of_two_ages_none_is_guessed_and_none_is_a_label(one: str, other: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"path,{one},{other},finding\n1,93,94,x\n2,95,96,y\n")
    table = read_labels(tmp_path / "labels.csv")
    assert table.label_names == ("finding",)
    assert table.left_out == ((other,) if one == "Age" else (one, other))
    assert table.rows[0].age == (93.0 if one == "Age" else None)
