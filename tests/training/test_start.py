from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xraygen.config import RunConfig, load_config
from xraygen.dataset.store import open_dataset
from xraygen.errors import FolderError, UsageError
from xraygen.training.checkpoint import EMA, MODEL, checkpoints, newest_checkpoint
from xraygen.training.loop import train

TinyConfig = Callable[..., RunConfig]


def test_fine_tuning_starts_from_the_averaged_weights_and_records_them_by_hash(
    tiny_config: TinyConfig, tiny_dataset: Path, tiny_run: Path, tmp_path: Path
) -> None:
    dataset, run = open_dataset(tiny_dataset), tmp_path / "run"
    config = tiny_config(f"train.init_from={tiny_run}", "train.max_steps=1", "model.dropout=0.1")
    train(config, dataset, run, device="cpu")
    averaged = load_file(newest_checkpoint(tiny_run).folder / EMA)
    first = checkpoints(run)[0]
    for name in (MODEL, EMA):
        started = load_file(first.folder / name)
        assert all(torch.equal(started[key], averaged[key]) for key in averaged)
    recorded = load_config(run / "config.yaml").train.init_from
    assert recorded == f"sha256:{newest_checkpoint(tiny_run).ema_sha256}"
    assert str(tiny_run.parent) not in (run / "config.yaml").read_text()
    # It goes on although the folder that it started from may be gone by then.
    gone = tiny_config("train.init_from=gone", "train.max_steps=2", "model.dropout=0.1")
    assert train(gone, dataset, run, device="cpu").step == 2
    with pytest.raises(UsageError, match="names weights by their hash"):
        train(load_config(run / "config.yaml"), dataset, tmp_path / "copy", device="cpu")


def test_another_network_is_refused_with_what_differs(
    tiny_config: TinyConfig, tiny_dataset: Path, tiny_run: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        f"train.init_from={tiny_run}", "model.channels=64", "diffusion.prediction_type=epsilon"
    )
    with pytest.raises(
        UsageError,
        match=r"model\.channels: 32 there, 64 here; diffusion\.prediction_type: v_prediction there, eps",
    ):
        train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    with pytest.raises(FolderError, match="There is no folder nowhere"):
        train(
            tiny_config("train.init_from=nowhere"), open_dataset(tiny_dataset), tmp_path / "run", device="cpu"
        )


def test_a_run_killed_before_its_first_checkpoint_must_be_told_the_start_again(
    tiny_config: TinyConfig, tiny_dataset: Path, tiny_run: Path, tmp_path: Path
) -> None:
    dataset, run = open_dataset(tiny_dataset), tmp_path / "run"
    train(tiny_config(f"train.init_from={tiny_run}", "train.max_steps=0"), dataset, run, device="cpu")
    for checkpoint in checkpoints(run):
        checkpoint.folder.rename(tmp_path / "aside")
    with pytest.raises(
        UsageError, match=r"was started from the weights sha256:\w+, and train\.init_from now names None"
    ):
        train(tiny_config("train.max_steps=0"), dataset, run, device="cpu")
