import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xraygen.atomic import sole_writer
from xraygen.audit.audit import audit, plan
from xraygen.audit.repeats import linked
from xraygen.audit.settings import AuditSettings
from xraygen.dataset.store import open_dataset
from xraygen.errors import FolderError, UsageError
from xraygen.films.listing import METADATA, read_rows
from xraygen.progress import Progress

Textures = Callable[..., NDArray[np.uint16]]
MakeSynthetic = Callable[..., Path]

FAST = AuditSettings(features=("pixels",), pairs=30, device="cpu", quarantine=True)


@pytest.fixture(scope="module")
def audited(
    tmp_path_factory: pytest.TempPathFactory, real: Path, textures: Textures, make_synthetic: MakeSynthetic
) -> tuple[Path, Path, dict[str, Any]]:
    """(SYNTHETIC, REPORT, result): 20 films, one a copy of a training film, three of them one film."""
    folder = tmp_path_factory.mktemp("quarantine")
    images = textures(20, seed=5)
    images[7] = open_dataset(real).images[33]
    images[9], images[11] = images[8], images[8][:, ::-1]
    synthetic = make_synthetic(folder / "synthetic", images)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XRAYGEN_CACHE", str(tmp_path_factory.getbasetemp() / "feature-cache"))
        return synthetic, folder / "report", audit(real, synthetic, folder / "report", FAST)


def test_suspects_leave_the_set_and_are_listed_without_a_training_film(
    audited: tuple[Path, Path, dict[str, Any]],
) -> None:
    synthetic, _, result = audited
    suspects = {suspect["file_name"] for suspect in result["privacy"]["suspects"]}
    assert "images/7.png" in suspects
    assert {row["file_name"] for row in read_rows(synthetic / "quarantine" / "quarantined.csv")} == suspects
    assert suspects.isdisjoint(row["file_name"] for row in read_rows(synthetic / METADATA))
    assert all((synthetic / "quarantine" / name).exists() for name in suspects)
    assert "real-" not in (synthetic / "quarantine" / "quarantined.csv").read_text()


def test_near_duplicates_are_counted_and_named(audited: tuple[Path, Path, dict[str, Any]]) -> None:
    _, report, result = audited
    repeats = result["near_duplicates"]
    assert ["images/8.png", "images/9.png", "images/11.png"] in repeats["groups"]  # 11 is mirrored
    assert repeats["films"] - len(repeats["groups"]) == repeats["surplus"] >= 2
    page = (report / "report.html").read_text()
    assert "Near duplicates" in page
    assert any("near duplicates of each other" in sentence for sentence in result["summary"])


def test_links_form_groups_whatever_their_direction() -> None:
    index = np.array([1, 0, 1, 4, 3, 6, 5, 0])
    near = np.array([True, False, True, True, True, False, False, False])
    assert linked(index, near) == [[0, 1, 2], [3, 4]]
    chain = np.array([5, 0, 1, 2, 3, 4])
    assert linked(chain, np.ones(6, dtype=bool)) == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("call", [plan, audit])
def test_a_dataset_is_not_taken_apart(tmp_path: Path, real: Path, call: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="is a DATASET"):
        call(real, real, tmp_path / "report", FAST)


def test_the_page_is_true_before_and_after_the_move(audited: tuple[Path, Path, dict[str, Any]]) -> None:
    """It is written first, and whoever is killed between the two has moved nothing."""
    _, report, _ = audited
    page = " ".join((report / "report.html").read_text().split())
    assert "were moved" not in page
    assert "told to move them into the set's quarantine once this page is written" in page


def test_a_set_that_another_process_writes_to_is_refused_before_the_work(
    tmp_path: Path, real: Path, textures: Textures, make_synthetic: MakeSynthetic
) -> None:
    synthetic = make_synthetic(tmp_path / "synthetic", textures(8))
    with sole_writer(synthetic), pytest.raises(FolderError, match="Another process is writing to"):
        audit(real, synthetic, tmp_path / "report", FAST, report=_no_work)
    assert not (tmp_path / "report").exists()
    (synthetic / ".lock").unlink()
    plan(real, synthetic, tmp_path / "report", FAST)
    assert not (synthetic / ".lock").exists()  # a dry run writes nothing


def _no_work(progress: Progress) -> None:
    raise AssertionError(progress)


@pytest.mark.parametrize("call", [plan, audit])
def test_a_table_without_seeds_is_refused_before_the_work(
    tmp_path: Path, real: Path, audited: tuple[Path, Path, dict[str, Any]], call: Callable[..., Any]
) -> None:
    shutil.copytree(audited[0], tmp_path / "copy")
    text = (tmp_path / "copy" / METADATA).read_text()
    (tmp_path / "copy" / METADATA).write_text(text.replace("file_name,seed,", "file_name,number,"))
    with pytest.raises(FolderError, match="file_name, seed and sha256"):
        call(real, tmp_path / "copy", tmp_path / "report", FAST)
    assert not (tmp_path / "report").exists()
