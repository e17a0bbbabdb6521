"""Flags and VOI choices of a DATASET: in flags.csv and dataset.json, and never a column of the manifest."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.manifest import manifest_columns, read_rejected
from xraygen.dataset.store import DatasetInfo, open_dataset
from xraygen.films.objects import ReadOptions
from xraygen.films.phantom import phantom_film
from xraygen.films.transforms import PrepareSettings

WriteDicom = Callable[..., Path]


@pytest.fixture
def archive(tmp_path: Path, write_dicom: WriteDicom) -> Path:
    """Four CR films: an upright one with a window, one without orientation, a contradictory one, and one of a hand."""
    changes: list[dict[str, object]] = [
        {"PatientOrientation": ["L", "F"], "WindowCenter": 2000, "WindowWidth": 4000},
        {},
        {"PatientOrientation": ["L", "F"], "PresentationLUTShape": "INVERSE"},
        {"BodyPartExamined": "HAND", "PatientOrientation": ["L", "F"]},
    ]
    for number, elements in enumerate(changes):
        path = write_dicom(tmp_path / f"films/{number}.dcm", number, f"PAT-{number}-4711", f"1.2.{number}")
        film = pydicom.dcmread(path)
        for keyword, value in elements.items():
            setattr(film, keyword, value)
        pixels = phantom_film(0, number, 0, 64).pixels  # a chest, or it would be taken for a negative
        pixels = 4095 - pixels if "PresentationLUTShape" in elements else pixels
        film.Rows, film.Columns, film.PixelData = 64, 64, pixels.astype(np.uint16).tobytes()
        film.save_as(path)
    return tmp_path / "films"


def test_flags_are_counted_and_listed_by_image(
    archive: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    summary = ingest([archive], tmp_path / "dataset", settings)
    dataset = open_dataset(tmp_path / "dataset")
    counts = {"no_orientation": 1, "presentation_contradicts_photometric": 1}
    assert summary.flags == dataset.info.flags == counts
    assert summary.to_json()["flags"] == counts
    assert dataset.info.voi == {"linear": 1, "percentiles": 2}
    listed = pd.read_csv(tmp_path / "dataset/flags.csv", dtype=str)
    assert list(listed.columns) == ["image_id", "flag"]
    assert Counter(listed["flag"]) == counts
    # Rows of the manifest stand in the order of the files: 0, 1, 2.
    assert list(listed["image_id"]) == list(dataset.manifest["image_id"][1:])
    assert list(dataset.manifest.columns) == manifest_columns([])


def test_what_is_refused_is_read_by_choice(archive: Path, settings: IngestSettings, tmp_path: Path) -> None:
    strict = ingest([archive], tmp_path / "strict", settings)
    assert strict.rejected == {"body_part": 1}
    allowed = PrepareSettings((16, 16), read=ReadOptions(any_body_part=True))
    lax = ingest([archive], tmp_path / "lax", replace(settings, prepare=allowed))
    assert (lax.accepted, lax.rejected) == (4, {})
    said = json.loads((tmp_path / "lax/dataset.json").read_text())["settings"]["read"]
    assert said == {"for_processing": False, "any_body_part": True, "burned_in": False, "frames": "refuse"}
    detail = read_rejected(tmp_path / "strict/rejected.csv")["detail"][0]
    assert "--any-body-part" in detail
    assert "HAND" not in detail


def test_a_dataset_without_flags_has_an_empty_table(
    archive: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    summary = ingest([archive / "0.dcm"], tmp_path / "dataset", settings)
    assert summary.flags == {}
    assert (tmp_path / "dataset/flags.csv").read_text() == "image_id,flag\n"


def test_datasets_of_before_the_flags_are_read(
    archive: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([archive], tmp_path / "dataset", settings)
    path = tmp_path / "dataset/dataset.json"
    values = json.loads(path.read_text())
    del values["flags"], values["voi"], values["settings"]["read"]
    path.write_text(json.dumps(values))
    info = open_dataset(tmp_path / "dataset").info
    assert (info.flags, info.voi) == ({}, {})
    assert DatasetInfo.from_json(info.to_json()) == info
