"""A RUN on disk: its configuration and its checkpoints, each whole or absent and verified by hash when read.

RUN/checkpoints/step-00001000/  model.safetensors  ema.safetensors  state.pt  hashes.json
                                between-saves   empty, and only where a stop or the end wrote it
RUN/checkpoints/best.json       the step whose averaged network denoises the held-out films best
"""

import io
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from xraygen.atomic import atomic_folder, remove_leftovers, sha256_of, write_json
from xraygen.config import RunConfig, load_config
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import FolderError
from xraygen.models.unet import UNet
from xraygen.presets import run_folder, shipped_models
from xraygen.training.conditions import read_conditions

_log = logging.getLogger(__name__)

MODEL, EMA, STATE, HASHES, BEST, BETWEEN = (
    "model.safetensors",
    "ema.safetensors",
    "state.pt",
    "hashes.json",
    "best.json",
    "between-saves",
)

Choice = Literal["newest", "best"] | int
"""Which checkpoint of a RUN: the newest, the one that is best on validation films, or that of a step."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder."""

    folder: Path
    step: int

    @property
    def run(self) -> Path:
        """The RUN that it is of."""
        return self.folder.parents[1]

    @property
    def scheduled(self) -> bool:
        """Whether `train.save_every` of its time wanted it; a stop, or the end, writes one between two saves."""
        return not (self.folder / BETWEEN).exists()

    @property
    def ema_sha256(self) -> str:
        """Hash of the averaged weights: what an image's provenance names."""
        return str(json.loads((self.folder / HASHES).read_text(encoding="utf-8"))[EMA])


class LoadedRun(NamedTuple):
    """What sampling needs of a RUN."""

    model: UNet
    diffusion: GaussianDiffusion
    config: RunConfig


def load_run(
    folder: Path | str,
    device: torch.device | str = "cpu",
    checkpoint: Choice | Checkpoint = "newest",
) -> LoadedRun:
    """Open a RUN for sampling.

    Args:
        folder: RUN folder, or the name of a model that ships with xraygen.
        device: Where the network goes.
        checkpoint: "newest", "best", a step, or what `chosen_checkpoint` returned.

    Returns:
        The network with its averaged (EMA) weights in evaluation mode, its diffusion, and the configuration. A network
        with conditions, called without, is the unconditional one; `read_conditions` says what it can be told.

    Raises:
        FolderError: If the folder is no RUN, or holds no such checkpoint that is whole.
    """
    folder = run_folder(folder)
    config = run_config(folder)
    checkpoint = chosen_checkpoint(folder, checkpoint)
    model = UNet(config.model, read_conditions(folder, config).sizes)
    load_weights(model, checkpoint.folder / EMA)
    diffusion = GaussianDiffusion(NoiseSchedule.from_config(config.schedule), config.diffusion)
    return LoadedRun(model.to(device).eval().requires_grad_(False), diffusion, config)


def run_config(folder: Path) -> RunConfig:
    """The configuration that a RUN was started with."""
    path = folder / "config.yaml"
    if not folder.is_dir():
        models = "".join(f", or {name}, which ships with xraygen" for name in shipped_models())
        raise FolderError(
            f"There is no folder {folder}; expected a RUN, which `xraygen train --out` writes{models}."
        )
    if not path.is_file():
        raise FolderError(f"{folder} is not a RUN: it has no config.yaml; `xraygen train --out` writes one.")
    return load_config(path)


