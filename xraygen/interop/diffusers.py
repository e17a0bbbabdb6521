"""diffusers' DDPM folders: `DDPMPipeline.from_pretrained(folder)` on their side, a RUN on ours.

Only JSON and safetensors pass between the two; diffusers itself is not needed. The tensors are the same bits under
other names.
"""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from xraygen.atomic import atomic_folder, sha256_of, write_json, write_text
from xraygen.config import ModelConfig, RunConfig
from xraygen.devices import environment
from xraygen.errors import FolderError
from xraygen.interop.names import diffusers_names, modern_name
from xraygen.interop.settings import (
    JsonFile,
    model_index,
    run_config_from,
    scheduler_settings,
    unet_settings,
)
from xraygen.models.augmentation import AUGMENTATION_WEIGHTS
from xraygen.models.unet import UNet
from xraygen.training.checkpoint import (
    EMA,
    MODEL,
    Checkpoint,
    Choice,
    chosen_checkpoint,
    run_config,
    save_checkpoint,
)

UNET = ("unet/config.json", "config.json")
SCHEDULER = ("scheduler/scheduler_config.json", "scheduler_config.json")
WEIGHTS = tuple(
    f"{folder}diffusion_pytorch_model.{ending}"
    for folder in ("unet/", "")
    for ending in ("safetensors", "bin")
)
"""Where the parts of a folder lie: in sub-folders, or beside each other as in google/ddpm-cifar10-32."""
_PARTS = {"unet", "scheduler"}
_NAMED = 3  # tensors that a refusal spells out


@dataclass(frozen=True)
class ImportSummary:
    """What was imported."""

    run: Path
    parameters: int
    weights: Path


@dataclass(frozen=True)
class ExportSummary:
    """What was exported."""

    folder: Path
    parameters: int
    step: int


def import_diffusers(source: Path, run: Path) -> ImportSummary:
    """Make a RUN of a diffusers DDPM folder: `UNet2DModel` and a scheduler, for colour or grey images.

    The folder's weights become both the RUN's network and its average; which of the two they were, it does not say.

    Args:
        source: Folder in the layout of `save_pretrained`, or flat as google/ddpm-cifar10-32.
        run: RUN folder, which must not exist yet.

    Returns:
        The RUN, its number of parameters and the file they came from.

    Raises:
        FolderError: If the folder is incomplete, or holds another network or process than xraygen's: the key or the
            tensor is named.
    """
    _refuse_other_parts(source)
    files = [_first_of(source, names) for names in (UNET, SCHEDULER, WEIGHTS)]
    config = run_config_from(JsonFile(files[0]), JsonFile(files[1]))
    network = _without_weights(config.model)
    tensors = _with_modern_names(_read_tensors(files[2]))
    network.load_state_dict(_renamed(tensors, _expected(network), files[2]), assign=True)
    with atomic_folder(run) as aside:
        write_json(aside / "environment.json", environment(torch.device("cpu")))
        read = {path.relative_to(source).as_posix(): sha256_of(path) for path in files}
        write_json(aside / "imported.json", {"format": "diffusers", "sha256": read})
        write_text(aside / "config.yaml", config.to_yaml())
        fresh = torch.optim.Adam(network.parameters()).state_dict()
        save_checkpoint(aside, 0, network, network, fresh)
    return ImportSummary(run, _parameters(network), files[2])


def settings_for_diffusers(run: Path) -> tuple[RunConfig, dict[str, Any], dict[str, Any]]:
    """A RUN's configuration, and the same as diffusers' network and scheduler.

    Raises:
        UsageError: If diffusers' `UNet2DModel` or `DDPMScheduler` cannot express the RUN.
    """
    config = run_config(run)
    return config, unet_settings(config), scheduler_settings(config)


