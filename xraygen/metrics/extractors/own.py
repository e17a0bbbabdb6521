"""`package.module:function` or `file.py:function`: a user's own features."""

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from xraygen.atomic import sha256_of
from xraygen.errors import UsageError
from xraygen.metrics.extractors.extractor import DTYPE_RULE, ExtractorOptions, FeatureExtractor

_TRIAL_SIDE = 64
_SAME = 1e-3
"""How far the features of a film may lie, by norm, from those of the same film in company: float32, other kernels."""


def is_own(name: str) -> bool:
    """Whether --features names a user's function."""
    return ":" in name


def display_name(name: str) -> str:
    """What a report may say of it: the file without its folders."""
    module, _, function = name.rpartition(":")
    return f"{Path(module).name}:{function}" if is_own(name) else name


def own(name: str, device: torch.device, options: ExtractorOptions) -> FeatureExtractor:
    """Features by a user's function.

    It takes a float32 tensor `(n, c, h, w)` in [0, 1] on `device`, c = 1 for films, and gives `(n, d)` as a tensor or
    an array, each row from its own film alone. What else decides its numbers, such as a file of weights, it may name in
    an attribute `provenance`, a dict of strings.

    Args:
        name: `package.module:function`, importable, or `folder/file.py:function`.
        device: Where the images are given.
        options: Not used.

    Raises:
        UsageError: If there is no such function, or it does not do what is asked in a trial of two images.
    """
    module, function = _function(name)
    told = getattr(function, "provenance", {})
    if not isinstance(told, Mapping):
        raise UsageError(f"--features {name}: its provenance must be a dict of strings.")

    dims = _trial(name, function, device)

    def network(images: Tensor) -> Tensor:
        features = _checked(name, function, images)
        if features.shape[1] != dims:
            raise UsageError(
                f"--features {name} gave {features.shape[1]} features of {images.shape[2]}x{images.shape[3]} px and "
                f"{dims} of {_TRIAL_SIDE}x{_TRIAL_SIDE} px; expected as many at any size."
            )
        return features

    shown = display_name(name)
    return FeatureExtractor(
        name=shown,
        label=shown,
        dims=dims,
        provenance={
            "extractor": f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}",
            "source_sha256": _source_sha256(function),
            "module_sha256": _file_sha256(module),
            "weights_sha256": "known to the function alone",
            "dtype": DTYPE_RULE,
            "input": "range [0, 1]",
            "resize": "the function's own",
            "dims": dims,
            **{f"own_{key}": str(value) for key, value in told.items()},
        },
        network=network,
        device=device,
    )


def _function(name: str) -> tuple[ModuleType, Callable[[Tensor], Any]]:
    """What `module:function` names, and the module, which may have made it of what others wrote."""
    path, _, attribute = name.rpartition(":")
    try:
        module = _module(path)
        found = getattr(module, attribute)
    except UsageError:
        raise
    except Exception as error:  # a user's module raises what it likes
        raise UsageError(
            f"--features {name}: {_said(error)}; expected package.module:function of an importable module, or "
            "file.py:function."
        ) from error
    if not callable(found):
        raise UsageError(f"--features {name}: {attribute} is no function.")
    function: Callable[[Tensor], Any] = found
    return module, function


def _module(path: str) -> ModuleType:
    """A module by its name, or by its file."""
    if not path.endswith(".py"):
        return importlib.import_module(path)
    if not Path(path).is_file():
        raise UsageError(f"--features {path}: there is no such file.")
    specification = importlib.util.spec_from_file_location(Path(path).stem, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{path} is no module")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _checked(name: str, function: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """The function's features of a batch, if they are what is asked."""
    try:
        features = torch.as_tensor(function(images)).float()
    except Exception as error:  # a user's function raises what it likes
        raise UsageError(f"--features {name} failed on {tuple(images.shape)}: {_said(error)}.") from error
    if features.ndim != 2 or len(features) != len(images) or features.shape[1] < 1:
        raise UsageError(
            f"--features {name} gave {tuple(features.shape)} of {len(images)} images; expected ({len(images)}, d)."
        )
    if not bool(torch.isfinite(features).all()):
        raise UsageError(f"--features {name} gave numbers that are not finite.")
    return features


def _trial(name: str, function: Callable[[Tensor], Any], device: torch.device) -> int:
    """d, after two images that are no films; a film's features must not depend on the others of its batch."""
    ramp = torch.linspace(0, 1, _TRIAL_SIDE, device=device)
    images = torch.stack([ramp.outer(ramp), 1 - ramp.outer(ramp)])[:, None]  # (2, 1, 64, 64)
    with torch.inference_mode():
        together, alone = (_checked(name, function, some) for some in (images, images[:1]))
    if together.shape[1] != alone.shape[1] or (together[0] - alone[0]).norm() > _SAME * together[0].norm():
        raise UsageError(
            f"--features {name} gives other features of a film alone than of the same film among others; is a network "
            "in training mode?"
        )
    return int(together.shape[1])


def _source_sha256(function: object) -> str:
    """Of the file that the function was written in."""
    target = function if inspect.isroutine(function) or inspect.isclass(function) else type(function)
    return _file_sha256(inspect.unwrap(target))


def _file_sha256(target: Any) -> str:
    """Of the file of a module, class or function."""
    try:
        file = inspect.getsourcefile(target)
    except TypeError:
        file = None
    return sha256_of(Path(file)) if file and Path(file).is_file() else "no file"


def _said(error: Exception) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".")
