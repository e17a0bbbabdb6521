import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file

from xraygen.config import RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.errors import FolderError, UsageError
from xraygen.training.checkpoint import EMA, checkpoints, load_run, newest_checkpoint
from xraygen.training.ema_snapshots import FOLDER, reconstruct, snapshots, write_snapshot
from xraygen.training.loop import train
from xraygen.training.posthoc_ema import SIGMA_RELS, PowerAverages
from xraygen.training.rollback import settle

TinyConfig = Callable[..., RunConfig]
KEPT = ("train.posthoc_ema=true", "train.posthoc_ema_every=1", "train.posthoc_ema_keep=5")


@pytest.fixture(scope="module")
def averaged(tiny_config: TinyConfig, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN of six steps with snapshots of the last five."""
    run = tmp_path_factory.mktemp("averaged") / "run"
    train(tiny_config(*KEPT), open_dataset(tiny_dataset), run, device="cpu")
    return run


def test_the_newest_snapshots_of_both_widths_are_kept(averaged: Path) -> None:
    found = [(entry.profile.step, entry.profile.sigma_rel) for entry in snapshots(averaged)]
    assert found == [(step, sigma_rel) for step in range(2, 7) for sigma_rel in SIGMA_RELS]


@pytest.mark.parametrize("left", ["hashes.json", f"sigma-rel-{SIGMA_RELS[0]:.3f}.safetensors", ""])
def test_what_a_kill_left_of_an_old_snapshot_does_not_count(
    left: str, averaged: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(averaged, tmp_path / "run")
    for file in (run / FOLDER / "step-00000002").iterdir():
        if file.name != left:
            file.unlink()
    assert sorted({entry.profile.step for entry in snapshots(run)}) == [3, 4, 5, 6]


def test_the_width_that_was_kept_comes_back(averaged: Path, tmp_path: Path) -> None:
    made = reconstruct(averaged, 0.10, tmp_path / "same")
    assert made.error < 1e-3
    (kept,) = [s for s in snapshots(averaged) if s.profile == made.profile]
    rebuilt, stored = load_file(newest_checkpoint(tmp_path / "same").folder / EMA), load_file(kept.path)
    # Half precision has 11 bits; the combination may use its neighbours too.
    assert all(torch.allclose(rebuilt[name], stored[name].float(), rtol=2e-3, atol=1e-5) for name in stored)


def test_the_new_run_is_one_to_generate_from(
    averaged: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    result = xraygen_cli("ema", averaged, "--sigma-rel", 0.2, "--out", tmp_path / "wide")
    assert result.exit_code == 0, result.output
    assert "width 0.2 up to step 6" in result.stderr
    loaded = load_run(tmp_path / "wide")
    assert all(weight.isfinite().all() for weight in loaded.model.parameters())


def test_training_does_not_go_on_from_it(
    averaged: Path, tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    reconstruct(averaged, 0.1, tmp_path / "made")
    with pytest.raises(FolderError, match="does not go on"):
        train(tiny_config(*KEPT), open_dataset(tiny_dataset), tmp_path / "made", device="cpu")


def test_an_interrupted_run_keeps_the_same_averages(
    averaged: Path, tiny_config: TinyConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    steps = iter([False, False, True])
    for stop in (lambda: next(steps), lambda: False):
        train(
            tiny_config(*KEPT), open_dataset(tiny_dataset), tmp_path / "run", device="cpu", should_stop=stop
        )
    for one, other in zip(snapshots(averaged), snapshots(tmp_path / "run"), strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


def test_a_run_without_snapshots_says_what_to_do(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="posthoc_ema=true"):
        reconstruct(tiny_run, 0.1, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_average_does_not_end_beyond_the_newest_snapshot(averaged: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--step 7: the newest snapshot of .* is that of step 6"):
        reconstruct(averaged, 0.1, tmp_path / "late", step=7)
    assert not (tmp_path / "late").exists()
    assert reconstruct(averaged, 0.1, tmp_path / "early", step=5).profile.step == 5


def test_going_back_leaves_no_snapshots_of_the_path_that_was_given_up(averaged: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(averaged, tmp_path / "run"))
    (fourth,) = (checkpoint for checkpoint in checkpoints(run) if checkpoint.step == 4)
    settle(run, fourth)
    assert {entry.profile.step for entry in snapshots(run)} == {2, 3, 4}


def test_a_snapshot_takes_the_place_of_older_ones_and_of_what_a_kill_left(
    averaged: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(averaged, tmp_path / "run"))
    (run / FOLDER / ".step-00000006.4711.partial").mkdir()
    write_snapshot(run, 7, PowerAverages(load_run(run).model), keep=1)
    assert [path.name for path in (run / FOLDER).iterdir()] == ["step-00000007"]
