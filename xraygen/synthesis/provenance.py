"""Where a synthetic film comes from, told well enough to make it again."""

import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from xraygen import __version__
from xraygen.devices import environment, machine
from xraygen.errors import FolderError, UsageError
from xraygen.training.checkpoint import HASHES, Checkpoint, run_config, trained_on

FORMAT_VERSION = 1
PROVENANCE = "provenance.json"
OLDER = "an older version"
"""What a set is by that does not say its version."""
_MEANT = {"precision": "float32", "noise": "mt19937"}
"""Settings that older versions did not say, and what they meant."""
_SHORT = 40
_DECIDES_NOTHING = ("id", "dataset_sha256", "created", "clock", "machine", "environment")


def provenance(
    run: Path,
    checkpoint: Checkpoint,
    settings: dict[str, Any],
    device: torch.device,
    *,
    compiled: bool = False,
) -> dict[str, Any]:
    """All that decides what the images look like, and when and where they were made.

    Args:
        run: RUN folder.
        checkpoint: The checkpoint of it that is sampled.
        settings: Sampler settings.
        device: Where sampling runs.
        compiled: Whether the network is compiled there.

    Returns:
        JSON-ready, without a path or a name. `id` is a hash of what decides the images: on the `machine` that it names
        they repeat to the bit, on another they are equivalent. `dataset_sha256` is the DATASET that the RUN was trained
        on, None where it does not know. `clock` is what the clock fields of DICOM files say.
    """
    decides = {
        "format_version": FORMAT_VERSION,
        "version": __version__,
        "checkpoint": {"step": checkpoint.step, "ema_sha256": checkpoint.ema_sha256},
        "config": run_config(run).model_dump(mode="json"),
        "settings": settings,
    }
    said = {name: value for name, value in settings.items() if name not in _MEANT or value != _MEANT[name]}
    hashed = {**decides, "settings": said}  # so that a set has the id that it would have had before
    digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()
    return {
        "id": digest[:32],
        **decides,
        "dataset_sha256": trained_on(run),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "clock": _clock(checkpoint),
        "machine": machine(device, compiled=compiled),
        "environment": environment(device),
    }


def _clock(checkpoint: Checkpoint) -> str:
    """When the checkpoint was written: a film of two sets, made a year apart, then has the same bytes.

    A copied RUN may have lost its files' times; SOURCE_DATE_EPOCH (reproducible-builds.org), seconds since 1970, then
    says the moment.
    """
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not re.fullmatch(r"\d{1,11}", seconds):
        seconds = str(int((checkpoint.folder / HASHES).stat().st_mtime))
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()


def agreed_provenance(folder: Path, new: dict[str, Any]) -> dict[str, Any]:
    """The provenance that a folder already has, if it is the same in all that decides the images; else the new one.

    Raises:
        UsageError: If the folder was made by another checkpoint or with other settings.
        FolderError: If its provenance.json cannot be read, or it holds something else.
    """
    if not (folder / PROVENANCE).exists():
        if folder.is_dir() and any(entry.name[0] != "." for entry in folder.iterdir()):
            raise FolderError(f"{folder} is not empty and has no {PROVENANCE}; choose another --out.")
        return new
    old = read_provenance(folder)
    what = differences(old, new)
    if what:
        raise UsageError(
            f"{folder} was made with another {', '.join(what)}; repeat the same command, or choose another --out."
        )
    return old


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What decides the images and is not the same, settings with both values; a set of an older version may lack it."""
    keys = [key for key in new if key not in (*_DECIDES_NOTHING, "settings") and old.get(key) != new[key]]
    there, here = settings_of(old), settings_of(new)
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    return keys + [_told_apart(name, there.get(name), here.get(name)) for name in names]


def _told_apart(name: str, there: object, here: object) -> str:
    """A setting with both values, where they are short: seeds may be thousands, and hashes tell nobody anything."""
    return f"{name} ({there}, now {here})" if len(f"{there}{here}") < _SHORT else name


def settings_of(origin: dict[str, Any]) -> dict[str, Any]:
    """The settings that a provenance says, and those that went without saying."""
    return {**_MEANT, **origin["settings"]}


def read_provenance(folder: Path) -> dict[str, Any]:
    """What `provenance` once said of a folder.

    Raises:
        FolderError: If it is missing or damaged.
    """
    path = folder / PROVENANCE
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(told["settings"], dict) and isinstance(told["checkpoint"]["ema_sha256"], str)):
            raise ValueError("no provenance")
    except (OSError, ValueError, KeyError, TypeError):
        raise FolderError(f"{path} is missing or damaged; choose another folder.") from None
    told.setdefault("version", OLDER)
    told.setdefault("machine", "")
    return told
