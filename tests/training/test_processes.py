"""The same training however many processes share it and in however many parts each computes its share."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import accelerate
import pytest
import torch
from safetensors.torch import load_file

from xraygen import devices
from xraygen.config import RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError
from xraygen.models.unet import UNet
from xraygen.training import processes, step
from xraygen.training.batches import Batch, as_model_input
from xraygen.training.budget import budget
from xraygen.training.checkpoint import EMA, MODEL, STATE, newest_checkpoint
from xraygen.training.logging import read_log
from xraygen.training.loop import train
from xraygen.training.resident import resident_films
from xraygen.training.rollback import Detour

TinyConfig = Callable[..., RunConfig]
UNEVEN = (
    "model.dropout=0.1",
    "data.augment_probability=0.4",
    "train.batch_size=7",
    "train.warmup_steps=0",
)
"""A batch that two processes cannot halve, with dropout and augmentation, at the full learning rate from the start."""


def started(program: Path, count: int, config: Path, dataset: Path, run: Path) -> list[subprocess.Popen[str]]:
    """`count` processes that are told their number by the environment, as every launcher tells it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
    }
    command = [program, "train", "--config", config, "--data", dataset, "--out", run, "--device", "cpu"]
    return [
        subprocess.Popen(
            [str(word) for word in command],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(count)
    ]


def side_by_side(program: Path, count: int, config: Path, dataset: Path, run: Path) -> str:
    """What `count` processes print that train together to the end."""
    processes = started(program, count, config, dataset, run)
    printed = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, printed
    return "".join(printed)


def launched(program: Path, count: int, config: Path, dataset: Path, run: Path) -> str:
    """What `torchrun` prints of `xraygen train` in `count` processes on the CPU; the port is free by --standalone."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = ["--no-python", program, "train", "--config", config, "--data", dataset, "--out", run]
    done = subprocess.run(
        [str(word) for word in (*launcher, *command, "--device", "cpu")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def largest_difference(first: Path, second: Path, name: str) -> float:
    ours, theirs = (load_file(newest_checkpoint(run).folder / name) for run in (first, second))
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).abs().max()) for key in ours)


def test_two_processes_train_the_network_of_one(
    program: Path, tiny_config: TinyConfig, tiny_dataset: Path, tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(tiny_config().to_yaml())
    run = tmp_path / "run"
    printed = side_by_side(program, 2, tmp_path / "config.yaml", tiny_dataset, run)
    assert printed.count("is trained") == 1  # one process speaks for both
    for name in (MODEL, EMA):  # float32's rounding through six steps of Adam; measured: 1e-8
        assert largest_difference(run, tiny_run, name) < 1e-6
    ours, alone = ([entry for entry in read_log(each) if "loss" in entry] for each in (run, tiny_run))
    assert [entry["loss"] for entry in ours] == pytest.approx([entry["loss"] for entry in alone], rel=1e-5)
    flops = budget(tiny_config()).step_flops / tiny_config().train.batch_size
    for entry in ours:  # the speed of both together: an image takes what it takes
        assert entry["tflops_per_second"] == pytest.approx(entry["images_per_second"] * flops / 1e12)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_whose_fellow_was_killed_says_so_in_one_sentence(
    program: Path, tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path, killed: int
) -> None:
    config, run = tiny_config("train.max_steps=1000000"), tmp_path / "run"
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    both = started(program, 2, tmp_path / "config.yaml", tiny_dataset, run)
    while not any("validation_loss" in entry for entry in read_log(run)):
        assert [process.poll() for process in both] == [None, None]
        time.sleep(0.2)
    both[killed].kill()
    left = both[1 - killed]
    printed = left.communicate(timeout=120)[1]
    assert left.returncode == 1
    assert "heard no more from another" in printed
    assert "Traceback" not in printed
    both[killed].communicate()
    assert load_file(newest_checkpoint(run).folder / EMA)  # whole


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("precision", "steps", "allowed"),
    [("float64", 100, 1e-9), ("float32", 10, 1e-4)],  # measured: 6e-15 and 4e-7, the weights moving by 0.04 and 0.003
)  # fmt: skip
def test_weights_do_not_depend_on_the_number_of_processes(
    program: Path,
    tiny_config: TinyConfig,
    tiny_dataset: Path,
    tmp_path: Path,
    count: int,
    precision: str,
    steps: int,
    allowed: float,
) -> None:
    config = tiny_config(
        *UNEVEN, f"train.precision={precision}", f"train.max_steps={steps}", f"train.save_every={steps}"
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    train(config, open_dataset(tiny_dataset), tmp_path / "one", device="cpu")
    launched(program, count, tmp_path / "config.yaml", tiny_dataset, tmp_path / "many")
    for name in (MODEL, EMA):
        assert largest_difference(tmp_path / "one", tmp_path / "many", name) < allowed


@pytest.mark.parametrize("size", [1, 3])
def test_a_share_computed_in_parts_gives_the_same_weights(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path, size: int
) -> None:
    settings = (*UNEVEN, "train.precision=float64", "train.max_steps=4", "train.save_every=4")
    for run, more in (("whole", ()), ("parts", (f"train.micro_batch_size={size}",))):
        train(tiny_config(*settings, *more), open_dataset(tiny_dataset), tmp_path / run, device="cpu")
    for name in (MODEL, EMA):  # sums of float64 in another order
        assert largest_difference(tmp_path / "whole", tmp_path / "parts", name) < 1e-12


@pytest.mark.parametrize("first", ["true", "false"])
def test_moments_lie_in_memory_as_weights_that_are_laid_out_otherwise_than_when_they_were_saved(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path, first: str
) -> None:
    config = tiny_config(f"train.channels_last={first}", "train.max_steps=2", "train.learning_rate=1e-2")
    train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    other = tiny_config(f"train.channels_last={'false' if first == 'true' else 'true'}")
    state, saved = step.fresh_state(other, torch.device("cpu")), newest_checkpoint(tmp_path / "run")
    step.resume(state, saved, Detour())
    adam = torch.load(saved.folder / STATE, weights_only=True)["optimizer"]
    learning_rate, (beta_1, beta_2) = adam["param_groups"][0]["lr"], step.ADAM_BETAS
    parameters = list(state.model.parameters())
    expected = []
    for number, weight in enumerate(parameters):  # Kingma & Ba 2015, algorithm 1, for a gradient of 1e-3
        m = (beta_1 * adam["state"][number]["exp_avg"] + (1 - beta_1) * 1e-3) / (1 - beta_1**3)
        v = (beta_2 * adam["state"][number]["exp_avg_sq"] + (1 - beta_2) * 1e-6) / (1 - beta_2**3)
        expected.append(weight.detach() - learning_rate * m / (v.sqrt() + step.ADAM_EPS))
        weight.grad = torch.full_like(weight, 1e-3)
    state.optimizer.step()
    for weight, wanted in zip(parameters, expected, strict=True):
        # Steps of some 1e-3 of weights up to 1, in float32.
        torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=1e-6)


def test_more_processes_than_images_are_refused(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate.Accelerator, "num_processes", 3)
    with pytest.raises(UsageError, match=r"train\.batch_size is 2, less than the 3 processes"):
        processes.start_accelerator(tiny_config("train.batch_size=2"), "cpu")


def test_a_second_training_of_a_process_has_the_device_that_it_names(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert processes.start_accelerator(tiny_config(), "cpu").device.type == "cpu"
    there = torch.device("cuda")  # as Accelerate calls it, without a number
    monkeypatch.setattr(processes, "choose_device", lambda _: there)
    monkeypatch.setattr(accelerate.PartialState, "default_device", property(lambda _: there))
    assert processes.start_accelerator(tiny_config(), "cuda").device == there
    monkeypatch.undo()
    assert processes.start_accelerator(tiny_config(), "cpu").device.type == "cpu"


class OnGpu:
    """What torch lets one do with a float32 tensor of the first GPU, as far as moving it goes."""

    dtype, device = torch.float32, torch.device("cuda:0")

    def is_floating_point(self) -> bool:
        return True

    def pin_memory(self) -> None:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def to(self, *there: object, **options: object) -> "OnGpu":
        return self


def test_films_that_lie_on_the_gpu_are_not_pinned_whatever_its_name() -> None:
    batch = Batch(*[cast(torch.Tensor, OnGpu())] * 6)
    for name in ("cuda", "cuda:0"):
        assert batch.to(torch.device(name), torch.float32) == batch


def test_films_held_on_the_device_are_those_of_the_memory_map_bit_for_bit(tiny_dataset: Path) -> None:
    dataset = open_dataset(tiny_dataset)
    rows = dataset.indices("validation")
    resident = resident_films(dataset, rows[::-1], torch.device("cpu"), choice=True)
    assert resident is not None
    chosen = rows[[3, 0, 3, 7]]
    assert torch.equal(resident.gather(chosen), as_model_input(dataset, chosen))
    assert resident_films(dataset, rows, torch.device("cpu"), choice="auto") is None


@pytest.mark.parametrize(
    ("choice", "kind", "compiler", "expected"),
    [
        ("auto", "cpu", "/usr/bin/gcc", False),
        ("true", "cpu", "/usr/bin/gcc", True),
        ("auto", "cuda", "/usr/bin/gcc", True),
        ("auto", "cuda", None, False),
        ("false", "cuda", "/usr/bin/gcc", False),
    ],
)
def test_what_is_left_open_is_chosen_for_the_device(
    tiny_config: TinyConfig,
    monkeypatch: pytest.MonkeyPatch,
    choice: str,
    kind: str,
    compiler: str | None,
    expected: bool,
) -> None:
    compiled_network = torch.nn.Identity()
    monkeypatch.setattr(torch, "compile", lambda _, **options: compiled_network)
    monkeypatch.setattr(devices, "find_spec", lambda _: True)
    monkeypatch.setattr(devices, "which", {"gcc": compiler}.get)
    config = tiny_config(f"train.compile={choice}")
    network = step.compiled(UNet(config.model), config.train, torch.device(kind))
    assert (network is compiled_network) == expected


def test_channels_last_is_a_layout_of_the_same_weights(tiny_config: TinyConfig) -> None:
    plain, laid_out = (
        step.fresh_state(tiny_config(f"train.channels_last={choice}"), torch.device("cpu")).model
        for choice in ("auto", "true")
    )
    assert laid_out.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
    assert not plain.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
    theirs = laid_out.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in plain.state_dict().items())
