import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from xraygen.config import RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.errors import XraygenError
from xraygen.training import loop, rollback
from xraygen.training.batches import Batch, Batches
from xraygen.training.checkpoint import EMA, MODEL, STATE, Checkpoint, checkpoints, newest_checkpoint
from xraygen.training.logging import read_log
from xraygen.training.loop import train
from xraygen.training.sentinels import Tally, grey_levels, memorising, sample_warnings
from xraygen.training.speedometer import Speed
from xraygen.training.validation import Losses

TinyConfig = Callable[..., RunConfig]
WALL_CLOCK = {"time", *Speed._fields}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`broken(2, 5)`: batches 2 and 5 of every run hold a value that is no number."""

    def break_batches(*numbers: int) -> None:
        whole = Batches.at

        def at(self: Batches, step: int, process: int = 0, processes: int = 1) -> Batch:
            batch = whole(self, step, process, processes)
            if step in numbers:
                batch.x_start[0, 0, 0, 0] = float("nan")
            return batch

        monkeypatch.setattr(Batches, "at", at)

    return break_batches


def weights(checkpoint: Checkpoint, name: str = MODEL) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.folder / name)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def log_of(run: Path) -> list[dict[str, object]]:
    """The log without what a clock says."""
    return [{key: value for key, value in entry.items() if key not in WALL_CLOCK} for entry in read_log(run)]


def test_a_step_that_is_not_finite_moves_neither_weights_nor_optimiser_and_is_counted(
    tiny_config: TinyConfig,
    tiny_dataset: Path,
    tmp_path: Path,
    broken: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken(2)
    config = tiny_config(
        "train.save_every=1", "train.keep_checkpoints=9", "train.max_steps=5", "train.log_every=5"
    )
    train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    kept = {checkpoint.step: checkpoint for checkpoint in checkpoints(tmp_path / "run")}
    assert list(kept) == [0, 1, 2, 4, 5]  # none is written at the step that was skipped
    states = {
        step: torch.load(each.folder / STATE, weights_only=True)["optimizer"]["state"]
        for step, each in kept.items()
    }
    assert [int(states[step][0]["step"]) for step in (1, 2, 4, 5)] == [1, 2, 3, 4]
    logged = {entry["step"]: entry for entry in read_log(tmp_path / "run") if "loss" in entry}
    assert [logged[step].get("skipped", 0) for step in (1, 2, 3, 4, 5)] == [0, 0, 1, 0, 0]
    assert logged[3]["loss"] is None
    assert "1 steps before step 3 had no finite loss or gradient" in caplog.text
    broken()
    monkey = tiny_config("train.save_every=1", "train.keep_checkpoints=9", "train.max_steps=2")
    train(monkey, open_dataset(tiny_dataset), tmp_path / "short", device="cpu")
    assert same(weights(kept[2]), weights(newest_checkpoint(tmp_path / "short")))


@pytest.mark.parametrize(
    "stops",
    [(5,), pytest.param((1, 2, 3, 4, 6, 7, 8), marks=pytest.mark.slow)],
    ids=["one stop", "every stop"],
)
def test_training_goes_back_to_the_last_good_checkpoint_and_on_with_other_films(
    tiny_config: TinyConfig,
    tiny_dataset: Path,
    tmp_path: Path,
    broken: Callable[..., None],
    stops: tuple[int, ...],
) -> None:
    broken(3, 4, 5, 6)
    config = tiny_config("train.skips_before_rollback=3", "train.max_steps=6", "train.keep_checkpoints=9")
    dataset = open_dataset(tiny_dataset)
    train(config, dataset, tmp_path / "run", device="cpu")
    # Step 6 is the third in a row: back to 2. There batches 6 (broken too, alone), 7, 8, 9 follow.
    rolled = [entry for entry in log_of(tmp_path / "run") if "rolled_back_from" in entry]
    assert rolled == [{"step": 2, "rolled_back_from": 6, "passed_over": 4}]
    assert [entry["step"] for entry in log_of(tmp_path / "run") if "loss" in entry] == [1, 2, 3, 4, 5, 6]
    assert json.loads((tmp_path / "run" / "rollbacks.json").read_text()) == [
        {"from": 6, "to": 2, "passed_over": 4}
    ]
    for stop_at in stops:  # before, in and after the row that failed
        run = tmp_path / f"stopped-{stop_at}"
        asked = iter([False] * (stop_at - 1) + [True])
        train(config, dataset, run, device="cpu", should_stop=partial(next, asked))
        train(config, dataset, run, device="cpu")
        assert log_of(run) == log_of(tmp_path / "run")
        for name in (MODEL, EMA):
            ours, whole = (weights(newest_checkpoint(each), name) for each in (run, tmp_path / "run"))
            assert same(ours, whole), (stop_at, name)


def test_training_goes_back_to_a_checkpoint_of_when_it_was_saved_more_often(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path, broken: Callable[..., None]
) -> None:
    dataset = open_dataset(tiny_dataset)
    settings = ("train.skips_before_rollback=2", "train.keep_checkpoints=9")
    train(tiny_config(*settings, "train.max_steps=4"), dataset, tmp_path / "run", device="cpu")
    broken(4, 5)
    rarely = tiny_config(*settings, "train.save_every=5", "train.max_steps=6")
    train(rarely, dataset, tmp_path / "run", device="cpu")
    rolled = [entry for entry in log_of(tmp_path / "run") if "rolled_back_from" in entry]
    assert rolled == [{"step": 4, "rolled_back_from": 6, "passed_over": 2}]


def test_a_kill_in_the_middle_of_a_roll_back_does_not_count_it_twice(
    tiny_config: TinyConfig,
    tiny_dataset: Path,
    tmp_path: Path,
    broken: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken(3, 4, 5, 6)
    config = tiny_config("train.skips_before_rollback=3", "train.max_steps=6", "train.keep_checkpoints=9")
    dataset, run, whole = open_dataset(tiny_dataset), tmp_path / "run", tmp_path / "whole"
    train(config, dataset, whole, device="cpu")
    asked = iter([False] * 4 + [True])
    train(config, dataset, run, device="cpu", should_stop=partial(next, asked))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rollback, "settle", die)
        train(config, dataset, run, device="cpu")
    assert (
        newest_checkpoint(run).step == 5
    )  # of the path that was given up: the stop's, in the row that failed
    train(config, dataset, run, device="cpu")
    assert (run / "rollbacks.json").read_bytes() == (whole / "rollbacks.json").read_bytes()
    assert log_of(run) == log_of(whole)
    assert same(weights(newest_checkpoint(run)), weights(newest_checkpoint(whole)))


def test_it_gives_up_where_going_back_does_not_help(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path, broken: Callable[..., None]
) -> None:
    broken(*range(3, 100))
    config = tiny_config("train.skips_before_rollback=2", "train.max_rollbacks=1", "train.max_steps=50")
    for _ in range(2):  # the same command fails in the same way
        with pytest.raises(XraygenError, match=r"2 times in a row, and going back 1 times did not help"):
            train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
        assert newest_checkpoint(tmp_path / "run").step == 2


def test_a_tally_is_read_whole_after_any_interruption() -> None:
    counted = [True, False, False, True, False, False, False, True, False]
    whole = Tally()
    for place, good in enumerate(counted):
        whole.add(torch.tensor(place / 7), torch.tensor(good))
    expected = whole.read()
    assert expected[1:] == (6, 3)
    assert expected.loss == pytest.approx(np.mean([0, 3 / 7, 1]), rel=1e-6)  # float32
    assert whole.read() == (None, 0, 1)
    for cut in range(len(counted) + 1):
        first = Tally()
        for place, good in enumerate(counted[:cut]):
            first.add(torch.tensor(place / 7), torch.tensor(good))
        second = Tally.from_state(first.to_state(), torch.device("cpu"))
        for place, good in enumerate(counted[cut:], start=cut):
            second.add(torch.tensor(place / 7), torch.tensor(good))
        assert second.read() == expected


def test_grey_and_saturated_samples_are_told_from_films(tiny_dataset: Path) -> None:
    images = open_dataset(tiny_dataset).images[:8].astype(np.float64) / 65535 * 2 - 1
    films = torch.from_numpy(images)[:, None]
    levels = grey_levels(films)
    assert levels.std == pytest.approx(np.mean([image.std(ddof=1) for image in images]), rel=1e-5)  # float32
    assert levels.ends == pytest.approx(np.mean(np.abs(images) > 254 / 255), abs=1e-9)
    assert sample_warnings(levels, levels) == []
    assert sample_warnings(grey_levels(0.8 * films), levels) == []
    (grey,) = sample_warnings(grey_levels(0.3 * films), levels)
    assert "the samples are grey" in grey
    (saturated,) = sample_warnings(grey_levels(100 * films), levels)
    assert "the samples are saturated" in saturated


def test_grey_samples_are_warned_of_in_the_log_and_on_the_console(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(loop, "samples_of", lambda *_: torch.zeros(2, 1, 16, 16))
    with caplog.at_level(logging.WARNING):
        train(tiny_config("train.max_steps=1"), open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    (entry,) = [entry for entry in read_log(tmp_path / "run") if "samples" in entry]
    assert entry["samples"] == {"std": 0.0, "ends": 0.0}
    assert entry["warnings"][0].startswith("the samples are grey: their pixels vary by 0.000")
    assert "At step 1 the samples are grey" in caplog.text


def test_bands_of_timesteps_hold_equally_many_films_and_their_mean_losses() -> None:
    generator = np.random.default_rng(0)
    t, train_loss, held = generator.integers(0, 1000, 50), generator.random(50), generator.random(50)
    entry = Losses(*map(torch.from_numpy, (t, train_loss, held))).entry()
    assert entry["gap"] == pytest.approx(held.mean() / train_loss.mean() - 1, rel=1e-12)
    in_order = np.argsort(t, kind="stable").reshape(5, 10)
    for band, rows in zip(entry["bands"], in_order, strict=True):
        assert band["t"] == [t[rows].min(), t[rows].max()]
        assert band["train_loss"] == pytest.approx(train_loss[rows].mean(), rel=1e-12)
        assert band["validation_loss"] == pytest.approx(held[rows].mean(), rel=1e-12)


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([0.3, 0.3, 0.3], True), ([0.3, 0.3], False), ([0.1, 0.3, 0.3, 0.3], True),
        ([0.3, 0.3, 0.3, 0.1], False), ([0.3, 0.2, 0.3], False),
    ],
)  # fmt: skip
def test_memorising_is_a_gap_at_three_successive_saves(gaps: list[float], expected: bool) -> None:
    log = [{"step": step, "gap": gap} for step, gap in enumerate(gaps)]
    assert memorising(log, 0.2) is expected
    assert not memorising(log, None)


def test_training_ends_early_by_choice_and_a_second_call_ends_at_once(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    dataset, run = open_dataset(tiny_dataset), tmp_path / "run"
    # Any gap at all, of a network that has hardly begun: three saves, if held-out films happen to be harder.
    config = tiny_config("train.max_steps=12", "train.stop_at_gap=1e-9", "diffusion.loss_weighting=min_snr")
    summary = train(config, dataset, run, device="cpu")
    gaps = [entry["gap"] for entry in read_log(run) if "gap" in entry]
    assert min(gaps[-3:]) > 0
    assert (summary.step, summary.finished) == (2 * len(gaps), True)
    assert summary.step < 12
    again = train(config, dataset, run, device="cpu")
    assert (again.step, again.finished) == (summary.step, True)
    longer = train(
        tiny_config("train.max_steps=12", "diffusion.loss_weighting=min_snr"), dataset, run, device="cpu"
    )
    assert (longer.step, longer.finished) == (12, True)
