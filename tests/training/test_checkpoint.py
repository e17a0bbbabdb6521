import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xraygen.config import load_config
from xraygen.dataset.store import open_dataset
from xraygen.errors import FolderError
from xraygen.training.checkpoint import EMA, checkpoints, load_run, newest_checkpoint, prune_checkpoints
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


def test_only_the_newest_checkpoints_are_kept(tiny_run: Path) -> None:
    assert [checkpoint.step for checkpoint in checkpoints(tiny_run)] == [2, 4, 6]


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
    prune_checkpoints(run, keep=3)
    assert not leftover.exists()


def test_a_resumed_run_repairs_a_damaged_newest_checkpoint(run: Path, tiny_dataset: Path) -> None:
    hashes = json.loads((run / "checkpoints" / "step-00000006" / "hashes.json").read_text())
    (run / "checkpoints" / "step-00000006" / "model.safetensors").write_bytes(b"")
    config = load_config(run / "config.yaml")
    assert train(config, open_dataset(tiny_dataset), run, device="cpu").step == 6
    assert json.loads((run / "checkpoints" / "step-00000006" / "hashes.json").read_text())[EMA] == hashes[EMA]
