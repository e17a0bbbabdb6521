"""SIGKILL at any moment: the same command goes on, and ends with the same bits."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xraygen.config import RunConfig
from xraygen.seeds import numpy_generator
from xraygen.training.checkpoint import EMA, MODEL, STATE, checkpoints, load_run, newest_checkpoint
from xraygen.training.logging import read_log
from xraygen.training.speedometer import Speed

STEPS, KILLS = 200, 10
SETTINGS = (
    f"train.max_steps={STEPS}",
    "train.save_every=7",
    "train.log_every=3",  # most kills fall between two lines, and most saves too
    "train.sample_every=50",
    "train.keep_checkpoints=2",
    "model.dropout=0.2",
)
WALL_CLOCK = {"time", *Speed._fields}


class Launch:
    """`xraygen train` in one or more processes of one thread each, told their number as `torchrun` tells it."""

    def __init__(self, program: Path, config: Path, dataset: Path, run: Path, count: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [program, "train", "--config", config, "--data", dataset, "--out", run, "--device", "cpu"]
        self.processes = [
            subprocess.Popen(
                [str(word) for word in command],
                stderr=subprocess.PIPE,
                text=True,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    **({**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}),
                },
            )
            for rank in range(count)
        ]

    @property
    def running(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def send(self, number: signal.Signals, *, to: slice = slice(None)) -> None:
        for process in self.processes[to]:
            process.send_signal(number)

    def end(self) -> tuple[list[int], str]:
        """Exit statuses and what was printed."""
        printed = [process.communicate(timeout=300)[1] for process in self.processes]
        return [process.returncode for process in self.processes], "".join(printed)


@pytest.fixture
def launch(program: Path, tiny_dataset: Path, tmp_path: Path) -> Callable[..., Launch]:
    """`launch("run", count=2)`; the test writes config.yaml."""
    return lambda run, count=1: Launch(program, tmp_path / "config.yaml", tiny_dataset, tmp_path / run, count)


def same_state(first: object, second: object) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(same_state(first[key], second[key]) for key in first)
        )
    if isinstance(first, list):
        return isinstance(second, list) and len(first) == len(second) and all(map(same_state, first, second))
    return first == second


def assert_same_runs(run: Path, whole: Path) -> None:
    """Weights, average, optimiser, log and best are equal to the bit, wall-clock fields aside."""
    ours, theirs = newest_checkpoint(run), newest_checkpoint(whole)
    assert ours.step == theirs.step
    for name in (MODEL, EMA):
        assert same_state(load_file(ours.folder / name), load_file(theirs.folder / name)), name
    states = [torch.load(each.folder / STATE, weights_only=True) for each in (ours, theirs)]
    assert same_state(*states)
    logs = [
        [{key: entry[key] for key in entry if key not in WALL_CLOCK} for entry in read_log(each)]
        for each in (run, whole)
    ]
    assert logs[0] == logs[1]
    assert [each.step for each in checkpoints(run)] == [each.step for each in checkpoints(whole)]
    best = [(each / "checkpoints" / "best.json").read_text() for each in (run, whole)]
    assert best[0] == best[1]
    pictures = [
        {path.name: path.read_bytes() for path in (each / "samples").iterdir()} for each in (run, whole)
    ]
    assert pictures[0] == pictures[1]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("count", [1, 2], ids=["one process", "two gloo processes"])
def test_ten_kills_leave_the_run_of_none(
    launch: Callable[..., Launch], tiny_config: Callable[..., RunConfig], tmp_path: Path, count: int
) -> None:
    (tmp_path / "config.yaml").write_text(tiny_config(*SETTINGS).to_yaml())
    assert launch("whole", count).end()[0] == [0] * count
    run = tmp_path / "run"
    kept, killed = -1, 0
    for moment in numpy_generator(0, "moments of death").uniform(0, 1.5, KILLS):
        process = launch("run", count)
        while process.running and not (checkpoints(run) and checkpoints(run)[-1].step > kept):
            time.sleep(0.01)  # until it got somewhere since the last death: from here on every moment counts
        time.sleep(moment)
        killed += process.running
        process.send(signal.SIGKILL)
        process.end()
        kept = newest_checkpoint(run).step
        load_run(run)
    assert killed == KILLS, f"the run was over after {killed} kills: it needs more steps"
    statuses, printed = launch("run", count).end()
    assert statuses == [0] * count, printed
    assert_same_runs(run, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [1, 2], ids=["one process", "two gloo processes"])
def test_ctrl_c_saves_and_the_same_command_goes_on_to_the_run_without_it(
    launch: Callable[..., Launch], tiny_config: Callable[..., RunConfig], tmp_path: Path, count: int
) -> None:
    settings = ("train.max_steps=300", "train.save_every=300", "train.log_every=7")
    (tmp_path / "config.yaml").write_text(tiny_config(*settings).to_yaml())
    assert launch("whole", count).end()[0] == [0] * count
    run = tmp_path / "run"
    process = launch("run", count)
    while not read_log(run):
        time.sleep(0.05)
    process.send(signal.SIGINT, to=slice(count - 1, count))  # one process alone is told
    statuses, printed = process.end()
    assert statuses == [130] * count
    assert printed.count("run the same command again to go on") == 1
    assert "Traceback" not in printed
    assert 0 < newest_checkpoint(run).step < 300
    assert launch("run", count).end()[0] == [0] * count
    assert_same_runs(run, tmp_path / "whole")
