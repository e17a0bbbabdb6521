import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file

from xraygen.config import RunConfig, load_config
from xraygen.dataset.store import open_dataset
from xraygen.errors import FolderError
from xraygen.training.checkpoint import (
    BETWEEN,
    EMA,
    MODEL,
    Choice,
    checkpoints,
    chosen_checkpoint,
    load_run,
    mark_best,
    newest_checkpoint,
    prune_checkpoints,
)
from xraygen.training.logging import read_log
from xraygen.training.loop import train


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_load_run_returns_the_averaged_weights_and_not_the_last_ones(tiny_run: Path) -> None:
    model, _, config = load_run(tiny_run)
    folder = newest_checkpoint(tiny_run).folder
    loaded = model.state_dict()["conv_in.weight"]
    assert torch.equal(loaded, load_file(folder / EMA)["conv_in.weight"])
    assert not torch.equal(loaded, load_file(folder / "model.safetensors")["conv_in.weight"])
    assert config.train.max_steps == 6
    assert not model.training


def test_a_model_that_ships_is_loaded_by_its_name() -> None:
    assert load_run("kermany-64").config.data.shape == (1, 64, 64)


def test_only_the_newest_checkpoints_are_kept(tiny_run: Path) -> None:
    assert [checkpoint.step for checkpoint in checkpoints(tiny_run)] == [2, 4, 6]


def test_the_best_on_validation_films_is_kept_and_can_be_asked_for(run: Path) -> None:
    losses = {2: 0.3, 4: 0.1, 6: 0.2, 8: 0.4, 10: 0.1}
    log = [{"step": step, "validation_loss": loss} for step, loss in losses.items()]
    mark_best(run, log)
    best = json.loads((run / "checkpoints" / "best.json").read_text())
    assert best == {"step": 4, "validation_loss": 0.1}  # 10 is as good, and not there
    prune_checkpoints(run, keep=1, step=6)
    assert [checkpoint.step for checkpoint in checkpoints(run)] == [4, 6]
    for choice, step in (("best", 4), ("newest", 6), (4, 4)):
        folder = run / "checkpoints" / f"step-{step:08d}"
        loaded = load_run(run, checkpoint=cast(Choice, choice)).model.state_dict()
        assert torch.equal(loaded["conv_in.weight"], load_file(folder / EMA)["conv_in.weight"])
    with pytest.raises(FolderError, match=r"run holds no checkpoint of step 5; it holds: 4, 6\."):
        load_run(run, checkpoint=5)
    (run / "checkpoints" / "step-00000004" / EMA).write_bytes(b"")
    with pytest.raises(FolderError, match=r"step-00000004 is damaged \(ema.safetensors changed"):
        load_run(run, checkpoint="best")


def test_training_marks_the_best_by_its_log(tiny_run: Path) -> None:
    looked_at = [entry for entry in read_log(tiny_run) if "validation_loss" in entry]
    assert [entry["step"] for entry in looked_at] == [2, 4, 6]
    least = min(looked_at, key=lambda entry: entry["validation_loss"])
    assert chosen_checkpoint(tiny_run, "best").step == least["step"]


def test_without_validation_films_no_checkpoint_is_best(run: Path) -> None:
    mark_best(run, [])
    with pytest.raises(FolderError, match="does not say which checkpoint is best"):
        load_run(run, checkpoint="best")


def test_what_a_stop_wrote_between_two_saves_pushes_no_checkpoint_out(run: Path) -> None:
    stopped = shutil.copytree(run / "checkpoints" / "step-00000006", run / "checkpoints" / "step-00000007")
    (stopped / BETWEEN).touch()
    (run / "checkpoints" / "best.json").unlink()
    prune_checkpoints(run, keep=2, step=7)
    assert [checkpoint.step for checkpoint in checkpoints(run)] == [4, 6, 7]


def test_a_damaged_checkpoint_of_a_later_step_pushes_none_out(run: Path) -> None:
    folder = run / "checkpoints"
    stopped = shutil.copytree(folder / "step-00000004", folder / "step-00000005")
    (stopped / BETWEEN).touch()
    (folder / "step-00000006" / MODEL).write_bytes(b"")
    (folder / "best.json").unlink()
    prune_checkpoints(run, keep=1, step=5)
    assert [checkpoint.step for checkpoint in checkpoints(run)] == [4, 5, 6]
    assert newest_checkpoint(run).step == 5


def test_saving_more_rarely_deletes_none_of_the_checkpoints_that_are_kept(
    run: Path, tiny_config: Callable[..., RunConfig], tiny_dataset: Path
) -> None:
    config = tiny_config("train.save_every=5", "train.max_steps=7")
    train(config, open_dataset(tiny_dataset), run, device="cpu")
    assert [(each.step, each.scheduled) for each in checkpoints(run)] == [
        (2, True), (4, True), (6, True), (7, False)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "state.pt", "hashes.json"])
@pytest.mark.parametrize("damage", ["cut short", "deleted", "one bit"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    run: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = run / "checkpoints" / "step-00000006" / name
    content = bytearray(file.read_bytes())
    if damage == "deleted":
        file.unlink()
    elif damage == "cut short":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert newest_checkpoint(run).step == 4
    assert "step-00000006 is damaged" in caplog.text


def test_a_run_without_a_checkpoint_is_refused_by_name(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(FolderError, match=r"run holds no whole checkpoint"):
        load_run(run)


def test_a_missing_folder_and_a_folder_that_is_no_run_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="There is no folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(FolderError, match="is not a RUN"):
        load_run(tmp_path)


def test_what_a_killed_save_left_is_ignored_and_cleared(run: Path) -> None:
    leftover = run / "checkpoints" / ".step-00000008.123.partial"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(run).step == 6
    prune_checkpoints(run, keep=3, step=6)
    assert not leftover.exists()


def test_a_resumed_run_repairs_a_damaged_newest_checkpoint(run: Path, tiny_dataset: Path) -> None:
    hashes = json.loads((run / "checkpoints" / "step-00000006" / "hashes.json").read_text())
    (run / "checkpoints" / "step-00000006" / "model.safetensors").write_bytes(b"")
    config = load_config(run / "config.yaml")
    assert train(config, open_dataset(tiny_dataset), run, device="cpu").step == 6
    assert json.loads((run / "checkpoints" / "step-00000006" / "hashes.json").read_text())[EMA] == hashes[EMA]
