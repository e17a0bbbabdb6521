"""A chest film in, an audited synthetic set out: every verb on what the one before it wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import Result

from xraygen.dataset.store import open_dataset

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def way(xraygen_cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """films, dataset, run, synthetic, marked, path and report, made by the command line from phantoms."""
    folder = tmp_path_factory.mktemp("way")
    films, dataset, run = folder / "films", folder / "dataset", folder / "run"
    two = [f"{films}/patient-000{number}/image-0.dcm" for number in (0, 1)]
    small = [
        word
        for change in (
            "data.image_size=16",
            "model.channels=32",
            "model.channel_mult=[1,2]",
            "model.patch_size=1",
            "model.attention_resolutions=[]",
            "schedule.num_timesteps=20",
            "train.batch_size=8",
            "train.max_steps=4",
            "train.sample_steps=2",
            "train.posthoc_ema=true",
            "train.posthoc_ema_every=2",
        )
        for word in ("--set", change)
    ]
    (folder / "key").write_bytes(bytes(32))  # with a key of chance, one of 20 patients' splits might be empty
    (folder / "key").chmod(0o600)
    commands: list[list[object]] = [
        ["phantom", films, "--count", 40, "--size", 64],
        ["ingest", films, "--out", dataset, "--size", 16, "--labels", films / "labels.csv", "--split", "0.5,0.1,0.4",
         "--workers", 0, "--key", folder / "key"],
        ["train", "--config", "phantom-32", "--data", dataset, "--out", run, *small, "--device", "cpu"],
        ["generate", run, "--out", folder / "synthetic", "--seeds", "0-11", "--steps", 3, "--device", "cpu"],
        ["generate", run, "--out", folder / "marked", "--seeds", "0-7", "--steps", 3, "--format", "dicom"],
        ["interpolate", run, *two, "--out", folder / "path", "--timestep", 10, "--frames", 3, "--device", "cpu"],
        ["audit", "--real", dataset, "--synthetic", folder / "synthetic", "--out", folder / "report",
         "--features", "pixels", "--beside", folder / "marked", "--device", "cpu", "--count", "8"],
    ]  # fmt: skip
    for command in commands:
        result = xraygen_cli(*command)
        assert result.exit_code == 0, (command[0], result.stderr)
    return folder


def test_every_file_of_the_films_is_accounted_for(way: Path) -> None:
    counts = json.loads((way / "dataset" / "dataset.json").read_text())["counts"]
    assert counts == {"seen": 40, "accepted": 40, "rejected": 0}


def test_no_patient_of_the_films_is_in_two_splits(way: Path) -> None:
    patients = {dcmread(film).PatientID for film in (way / "films").rglob("*.dcm")}
    manifest = open_dataset(way / "dataset").manifest
    splits = manifest.groupby("patient")["split"].nunique()
    assert len(splits) == len(patients) < len(manifest)  # several images per patient
    assert (splits == 1).all()
    assert set(manifest["split"]) == {"train", "validation", "test"}


def test_the_report_stands_on_its_own_and_names_the_set_beside(way: Path) -> None:
    report = json.loads((way / "report" / "report.json").read_text())
    assert {"features", "ssim", "ms_ssim", "privacy", "verdicts"} <= set(report)
    page = (way / "report" / "report.html").read_text()
    assert "marked" in page
    assert "<script src" not in page


def test_no_patient_of_the_films_is_named_in_what_came_of_them(way: Path) -> None:
    for folder in ("dataset", "run", "synthetic", "marked", "path", "report"):
        for file in (way / folder).rglob("*"):
            if file.is_file():
                content = file.read_bytes()
                assert b"PHANTOM" not in content, file
                assert str(way).encode() not in content, file


def test_the_same_commands_find_everything_done(way: Path, xraygen_cli: Cli) -> None:
    result = xraygen_cli(
        "generate",
        way / "run",
        "--out",
        way / "synthetic",
        "--seeds",
        "0-11",
        "--steps",
        3,
        "--device",
        "cpu",
        "--json",
    )
    told = {"synthetic": str(way / "synthetic"), "made": 0, "present": 12, "quarantined": 0}
    assert json.loads(result.stdout) == told


def test_dry_runs_write_nothing(way: Path, xraygen_cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    commands: list[list[object]] = [
        ["phantom", out],
        ["ingest", way / "films", "--out", out],
        [
            "train",
            "--config",
            "cxr-64",
            "--data",
            way / "dataset",
            "--out",
            out,
            "--set",
            "data.image_size=16",
        ],
        ["generate", way / "run", "--out", out, "--seeds", "0"],
        [
            "interpolate",
            way / "run",
            f"{way / 'dataset'}#0",
            f"{way / 'dataset'}#1",
            "--out",
            out,
            "--timestep",
            10,
        ],
        ["progressive", way / "run", "--out", out, "--seeds", "0"],
        ["likelihood", way / "run", "--data", way / "dataset", "--out", out],
        ["ema", way / "run", "--sigma-rel", 0.07, "--out", out],
        ["export", way / "run", "--to", "release", "--out", out, "--acknowledge-patient-data"],
        ["import", way / "run", "--out", out],
        [
            "audit",
            "--real",
            way / "dataset",
            "--synthetic",
            way / "synthetic",
            "--out",
            out,
            "--features",
            "pixels",
        ],
    ]
    for command in commands:
        result = xraygen_cli(*command, "--dry-run", "--json")
        assert result.exit_code == 0, (command[0], result.stderr)
        assert json.loads(result.stdout), command[0]
        assert not out.exists(), command[0]
    assert list(tmp_path.iterdir()) == []


def test_config_prints_yaml_for_people_and_json_for_programs(xraygen_cli: Cli) -> None:
    assert "cxr-64" in xraygen_cli("config").stdout.splitlines()
    assert "channel_mult:" in xraygen_cli("config", "cxr-64").stdout
    changed = xraygen_cli("config", "cifar10", "--set", "train.batch_size=64", "--json")
    assert json.loads(changed.stdout)["train"]["batch_size"] == 64
