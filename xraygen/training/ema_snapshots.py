"""Snapshots of the two averages on disk, and the RUN with an average of any width that is made of them.

RUN/ema-snapshots/step-00001000/  sigma-rel-0.050.safetensors  sigma-rel-0.100.safetensors  hashes.json
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from xraygen.atomic import atomic_folder, remove_leftovers, sha256_of, write_json
from xraygen.errors import FolderError, UsageError
from xraygen.training.checkpoint import EMA, HASHES, MODEL, STATE, run_config
from xraygen.training.posthoc_ema import PowerAverages, Profile, combination, error_of, gamma_of

FOLDER = "ema-snapshots"


@dataclass(frozen=True)
class Snapshot:
    """One average at one step."""

    profile: Profile
    path: Path


@dataclass(frozen=True)
class Reconstruction:
    """What `reconstruct` made.

    Attributes:
        run: The new RUN.
        profile: Step and width of its average.
        snapshots: How many were combined.
        error: Distance of the combined profile from the wanted one, over the wanted one's norm.
    """

    run: Path
    profile: Profile
    snapshots: int
    error: float


def write_snapshot(run: Path, step: int, averages: PowerAverages, keep: int) -> None:
    """Write both averages in float16 and delete all but the newest `keep` steps.

    A step that is done again, after a kill or a roll-back, replaces what it wrote before.
    """
    folder = run / FOLDER / f"step-{step:08d}"
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_folder(folder) as aside:
        hashes = {}
        for number, sigma_rel in enumerate(averages.sigma_rels):
            name = f"sigma-rel-{sigma_rel:.3f}.safetensors"
            halves = {
                key: value.to(torch.float16).cpu().contiguous()
                for key, value in averages.tensors(number).items()
            }
            (aside / name).write_bytes(save(halves))
            hashes[name] = sha256_of(aside / name)
        write_json(aside / HASHES, hashes)
    for old in sorted((run / FOLDER).glob("step-*"))[:-keep]:
        shutil.rmtree(old)
    remove_leftovers(run / FOLDER)


def drop_snapshots_after(run: Path, step: int) -> None:
    """Delete the snapshots of steps that are about to be done again, or that a roll-back has given up."""
    for folder in (run / FOLDER).glob("step-*"):
        if _step_of(folder) > step:
            shutil.rmtree(folder)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def snapshots(run: Path) -> list[Snapshot]:
    """All whole snapshots of a RUN, the oldest first.

    Raises:
        FolderError: If one was changed since it was written.
    """
    found = []
    for folder in sorted((run / FOLDER).glob("step-*")):
        hashes = _hashes_of(folder)
        if not all((folder / name).is_file() for name in hashes):
            continue  # an old one, of which a kill left a part
        for name, digest in hashes.items():
            if sha256_of(folder / name) != digest:
                raise FolderError(
                    f"{folder / name} changed since it was written; delete its folder and try again."
                )
            sigma_rel = float(name.removeprefix("sigma-rel-").removesuffix(".safetensors"))
            found.append(Snapshot(Profile(_step_of(folder), sigma_rel), folder / name))
    return found


def _hashes_of(folder: Path) -> dict[str, str]:
    """File name -> SHA-256; nothing where the list itself has been deleted."""
    try:
        return dict(json.loads((folder / HASHES).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def reconstruct(run: Path, sigma_rel: float, out: Path, step: int | None = None) -> Reconstruction:
    """Make a RUN whose average has the relative width `sigma_rel`.

    Args:
        run: RUN that was trained with train.posthoc_ema.
        sigma_rel: Width, as a share of the training up to `step`.
        out: RUN folder, which must not exist yet; `generate`, `audit` and all others read it, training does not go on.
        step: End of the average; by default the newest snapshot.

    Raises:
        FolderError: If the RUN has no snapshots up to `step`.
        UsageError: If there is no such width, or `step` lies beyond the newest snapshot.
    """
    stored, target = chosen_snapshots(run, sigma_rel, step)
    profiles = [entry.profile for entry in stored]
    weights = combination(profiles, target)
    average = _weighted_sum([entry.path for entry in stored], [float(weight) for weight in weights])
    made = Reconstruction(out, target, len(stored), error_of(profiles, target))
    _write_run(run, average, made)
    return made


def chosen_snapshots(run: Path, sigma_rel: float, step: int | None = None) -> tuple[list[Snapshot], Profile]:
    """What `reconstruct` combines, and the average that it wants.

    Raises:
        FolderError: As `reconstruct`.
        UsageError: As `reconstruct`.
    """
    gamma_of(sigma_rel)
    run_config(run)
    found = snapshots(run)
    if found and step is not None and step > found[-1].profile.step:
        raise UsageError(
            f"--step {step}: the newest snapshot of {run} is that of step {found[-1].profile.step}, and an average "
            "cannot end later; expected that step or an earlier one."
        )
    stored = [entry for entry in found if step is None or entry.profile.step <= step]
    if not stored:
        until = "" if step is None else f" up to step {step}"
        raise FolderError(
            f"{run} holds no snapshots of averages{until} (ema-snapshots/step-*); "
            "train with --set train.posthoc_ema=true."
        )
    return stored, Profile(stored[-1].profile.step if step is None else step, sigma_rel)


def _weighted_sum(paths: list[Path], weights: list[float]) -> dict[str, Tensor]:
    """Sum of the snapshots, tensor by tensor in float64: one snapshot's tensor in memory at a time."""
    with safe_open(paths[0], "pt") as first:
        names = list(first.keys())
    total: dict[str, Tensor] = {}
    for path, weight in zip(paths, weights, strict=True):
        with safe_open(path, "pt") as file:
            for name in names:
                part = weight * file.get_tensor(name).double()
                total[name] = total[name] + part if name in total else part
    return {name: value.float() for name, value in total.items()}


def _write_run(run: Path, average: dict[str, Tensor], made: Reconstruction) -> None:
    """What the old RUN says of itself, one checkpoint, and where that comes from."""
    with atomic_folder(made.run) as aside:
        for file in (run / "config.yaml", *run.glob("*.json")):
            shutil.copyfile(file, aside / file.name)
        folder = aside / "checkpoints" / f"step-{made.profile.step:08d}"
        folder.mkdir(parents=True)
        for name in (MODEL, EMA):
            (folder / name).write_bytes(save(average))
        # Without progress, so that `xraygen train` says that training does not go on from here.
        torch.save({"step": made.profile.step, "optimizer": {}, "progress": {}}, folder / STATE)
        write_json(folder / HASHES, {name: sha256_of(folder / name) for name in (MODEL, EMA, STATE)})
        write_json(
            aside / "posthoc-ema.json",
            {
                "sigma_rel": made.profile.sigma_rel,
                "step": made.profile.step,
                "snapshots": made.snapshots,
                "error": made.error,
            },
        )
