import json
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from click.testing import Result

Cli = Callable[..., Result]


def test_phantom_writes_films_and_labels(xraygen_cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "films"
    result = xraygen_cli("phantom", out, "--count", 4, "--size", 32, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"phantoms": str(out), "made": 4, "present": 0}
    assert [pydicom.dcmread(path).Rows for path in out.rglob("*.dcm")] == [32] * 4
    assert len((out / "labels.csv").read_text().splitlines()) == 5


def test_phantom_run_again_makes_nothing_twice(xraygen_cli: Cli, tmp_path: Path) -> None:
    command = ("phantom", tmp_path / "films", "--count", 3, "--size", 16, "--format", "png", "--json")
    xraygen_cli(*command)
    assert json.loads(xraygen_cli(*command).stdout)["present"] == 3


def test_phantom_dry_run_writes_nothing(xraygen_cli: Cli, tmp_path: Path) -> None:
    result = xraygen_cli("phantom", tmp_path / "films", "--dry-run")
    assert result.exit_code == 0
    assert "64 phantoms of 512 px" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [("--count", 0), ("--size", 4), ("--format", "jpeg")])
def test_phantom_refuses_what_cannot_be(xraygen_cli: Cli, tmp_path: Path, wrong: tuple[object, ...]) -> None:
    result = xraygen_cli("phantom", tmp_path / "films", *wrong)
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_phantom_says_in_one_sentence_that_a_folder_is_taken(xraygen_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = xraygen_cli("phantom", tmp_path, "--count", 1, "--size", 16)
    assert result.exit_code == 1
    assert str(tmp_path) in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_phantoms_of_another_kind_are_told_in_words(
    xraygen_cli: Cli, tmp_path: Path, dry: tuple[str, ...]
) -> None:
    command = ("phantom", tmp_path / "films", "--size", 16, "--seed", 3, "--format", "png")
    xraygen_cli(*command, "--count", 3)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    for other in (("--count", 2), ("--count", 5, "--size", 32), ("--count", 3, "--format", "dicom")):
        result = xraygen_cli(*command, *other, *dry)
        assert result.exit_code == 2
        said = " ".join(result.stderr.split())
        assert f"{tmp_path / 'films'} holds 3 phantoms of 16x16 px as png with seed 3; repeat" in said
        assert "{" not in said
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert xraygen_cli(*command, "--count", 5, "--dry-run").exit_code == 0
