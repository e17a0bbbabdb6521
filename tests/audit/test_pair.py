"""A finished REPORT is not replaced by that of other sets; that of the same sets may be written anew."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from xraygen.atomic import write_json
from xraygen.audit.audit import audit, plan
from xraygen.audit.settings import AuditSettings
from xraygen.dataset.store import open_dataset
from xraygen.errors import FolderError

Textures = Callable[..., NDArray[np.uint16]]
MakeSynthetic = Callable[..., Path]

FAST = AuditSettings(features=("pixels",), pairs=30, device="cpu")


@pytest.fixture
def made(tmp_path: Path, textures: Textures, make_synthetic: MakeSynthetic) -> Path:
    """A SYNTHETIC that says where it comes from."""
    folder = make_synthetic(tmp_path / "a" / "films", textures(12, seed=5))
    write_json(folder / "provenance.json", {"id": "1", "created": "2026-01-01"})
    return folder


@pytest.fixture
def out(tmp_path: Path, real: Path, made: Path) -> Path:
    """The REPORT of `made`."""
    audit(real, made, tmp_path / "report", FAST)
    return tmp_path / "report"


def test_the_report_of_another_set_stays(
    tmp_path: Path, real: Path, out: Path, textures: Textures, make_synthetic: MakeSynthetic
) -> None:
    """Of the same RUN and settings, and even of the same name: other films all the same."""
    other = make_synthetic(tmp_path / "b" / "films", textures(12, seed=6))
    unsaid = Path(shutil.copytree(other, tmp_path / "unsaid" / "films"))
    (unsaid / "provenance.json").unlink()
    write_json(other / "provenance.json", {"id": "1", "created": "2026-01-02"})
    before = (out / "report.json").read_bytes()
    for films in (other, unsaid, real):
        for measure in (plan, audit):
            with pytest.raises(
                FolderError,
                match=r"report is the report of another set \(films\) than .*; choose another --out",
            ):
                measure(real, films, out, FAST)
    assert (out / "report.json").read_bytes() == before


def test_the_report_on_another_dataset_stays(tmp_path: Path, real: Path, made: Path, out: Path) -> None:
    grown = Path(shutil.copytree(real, tmp_path / "grown"))
    info = json.loads((grown / "dataset.json").read_text())
    write_json(grown / "dataset.json", {**info, "content_sha256": "0" * 64})
    with pytest.raises(FolderError, match=r"held against another DATASET \(dataset\) than .*grown; choose"):
        plan(grown, made, out, FAST)


def test_the_same_two_sets_are_audited_again(
    tmp_path: Path, real: Path, made: Path, out: Path, textures: Textures, make_synthetic: MakeSynthetic
) -> None:
    plan(real, made, out, replace(FAST, seed=1, fail_on=("fd>3",)))
    moved = made.rename(tmp_path / "moved")
    plan(real, moved, out, FAST)
    more = make_synthetic(tmp_path / "more", textures(14, seed=5))
    shutil.copy(moved / "provenance.json", more)
    plan(real, more, out, FAST)
    audit(real, more, out, FAST)
    assert json.loads((out / "report.json").read_text())["synthetic"]["films"] == 14


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"real": {}, "synthetic": []}'])
def test_a_damaged_report_is_replaced(real: Path, made: Path, tmp_path: Path, damaged: str) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text(damaged)
    plan(real, made, tmp_path / "report", FAST)


def test_a_set_that_says_nothing_of_itself_goes_by_its_films_or_its_name(
    tmp_path: Path, real: Path, textures: Textures, make_synthetic: MakeSynthetic
) -> None:
    films = make_synthetic(tmp_path / "theirs", textures(12, seed=5))
    grown = make_synthetic(tmp_path / "grown" / "theirs", textures(14, seed=5))
    for folder in (films, grown):
        (folder / "provenance.json").unlink()
    out = tmp_path / "report"
    audit(real, films, out, FAST)
    plan(real, Path(shutil.copytree(films, tmp_path / "copy")), out, FAST)
    plan(real, grown, out, FAST)
    with pytest.raises(FolderError, match="report of another set"):
        plan(real, grown.rename(tmp_path / "others"), out, FAST)


def test_a_dataset_in_place_of_a_set_goes_by_its_content(tmp_path: Path, real: Path) -> None:
    out = tmp_path / "report"
    result = audit(real, real, out, FAST)
    content = open_dataset(real).info.content_sha256
    assert result["synthetic"]["content_sha256"] == content
    plan(real, Path(shutil.copytree(real, tmp_path / "copy")), out, FAST)
    other = Path(shutil.copytree(real, tmp_path / "b" / real.name))
    info = json.loads((other / "dataset.json").read_text())
    write_json(other / "dataset.json", {**info, "content_sha256": "0" * 64})
    with pytest.raises(FolderError, match="report of another set"):
        plan(real, other, out, FAST)
    # A report of an older xraygen says of such a DATASET nothing but the name.
    told = json.loads((out / "report.json").read_text())
    del told["synthetic"]["content_sha256"]
    write_json(out / "report.json", told)
    plan(real, other, out, FAST)
