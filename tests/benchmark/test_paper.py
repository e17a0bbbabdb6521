"""The paper's setups, whole, at a size of seconds."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from xraygen.benchmark.paper import PaperSettings, benchmark_paper, differing, planned, training_seconds
from xraygen.benchmark.paper_table import NO_WEIGHTS
from xraygen.benchmark.published import CIFAR10
from xraygen.benchmark.trajectory import rows_of_chain
from xraygen.config import load_config
from xraygen.dataset.store import open_dataset
from xraygen.errors import FolderError, UsageError
from xraygen.training.checkpoint import checkpoints

Cli = Callable[..., Result]


@pytest.fixture(autouse=True, scope="module")
def light_features(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """EfficientNet-Lite0 in batches of 4: sets of a few images are not padded to 32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XRAYGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("xraygen.metrics.features.BATCH_SIZE", 4)
        yield


@pytest.fixture(scope="module")
def smaller(tiny: tuple[str, ...]) -> tuple[str, ...]:
    """What is changed of either setup's preset."""
    return *tiny, "train.batch_size=4", "train.sample_count=1"


@pytest.fixture(scope="module")
def as_options(smaller: tuple[str, ...]) -> list[str]:
    """The same as options of the command line."""
    return [word for change in smaller for word in ("--set", change)]


def picture_folder(folder: Path, count: int, side: int, names: Callable[[int], str]) -> Path:
    """Pictures of a coloured disc each."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    for row in range(count):
        centre = generator.uniform(side / 4, 3 * side / 4, 2)
        disc = np.hypot(y - centre[0], x - centre[1]) < side / 4
        image = np.where(disc[..., None], generator.integers(128, 256, 3), generator.integers(0, 128, 3))
        path = folder / names(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pictures of 32 px as train/<class>/NNNN.png and 4 as test/<class>/NNNN.png."""
    return picture_folder(
        tmp_path_factory.mktemp("cifar10"),
        16,
        32,
        lambda row: f"{'train' if row < 12 else 'test'}/{'cat' if row % 2 else 'dog'}/{row:04d}.png",
    )


@pytest.fixture(scope="module")
def celebahq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CelebA-HQ's layout: CelebA-HQ-img/<number>.jpg, square, larger than what is trained on; no test split."""
    root = tmp_path_factory.mktemp("celebahq")
    return picture_folder(root, 10, 64, lambda row: f"CelebA-HQ-img/{row}.jpg")


