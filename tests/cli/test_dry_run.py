"""`--dry-run --json`: what would be done, for a program to read, and nothing done."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from xraygen.films.writers import write_png
from xraygen.synthesis.likelihood import LikelihoodSettings, measure_likelihood

MAKE = ("generate", "kermany-64", "--seeds", 0)
TOLD = ("--condition", "finding=NORMAL", "--guidance", 2)
PATH = ("interpolate", "kermany-64", "../film.png", "../film.png", "--out")
PAPER = ("--data", "images", "--out", "out", "--steps", 50, "--ladder", "20,80")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the working directory, and a film beside it."""
    y, x = np.mgrid[:64, :64]
    write_png(tmp_path / "film.png", (400 * (x + y)).astype(np.uint16))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.mark.parametrize(
    ("command", "going"),
    [
        (("phantom", "films"), {"phantoms": "films", "count": 64, "size": 512, "seed": 0}),
        (
            (*PATH, "path", "--beyond", 2),
            {"path": "path", "frames": 15, "mode": "shared-noise"},
        ),
        (
            ("generate", "kermany-64", "--out", "made", "--seeds", "0-7", "--condition", "finding=NORMAL"),
            {"synthetic": "made", "images": 8, "steps": 20, "told": {"finding": "NORMAL"}},
        ),
        (
            ("progressive", "kermany-64", "--out", "pictures", "--seeds", "0-3"),
            {"progressive": "pictures", "chains": 4, "steps": 1000},
        ),
        (("import", "weights", "--out", "run"), {"run": "run", "source": "weights"}),
        (
            ("benchmark", "speed", "--quick", "--parts", "audit,train"),
            {"rounds": 9, "quick": True, "parts": ["train", "audit"]},
        ),
        (("benchmark", "cifar10", *PAPER), {"folder": "out", "steps": [20, 50], "samples": 50_000}),
        (("benchmark", "celebahq", *PAPER), {"folder": "out", "steps": [20, 50], "samples": 50_000}),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, tuple) else "",
)
def test_a_dry_run_tells_a_program_too(
    command: tuple[object, ...],
    going: dict[str, Any],
    xraygen_cli: Callable[..., Result],
    workplace: Path,
) -> None:
    result = xraygen_cli(*command, "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert going.items() <= told.items()
    assert ("config" in told) == ("--data" in command and command[0] == "benchmark")
    assert result.stderr.startswith("Would ")
    assert list(workplace.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("ema", "run", "--sigma-rel", 0.07, "--out", "there"), "there exists already"),
        (("ema", "run", "--sigma-rel", 0.07, "--out", "out"), "There is no folder run"),
        (("import", "weights", "--out", "there"), "there exists already"),
        (("interpolate", "run", "a", "b", "--out", "out"), "There is no folder run"),
        (("interpolate", "there", "a", "b", "--out", "out"), "there is not a RUN"),
        (("interpolate", "kermany-64", "a.png", "../film.png", "--out", "out"), "There is no file a.png"),
        ((*PATH, "there"), "there is not empty"),
        ((*PATH, "out", "--timestep", 1000), "--timestep 1000: expected 0 to 999"),
        ((*PATH, "out", "--data", "there"), "there is not a DATASET"),
        ((*PATH, "out", "--device", "cuda:99"), "cuda:99"),
        (("likelihood", "run", "--data", "dataset"), "There is no folder run"),
        (("likelihood", "kermany-64", "--data", "there", "--out", "out"), "there is not a DATASET"),
        (("progressive", "run", "--out", "out", "--seeds", 0), "There is no folder run"),
        (("progressive", "kermany-64", "--out", "out", "--seeds", 0, "--every", 2000), "--every 2000"),
        (("progressive", "kermany-64", "--out", "there", "--seeds", 0), "there is not empty"),
        (("progressive", "kermany-64", "--out", "out", "--seeds", 0, "--device", "cuda:99"), "cuda:99"),
        (("phantom", "there"), "there exists and holds something else than phantoms"),
        ((*MAKE, "--out", "there"), "there is not empty"),
        ((*MAKE, "--out", "out", "--steps", 5000), "5000"),
        ((*MAKE, "--out", "out", "--checkpoint", 77), "no checkpoint of step 77"),
        ((*MAKE, "--out", "out", "--device", "cuda:99"), "cuda:99"),
        ((*MAKE, "--out", "out", "--compile", "--device", "cpu"), "--compile is for a GPU"),
        ((*MAKE, "--out", "out", *TOLD, "--guidance-interval", "1e5,1e6"), "no step of this chain"),
        (("benchmark", "speed", "--device", "cuda:99"), "cuda:99"),
        (("benchmark", "cifar10", *PAPER, "--device", "cuda:99"), "cuda:99"),
        (("benchmark", "cifar10", *PAPER, "--set", "train.max_steps=9"), "here it is --steps"),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, tuple) else "",
)
def test_a_dry_run_promises_nothing_that_is_refused_at_sight(
    command: tuple[object, ...],
    said: str,
    xraygen_cli: Callable[..., Result],
    workplace: Path,
) -> None:
    Path("there").mkdir()
    Path("there", "mine.txt").touch()
    result = xraygen_cli(*command, "--dry-run")
    assert result.exit_code in (1, 2)
    assert said in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert [path.name for path in workplace.rglob("*")] == ["there", "mine.txt"]


def test_a_dry_run_of_a_likelihood_looks_into_its_folder(
    xraygen_cli: Callable[..., Result], tiny_run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.txt").touch()
    measured = tmp_path / "measured"
    settings = LikelihoodSettings(count=2, steps=2)
    measure_likelihood(tiny_run, tiny_dataset, measured, ["test"], settings, device="cpu")
    command = ("likelihood", tiny_run, "--data", tiny_dataset, "--count", 2, "--device", "cpu", "--dry-run")
    for out, steps, said in (
        (tmp_path / "there", 2, "is not empty"),
        (measured, 3, "was made with another steps"),
        (tmp_path / "out", 21, "21"),
    ):
        result = xraygen_cli(*command, "--out", out, "--steps", steps)
        assert result.exit_code in (1, 2)
        assert said in " ".join(result.stderr.split())
    result = xraygen_cli(*command, "--out", measured, "--steps", 2, "--split", "test", "--split", "train")
    assert result.exit_code == 0, result.stderr
    assert "2 test, 2 train films" in " ".join(result.stderr.split())


def test_a_dry_run_of_training_tells_what_it_takes_and_then_what_is_in_the_way(
    xraygen_cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = xraygen_cli(
        "train", "--config", "cxr-64", "--data", "nowhere", "--out", "out", "--dry-run", "--json"
    )
    assert result.exit_code == 1
    assert "nowhere does not exist" in result.stderr
    assert json.loads(result.stdout)["config"]["data"]["image_size"] == 64
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_making_again_looks_for_the_row(
    xraygen_cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    Path("set", "metadata.csv").write_text("file_name,seed,sha256\nimages/7.png,7,0\n")
    result = xraygen_cli("generate", "run", "--like", "set#0", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"like": "set#0", "synthetic": None}
    result = xraygen_cli("generate", "run", "--like", "set#1", "--dry-run")
    assert result.exit_code == 2
    assert "has rows 0 to 0" in " ".join(result.stderr.split())
