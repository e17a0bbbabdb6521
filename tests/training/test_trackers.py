import re
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xraygen.config import RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError
from xraygen.training import trackers
from xraygen.training.loop import train
from xraygen.training.speedometer import Speed
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


class Recorded(ModuleType):
    """Stands in for a tracker that is not installed: writes down what it is called with, `[(name, arguments)]`."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setitem(sys.modules, name, self)

    def writes_down(self, name: str, *positions: str, result: object = None) -> Callable[..., Any]:
        """A function of that name, whose positional arguments have these names."""

        def called(*arguments: Any, **named: Any) -> object:
            self.calls.append((name, dict(zip(positions, arguments, strict=False)) | named))
            return result

        return called

    def of(self, name: str) -> list[dict[str, Any]]:
        return [arguments for called, arguments in self.calls if called == name]


def weights_and_biases(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The part of Weights & Biases that Accelerate calls."""
    module = Recorded("wandb", monkeypatch)
    run = SimpleNamespace(log=module.writes_down("log", "values"), finish=module.writes_down("finish"))
    parts = {
        "init": module.writes_down("init", result=run),
        "config": SimpleNamespace(update=module.writes_down("config", "values")),
        "Image": lambda picture: SimpleNamespace(picture=picture),
    }
    vars(module).update(parts)
    return module


def ml_flow(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """The part of MLflow that Accelerate and we call."""
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "MLFLOW_TAGS", "MLFLOW_NESTED_RUN"):
        monkeypatch.delenv(name, raising=False)
    module = Recorded("mlflow", monkeypatch)
    results: dict[str, object] = {
        "search_experiments": [],
        "create_experiment": "1",
        "start_run": SimpleNamespace(info=SimpleNamespace(run_id="the run's id")),
        "end_run": None,
    }
    functions = {name: module.writes_down(name, result=result) for name, result in results.items()}
    for name, position in (("log_params", "values"), ("log_metrics", "values"), ("log_image", "picture")):
        functions[name] = module.writes_down(name, position)
    limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
    vars(module).update(functions, utils=SimpleNamespace(validation=limits))
    return module


class Watched(NamedTuple):
    """A RUN from the weights of another that both were told of, for two steps, and then for one more."""

    run: Path
    wandb: Recorded
    mlflow: Recorded


@pytest.fixture(scope="module")
def watched(
    tiny_config: Callable[..., RunConfig],
    tiny_dataset: Path,
    tiny_run: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Watched:
    run = tmp_path_factory.mktemp("watched") / "run"
    common = ("train.sample_every=2", "train.trackers=[wandb,mlflow]", f"train.init_from={tiny_run}")
    with pytest.MonkeyPatch.context() as patch:
        told = Watched(run, weights_and_biases(patch), ml_flow(patch))
        for steps in (2, 3):
            config = tiny_config(f"train.max_steps={steps}", *common)
            train(config, open_dataset(tiny_dataset), run, device="cpu")
    return told


def test_weights_and_biases_goes_on_with_its_run_and_is_told_settings_curves_and_pictures(
    watched: Watched,
) -> None:
    run, wandb, _ = watched
    first, second = wandb.of("init")
    assert first == second == {"project": "xraygen", "dir": str(run), "id": first["id"], "resume": "allow"}
    assert re.fullmatch("[0-9a-f]{32}", first["id"])
    settings, again = (call["values"] for call in wandb.of("config"))
    assert settings == again  # of the RUN, which began with two steps
    assert (settings["train.max_steps"], settings["model.channel_mult"]) == (2, "[1, 2]")
    assert {type(value) for value in settings.values()} <= {bool, int, float, str}
    figures = [call for call in wandb.of("log") if "loss" in call["values"]]
    assert [call["step"] for call in figures] == [1, 2, 3]
    assert all(call["values"].keys() == {"loss", *Speed(0, 0, 0).curves()} for call in figures)
    pictures = {
        call["step"]: call["values"]["samples"] for call in wandb.of("log") if "samples" in call["values"]
    }
    assert list(pictures) == [2, 3]
    for step, (picture,) in pictures.items():
        with Image.open(run / "samples" / f"step-{step:08d}.png") as sample:
            np.testing.assert_array_equal(picture.picture, np.asarray(sample))
    assert len(wandb.of("finish")) == 2


def test_mlflow_goes_on_with_its_run_and_is_told_settings_curves_and_pictures(
    watched: Watched,
) -> None:
    run, wandb, mlflow = watched
    assert [call["run_id"] for call in mlflow.of("start_run")] == [None, "the run's id"]
    first, second = (call["values"] for call in mlflow.of("log_params"))
    assert first == second == wandb.of("config")[0]["values"]  # MLflow refuses another value in the same run
    curves = [call for call in mlflow.of("log_metrics") if "loss" in call["values"]]
    assert [call["step"] for call in curves] == [1, 2, 3]
    names = {name for call in mlflow.of("log_metrics") for name in call["values"]} | first.keys()
    assert all(re.fullmatch(r"[/\w.\- :]+", name) for name in names)  # what MLflow allows
    assert any(name.startswith("gap at t ") for name in names)
    for call in mlflow.of("log_image"):
        assert call["key"] == "samples"
        with Image.open(run / "samples" / f"step-{call['step']:08d}.png") as sample:
            np.testing.assert_array_equal(call["picture"], np.asarray(sample))
    assert [call["step"] for call in mlflow.of("log_image")] == [2, 3]
    assert len(mlflow.of("end_run")) == 2


def test_neither_is_told_a_path_or_a_film(watched: Watched, tiny_run: Path, tiny_dataset: Path) -> None:
    local = {"dir"}  # where Weights & Biases keeps its files on this machine
    told = repr([
        (name, {key: value for key, value in arguments.items() if key not in local})
        for name, arguments in (*watched.wandb.calls, *watched.mlflow.calls)
    ])  # fmt: skip
    for folder in (watched.run, tiny_run, tiny_dataset):
        assert str(folder) not in told
    assert "'train.init_from': 'sha256:" in told
    manifest = open_dataset(tiny_dataset).manifest
    for column in ("image_id", "source", "patient"):
        assert not set(manifest[column]) & set(re.findall(r"\w+", told))
