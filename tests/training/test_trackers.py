from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xraygen.config import RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError
from xraygen.training import trackers
from xraygen.training.loop import train
from xraygen.training.trackers import Trackers, check_installed


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(
    tiny_config: Callable[..., RunConfig], tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", {"tensorboard": True}.get)
    with pytest.raises(UsageError, match="names wandb, which is not installed; pip install wandb"):
        train(
            tiny_config("train.trackers=[tensorboard,wandb]"),
            open_dataset(tiny_dataset),
            tmp_path / "run",
            device="cpu",
        )
    assert not (tmp_path / "run").exists()
    check_installed(["tensorboard"])


def test_no_trackers_are_a_choice(
    tiny_config: Callable[..., RunConfig], tiny_dataset: Path, tmp_path: Path
) -> None:
    config = tiny_config("train.trackers=[]", "train.max_steps=1")
    assert train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu").finished
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_the_board_keeps_the_point_of_the_checkpoint_and_drops_those_after_it(tmp_path: Path) -> None:
    for first, end in ((1, 6), (4, 9)):  # killed after step 5, resumed from the checkpoint of step 3
        tracked = Trackers(["tensorboard"], tmp_path, first - 1, {})
        for step in range(first, end):
            tracked.log({"loss": step + 100 * first}, step)
        tracked.picture("samples", np.zeros((4, 4), np.uint8), end)
        tracked.finish()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    points = [(point.step, point.value) for point in board.Scalars("loss")]
    assert points == [(1, 101), (2, 102), (3, 103), *((step, step + 400) for step in range(4, 9))]
