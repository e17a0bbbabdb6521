"""SIGKILL at any moment: the same command goes on, and ends with the same bits."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xraygen.config import RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.seeds import numpy_generator
from xraygen.training.checkpoint import EMA, MODEL, checkpoints, load_run, newest_checkpoint
from xraygen.training.logging import read_log
from xraygen.training.loop import train

STEPS, SAVE_EVERY, KILLS = 120, 3, 8


@pytest.fixture
def command(program: Path, tiny_dataset: Path, tmp_path: Path) -> list[str]:
    """The command that is killed and repeated; the test writes its config.yaml."""
    arguments = ["--config", tmp_path / "config.yaml", "--data", tiny_dataset, "--out", tmp_path / "run"]
    return [str(word) for word in (program, "train", *arguments, "--device", "cpu")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigkill_at_any_moment_loses_at_most_the_steps_since_the_last_checkpoint(
    command: list[str], tiny_config: Callable[..., RunConfig], tiny_dataset: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        f"train.max_steps={STEPS}", f"train.save_every={SAVE_EVERY}", "train.keep_checkpoints=2"
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    train(config, open_dataset(tiny_dataset), tmp_path / "whole", device="cpu")
    run = tmp_path / "run"
    moments = numpy_generator(0, "moments of death").uniform(0.05, 1.5, KILLS)
    kept = 0
    for moment in moments:
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        while process.poll() is None and len(checkpoints(run)) == 0:
            time.sleep(0.02)  # the first checkpoint: from here on every moment counts
        if kept:
            while process.poll() is None and checkpoints(run)[-1].step <= kept:
                time.sleep(0.02)  # it got somewhere after the last death
        time.sleep(moment)
        reached = max((entry["step"] for entry in read_log(run)), default=0)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = newest_checkpoint(run).step
        load_run(run)
        assert kept >= reached - SAVE_EVERY
        if process.returncode == 0:
            break
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    for name in (MODEL, EMA):
        ours, whole = (load_file(newest_checkpoint(each).folder / name) for each in (run, tmp_path / "whole"))
        assert all(torch.equal(ours[key], whole[key]) for key in whole)
    steps = [entry["step"] for entry in read_log(run) if "loss" in entry]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(
    command: list[str], tiny_config: Callable[..., RunConfig], tiny_dataset: Path, tmp_path: Path
) -> None:
    config = tiny_config("train.max_steps=2000", "train.save_every=2000")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    run = tmp_path / "run"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not read_log(run):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to go on" in stderr
    assert "Traceback" not in stderr
    assert newest_checkpoint(run).step == max(entry["step"] for entry in read_log(run)) > 0
