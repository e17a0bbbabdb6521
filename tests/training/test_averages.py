"""A RUN's checkpoints against the formulas of its settings: average, clipped gradient, learning rate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from xraygen.config import RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.training.checkpoint import EMA, MODEL, STATE
from xraygen.training.loop import train

TinyConfig = Callable[..., RunConfig]
LIGHT = (
    "model.channel_mult=[1]",
    "model.attention_resolutions=[]",
    "train.sample_count=1",
    "train.sample_steps=1",
    "train.trackers=[]",
)
"""No more than the formulas need."""
EVERY_STEP = (*LIGHT, "train.save_every=1", "train.keep_checkpoints=10", "train.learning_rate=1e-2")
"""Steps so large that the average and the weights lie far apart."""


def folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def optimizer_of(run: Path, step: int) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder(run, step) / STATE, weights_only=True)["optimizer"]
    return state


@pytest.fixture(scope="module")
def run(tiny_config: TinyConfig, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps with a checkpoint of each; the average's decay rises to 0.3, the learning rate for four steps."""
    out = tmp_path_factory.mktemp("averages") / "run"
    config = tiny_config(*EVERY_STEP, "train.ema_decay=0.3", "train.ema_warmup=true", "train.warmup_steps=4")
    train(config, open_dataset(tiny_dataset), out, device="cpu")
    return out


def averages_follow(run: Path, decays: list[float]) -> None:
    """Checkpoint n holds decay EMA[n - 1] + (1 - decay) MODEL[n] in every weight."""
    before = load_file(folder(run, 0) / EMA)
    assert all(
        torch.equal(before[name], weight) for name, weight in load_file(folder(run, 0) / MODEL).items()
    )
    for step, decay in enumerate(decays, start=1):
        average, model = load_file(folder(run, step) / EMA), load_file(folder(run, step) / MODEL)
        for name, weight in average.items():
            expected = decay * before[name] + (1 - decay) * model[name]
            # Weights are about 1 at most, of which float32 keeps 6e-8.
            torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)
        before = average


def test_each_checkpoint_averages_its_weights_with_the_average_before(run: Path) -> None:
    averages_follow(run, [2 / 11, 3 / 12, 0.3, 0.3, 0.3, 0.3])
    last, average = load_file(folder(run, 6) / MODEL), load_file(folder(run, 6) / EMA)
    assert max(float((last[name] - average[name]).abs().max()) for name in last) > 1e-3


def test_without_warm_up_the_decay_is_the_same_from_the_first_step(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        *EVERY_STEP,
        "train.ema_decay=0.8",
        "train.ema_warmup=false",
        "train.warmup_steps=0",
        "train.max_steps=2",
    )
    train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    averages_follow(tmp_path / "run", [0.8, 0.8])


def test_the_learning_rate_rises_from_0_over_the_warm_up(run: Path) -> None:
    rates = [optimizer_of(run, step)["param_groups"][0]["lr"] for step in range(1, 7)]
    assert rates == pytest.approx([0, 0.25e-2, 0.5e-2, 0.75e-2, 1e-2, 1e-2], abs=1e-12)
    still, moved = (load_file(folder(run, step) / MODEL) for step in (1, 2))
    assert all(torch.equal(still[name], weight) for name, weight in load_file(folder(run, 0) / MODEL).items())
    assert not all(torch.equal(still[name], weight) for name, weight in moved.items())


def test_the_gradient_of_all_weights_together_is_clipped(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    """After one step Adam's first moment is a tenth of the gradient, here of a batch in three parts."""
    norms = []
    for clip in ("1e-3", "1e9"):
        config = tiny_config(
            *LIGHT, f"train.gradient_clip={clip}", "train.micro_batch_size=3", "train.max_steps=1"
        )
        train(config, open_dataset(tiny_dataset), tmp_path / clip, device="cpu")
        moments = [entry["exp_avg"].double() for entry in optimizer_of(tmp_path / clip, 1)["state"].values()]
        norms.append(float(torch.cat([moment.flatten() for moment in moments]).norm()))
    assert norms[0] == pytest.approx(0.1 * 1e-3, rel=1e-4)  # clip_grad_norm_ adds 1e-6 to a norm of about 1
    assert norms[1] > 0.1 * 0.1  # and left alone it is larger by far
