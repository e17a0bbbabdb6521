"""One patient has one name, whoever of his films tells it: himself, his study or a copy."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from xraygen.dataset import reading
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.patients import PATIENT_BY, unite
from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError
from xraygen.progress import Progress
from xraygen.seeds import numpy_generator

WriteDicom = Callable[..., Path]
Film = tuple[str, str, str]
"""Patient, what it is made of, study."""
STUDY_OF_P: Film = ("P", "patient", "S")
STUDY_OF_Q: Film = ("Q", "patient", "S")
OF_STUDY: Film = ("made of S", "study", "S")
OF_ANOTHER: Film = ("made of T", "study", "T")
ALONE: Film = ("made of x", "image", "")
OF_P: Film = ("P", "patient", "")
OF_Q: Film = ("Q", "patient", "")


def united(films: Sequence[Film], copies: Sequence[tuple[Film, Film]] = ()) -> tuple[dict[Film, str], int]:
    """The name of each film's patient, which must be the same in every order of the films; and the torn studies."""
    answers = []
    for order in permutations(films):
        patients, studies = [film[0] for film in order], [film[2] for film in order]
        by = [PATIENT_BY.index(film[1]) for film in order]
        pairs = [(order.index(one), order.index(other)) for one, other in copies]
        become, torn = unite(patients, by, studies, pairs, frozenset(patients))
        answers.append(({film: become.get(film[0], film[0]) for film in films}, torn))
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def test_a_film_of_the_study_names_the_patient_of_all() -> None:
    assert united([OF_STUDY, STUDY_OF_P, OF_Q]) == ({OF_STUDY: "P", STUDY_OF_P: "P", OF_Q: "Q"}, 0)


def test_a_study_of_two_patients_is_left_as_it_is_and_counted() -> None:
    films = [OF_STUDY, STUDY_OF_P, STUDY_OF_Q]
    assert united(films) == ({film: film[0] for film in films}, 1)
    assert united(films[1:])[1] == 1
    assert united([OF_STUDY, STUDY_OF_P, OF_Q], [(OF_STUDY, OF_Q)]) == (
        {OF_STUDY: "made of S", STUDY_OF_P: "P", OF_Q: "Q"},
        1,
    )


def test_a_copy_tells_it_to_the_study_whichever_of_the_two_is_kept() -> None:
    for pair in ((OF_STUDY, OF_P), (OF_P, OF_STUDY)):
        assert united([OF_STUDY, OF_P], [pair])[0][OF_STUDY] == "P"


def test_copies_in_two_studies_make_them_one_patient_s() -> None:
    of_p = ("P", "patient", "T")
    assert united([OF_STUDY, OF_ANOTHER, of_p], [(OF_STUDY, OF_ANOTHER)])[0][OF_STUDY] == "P"
    nobody, _ = united([OF_STUDY, OF_ANOTHER], [(OF_STUDY, OF_ANOTHER)])
    assert len({*nobody.values()}) == 1


def test_a_film_alone_goes_to_one_of_two_patients_that_its_copies_name() -> None:
    assert united([ALONE, OF_P, OF_Q], [(ALONE, OF_P), (ALONE, OF_Q)]) == (
        {ALONE: "P", OF_P: "P", OF_Q: "Q"},
        0,
    )


def test_a_copy_of_which_nothing_is_known_gives_no_other_name() -> None:
    """Else more films would move a patient, whom somebody may have learned from."""
    become, _ = unite(["made of b", "made of z"], [0, 0], ["", ""], [(0, 1)], {"made of b"})
    assert become == {"made of z": "made of b"}


def reached(start: str, links: set[tuple[str, str]], ends: set[str]) -> set[str]:
    """The ends to which links lead, one after another, until there is no more."""
    seen, before = {start}, 0
    while len(seen) > before:
        before = len(seen)
        seen |= {other for one, other in links if one in seen and one not in ends}
    return seen & ends


