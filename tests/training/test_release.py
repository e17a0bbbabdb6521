import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import Result

from xraygen.atomic import sha256_of
from xraygen.config import RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.errors import FolderError, UsageError
from xraygen.training.checkpoint import EMA, HASHES, load_run, newest_checkpoint
from xraygen.training.ema_snapshots import reconstruct
from xraygen.training.logging import read_log
from xraygen.training.loop import train
from xraygen.training.release import release


def test_a_release_is_a_run_with_the_averaged_weights_alone(conditional_run: Path, tmp_path: Path) -> None:
    made = release(conditional_run, tmp_path / "model", "newest", "# About\n")
    checkpoint = newest_checkpoint(conditional_run)
    files = {path.relative_to(made.folder).as_posix() for path in made.folder.rglob("*") if path.is_file()}
    weights = f"checkpoints/{checkpoint.folder.name}/{EMA}"
    assert files == {
        "README.md",
        "config.yaml",
        "conditions.json",
        "dataset.json",
        "held-out.json",
        weights,
        f"checkpoints/{checkpoint.folder.name}/{HASHES}",
    }
    ours, theirs = load_run(made.folder).model, load_run(conditional_run).model
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        # float16 has 11 significant bits: rounding to nearest is off by at most 2^-11 of a weight, and by half its
        # least subnormal, 2^-25, near zero.
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2**-11, atol=2**-25)
    card = (made.folder / "README.md").read_text()
    assert card.startswith("# About\n")
    assert "| told | sex (F, M); age (a number) |" in card
    assert f"{made.parameters:,} parameters" in card
    assert f"step {made.step:,} of batch 8: {8 * made.step:,} images seen" in card
    assert sha256_of(made.folder / weights) in card
    assert (
        (made.folder / weights).stat().st_size == made.bytes < 0.55 * (checkpoint.folder / EMA).stat().st_size
    )


def test_training_goes_on_from_a_release(
    tiny_config: Callable[..., RunConfig], tiny_dataset: Path, tiny_run: Path, tmp_path: Path
) -> None:
    folder = release(tiny_run, tmp_path / "model", "newest").folder
    config = tiny_config(f"train.init_from={folder}", "train.max_steps=1")
    assert train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu").step == 1


def test_a_log_whose_last_line_was_cut_short_does_not_keep_a_run_from_being_released(
    tiny_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    lines = [json.dumps(entry) for entry in read_log(run) if "validation_loss" not in entry]
    (run / "log.jsonl").write_text("\n".join([*lines, '{"step": 7, "loss": 0.']))
    card = (release(run, tmp_path / "model", "newest").folder / "README.md").read_text()
    assert "| validation loss | not measured at this step |" in card


def test_the_card_names_the_average_that_the_weights_are(
    tiny_config: Callable[..., RunConfig], tiny_dataset: Path, tiny_run: Path, tmp_path: Path
) -> None:
    kept = tiny_config("train.posthoc_ema=true", "train.posthoc_ema_every=1", "train.max_steps=3")
    train(kept, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    reconstruct(tmp_path / "run", 0.07, tmp_path / "average")
    made = release(tmp_path / "average", tmp_path / "model", "newest").folder
    assert "average of relative width 0.07 (Karras et al. 2024)" in (made / "README.md").read_text()
    assert json.loads((made / "posthoc-ema.json").read_text())["sigma_rel"] == 0.07
    assert "average of decay" not in (made / "README.md").read_text()
    imported = Path(shutil.copytree(tiny_run, tmp_path / "imported"))
    (imported / "imported.json").write_text("{}")
    card = (release(imported, tmp_path / "other", "newest").folder / "README.md").read_text()
    assert "| training | elsewhere; not known |" in card


def test_what_cannot_be_released_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    release(tiny_run, tmp_path / "model", "newest")
    with pytest.raises(FolderError, match="exists already"):
        release(tiny_run, tmp_path / "model", "newest")
    with pytest.raises(FolderError, match="holds no checkpoint of step 7000"):
        release(tiny_run, tmp_path / "other", 7000)
    checkpoint = newest_checkpoint(release(tiny_run, tmp_path / "large", "newest").folder)
    weights = load_file(checkpoint.folder / EMA)
    name = next(iter(weights))
    save_file({**weights, name: torch.full(weights[name].shape, 7e4)}, checkpoint.folder / EMA)
    (checkpoint.folder / HASHES).write_text(json.dumps({EMA: sha256_of(checkpoint.folder / EMA)}))
    with pytest.raises(UsageError, match=r"beyond 65,504"):
        release(tmp_path / "large", tmp_path / "other", "newest")
    assert not (tmp_path / "other").exists()


def test_the_command_writes_a_release_that_generates(
    xraygen_cli: Callable[..., Result], tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "about.md").write_text("# A model of phantoms\n")
    model = tmp_path / "model"
    arguments = ["--checkpoint", "newest", "--card", tmp_path / "about.md", "--json"]
    arguments.append("--acknowledge-patient-data")
    written = xraygen_cli("export", tiny_run, "--to", "release", "--out", model, *arguments)
    assert written.exit_code == 0, written.output
    assert json.loads(written.stdout)["bytes"] > 0
    made = xraygen_cli("generate", model, "--out", tmp_path / "films", "--seeds", "0-1", "--steps", "2")
    assert made.exit_code == 0, made.output
    missing = xraygen_cli(
        "export",
        tiny_run,
        "--to",
        "release",
        "--out",
        tmp_path / "m",
        "--card",
        tmp_path / "none.md",
        "--acknowledge-patient-data",
    )
    assert (missing.exit_code, missing.exception.__class__) == (2, SystemExit)
    assert "none.md cannot be read" in missing.output
