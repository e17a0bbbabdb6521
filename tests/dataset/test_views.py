"""`--views`: which views of the chest a DATASET takes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.labels import Facts
from xraygen.dataset.manifest import read_rejected
from xraygen.dataset.store import open_dataset
from xraygen.dataset.views import parse_views
from xraygen.errors import UsageError

WRITTEN = ["PA", "LL", "AP", "", "QUARKOVIC", "AP SUPINE", "PA"]
"""A film each; the fifth's is no view, so that it must not be repeated."""


@pytest.fixture
def films(tmp_path: Path, write_dicom: Callable[..., Path]) -> Path:
    for number, view in enumerate(WRITTEN):
        path = write_dicom(tmp_path / f"in/{number}.dcm", number, f"PAT-{number}", f"1.2.{number}")
        film = dcmread(path)
        film.ViewPosition = view
        film.save_as(path)
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PA,AP", {"PA": 2, "AP": 1}),
        ("ap_supine", {"AP SUPINE": 1}),
        ("pa, unknown,PA", {"PA": 2, "": 2}),
        (None, {"PA": 2, "": 2, "LL": 1, "AP": 1, "AP SUPINE": 1}),
    ],
)
def test_films_of_other_views_are_rejected_and_those_taken_are_counted(
    films: Path, settings: IngestSettings, tmp_path: Path, text: str | None, expected: dict[str, int]
) -> None:
    views = None if text is None else parse_views(text)
    summary = ingest([films], tmp_path / "dataset", replace(settings, views=views))
    taken = sum(expected.values())
    assert summary.views == expected
    assert summary.accepted == taken
    assert summary.rejected == ({"view": len(WRITTEN) - taken} if taken < len(WRITTEN) else {})
    dataset = open_dataset(tmp_path / "dataset")
    assert dataset.manifest["view"].value_counts().to_dict() == expected
    assert dataset.info.settings["views"] == (None if views is None else list(views))
    rejected = (tmp_path / "dataset/rejected.csv").read_text() + json.dumps(summary.to_json())
    assert "QUARKOVIC" not in rejected.upper()


def test_a_csv_may_tell_the_view(films: Path, settings: IngestSettings, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,view\n3.dcm,ll\n4.dcm,pa\n1.dcm,pa\n")
    asked = replace(settings, labels=tmp_path / "labels.csv", views=("LL",))
    assert ingest([films], tmp_path / "dataset", asked).views == {"LL": 2}  # the film's own word counts
    details = read_rejected(tmp_path / "dataset/rejected.csv")["detail"]
    others = ("PA", "AP", "AP SUPINE")  # QUARKOVIC is no view, so that the CSV's counts
    assert set(details) == {f"The film's view is {view}; --views takes LL." for view in others}


@pytest.mark.parametrize(
    ("own", "said", "view"),
    [
        ("THORAX PA", "PA", "PA"),
        ("THORAX PA", "", "THORAX PA"),
        ("THORAX PA", "THORAX", "THORAX PA"),
        ("AP", "PA", "AP"),
        ("", "THORAX", "THORAX"),
    ],
)
def test_a_text_that_is_no_view_does_not_hide_one(own: str, said: str, view: str) -> None:
    assert Facts(view=own).filled_from(Facts(view=said)).view == view


def test_other_views_are_another_dataset(films: Path, settings: IngestSettings, tmp_path: Path) -> None:
    ingest([films], tmp_path / "dataset", replace(settings, views=("PA",)))
    with pytest.raises(UsageError, match="was made from other files, settings or labels"):
        ingest([films], tmp_path / "dataset", settings)


@pytest.mark.parametrize("text", ["", "PA,", "PA;AP", "thorax"])
def test_a_word_that_is_no_view_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no view; expected some of AP, .* or unknown"):
        parse_views(text)
