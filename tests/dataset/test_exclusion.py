"""What was made with withdrawn films is found by whatever way it came about."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from xraygen.config import RunConfig
from xraygen.dataset.exclusion import datasets_with, made_with
from xraygen.dataset.exclusion_list import read_exclusions
from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError
from xraygen.training.checkpoint import newest_checkpoint
from xraygen.training.loop import train


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_quote_that_is_left_open_swallows_no_patient(separator: str, tmp_path: Path) -> None:
    cells = [
        ["patient", "comment"],
        ["4711", '"said no'],
        ['on the phone"'],
        ["4712", "letter"],
        ['"4713"', '"'],
    ]
    (tmp_path / "list.csv").write_text("\n".join(map(separator.join, cells)))
    assert {"4711", "4712", "4713"} <= read_exclusions(tmp_path / "list.csv").entries.keys()


def test_a_cell_may_be_longer_than_any_csv_allows(tmp_path: Path) -> None:
    """131,072 characters is the most that Python's csv takes; before, an open quote put all lines into one cell."""
    patients = [f"patient number {number}" for number in range(10_000)]
    (tmp_path / "list.txt").write_text("\n".join(['4711,"open', *patients, "x" * 200_000]))
    assert {"4711", *patients} <= read_exclusions(tmp_path / "list.txt").entries.keys()


