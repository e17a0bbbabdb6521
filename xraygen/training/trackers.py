"""Curves and pictures for whoever watches: TensorBoard's files in the RUN, Weights & Biases and MLflow where installed.

log.jsonl holds all of it whether or not anybody watches.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker

from xraygen.atomic import write_json
from xraygen.errors import UsageError
from xraygen.ranges import Stored
from xraygen.training.logging import nameless_event_files

PROJECT = "xraygen"
IDS = "trackers.json"


def check_installed(names: Sequence[str]) -> None:
    """Refuse trackers that are not there.

    Raises:
        UsageError: If one is not installed.
    """
    for name in names:
        if find_spec(name) is None:
            raise UsageError(
                f"train.trackers names {name}, which is not installed; pip install {name}, or leave it out."
            )


class Trackers:
    """The trackers of one run, on its main process; nobody elsewhere.

    Args:
        names: `train.trackers`.
        run: RUN folder; trackers.json in it names the runs of Weights & Biases and MLflow, which are gone on with.
        step: Steps done; TensorBoard then drops what a killed run told about steps that are now done again.
        config: The resolved configuration, which Weights & Biases and MLflow show beside the curves.
    """

    def __init__(self, names: Sequence[str], run: Path, step: int, config: Mapping[str, Any]) -> None:
        self._trackers = {name: _tracker(name, run, step) for name in names}
        for name, tracker in self._trackers.items():
            with nameless_event_files():
                tracker.start()
            if name != "tensorboard":
                tracker.store_init_configuration(_flat(config))
        if "mlflow" in self._trackers:
            _remember(run, "mlflow", self._trackers["mlflow"].tracker.info.run_id)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """One point of each curve."""
        for tracker in self._trackers.values():
            tracker.log(dict(figures), step=step)

    def picture(self, name: str, picture: Stored, step: int) -> None:
        """A picture, uint8 `[H, W]` or `[H, W, 3]`."""
        for tracker_name, tracker in self._trackers.items():
            match tracker_name:
                case "tensorboard":
                    layout = "HW" if picture.ndim == 2 else "HWC"
                    tracker.tracker.add_image(name, picture, step, dataformats=layout)
                case "wandb":
                    tracker.log_images({name: [picture]}, step=step)
                case "mlflow":
                    import mlflow  # noqa: PLC0415  # installed by choice

                    mlflow.log_image(picture, key=name, step=step)

    def finish(self) -> None:
        """Write what is pending."""
        for tracker in self._trackers.values():
            tracker.finish()


def _tracker(name: str, run: Path, step: int) -> GeneralTracker:
    match name:
        case "tensorboard":
            return TensorBoardTracker("tensorboard", run, purge_step=step + 1)
        case "wandb":
            name_of_run = _ids(run).get("wandb") or _remember(run, "wandb", uuid.uuid4().hex)
            return WandBTracker(PROJECT, dir=str(run), id=name_of_run, resume="allow")
        case _:
            return MLflowTracker(PROJECT, run_id=_ids(run).get("mlflow"))


def _ids(run: Path) -> dict[str, str]:
    path = run / IDS
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _remember(run: Path, tracker: str, name: str) -> str:
    write_json(run / IDS, {**_ids(run), tracker: name})
    return name


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """`{"train.seed": 0, ...}`: trackers want one level, and text where there is a list."""
    return {
        f"{section}.{key}": value if isinstance(value, bool | int | float) else str(value)
        for section, values in config.items()
        for key, value in values.items()
    }