def test_it_is_what_following_every_link_gives() -> None:
    generator, torn_somewhere = numpy_generator(0, "patients"), 0
    for _ in range(300):
        studies = [f"S{number}" if number else "" for number in generator.integers(0, 5, 8)]
        knows = generator.integers(0, 3, 8)
        by = [2 if number == 0 else 1 if study else 0 for number, study in zip(knows, studies, strict=True)]
        patients = [
            (f"image {place}", f"of {studies[place]}", f"P{generator.integers(3)}")[made]
            for place, made in enumerate(by)
        ]
        copies = [(int(one), int(other)) for one, other in np.argwhere(generator.random((8, 8)) < 0.04)]
        become, torn = unite(patients, by, studies, copies, {*patients})
        pairs = {(patients[one], patients[other]) for one, other in copies}
        pairs |= {(study, patient) for study, patient in zip(studies, patients, strict=True) if study}
        ends = {patient for patient in patients if patient[0] == "P"}
        for patient in {*patients} - ends:
            named = reached(patient, pairs | {(other, one) for one, other in pairs}, ends)
            if len(named) == 1:
                assert {become[patient]} == named
            elif not named or patient.startswith("of"):
                assert become.get(patient, patient) not in ends
        torn_somewhere += torn > 0
    assert torn_somewhere > 50


