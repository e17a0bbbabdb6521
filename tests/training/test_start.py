import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from xraygen.config import RunConfig, load_config
from xraygen.dataset.conditions import Condition, Conditions
from xraygen.dataset.manifest import write_manifest
from xraygen.dataset.store import Dataset, content_sha256, open_dataset
from xraygen.errors import FolderError, UsageError
from xraygen.training.checkpoint import EMA, MODEL, checkpoints, newest_checkpoint
from xraygen.training.conditions import CONDITIONS, TrainingConditions, taken_over
from xraygen.training.loop import train

TinyConfig = Callable[..., RunConfig]


@pytest.fixture
def others(labelled_dataset: Path, tmp_path: Path) -> Callable[..., Dataset]:
    """`others(sex="M")`: the films of `labelled_dataset`, of which the manifest says something else."""

    def write(**columns: Any) -> Dataset:
        folder = Path(shutil.copytree(labelled_dataset, tmp_path / "others"))
        dataset = open_dataset(folder)
        write_manifest(folder / "manifest.csv", dataset.manifest.assign(**columns), dataset.info.label_names)
        info = {**dataset.info.to_json(), "content_sha256": content_sha256(folder)}
        (folder / "dataset.json").write_text(json.dumps(info))
        return open_dataset(folder)

    return write


def test_fine_tuning_starts_from_the_averaged_weights_and_records_them_by_hash(
    tiny_config: TinyConfig, tiny_dataset: Path, tiny_run: Path, tmp_path: Path
) -> None:
    dataset, run = open_dataset(tiny_dataset), tmp_path / "run"
    config = tiny_config(f"train.init_from={tiny_run}", "train.max_steps=1", "model.dropout=0.1")
    train(config, dataset, run, device="cpu")
    averaged = load_file(newest_checkpoint(tiny_run).folder / EMA)
    first = checkpoints(run)[0]
    for name in (MODEL, EMA):
        started = load_file(first.folder / name)
        assert all(torch.equal(started[key], averaged[key]) for key in averaged)
    recorded = load_config(run / "config.yaml").train.init_from
    assert recorded == f"sha256:{newest_checkpoint(tiny_run).ema_sha256}"
    assert str(tiny_run.parent) not in (run / "config.yaml").read_text()
    # It goes on although the folder that it started from may be gone by then.
    gone = tiny_config("train.init_from=gone", "train.max_steps=2", "model.dropout=0.1")
    assert train(gone, dataset, run, device="cpu").step == 2
    with pytest.raises(UsageError, match="names weights by their hash"):
        train(load_config(run / "config.yaml"), dataset, tmp_path / "copy", device="cpu")


def test_another_network_is_refused_with_what_differs(
    tiny_config: TinyConfig, tiny_dataset: Path, tiny_run: Path, tmp_path: Path
) -> None:
    config = tiny_config(
        f"train.init_from={tiny_run}", "model.channels=64", "diffusion.prediction_type=epsilon"
    )
    with pytest.raises(
        UsageError,
        match=r"model\.channels: 32 there, 64 here; diffusion\.prediction_type: v_prediction there, eps",
    ):
        train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    with pytest.raises(FolderError, match="There is no folder nowhere"):
        train(
            tiny_config("train.init_from=nowhere"), open_dataset(tiny_dataset), tmp_path / "run", device="cpu"
        )


def test_a_run_killed_before_its_first_checkpoint_must_be_told_the_start_again(
    tiny_config: TinyConfig, tiny_dataset: Path, tiny_run: Path, tmp_path: Path
) -> None:
    dataset, run = open_dataset(tiny_dataset), tmp_path / "run"
    train(tiny_config(f"train.init_from={tiny_run}", "train.max_steps=0"), dataset, run, device="cpu")
    for checkpoint in checkpoints(run):
        checkpoint.folder.rename(tmp_path / "aside")
    with pytest.raises(
        UsageError, match=r"was started from the weights sha256:\w+, and train\.init_from now names None"
    ):
        train(tiny_config("train.max_steps=0"), dataset, run, device="cpu")


@pytest.mark.parametrize(
    ("words", "settings", "sentence"),
    [
        ("MX", (), r"sex is categorical \(one of F, M\), and here it is categorical \(one of M, X\)"),
        ("FMX", (), r"sex is categorical \(one of F, M\), and here it is categorical \(one of F, M, X\)"),
        ("FM", ("conditions.kinds.age=categorical",), r"age is continuous .* here it is categorical"),
    ],
    ids=["another word", "one word more", "another kind"],
)
def test_words_that_the_network_does_not_know_are_refused_before_anything_is_written(
    others: Callable[..., Dataset],
    tiny_config: TinyConfig,
    conditional_run: Path,
    tmp_path: Path,
    words: str,
    settings: tuple[str, ...],
    sentence: str,
) -> None:
    row = np.arange(48)
    dataset = others(sex=np.array(list(words))[row % len(words)], age=20.0 + 10 * (row % 3))
    told = ("conditions.columns=[sex,age]", *settings)
    with pytest.raises(UsageError, match=sentence):
        train(
            tiny_config(*told, f"train.init_from={conditional_run}"), dataset, tmp_path / "run", device="cpu"
        )
    assert not [path for path in (tmp_path / "run").iterdir() if path.name[0] != "."]


def test_a_fine_tuned_run_keeps_the_words_and_ranges_that_its_weights_were_trained_with(
    others: Callable[..., Dataset],
    tiny_config: TinyConfig,
    labelled_dataset: Path,
    conditional_run: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ages, run = 40 + 2.0 * np.arange(48), tmp_path / "run"
    dataset, told = others(sex="M", age=ages), "conditions.columns=[sex,age]"
    config = tiny_config(told, f"train.init_from={conditional_run}", "train.max_steps=1")
    train(config, dataset, run, device="cpu")
    assert (run / CONDITIONS).read_bytes() == (conditional_run / CONDITIONS).read_bytes()
    sex, age = TrainingConditions.of(config, dataset, run).values.T
    assert set(sex) == {1.0}  # the second of F, M, though the only word here
    before = open_dataset(labelled_dataset).manifest.query("split == 'train'")["age"]
    share = (ages - before.min()) / (before.max() - before.min())
    np.testing.assert_allclose(age, share.clip(0, 1), rtol=1e-6)  # float32
    assert "age is 40 to 102 here, and 20 to 51 in the RUN that this one starts from" in caplog.text
    # It goes on, although these are not the words and the range of its own films.
    longer = tiny_config(told, "train.init_from=gone", "train.max_steps=2")
    assert train(longer, dataset, run, device="cpu").step == 2


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("found", [False, True])
def test_a_column_may_be_missing_where_it_was_of_either_films(known: bool, found: bool) -> None:
    sex = Condition("sex", "categorical", ("F", "M"), may_be_missing=known)
    here = replace(sex, categories=("M",), may_be_missing=found)
    expected = replace(sex, may_be_missing=known or found)
    assert taken_over(Conditions((sex,)), Conditions((here,))) == Conditions((expected,))
