"""Rows that speak of one examination of a patient, from the file to the manifest."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydicom import dcmread

from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.store import open_dataset


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