@pytest.mark.parametrize("knows", [0, 1])
def test_a_study_is_in_one_split_though_one_film_names_nobody(
    knows: int, settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """Before, the other film's patient was made of the study: under one key of two or so in another split."""
    for study in range(6):
        for film in range(2):
            patient = f"P{study}" if film == knows else ""
            write_dicom(tmp_path / f"in/{study}-{film}.dcm", 2 * study + film, patient, f"1.2.{study}")
    summary = ingest([tmp_path / "in"], tmp_path / "dataset", settings)
    manifest = open_dataset(tmp_path / "dataset").manifest
    assert manifest.groupby("study")["split"].nunique().max() == 1
    assert (len(manifest), manifest["patient"].nunique(), summary.notes) == (12, 6, ())
    crosswalk = pd.read_csv(f"{settings.key}.crosswalk.csv", dtype=str)
    assert list(crosswalk["patient"]) == list(manifest["patient"])


def test_a_csv_that_names_the_patient_of_one_film_names_him_for_the_study(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for film in range(3):
        write_dicom(tmp_path / f"in/{film}.dcm", film, study="1.2.3")
    (tmp_path / "labels.csv").write_text("file,patient\n1.dcm,P\n")
    ingest([tmp_path / "in"], tmp_path / "dataset", replace(settings, labels=tmp_path / "labels.csv"))
    assert open_dataset(tmp_path / "dataset").manifest["patient"].nunique() == 1


@pytest.mark.parametrize("copy", ["0.dcm", "9.dcm"])
def test_a_film_that_is_refused_names_the_patient_of_its_study_too(
    copy: str, settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """Another copy of film 1 has another study, in which there is one more film."""
    write_dicom(tmp_path / "in/1.dcm", 1, "P", "1.2.3")
    write_dicom(tmp_path / "in" / copy, 1, "", "4.5.6")
    write_dicom(tmp_path / "in/2.dcm", 2, "", "4.5.6")
    write_dicom(tmp_path / "in/3.dcm", 3, "", "1.2.3")
    assert ingest([tmp_path / "in"], tmp_path / "dataset", settings).accepted == 3
    assert open_dataset(tmp_path / "dataset").manifest["patient"].nunique() == 1


def test_a_film_of_another_view_names_the_patient_of_its_study_too(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(tmp_path / "in/1.dcm", 1, "", "1.2.3")
    lateral = write_dicom(tmp_path / "in/2.dcm", 2, "P", "1.2.3")
    film = pydicom.dcmread(lateral)
    film.ViewPosition = "LL"
    film.save_as(lateral)
    write_dicom(tmp_path / "in/3.dcm", 3, "P", "4.5.6")
    summary = ingest([tmp_path / "in"], tmp_path / "dataset", replace(settings, views=("PA",)))
    assert summary.rejected == {"view": 1}
    assert open_dataset(tmp_path / "dataset").manifest["patient"].nunique() == 1


def test_a_study_of_two_patients_is_said_each_time(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    for film, patient in enumerate(("P", "Q", "")):
        write_dicom(tmp_path / f"in/{film}.dcm", film, patient, "1.2.3")
    named = replace(settings, split="1,0,0")
    for _ in range(2):
        (note,) = ingest([tmp_path / "in"], tmp_path / "dataset", named).notes
        assert note.startswith(
            "studies whose films name two patients or more, and that may be in two splits: 1;"
        )
    assert open_dataset(tmp_path / "dataset").manifest["patient"].nunique() == 3


def test_it_holds_when_an_ingest_goes_on_and_when_a_dataset_is_extended(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_FILMS_PER_SHARD", 2)

    def kill(progress: Progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    for film in range(5):
        write_dicom(tmp_path / f"in/{film}.dcm", film, "P" if film == 4 else "", "1.2.3")
    with pytest.raises(KeyboardInterrupt):
        ingest([tmp_path / "in"], tmp_path / "dataset", settings, kill)
    ingest([tmp_path / "in"], tmp_path / "dataset", settings)
    before = open_dataset(tmp_path / "dataset").manifest
    write_dicom(tmp_path / "in/00.dcm", 10, "", "1.2.3")
    ingest([tmp_path / "in"], tmp_path / "larger", settings)
    after = open_dataset(tmp_path / "larger").manifest
    assert {*before["patient"]} == {*after["patient"]}
    assert len({*before["patient"]}) == 1
    assert {*before["split"]} == {*after["split"]}


@pytest.mark.parametrize("copy", ["0.dcm", "9.dcm"])
@pytest.mark.parametrize(("patient", "other"), [("P1", "P1"), ("P1", ""), ("", "")])
def test_the_word_of_a_copy_for_a_split_is_not_lost(
    copy: str, patient: str, other: str, settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """Before, the film that is kept learnt the patient and not the word, so that a test film was trained on."""
    write_dicom(tmp_path / "in" / copy, 0, patient)
    write_dicom(tmp_path / "in/5.dcm", 0, other)
    write_dicom(tmp_path / "in/6.dcm", 6, "P1")
    (tmp_path / "labels.csv").write_text(f"file,fold\n{copy},test\n")
    asked = replace(settings, labels=tmp_path / "labels.csv", split_column="fold", split="1,0,0")
    summary = ingest([tmp_path / "in"], tmp_path / "dataset", asked)
    manifest = open_dataset(tmp_path / "dataset").manifest
    of_copy = manifest[manifest["patient"] == manifest["patient"].iloc[0]]
    assert set(of_copy["split"]) == {"test"}
    assert bool(summary.notes) == (not patient)  # silent on P1 only where no copy is his


def test_the_word_of_a_near_copy_counts_too_and_the_kept_film_s_own_counts_more(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(tmp_path / "in/a.dcm", 0)
    film = pydicom.dcmread(write_dicom(tmp_path / "in/b.dcm", 0))
    film.PixelData = np.maximum(film.pixel_array, 40).tobytes()  # 1 % of the range
    film.save_as(tmp_path / "in/b.dcm")
    for name, rows, split in (
        ("one", "b.dcm,test\n", "test"),
        ("two", "a.dcm,val\nb.dcm,test\n", "validation"),
    ):
        (tmp_path / f"{name}.csv").write_text(f"file,fold\n{rows}")
        asked = replace(settings, labels=tmp_path / f"{name}.csv", split_column="fold", split="1,0,0")
        assert ingest([tmp_path / "in"], tmp_path / name, asked).rejected == {"near_duplicate": 1}
        assert list(open_dataset(tmp_path / name).manifest["split"]) == [split]


def test_a_copy_that_contradicts_its_patient_s_split_is_refused(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    write_dicom(tmp_path / "in/a.dcm", 0, "P1")
    write_dicom(tmp_path / "in/b.dcm", 0, "P1")
    (tmp_path / "labels.csv").write_text("file,fold\na.dcm,train\nb.dcm,test\n")
    asked = replace(settings, labels=tmp_path / "labels.csv", split_column="fold")
    with pytest.raises(UsageError, match="choose one split for all films of a patient"):
        ingest([tmp_path / "in"], tmp_path / "dataset", asked)