@pytest.fixture(scope="module")
def finished(
    cifar10: Path, as_options: list[str], tmp_path_factory: pytest.TempPathFactory, xraygen_cli: Cli
) -> tuple[Path, dict[str, Any], list[object]]:
    """CIFAR10 at its smallest, by the command line; tests only read it."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    command = ["benchmark", "cifar10", "--data", cifar10, "--out", out, "--steps", 4, "--samples", 6]
    command += ["--chain-steps", 5, "--ladder", "2", "--likelihood-images", 2, "--progressive-samples", 4]
    command += ["--paths", 1, "--compute-batch", 4, "--device", "cpu", "--json", *as_options]
    result = xraygen_cli(*command)
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout), command


@pytest.fixture
def copied(finished: tuple[Path, dict[str, Any], list[object]], tmp_path: Path) -> Path:
    """A copy of it to go on with."""
    return Path(shutil.copytree(finished[0], tmp_path / "out"))


@pytest.fixture
def scored(smaller: tuple[str, ...]) -> PaperSettings:
    """The settings of `finished`, of its sets alone."""
    return PaperSettings(4, 6, 5, (2,), 0, 0, 0, compute_batch=4, changes=smaller)


def test_one_command_goes_from_pictures_to_tables(
    finished: tuple[Path, dict[str, Any], list[object]],
) -> None:
    out, result, _ = finished
    assert result == json.loads((out / "benchmark.json").read_text())
    assert [entry["step"] for entry in result["ladder"]] == [2, 4]
    for entry in result["ladder"]:
        assert set(entry["scores"]) == {"EfficientNet-Lite0"}
        assert entry["scores"]["EfficientNet-Lite0"]["train"] > 0
        assert entry["scores"]["EfficientNet-Lite0"]["test"] > 0
        assert entry["generated"]["images"] == 6
        assert entry["training_seconds"] > 0
    assert result["data"]["images"] == {"train": 12, "test": 4}
    assert set(result["likelihood"]["splits"]) == {"test", "train"}
    assert [row["reverse_steps"] for row in result["progressive"]["rows"]] == [1, 2, 3, 4, 5]
    assert open_dataset(out / "dataset").info.channels == 3
    assert len(list((out / "synthetic" / "step-00000004" / "images").glob("*.png"))) == 6


def test_nothing_of_a_small_run_stands_beside_a_published_figure(
    finished: tuple[Path, dict[str, Any], list[object]],
) -> None:
    table = (finished[0] / "benchmark.md").read_text()
    beside = [line for line in table.splitlines() if line.count("|") == 4 and "not run" in line]
    assert len(beside) == len(CIFAR10.figures) + len(CIFAR10.ladder)
    assert all(NO_WEIGHTS in line for line in beside if "NLL" not in line)
    assert "FD-EfficientNet-Lite0 to train" in table
    assert "the images are not the published files" in table
    assert "1.77581" not in table  # table 4 is printed beside comparable runs only


def test_the_last_progressive_row_is_the_set_itself(
    finished: tuple[Path, dict[str, Any], list[object]],
) -> None:
    out, _, _ = finished
    parts = sorted((out / "progressive" / "step-00000004").glob("chains-*.npy"))
    last = np.concatenate([np.load(part)[-1] for part in parts])
    folder = out / "synthetic" / "step-00000004" / "images"
    for seed in range(4):
        image = np.asarray(Image.open(folder / f"{seed}.png"))
        assert np.array_equal(last[seed], image)


def test_the_way_between_two_images_is_the_one_that_interpolate_draws(
    finished: tuple[Path, dict[str, Any], list[object]], tmp_path: Path, xraygen_cli: Cli
) -> None:
    out, result, _ = finished
    (pair,) = result["interpolation"]["pairs"]
    # The five steps of the chain, evenly from 20 to 1, and the images themselves.
    assert pair["grid_timesteps"] == [20, 15, 11, 6, 1, 0]
    dataset = open_dataset(out / "dataset")
    assert set(pair["rows"]) <= set(dataset.indices("test").tolist())
    ends = []
    for row in pair["rows"]:  # as files, larger than the RUN's images: they are reduced as they were before
        ends.append(tmp_path / f"{row}.png")
        Image.fromarray(dataset.images[row].repeat(2, axis=0).repeat(2, axis=1)).save(ends[-1])
    command = [
        "interpolate",
        out / "run",
        *ends,
        "--out",
        tmp_path / "path",
        "--mode",
        "paper",
        "--timestep",
        10,
    ]
    command += ["--sampler", "ddim", "--steps", 5, "--grid", "--features", "pixels", "--device", "cpu"]
    told = xraygen_cli(*command)
    assert told.exit_code == 0, told.stderr
    assert "film A: 32x32 px brought to 16x16 (none)" in told.stderr
    drawn = out / "paths" / "step-00000004" / pair["folder"]
    mine, theirs = (np.asarray(Image.open(folder / "grid.png"), int) for folder in (tmp_path / "path", drawn))
    assert mine.shape == theirs.shape
    assert (
        np.abs(mine - theirs).max() <= 1
    )  # 4 and 11 frames are computed together: a level may round otherwise
    table = (out / "benchmark.md").read_text()
    assert f"(paths/step-00000004/{pair['folder']}/grid.png)" in table
    assert f"a variance of {pair['noise_variance_half_way']:.2f}" in table


def test_the_same_command_does_nothing_again(
    finished: tuple[Path, dict[str, Any], list[object]], xraygen_cli: Cli
) -> None:
    out, before, command = finished
    kept = {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.suffix in (".png", ".npy", ".safetensors") and "likelihood" not in path.parts
    }
    again = json.loads(xraygen_cli(*command).stdout)
    assert again["ladder"] == before["ladder"]
    for part in ("likelihood", "progressive", "interpolation"):  # what was done before took its time
        assert again[part]["seconds"] >= before[part]["seconds"]
    assert {path: path.stat().st_mtime_ns for path in kept if "preview" not in path.name} == {
        path: at for path, at in kept.items() if "preview" not in path.name
    }


def test_more_steps_go_on_from_there(
    finished: tuple[Path, dict[str, Any], list[object]],
    cifar10: Path,
    smaller: tuple[str, ...],
    tmp_path: Path,
) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "out"))
    settings = PaperSettings(
        6, 6, 5, (2, 4), likelihood_images=0, progressive_samples=0, paths=0, compute_batch=4, changes=smaller
    )
    result = benchmark_paper(CIFAR10, cifar10, out, settings, device="cpu")
    assert [entry["step"] for entry in result["ladder"]] == [2, 4, 6]
    assert result["ladder"][:2] == finished[1]["ladder"]
    assert result["likelihood"] is None
    assert result["progressive"] is None
    assert result["interpolation"] is None


def test_a_run_is_not_reported_under_settings_that_it_was_not_trained_with(
    finished: tuple[Path, dict[str, Any], list[object]], copied: Path, xraygen_cli: Cli
) -> None:
    command = [copied if word == finished[0] else word for word in finished[2]]
    before = (copied / "benchmark.json").read_bytes()
    result = xraygen_cli(*command, "--set", "model.dropout=0")
    assert result.exit_code == 2
    assert "was started with other settings (model.dropout: 0.1 -> 0.0)" in result.stderr
    assert (copied / "benchmark.json").read_bytes() == before


def test_weights_that_a_run_was_started_from_are_told_though_the_command_names_none(
    finished: tuple[Path, dict[str, Any], list[object]], copied: Path, cifar10: Path, scored: PaperSettings
) -> None:
    config = load_config(copied / "run" / "config.yaml", ["train.init_from='sha256:0'"])
    (copied / "run" / "config.yaml").write_text(config.to_yaml())
    result = benchmark_paper(CIFAR10, cifar10, copied, scored, device="cpu")
    assert set(result["other_settings"]) - set(finished[1]["other_settings"]) == {"train.init_from=sha256:0"}


def test_what_is_measured_at_a_step_is_of_its_checkpoint_though_training_went_on(
    finished: tuple[Path, dict[str, Any], list[object]], copied: Path, cifar10: Path, scored: PaperSettings
) -> None:
    saved = copied / "run" / "checkpoints"
    shutil.copytree(saved / "step-00000004", saved / "step-00000006")
    parts = (
        replace(scored, likelihood_images=2),
        replace(scored, progressive_samples=4),
        replace(scored, paths=1),
    )
    # What is there is gone on with, which another checkpoint than that of step 4 would be refused.
    result = benchmark_paper(CIFAR10, cifar10, copied, parts[1], device="cpu")
    assert result["progressive"]["rows"] == finished[1]["progressive"]["rows"]
    # And without that checkpoint nothing is measured by the newest in its place.
    shutil.rmtree(saved / "step-00000004")
    shutil.rmtree(copied / "paths")
    for part in parts:
        with pytest.raises(FolderError, match="no checkpoint of step 4"):
            benchmark_paper(CIFAR10, cifar10, copied, part, device="cpu")


def test_a_set_is_scored_again_though_its_checkpoint_is_gone(
    finished: tuple[Path, dict[str, Any], list[object]], copied: Path, cifar10: Path, scored: PaperSettings
) -> None:
    assert 2 not in {checkpoint.step for checkpoint in checkpoints(copied / "run")}
    few = benchmark_paper(CIFAR10, cifar10, copied, replace(scored, reference_images=3), device="cpu")
    assert few["ladder"][0]["scores"] != finished[1]["ladder"][0]["scores"]
    all_again = benchmark_paper(CIFAR10, cifar10, copied, scored, device="cpu")
    assert all_again["ladder"][0]["scores"] == finished[1]["ladder"][0]["scores"]


@pytest.mark.parametrize("why", ["more images", "another chain", "a damaged image"])
def test_a_set_without_its_checkpoint_that_is_not_whole_is_refused_with_what_to_do(
    copied: Path, cifar10: Path, scored: PaperSettings, why: str
) -> None:
    settings = {
        "more images": replace(scored, samples=7),
        "another chain": replace(scored, chain_steps=4),
        "a damaged image": replace(scored, reference_images=3),
    }[why]
    if why == "a damaged image":
        (copied / "synthetic" / "step-00000002" / "images" / "3.png").write_bytes(b"cut short")
    with pytest.raises(FolderError, match=r"no longer holds the checkpoint of step 2.*--ladder none"):
        benchmark_paper(CIFAR10, cifar10, copied, settings, device="cpu")


def test_celebahq_in_its_layout_runs_whole_without_a_test_split(
    celebahq: Path, as_options: list[str], tmp_path: Path, xraygen_cli: Cli
) -> None:
    result = xraygen_cli(
        *(
            "benchmark",
            "celebahq",
            "--data",
            celebahq,
            "--out",
            tmp_path / "out",
            "--steps",
            2,
            "--samples",
            4,
        ),
        *("--chain-steps", 3, "--likelihood-images", 1, "--progressive-samples", 2, "--paths", 1),
        *("--compute-batch", 2),
        *("--device", "cpu", *as_options),
    )
    assert result.exit_code == 0, result.output
    table = (tmp_path / "out" / "benchmark.md").read_text()
    assert table == result.stdout
    assert table.startswith("# CelebA-HQ 256\n")
    assert "| 56,000 | 19.7 | not run: 2 steps were run" in table
    assert "no such images" in table
    dataset = open_dataset(tmp_path / "out" / "dataset")
    assert dataset.info.settings["resized"] == 10
    drawn = json.loads((tmp_path / "out" / "benchmark.json").read_text())["interpolation"]
    assert drawn["split"] == "train"
    assert set(drawn["pairs"][0]["rows"]) <= set(dataset.indices("train").tolist())
    assert "Train images, mixed as in the paper" in table


def test_only_settings_that_change_what_is_trained_count_as_others() -> None:
    preset = load_config("cifar10")
    assert differing(load_config("cifar10", ["train.save_every=7", "train.max_steps=9"]), preset) == []
    assert differing(load_config("cifar10", ["model.dropout=0"]), preset) == ["model.dropout=0.0"]


def test_scores_are_planned_at_the_ladder_below_the_last_step() -> None:
    assert planned(CIFAR10, PaperSettings())[1] == [46_800, 93_600, 187_000, 421_000, 796_000, 800_000]
    assert planned(CIFAR10, PaperSettings(steps=93_600))[1] == [46_800, 93_600]
    assert planned(CIFAR10, PaperSettings(steps=50, ladder=(20, 80)))[1] == [20, 50]


def test_the_rows_of_a_chain_are_tenths_and_end_with_the_image() -> None:
    assert rows_of_chain(1000) == {done: 1000 - done for done in range(100, 1001, 100)}
    assert rows_of_chain(3) == {1: 2, 2: 1, 3: 0}


def test_training_time_is_summed_over_calls(finished: tuple[Path, dict[str, Any], list[object]]) -> None:
    run = finished[0] / "run"
    speeds = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    expected = sum(4 / line["images_per_second"] for line in speeds if "images_per_second" in line)
    assert training_seconds(run, 4, 4) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("setup", ["cifar10", "celebahq"])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    setup: str, tmp_path: Path, xraygen_cli: Cli
) -> None:
    result = xraygen_cli("benchmark", setup, "--data", "images", "--out", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    assert "Would make a DATASET of images" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ladder", "x"], "expected training steps"),
        (["--data", "none"], "none does not exist"),
        (["--weights", "none.pth"], "there is no such file"),
        (["--set", "model.chanels=3"], "chanels"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(
    options: list[str], words: str, cifar10: Path, tmp_path: Path, xraygen_cli: Cli
) -> None:
    arguments = ["--data", cifar10, "--out", tmp_path / "out", *options]
    result = xraygen_cli("benchmark", "cifar10", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_another_source_is_refused_in_the_same_folder(
    finished: tuple[Path, dict[str, Any], list[object]], celebahq: Path, smaller: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match="another source"):
        benchmark_paper(CIFAR10, celebahq, finished[0], PaperSettings(4, changes=smaller), device="cpu")
