"""Starting a RUN folder, and seeing that one is gone on with under the same settings and data."""

import json
from pathlib import Path
from typing import Any

import torch

from xraygen.atomic import write_json, write_text
from xraygen.config import RunConfig
from xraygen.dataset.store import Dataset
from xraygen.devices import environment
from xraygen.errors import FolderError, UsageError
from xraygen.training.checkpoint import Checkpoint, run_config
from xraygen.training.conditions import CONDITIONS, agree_conditions, read_conditions
from xraygen.training.start import with_hash

_FIRST_FILES = {"environment.json", "dataset.json", CONDITIONS}
_MAY_CHANGE = {
    "model.checkpoint_activations",
    "train.max_steps",
    "train.save_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.sample_count",
    "train.sample_steps",
    "train.log_every",
    "train.posthoc_ema_keep",
    "train.max_rollbacks",
    "train.stop_at_gap",
    "train.micro_batch_size",
    "train.data_on_device",
    "train.compile",
    "train.channels_last",
    "train.init_from",
    "train.trackers",
}
"""Settings that do not alter what a step does, beyond rounding, and so may differ when a run goes on."""


def check_fit(config: RunConfig, dataset: Dataset) -> None:
    """The DATASET's pictures are those that the network expects."""
    channels, height, width = config.data.shape
    if (dataset.info.channels, *dataset.info.size) != (channels, height, width):
        have = f"{dataset.info.size[0]}x{dataset.info.size[1]} with {dataset.info.channels} channel(s)"
        raise UsageError(
            f"{dataset.folder} holds images of {have}, and the configuration expects {height}x{width} with {channels}; "
            f"ingest with --size {height}x{width}, or set data.image_size."
        )


def prepare_folder(
    config: RunConfig, dataset: Dataset, run: Path, device: torch.device, start: Checkpoint | None
) -> None:
    """Start a RUN from `start`, or see that this one was started with the same settings and data."""
    check_folder(config, dataset, run)
    if not (run / "config.yaml").exists():
        known = None if start is None else read_conditions(start.run, config)
        agree_conditions(config, dataset, run, known)
        write_json(run / "environment.json", environment(device))
        write_json(run / "dataset.json", _origin(dataset))
        # The configuration comes last: it makes the folder a RUN.
        write_text(run / "config.yaml", with_hash(config, start).to_yaml())
        return
    known = None if run_config(run).train.init_from is None else read_conditions(run, config)
    agree_conditions(config, dataset, run, known)


def check_folder(config: RunConfig, dataset: Dataset, run: Path) -> None:
    """A folder is a RUN of the same settings and data, or can become one: it holds nothing else, or is not there.

    Raises:
        UsageError: If the RUN was started with other settings or another DATASET, or was imported.
        FolderError: If the folder is something else.
    """
    if not (run / "config.yaml").exists():
        there = [path.name for path in run.iterdir()] if run.is_dir() else []
        foreign = [name for name in there if name not in _FIRST_FILES and name[0] != "."]
        if foreign:
            raise FolderError(
                f"{run} is not a RUN and not empty (it holds {foreign[0]}); choose another --out."
            )
        return
    if not (run / "dataset.json").exists():
        raise UsageError(
            f"{run} was imported, not trained here, and names no DATASET; it cannot go on training: choose another "
            "--out."
        )
    if json.loads((run / "dataset.json").read_text(encoding="utf-8")) != _origin(dataset):
        raise UsageError(f"{run} was trained on another DATASET than {dataset.folder}; choose another --out.")
    check_settings(config, run)


def _origin(dataset: Dataset) -> dict[str, Any]:
    """Which films a RUN is trained on, as its dataset.json says it."""
    return {"content_sha256": dataset.info.content_sha256, "settings": dict(dataset.info.settings)}


def check_settings(config: RunConfig, run: Path) -> None:
    """The RUN was started with this configuration, but for what may change when it goes on.

    Raises:
        UsageError: If it was not; it names the settings.
    """
    differences = _differences(run_config(run).model_dump(), config.model_dump())
    if differences:
        raise UsageError(
            f"{run} was started with other settings ({'; '.join(differences)}); repeat them or choose another --out."
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that a continued run may not change, as `key: old -> new`."""
    return [
        f"{section}.{key}: {old[section][key]} -> {value}"
        for section, values in new.items()
        for key, value in values.items()
        if old[section][key] != value and f"{section}.{key}" not in _MAY_CHANGE
    ]