def trained_on(run: Path) -> str | None:
    """Content hash of the DATASET that a RUN was trained on; None where it names none (imported)."""
    try:
        return str(json.loads((run / "dataset.json").read_text(encoding="utf-8"))["content_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def checkpoints(run: Path) -> list[Checkpoint]:
    """All checkpoints of a RUN, the oldest first, not yet verified."""
    found = (run / "checkpoints").glob("step-*")
    named = [(path, path.name.removeprefix("step-")) for path in found]
    return sorted(
        (Checkpoint(path, int(step)) for path, step in named if step.isdigit()),
        key=lambda checkpoint: checkpoint.step,
    )


def chosen_checkpoint(run: Path, choice: Choice | Checkpoint = "newest") -> Checkpoint:
    """A checkpoint that is whole; what was chosen already stays.

    Raises:
        FolderError: If the RUN has none such.
    """
    if isinstance(choice, Checkpoint):
        return choice
    if choice == "newest":
        return newest_checkpoint(run)
    step = _best_step(run) if choice == "best" else choice
    there = {checkpoint.step: checkpoint for checkpoint in checkpoints(run)}
    if step not in there:
        have = ", ".join(map(str, there)) or "none"
        raise FolderError(f"{run} holds no checkpoint of step {step}; it holds: {have}.")
    found = damage(there[step])
    if found is not None:
        raise FolderError(f"{there[step].folder} is damaged ({found}); choose another checkpoint.")
    return there[step]


def _best_step(run: Path) -> int:
    path = run / "checkpoints" / BEST
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["step"])
    except FileNotFoundError:
        raise FolderError(
            f"{run} does not say which checkpoint is best: its DATASET has no validation films, or it was not trained "
            "far enough to look at them; use the newest (--checkpoint newest)."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise FolderError(f"{path} is damaged; use the newest checkpoint.") from None


def mark_best(run: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """Write best.json: of the checkpoints that are there, the one with the least validation loss in the log."""
    steps = {checkpoint.step for checkpoint in checkpoints(run)}
    looked_at = [
        (float(entry["validation_loss"]), int(entry["step"]))
        for entry in log
        if "validation_loss" in entry and entry["step"] in steps
    ]
    path = run / "checkpoints" / BEST
    if not looked_at:
        path.unlink(missing_ok=True)
        return
    loss, step = min(looked_at)
    write_json(path, {"step": step, "validation_loss": loss})


def newest_checkpoint(run: Path) -> Checkpoint:
    """The newest checkpoint that is whole; damaged ones are passed over with a warning.

    Raises:
        FolderError: If there is none.
    """
    for checkpoint in reversed(checkpoints(run)):
        found = damage(checkpoint)
        if found is None:
            return checkpoint
        _log.warning("%s is damaged (%s); the one before it is taken.", checkpoint.folder, found)
    if checkpoints(run):
        raise FolderError(
            f"All checkpoints of {run} are damaged (checkpoints/step-*); restore one, or train into a new folder."
        )
    raise FolderError(
        f"{run} holds no whole checkpoint (checkpoints/step-*); run `xraygen train --out {run}` until it saves one."
    )


def damage(checkpoint: Checkpoint) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        hashes = json.loads((checkpoint.folder / HASHES).read_text(encoding="utf-8"))
        wrong = [name for name, digest in hashes.items() if sha256_of(checkpoint.folder / name) != digest]
    except (OSError, ValueError) as error:
        return f"{type(error).__name__} in {HASHES}"
    return f"{', '.join(wrong)} changed since it was written" if wrong else None


def save_checkpoint(
    run: Path,
    step: int,
    model: UNet,
    ema: UNet,
    optimizer: dict[str, Any],
    progress: Mapping[str, Any] = MappingProxyType({}),
    *,
    scheduled: bool = True,
) -> None:
    """Write the checkpoint of a step; on return it is on disk whole.

    Args:
        run: RUN folder.
        step: Optimiser steps done.
        model: Network in training.
        ema: Network with the averaged weights.
        optimizer: Its state_dict.
        progress: What else training needs to go on: numbers and tensors.
        scheduled: False for one that a stop, or the end, writes between two saves.
    """
    folder = run / "checkpoints" / f"step-{step:08d}"
    if folder.exists():
        if damage(Checkpoint(folder, step)) is None:
            return  # the same step of the same run: the same weights
        shutil.rmtree(folder)
    with atomic_folder(folder) as aside:
        # By way of memory, since safetensors and torch hide a full disk behind errors of their own.
        (aside / MODEL).write_bytes(save(_tensors(model)))
        (aside / EMA).write_bytes(save(_tensors(ema)))
        state = io.BytesIO()
        torch.save({"step": step, "optimizer": optimizer, "progress": dict(progress)}, state)
        (aside / STATE).write_bytes(state.getbuffer())
        if not scheduled:
            (aside / BETWEEN).touch()
        write_json(aside / HASHES, {name: sha256_of(aside / name) for name in (MODEL, EMA, STATE)})


def load_checkpoint(checkpoint: Checkpoint, model: UNet, ema: UNet) -> dict[str, Any]:
    """Put a checkpoint's weights into both networks and return the optimiser's state_dict."""
    load_weights(model, checkpoint.folder / MODEL)
    load_weights(ema, checkpoint.folder / EMA)
    optimizer: dict[str, Any] = _read_state(checkpoint)["optimizer"]
    return optimizer


def read_progress(checkpoint: Checkpoint) -> dict[str, Any]:
    """What `save_checkpoint` was given as `progress`."""
    progress: dict[str, Any] | None = _read_state(checkpoint).get("progress")
    if not progress:
        raise FolderError(
            f"{checkpoint.folder} was written by an older xraygen or by `xraygen import`, and training does not go on "
            "from it: choose another --out, and name this RUN as train.init_from."
        )
    return progress


def _read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint.folder / STATE, map_location="cpu", weights_only=True)
    return state


def load_weights(model: UNet, path: Path, optional: str | None = None) -> None:
    """Fill a network from a safetensors file; names and shapes must agree exactly.

    Args:
        model: The network.
        path: The file.
        optional: A tensor that the file may lack, and then it stays as it is, or have where the network has none.
    """
    try:
        tensors = load_file(path)
        if optional is not None:
            theirs, ours = tensors.pop(optional, None), model.state_dict().get(optional)
            if ours is not None:
                tensors[optional] = ours if theirs is None else theirs
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FolderError(
            f"{path} does not hold this network's weights: {' '.join(str(error).split())}"
        ) from None


def prune_checkpoints(run: Path, keep: int, step: int) -> None:
    """Delete checkpoints that are not needed any more, and what killed runs left half-written.

    The best stays, the newest, and of those that were scheduled the newest `keep`: one that a stop wrote between two
    saves does not push out those that a run without the stop would have. Checkpoints beyond `step`, where training
    stands, are damaged: they push out none, and are written anew when that step comes.
    """
    found = [checkpoint for checkpoint in checkpoints(run) if checkpoint.step <= step]
    scheduled = [checkpoint for checkpoint in found if checkpoint.scheduled]
    kept = {checkpoint.step for checkpoint in (*scheduled[-keep:], *found[-1:])}
    if (run / "checkpoints" / BEST).exists():
        kept.add(_best_step(run))
    for checkpoint in found:
        if checkpoint.step not in kept:
            shutil.rmtree(checkpoint.folder)
    remove_leftovers(run / "checkpoints")


def _tensors(model: UNet) -> dict[str, torch.Tensor]:
    """Weights on the CPU, each with memory of its own, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
