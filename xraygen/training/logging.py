"""What a run tells about itself: log.jsonl, TensorBoard, environment.json."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import xraygen
from xraygen.atomic import write_text

_PACKAGES = ("accelerate", "monai", "numpy", "pydicom", "safetensors", "torch")


def environment(device: torch.device) -> dict[str, Any]:
    """Machine and versions, without a host name, a user name or a path."""
    return {
        "xraygen": xraygen.__version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "byte_order": sys.byteorder,
    }


def append_log(run: Path, entry: dict[str, Any]) -> None:
    """Add a line to log.jsonl, with the time."""
    line = json.dumps({**entry, "time": datetime.now(UTC).isoformat(timespec="seconds")})
    with (run / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_log(run: Path) -> list[dict[str, Any]]:
    """The entries of log.jsonl; a line that a kill cut short is left out."""
    path = run / "log.jsonl"
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def rewind_log(run: Path, step: int) -> None:
    """Drop entries after `step`: those steps are about to be done again."""
    kept = [entry for entry in read_log(run) if entry["step"] <= step]
    write_text(run / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept))
