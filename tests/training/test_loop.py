import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._pytree import tree_leaves

from xraygen.config import DataConfig, DiffusionConfig, RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule, linear_betas
from xraygen.errors import FolderError, UsageError, XraygenError
from xraygen.progress import Progress
from xraygen.training.batches import Batches
from xraygen.training.checkpoint import EMA, MODEL, STATE, newest_checkpoint
from xraygen.training.logging import read_log
from xraygen.training.loop import check_start, train
from xraygen.training.step import learning_rate_at

TinyConfig = Callable[..., RunConfig]
DIFFUSION = GaussianDiffusion(NoiseSchedule.from_betas(linear_betas(20, 1e-4, 0.02)), DiffusionConfig())


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(newest_checkpoint(run).folder / name)


@pytest.mark.parametrize("name", [MODEL, EMA])
@pytest.mark.parametrize("stop_at", [1, 3])
def test_an_interrupted_run_ends_with_the_same_bits(
    tiny_config: TinyConfig, tiny_dataset: Path, tiny_run: Path, tmp_path: Path, stop_at: int, name: str
) -> None:
    steps: list[int] = []

    def stop() -> bool:
        steps.append(1)
        return len(steps) == stop_at

    dataset, config = open_dataset(tiny_dataset), tiny_config()
    first = train(config, dataset, tmp_path / "run", device="cpu", should_stop=stop)
    assert (first.step, first.finished) == (stop_at, False)
    second = train(config, dataset, tmp_path / "run", device="cpu")
    assert (second.step, second.finished) == (6, True)
    resumed, whole = weights(tmp_path / "run", name), weights(tiny_run, name)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_dropout_too_resumes_to_the_bit(tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path) -> None:
    dataset, config = open_dataset(tiny_dataset), tiny_config("model.dropout=0.5", "train.max_steps=3")
    train(config, dataset, tmp_path / "whole", device="cpu")
    train(config, dataset, tmp_path / "run", device="cpu", should_stop=lambda: True)
    train(config, dataset, tmp_path / "run", device="cpu")
    resumed, whole = weights(tmp_path / "run", MODEL), weights(tmp_path / "whole", MODEL)
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_training_does_not_touch_the_callers_randomness(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(tiny_config("train.max_steps=1"), open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    assert torch.equal(torch.rand(3), expected)


def test_the_loss_falls_on_a_set_that_can_be_learned(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        "train.max_steps=150", "train.save_every=150", "train.learning_rate=2e-3", "train.warmup_steps=10",
        "train.log_every=10",
    )  # fmt: skip
    train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    losses = [entry["loss"] for entry in read_log(tmp_path / "run") if "loss" in entry]
    assert losses[-1] < losses[0] / 3  # measured: a factor of 6 to 9


def test_bfloat16_is_the_arithmetic_of_the_network_alone(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    changes = ("train.max_steps=2", "train.learning_rate=1e-3", "train.warmup_steps=0", "train.posthoc_ema=true",
               "train.batch_size=2", "train.sample_count=1")  # fmt: skip
    losses = {}
    for precision in ("float32", "bfloat16"):
        run = tmp_path / precision
        train(
            tiny_config(*changes, f"train.precision={precision}"),
            open_dataset(tiny_dataset),
            run,
            device="cpu",
        )
        losses[precision] = [entry["loss"] for entry in read_log(run) if "loss" in entry]
        state = torch.load(newest_checkpoint(run).folder / STATE, weights_only=True)
        kept = [weights(run, MODEL), weights(run, EMA), state["optimizer"], state["progress"]]
        held = [leaf for leaf in tree_leaves(kept) if isinstance(leaf, torch.Tensor)]
        assert len(held) > 4 * len(weights(run, MODEL))  # the moments too
        assert {tensor.dtype for tensor in held if tensor.is_floating_point()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    # Eight bits of a number are left, and errors of both signs make up a mean.
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=2**-8)


def test_zero_steps_write_the_untrained_network(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    summary = train(
        tiny_config("train.max_steps=0"), open_dataset(tiny_dataset), tmp_path / "run", device="cpu"
    )
    assert summary.finished
    assert newest_checkpoint(tmp_path / "run").step == 0


def test_a_finished_run_can_be_made_longer_but_not_otherwise_changed(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    dataset, run = open_dataset(tiny_dataset), tmp_path / "run"
    train(tiny_config("train.max_steps=2"), dataset, run, device="cpu")
    assert train(tiny_config("train.max_steps=3"), dataset, run, device="cpu").step == 3
    with pytest.raises(UsageError, match=r"model\.dropout: 0\.0 -> 0\.1"):
        train(tiny_config("model.dropout=0.1"), dataset, run, device="cpu")


def test_a_dataset_of_another_size_is_refused_with_the_size_to_ingest(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"ingest with --size 32x32"):
        train(tiny_config("data.image_size=32"), open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_something_else_is_not_written_into(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FolderError, match=r"not a RUN and not empty \(it holds thesis\.txt\)"):
        train(tiny_config(), open_dataset(tiny_dataset), tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.image_size=32", "ingest with --size 32x32"),
        ("train.learning_rate=0.5", r"train\.learning_rate: .* -> 0\.5"),
        ("conditions.columns=[foo]", "foo is no column|conditions.columns: "),
        ("train.init_from=nowhere", "nowhere"),
    ],
)
def test_what_would_be_refused_is_known_before_anything_is_written(
    change: str, said: str, tiny_config: TinyConfig, tiny_dataset: Path, tiny_run: Path, tmp_path: Path
) -> None:
    dataset = open_dataset(tiny_dataset)
    run = tiny_run if "learning_rate" in change else tmp_path / "run"
    before = sorted(tiny_run.rglob("*"))
    for begin in (check_start, partial(train, device="cpu")):
        with pytest.raises(XraygenError, match=said):
            begin(tiny_config(change), dataset, run)
        assert not (tmp_path / "run" / "config.yaml").exists()
    assert sorted(tiny_run.rglob("*")) == before
    check_start(tiny_config(), dataset, tiny_run)
    check_start(tiny_config(), dataset, tmp_path / "run")


def test_training_says_what_it_cannot_know_without_validation_films(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = open_dataset(tiny_dataset)
    alone = replace(dataset, manifest=dataset.manifest.replace({"split": {"validation": "test"}}))
    train(tiny_config("train.max_steps=1"), dataset, tmp_path / "run", device="cpu")
    assert "no validation films" not in caplog.text
    train(tiny_config("train.max_steps=1"), alone, tmp_path / "alone", device="cpu")
    assert "no validation films: no checkpoint will be called best" in caplog.text


def test_where_all_checkpoints_are_damaged_the_advice_is_not_to_do_the_same_again(
    tiny_config: TinyConfig, tiny_dataset: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    for weights_file in run.glob(f"checkpoints/step-*/{MODEL}"):
        weights_file.write_bytes(b"torn")
    with pytest.raises(FolderError, match="restore one, or train into a new folder"):
        train(tiny_config(), open_dataset(tiny_dataset), run, device="cpu")


def test_a_loss_that_is_not_finite_stops_before_it_reaches_a_checkpoint(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    config = tiny_config("train.learning_rate=1e30", "train.warmup_steps=0", "train.max_steps=20")
    with pytest.raises(XraygenError, match="going back 2 times did not help"):
        train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    saved = weights(tmp_path / "run", MODEL)
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


def test_log_progress_and_tensorboard_tell_the_same_losses(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    told: list[Progress] = []
    run = tmp_path / "run"
    train(tiny_config("train.max_steps=3"), open_dataset(tiny_dataset), run, device="cpu", report=told.append)
    logged = [entry["loss"] for entry in read_log(run) if "loss" in entry]
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    assert (told[0].done, dict(told[0].figures)) == (0, {})  # before the first step, which may take minutes
    assert logged == [progress.figures["loss"] for progress in told[1:]]
    for curve in ("images/s", "TFLOP/s", "share of peak"):
        assert [progress.figures[curve] for progress in told[1:]] == pytest.approx(
            [point.value for point in board.Scalars(curve)], rel=1e-6
        )
    assert logged == pytest.approx(
        [point.value for point in board.Scalars("loss")], rel=1e-6
    )  # float32 there
    assert {"samples"} <= set(board.Tags()["images"])
    assert (run / "samples" / "step-00000003.png").is_file()


def test_a_log_line_cut_short_by_a_kill_is_dropped(tiny_run: Path, tmp_path: Path) -> None:
    entries = read_log(tiny_run)
    (tmp_path / "log.jsonl").write_text(json.dumps(entries[0]) + '\n{"step": 2, "lo')
    assert read_log(tmp_path) == entries[:1]


def test_every_film_is_seen_once_per_epoch(tiny_dataset: Path) -> None:
    dataset = open_dataset(tiny_dataset)
    rows = dataset.indices("train")
    batches = Batches(dataset, rows, batch_size=8, diffusion=DIFFUSION, seed=0)
    for epoch in range(2):
        seen = sorted(row for step in range(4 * epoch, 4 * epoch + 4) for row in batches.rows_at(step))
        assert seen == rows.tolist()
    assert batches.rows_at(0).tolist() != batches.rows_at(4).tolist()


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_shares_of_several_processes_make_up_the_batch_of_one(tiny_dataset: Path, processes: int) -> None:
    dataset = open_dataset(tiny_dataset)
    data = DataConfig(horizontal_flip=True)
    batches = Batches(dataset, dataset.indices("train"), batch_size=8, diffusion=DIFFUSION, seed=0, data=data)
    whole = batches.at(5)
    shares = [batches.at(5, process, processes) for process in range(processes)]
    for part, expected in zip(zip(*shares, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(part), expected)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (250, 1e-4), (500, 2e-4), (9999, 2e-4)])
def test_learning_rate_warms_up_from_zero(step: int, expected: float) -> None:
    assert learning_rate_at(step, 2e-4, 500) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    "overrides",
    [
        ["diffusion.loss_weighting=bound", "diffusion.prediction_type=epsilon"],
        ["diffusion.variance_type=learned_range"],
        ["diffusion.variance_type=learned_range", "diffusion.loss_weighting=bound", "diffusion.bits=16"],
        ["schedule.kind=edm", "diffusion.prediction_type=edm", "diffusion.timestep_sampling=lognormal"],
        ["schedule.kind=sigmoid", "schedule.reference_size=8"],
        ["schedule.zero_terminal_snr=true", "diffusion.loss_weighting=simple"],
    ],
    ids=["bound", "hybrid", "bound of a learned variance", "edm", "shifted sigmoid", "zero terminal SNR"],
)
def test_every_objective_learns_and_is_sampled(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path, overrides: list[str]
) -> None:
    config = tiny_config(
        *overrides,
        "train.max_steps=120",
        "train.warmup_steps=0",
        "train.save_every=120",
        "train.log_every=40",
    )
    train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    losses = [entry["loss"] for entry in read_log(tmp_path / "run") if "loss" in entry]
    assert losses[-1] < losses[0]
    assert (tmp_path / "run" / "samples" / "step-00000120.png").exists()
