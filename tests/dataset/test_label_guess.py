"""Which columns of a hospital's CSV become labels: what names a patient leaves in no language."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xraygen.dataset.allowed import pooled_age
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.label_guess import looks_like_a_label, may_be_a_label, may_name_a_patient
from xraygen.dataset.labels import read_labels
from xraygen.errors import UsageError

PRIVATE = {
    "de": "Nachname Vorname Patientenname Name Geburtsname Geburtsdatum GeburtsDatum Geb.-Datum Geburtsort Geburtsjahr "
    "Strasse Straße PLZ Wohnort Telefon Telefonnummer Anschrift Adresse Überweiser Hausarzt Einweiser Fallnummer "
    "Fall-ID Versichertennummer Krankenversicherung Untersuchungsdatum Aufnahmedatum Befundtext Freitext Bemerkung "
    "E-Mail Untersuchungs-Nr. U\u0308berweiser",
    "fr": "Nom Prénom date_naissance Né(e)_naissance Adresse code_postal Téléphone Médecin IPP numero_dossier",
    "es": "Nombre Apellidos Apellido1 fecha_nacimiento Dirección Teléfono DNI Médico nombre_del_paciente",
    "it": "Cognome Nome data_nascita Indirizzo codice_fiscale Telefono",
    "en": "FirstName family_name zip_code city AccessionNumber case_id ReportText Comments",
}
FINDINGS = (
    "Befund Diagnose Kardiomegalie Pleuraerguss Erguß Verschattung Gerät Klassenname Modellname Organname Qualität "
    "Lungenödem Aufnahmeart mobil Stratum KVP Score Schweregrad Seite diagnostic nombre_de_lesions lésion neumonía "
    "derrame polmonite Ort_der_Läsion class_id disease_name normal note"
)


@pytest.mark.parametrize("column", [column for names in PRIVATE.values() for column in names.split()])
def test_a_column_of_persons_is_known_by_its_name_in_six_languages(column: str) -> None:
    assert may_name_a_patient(column)
    assert may_name_a_patient(column.upper())


@pytest.mark.parametrize("column", FINDINGS.split())
def test_a_finding_in_any_language_is_no_name(column: str) -> None:
    assert not may_name_a_patient(column)


ENDINGS = ("al", "ak", "in", "ski", "ec")
MADE_UP = [f"{name}{ending}" for name in ("Kow", "Now", "Wis", "Zie", "Lew") for ending in ENDINGS]


@pytest.mark.parametrize(
    "values",
    [
        [f"{day}.{month}.19{day + 40}" for day in range(1, 10) for month in (1, 12)],
        ["11.8.47", "", "", "1.12.52"],
        ["3/14/1952", "12/1/1960"],
        ["1947-08-11", "1950-01-02 12:30"],
        ["19470811", "19501231", "20240229131415.9"],
        ["11 sierpnia 1947", "12-Mar-2020"],
        ["13:14", "08:15:00"],
        ["084015.140891", "084016.2", "235959,5"],
        ["084015.140891", *["unknown"] * 5],
        ["Erguss", "Erguss seit 3.4.2024", "normal", "normal"],
        ["48151623", "48151624", "48151623"],
        ["20095", "80331", "10115", "20095"],
        ["A123456789", "B987654321"],
        ["040/123 45 67", "0151-2342"],
        ["1.2.840.10008.1", "1.2.840.10008.2"],
        ["Kowalski^Jan"],
        ["jan@example.pl"],
        ["normal", "Kein Infiltrat, kein Erguss, Herz normal groß, zur Voraufnahme vom Vortag unverändert"],
        ["normal", "kein Erguss\nHerz groß"],
        MADE_UP,
        [f"{name}{again}" for name in MADE_UP for again in range(3)] * 9,
    ],
    ids=lambda values: str(values[0])[:20],
)  # fmt: skip
def test_values_that_name_a_patient_are_no_labels_whatever_their_column_is_called(
    values: Sequence[str], tmp_path: Path
) -> None:
    assert not looks_like_a_label(values)


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["", ""],
        [f"finding {number}" for number in range(10)],  # of a small table
        ["normal", "", "Erguss"],
        ["0", "1", "-1", ""],
        ["0.0", "1.0"],
        [f"{value:.6f}" for value in np.random.default_rng(0).normal(0, 100, 500)],
        [f"{value:.3f}".replace(".", ",") for value in np.random.default_rng(0).normal(0, 1, 500)],
        [str(number) for number in range(1000)],
        [
            f"{value:.2f}" for value in np.random.default_rng(0).uniform(100000, 240000, 500)
        ],  # a third read as times
        ["<5", ">300", "1e-5", "12 %"],
        ["1:40", "1:80", "1:160"],
        ["233604007", "36118008"] * 10,  # SNOMED CT codes of few findings
        ["|".join(MADE_UP[first : first + 3]) for first in range(20)] * 5,
        MADE_UP * 3,
        ["2024", "2025"],
        ["CHEST (PA AND LAT)", "CHEST (PORTABLE AP)"],
        ["Mass 12.5 mm", "Nodule 3/4"],
    ],
    ids=lambda values: str([*values, ""][0])[:20],
)
def test_few_words_and_measured_numbers_are_labels(values: Sequence[str]) -> None:
    assert looks_like_a_label(values)


CALLED_TIMES = (
    "StudyTime study_time STUDY_TIME studytime AcquisitionTime Uhrzeit Aufnahmeuhrzeit heure hora_estudio"
)
MEASURED = "ExposureTime survival_time time_to_event timeline sometimes Zeitung horacio"


@pytest.mark.parametrize("column", [*CALLED_TIMES.split(), *MEASURED.split()])
def test_a_time_of_day_is_known_by_its_name_and_may_be_named(column: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"path,{column}\n1,84015.1\n2,1801.0\n")
    guessed = read_labels(tmp_path / "labels.csv")
    assert guessed.left_out == ((column,) if column in CALLED_TIMES.split() else ())
    assert read_labels(tmp_path / "labels.csv", (column,)).label_names == (column,)


@pytest.mark.parametrize(
    ("column", "values", "label"),
    [
        ("age_at_diagnosis", ["63", "89"], True),
        ("age_at_diagnosis", ["63", "", "93"], False),
        ("AgeMonths", ["756", "800"], False),
        ("PatientAge2_age", ["093Y", "001Y"], False),
        ("età", ["93,5"], False),
        ("age_group", ["<60", "60-89", "90+"], True),
        ("bone_age", ["120", "95"], True),
        ("gestational_age", ["273", "260"], True),
        ("dosage", ["120", "95"], True),
        ("stage", ["1", "2"], True),
        ("age", ["1" * 5000], False),
    ],
)
def test_an_age_that_the_manifest_would_pool_is_no_label(
    column: str, values: list[str], *, label: bool
) -> None:
    assert may_be_a_label(column, values) == label


def test_a_column_that_only_its_values_keep_out_may_be_named(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path;Code;Nachname;Befund\n1;48151623;Meier;x\n2;48151624;Braun;y\n", encoding="utf-8")
    guessed, named = read_labels(table), read_labels(table, ("Code",))
    assert (guessed.label_names, guessed.left_out) == (("Befund",), ("Code", "Nachname"))
    assert (named.label_names, named.left_out) == (("Code",), ("Nachname",))
    with pytest.raises(
        UsageError, match="has these label columns: Code, Befund; a column of that name may name"
    ):
        read_labels(table, ("Nachname",))


def test_german_columns_fill_sex_and_age(tmp_path: Path) -> None:
    rows: list[tuple[str, str, str, float | None]]
    rows = [("w", "97", "F", 97.0), ("Weiblich", "63 J", "F", 63.0), ("männlich", "0,5", "M", 0.5)]
    rows += [
        ("M", "097Y", "M", 97.0),
        ("d", "", "O", None),
        ("divers", "18", "O", 18.0),
        ("?", "?", "", None),
    ]
    lines = [f"{number}.dcm;P{number};{sex};{age}" for number, (sex, age, _, _) in enumerate(rows)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["Dateiname;Patienten-ID;Geschlecht;Alter", *lines]), encoding="utf-8")
    read = read_labels(table)
    assert read.label_names == read.left_out == ()
    assert [(row.sex, row.age) for row in read.rows] == [(sex, age) for _, _, sex, age in rows]
    assert [row.patient for row in read.rows] == [f"P{number}" for number in range(len(rows))]
    assert max(pooled_age(row.age) or 0 for row in read.rows) == 90
    for header in ("Patientennummer", "PatientenNr"):
        table.write_text(f"Pfad,{header}\n1,a\n")
        assert read_labels(table).rows[0].patient == "a"


PLANTED = (
    "Quarkovic", "Zebedia", "11.08.19", "48151623", "Plumbobweg", "54321", "Ottersbach", "0151-2342", "A123456",
    "29.02.2024", "Kommentarius", "Kowalnik", "ACC90817", "85010",
)  # fmt: skip


def test_nothing_of_a_german_table_names_anybody(
    settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    header = (
        "Patienten-ID;Nachname;Vorname;Geb.-Datum;Fallnummer;Straße;PLZ;Überweiser;Telefon;Versichertennummer"
    )
    header += ";Untersuchungsdatum;Befundtext;Nazwisko;PESEL;Accession Number;Geschlecht;Alter;Befund"
    rows = []
    for number in range(24):  # of Kowalnik and 85010 only the values say what they are
        write_dicom(tmp_path / f"in/{number}.dcm", number, f"PAT-{number}", f"1.2.{number}")
        rows.append(
            f"PAT-{number};Quarkovic;Zebedia;11.08.19{number + 30};48151623{number};Plumbobweg {number};54321;"
            f"Ottersbach;0151-2342{number};A123456{number};29.02.2024;Kommentarius;Kowalnik{number};"
            f"85010{number:06};;w;97;F{number % 2}"
        )
    (tmp_path / "labels.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    summary = ingest(
        [tmp_path / "in"], tmp_path / "dataset", replace(settings, labels=tmp_path / "labels.csv")
    )
    assert summary.label_names == ("Befund",)
    assert summary.unlabelled == 0
    assert len(summary.left_out) == 13
    content = b"".join(path.read_bytes() for path in (tmp_path / "dataset").iterdir())
    content += json.dumps(summary.to_json()).encode()
    assert [word for word in PLANTED if word.encode() in content] == []
    assert b",97" not in content
