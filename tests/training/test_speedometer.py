"""Images, arithmetic and share of peak in the log."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from xraygen.config import RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.training import speedometer
from xraygen.training.budget import budget
from xraygen.training.logging import read_log
from xraygen.training.loop import train
from xraygen.training.peak import DevicePeak, device_peak
from xraygen.training.speedometer import Speed, Speedometer


def test_speed_is_what_was_done_since_it_was_last_read(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 10.0, 12.0, 13.0])
    monkeypatch.setattr(speedometer, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    measured = Speedometer(batch_size=8, flops_per_image=1e10, peak=1e12)
    measured.start(3)
    assert measured.read(8) == pytest.approx(Speed(20.0, 0.2, 0.2))  # 5 steps of 8 images in 2 s
    assert measured.read(10) == pytest.approx(Speed(16.0, 0.16, 0.16))


@pytest.mark.parametrize("processes", [1, 2])
def test_the_peak_is_that_of_all_devices_together(
    tiny_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr(speedometer, "device_peak", lambda _: DevicePeak(2e12, 3e12, 1e11))
    accelerator: Any = SimpleNamespace(num_processes=processes, device=torch.device("cpu"))
    measured = Speedometer.of(tiny_config("train.batch_size=8"), accelerator)
    assert (measured.batch_size, measured.peak) == (8, processes * 3e12)


@pytest.mark.parametrize(
    "settings",
    [("train.micro_batch_size=3",), ("model.checkpoint_activations=true",)],
    ids=["parts of unequal size", "activations computed again"],
)
def test_the_log_tells_the_work_of_the_whole_batch_once(
    tiny_config: Callable[..., RunConfig], tiny_dataset: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    config = tiny_config("train.max_steps=2", "train.batch_size=8", *settings)
    train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    entries = [entry for entry in read_log(tmp_path / "run") if "loss" in entry]
    assert [entry["step"] for entry in entries] == [1, 2]
    flops = budget(tiny_config("train.batch_size=8")).step_flops / 8
    peak = device_peak(torch.device("cpu")).fastest
    for entry in entries:
        work = entry["images_per_second"] * flops
        assert entry["tflops_per_second"] == pytest.approx(work / 1e12)
        assert entry["share_of_peak"] == pytest.approx(work / peak)