def put(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def write_run(run: Path, data: str | None, weights: str, start: str | None = None) -> None:
    """What RUNs say of themselves; one without data was imported. JSON is YAML too."""
    put(run / "config.yaml", {"train": {"init_from": None if start is None else f"sha256:{start}"}})
    put(run / "checkpoints/step-1/hashes.json", {"ema.safetensors": weights})
    if data is not None:
        put(run / "dataset.json", {"content_sha256": data})


def write_origin(folder: Path, weights: str, **more: Any) -> None:
    put(folder / "provenance.json", {"checkpoint": {"step": 1, "ema_sha256": weights}, **more})


def write_report(folder: Path, data: str, weights: str | None, attacked: str | None = None) -> None:
    told = {"synthetic": weights, "membership": attacked}
    made_by = {
        key: {"checkpoint": None if digest is None else {"step": 1, "ema_sha256": digest}}
        for key, digest in told.items()
    }
    put(folder / "report.json", {"real": {"content_sha256": data}, **made_by})


def found(root: Path) -> list[str]:
    return [folder.relative_to(root).as_posix() for folder in made_with({"films"}, [root])]


@pytest.mark.parametrize("names", ["abcd", "dcba", "cadb"])
def test_fine_tuned_runs_are_named_through_any_number_of_runs(names: str, tmp_path: Path) -> None:
    first, second, third, other = list(names)
    write_run(tmp_path / first, "films", "w1")
    write_run(tmp_path / second, "else", "w2", start="w1")
    write_run(tmp_path / third, "else", "w3", start="w2")
    write_run(tmp_path / other, "else", "w4", start="w5")
    write_origin(tmp_path / "synthetic", "w3")
    write_origin(tmp_path / "innocent", "w4")
    assert found(tmp_path) == [*sorted([first, second, third]), "synthetic"]


def test_runs_that_start_from_each_other_end_the_search(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "else", "w1", start="w2")
    write_run(tmp_path / "b", "else", "w2", start="w1")
    assert found(tmp_path) == []
    write_run(tmp_path / "c", "films", "w1")
    assert found(tmp_path) == ["a", "b", "c"]


def test_a_run_that_was_imported_from_an_export_is_named(tmp_path: Path) -> None:
    """The average comes back with its hash (tests/interop/test_diffusers.py)."""
    write_run(tmp_path / "run", "films", "w1")
    write_run(tmp_path / "again", None, "w1")
    write_run(tmp_path / "tuned", "else", "w2", start="w1")
    write_run(tmp_path / "untouched", "else", "w1")  # both before their first step
    assert found(tmp_path) == ["again", "run", "tuned"]


def test_a_synthetic_whose_run_is_gone_is_named_by_what_it_says_itself(tmp_path: Path) -> None:
    write_origin(tmp_path / "of-the-films", "w1", dataset_sha256="films")
    write_origin(
        tmp_path / "tuned", "w2", config={"train": {"init_from": "sha256:w1"}}, dataset_sha256="else"
    )
    write_origin(tmp_path / "innocent", "w3", config={"train": {"init_from": None}}, dataset_sha256=None)
    write_run(tmp_path / "tuned-again", "else", "w4", start="w2")
    assert found(tmp_path) == ["tuned-again", "of-the-films", "tuned"]


def test_what_measured_the_films_is_named_and_the_weights_that_it_measured_are_not(tmp_path: Path) -> None:
    write_run(tmp_path / "innocent", "else", "w1")
    write_origin(tmp_path / "likelihood", "w1", dataset_sha256="else", settings={"dataset_sha256": "films"})
    write_report(tmp_path / "reports/on-the-films", "films", "w1")
    write_report(tmp_path / "reports/on-others", "else", "w1")
    write_run(tmp_path / "run", "films", "w2")
    write_report(tmp_path / "reports/on-its-films", "else", "w2")
    write_report(tmp_path / "reports/attack", "else", None, attacked="w2")
    expected = ["run", "likelihood", "reports/attack", "reports/on-its-films", "reports/on-the-films"]
    assert found(tmp_path) == expected


@pytest.mark.parametrize("content", [b"", b"[", b"\xff", b"train: 3", b"train: {init_from: 3}", b"- 1"])
def test_a_file_that_says_nothing_is_passed_over(content: bytes, tmp_path: Path) -> None:
    write_run(tmp_path / "run", "films", "w1")
    for name in ("config.yaml", "dataset.json", "provenance.json", "report.json"):
        put(tmp_path / "odd" / name, {})
        (tmp_path / "odd" / name).write_bytes(content)
    assert found(tmp_path) == ["run"]


def test_real_runs_and_their_datasets_belong_together(
    tiny_run: Path,
    tiny_dataset: Path,
    labelled_dataset: Path,
    tiny_config: Callable[..., RunConfig],
    tmp_path: Path,
) -> None:
    config = tiny_config(f"train.init_from={tiny_run}", "train.max_steps=0")
    train(config, open_dataset(labelled_dataset), tmp_path / "a-tuned", device="cpu")
    shutil.copytree(tiny_run, tmp_path / "run")
    first, second = (open_dataset(folder).info.content_sha256 for folder in (tiny_dataset, labelled_dataset))
    assert made_with({first}, [tmp_path]) == [tmp_path / "a-tuned", tmp_path / "run"]
    assert made_with({second}, [tmp_path]) == [tmp_path / "a-tuned"]
    assert made_with({"another"}, [tmp_path]) == []
    shutil.rmtree(newest_checkpoint(tmp_path / "run").folder)
    assert made_with({first}, [tmp_path]) == [
        tmp_path / "run"
    ]  # nothing says any more whose weights it started from


def test_links_are_followed_and_each_folder_is_told_once(tmp_path: Path) -> None:
    write_run(tmp_path / "disk/run", "films", "w1")
    (tmp_path / "work/old").mkdir(parents=True)
    (tmp_path / "work/old/run").symlink_to(tmp_path / "disk/run")
    (tmp_path / "work/old/round").symlink_to(tmp_path / "work")
    (tmp_path / "work/run-again").symlink_to(tmp_path / "disk/run")
    assert found(tmp_path / "work") == ["old/run"]
    assert found(tmp_path) == ["disk/run"]


def test_a_folder_that_cannot_be_searched_is_refused_without_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "work/Mustermann/run", "films", "w1")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if "Mustermann" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UsageError, match="work holds a folder that cannot be listed") as refused:
        found(tmp_path / "work")
    assert "Mustermann" not in str(refused.value)


@pytest.mark.parametrize("content", ["", "image_id,source\n", "\0\xff"])
def test_a_damaged_dataset_hides_no_other(
    content: str, tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path / "a/dataset.json", {"content_sha256": "x"})
    (tmp_path / "a/manifest.csv").write_text(content, encoding="latin-1")
    shutil.copytree(tiny_dataset, tmp_path / "b")
    patient = open_dataset(tiny_dataset).manifest["patient"][0]
    assert list(datasets_with([patient], [tmp_path])) == [tmp_path / "b"]
    assert f"{tmp_path / 'a/manifest.csv'} cannot be read" in caplog.text


def test_a_folder_to_search_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--also-search"):
        made_with({"x"}, [tmp_path / "nowhere"])