def export_diffusers(
    run: Path,
    out: Path,
    *,
    weights: Literal["ema", "model"] = "ema",
    choice: Choice | Checkpoint = "newest",
) -> ExportSummary:
    """Write a RUN as a folder that `DDPMPipeline.from_pretrained` runs.

    Args:
        run: RUN folder with a checkpoint.
        out: Folder to write, which must not exist yet.
        weights: The averaged weights, or those of the last step.
        choice: Which checkpoint, or what `chosen_checkpoint` returned.

    Of a network that was told augmentations, what it is for films to which nothing was done: their layer is left out.

    Returns:
        The folder, its number of parameters and the step of the checkpoint.

    Raises:
        UsageError: If diffusers' `UNet2DModel` or `DDPMScheduler` cannot express the RUN.
        FolderError: If the RUN has no whole checkpoint, or `out` exists.
    """
    config, unet, scheduler = settings_for_diffusers(run)
    checkpoint = chosen_checkpoint(run, choice)
    network = _without_weights(config.model.model_copy(update={"hears_augmentation": False}))
    theirs = diffusers_names(network)
    path = checkpoint.folder / (EMA if weights == "ema" else MODEL)
    ours = {name: (name, tensor.shape) for name, tensor in network.state_dict().items()}
    tensors = _read_tensors(path)
    if config.model.hears_augmentation:
        del tensors[AUGMENTATION_WEIGHTS]
    tensors = _renamed(tensors, ours, path)
    with atomic_folder(out) as aside:
        write_json(aside / "model_index.json", model_index())
        write_json(aside / SCHEDULER[0], scheduler)
        write_json(aside / UNET[0], unet)
        renamed = {theirs[name]: tensor for name, tensor in tensors.items()}
        (aside / WEIGHTS[0]).write_bytes(save(renamed, metadata={"format": "pt"}))
    return ExportSummary(out, _parameters(network), checkpoint.step)


def _refuse_other_parts(source: Path) -> None:
    """A pipeline with an autoencoder or a text encoder diffuses something else than images."""
    if not source.is_dir():
        raise FolderError(f"There is no folder {source}; expected one that diffusers' save_pretrained wrote.")
    if not (source / "model_index.json").exists():
        return
    index = JsonFile(source / "model_index.json")
    index.refuse_unknown(_PARTS)


def _first_of(source: Path, names: tuple[str, ...]) -> Path:
    """The first of these files that is there."""
    for name in names:
        if (source / name).is_file():
            return source / name
    raise FolderError(f"{source} has no {names[0]}; expected that or {', '.join(names[1:])}.")


def _without_weights(config: ModelConfig) -> UNet:
    """The network's names and shapes, without drawing or storing a weight."""
    with torch.device("meta"):
        return UNet(config)


def _expected(network: UNet) -> dict[str, tuple[str, torch.Size]]:
    """Our name and the shape of each tensor, by diffusers' name."""
    shapes = network.state_dict()
    return {theirs: (ours, shapes[ours].shape) for ours, theirs in diffusers_names(network).items()}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file; a .bin is read without running what it may hold."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, UnpicklingError) as error:
        raise FolderError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(loaded, dict) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise FolderError(f"{path} holds something else than tensors by name; expected a state_dict.")
    return loaded


def _with_modern_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old names replaced by today's, unless the file has a tensor of that name too, which leaves one too many."""
    modern = {name: modern_name(name) for name in tensors}
    return {name if modern[name] in tensors else modern[name]: tensor for name, tensor in tensors.items()}


def _renamed(
    tensors: dict[str, Tensor], expected: dict[str, tuple[str, torch.Size]], path: Path
) -> dict[str, Tensor]:
    """The tensors under our names, after each has been found to be there, of its shape, float32 and finite."""
    for names, what in (
        (expected.keys() - tensors.keys(), "has no"),
        (tensors.keys() - expected.keys(), "has an unexpected"),
    ):
        if names:
            first = sorted(names)[:_NAMED]
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise FolderError(
                f"{path} {what} {', '.join(first)}{more}; expected exactly the tensors of the network that "
                "its configuration describes."
            )
    for name, tensor in tensors.items():
        _, shape = expected[name]
        if tensor.shape != shape:
            raise FolderError(f"{path}: {name} is {tuple(tensor.shape)}; expected {tuple(shape)}.")
        if tensor.dtype != torch.float32:
            raise FolderError(f"{path}: {name} is {tensor.dtype}; expected torch.float32.")
        if not tensor.isfinite().all():
            raise FolderError(f"{path}: {name} holds NaN or infinity; expected finite weights.")
    return {ours: tensors[name] for name, (ours, _) in expected.items()}


def _parameters(network: UNet) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
