"""A RUN on disk: its configuration and its checkpoints, each whole or absent and verified by hash when read.

RUN/checkpoints/step-00001000/  model.safetensors  ema.safetensors  state.pt  hashes.json
"""

import io
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from xraygen.atomic import atomic_folder, remove_leftovers, sha256_of, write_json
from xraygen.config import RunConfig, load_config
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import FolderError
from xraygen.models.unet import UNet

_log = logging.getLogger(__name__)

MODEL, EMA, STATE, HASHES = "model.safetensors", "ema.safetensors", "state.pt", "hashes.json"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder."""

    folder: Path
    step: int

    @property
    def ema_sha256(self) -> str:
        """Hash of the averaged weights: what an image's provenance names."""
        return str(json.loads((self.folder / HASHES).read_text(encoding="utf-8"))[EMA])


class LoadedRun(NamedTuple):
    """What sampling needs of a RUN."""

    model: UNet
    diffusion: GaussianDiffusion
    config: RunConfig


def load_run(folder: Path | str, device: torch.device | str = "cpu") -> LoadedRun:
    """Open a RUN for sampling.

    Args:
        folder: RUN folder.
        device: Where the network goes.

    Returns:
        The network with its averaged (EMA) weights in evaluation mode, its diffusion, and the configuration.

    Raises:
        FolderError: If the folder is no RUN, or holds no checkpoint that is whole.
    """
    folder = Path(folder)
    config = run_config(folder)
    checkpoint = newest_checkpoint(folder)
    model = UNet(config.model)
    load_weights(model, checkpoint.folder / EMA)
    diffusion = GaussianDiffusion(NoiseSchedule.from_config(config.schedule), config.diffusion)
    return LoadedRun(model.to(device).eval().requires_grad_(False), diffusion, config)


def run_config(folder: Path) -> RunConfig:
    """The configuration that a RUN was started with."""
    path = folder / "config.yaml"
    if not folder.is_dir():
        raise FolderError(f"There is no folder {folder}; expected a RUN, which `xraygen train --out` writes.")
    if not path.is_file():
        raise FolderError(f"{folder} is not a RUN: it has no config.yaml; `xraygen train --out` writes one.")
    return load_config(path)


def checkpoints(run: Path) -> list[Checkpoint]:
    """All checkpoints of a RUN, the oldest first, not yet verified."""
    found = (run / "checkpoints").glob("step-*")
    named = [(path, path.name.removeprefix("step-")) for path in found]
    return sorted(
        (Checkpoint(path, int(step)) for path, step in named if step.isdigit()),
        key=lambda checkpoint: checkpoint.step,
    )


def newest_checkpoint(run: Path) -> Checkpoint:
    """The newest checkpoint that is whole; damaged ones are passed over with a warning.

    Raises:
        FolderError: If there is none.
    """
    for checkpoint in reversed(checkpoints(run)):
        damage = _damage(checkpoint)
        if damage is None:
            return checkpoint
        _log.warning("%s is damaged (%s); the one before it is taken.", checkpoint.folder, damage)
    raise FolderError(
        f"{run} holds no whole checkpoint (checkpoints/step-*); run `xraygen train --out {run}` until it saves one."
    )


def _damage(checkpoint: Checkpoint) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        hashes = json.loads((checkpoint.folder / HASHES).read_text(encoding="utf-8"))
        wrong = [name for name, digest in hashes.items() if sha256_of(checkpoint.folder / name) != digest]
    except (OSError, ValueError) as error:
        return f"{type(error).__name__} in {HASHES}"
    return f"{', '.join(wrong)} changed since it was written" if wrong else None


def save_checkpoint(run: Path, step: int, model: UNet, ema: UNet, optimizer: dict[str, Any]) -> None:
    """Write the checkpoint of a step; on return it is on disk whole.

    Args:
        run: RUN folder.
        step: Optimiser steps done.
        model: Network in training.
        ema: Network with the averaged weights.
        optimizer: Its state_dict.
    """
    folder = run / "checkpoints" / f"step-{step:08d}"
    if folder.exists():
        if _damage(Checkpoint(folder, step)) is None:
            return  # the same step of the same run: the same weights
        shutil.rmtree(folder)
    with atomic_folder(folder) as aside:
        # By way of memory, since safetensors and torch hide a full disk behind errors of their own.
        (aside / MODEL).write_bytes(save(_tensors(model)))
        (aside / EMA).write_bytes(save(_tensors(ema)))
        state = io.BytesIO()
        torch.save({"step": step, "optimizer": optimizer}, state)
        (aside / STATE).write_bytes(state.getbuffer())
        write_json(aside / HASHES, {name: sha256_of(aside / name) for name in (MODEL, EMA, STATE)})


def load_checkpoint(checkpoint: Checkpoint, model: UNet, ema: UNet) -> dict[str, Any]:
    """Put a checkpoint's weights into both networks and return the optimiser's state_dict."""
    load_weights(model, checkpoint.folder / MODEL)
    load_weights(ema, checkpoint.folder / EMA)
    state: dict[str, Any] = torch.load(checkpoint.folder / STATE, map_location="cpu", weights_only=True)
    optimizer: dict[str, Any] = state["optimizer"]
    return optimizer


def load_weights(model: UNet, path: Path) -> None:
    """Fill a network from a safetensors file; names and shapes must agree exactly."""
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FolderError(
            f"{path} does not hold this network's weights: {' '.join(str(error).split())}"
        ) from None


def prune_checkpoints(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what killed runs left half-written."""
    for checkpoint in checkpoints(run)[:-keep]:
        shutil.rmtree(checkpoint.folder)
    remove_leftovers(run / "checkpoints")


def _tensors(model: UNet) -> dict[str, torch.Tensor]:
    """Weights on the CPU, each with memory of its own, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
