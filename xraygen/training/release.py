"""RUN -> a RUN to pass on: one checkpoint's averaged weights in half precision, and a model card."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from xraygen.atomic import atomic_folder, sha256_of, write_json, write_text
from xraygen.config import RunConfig
from xraygen.devices import environment
from xraygen.errors import UsageError
from xraygen.training.checkpoint import EMA, HASHES, Checkpoint, Choice, chosen_checkpoint, run_config
from xraygen.training.conditions import CONDITIONS, read_conditions
from xraygen.training.held_out import write_held_out
from xraygen.training.logging import read_log

_DATASET, _IMPORTED, _AVERAGE = "dataset.json", "imported.json", "posthoc-ema.json"
_CARD = """{text}
## What it is

| | |
|---|---|
| images | {height} x {width}, {channels} channel(s) |
| network | {parameters:,} parameters, predicts {prediction} over {timesteps} steps, {schedule} schedule |
| told | {conditions} |
| training | {training} |
| validation loss | {loss} |
| weights | the average in half precision, sha256 {sha256} |
| written by | xraygen {version} |

    xraygen generate {name} --seeds 0-15 --out films

Not for diagnosis. It was trained on films of patients and can repeat them: what sets it makes reveal is what their
audit says (`xraygen audit`), and no more.
"""


@dataclass(frozen=True)
class ReleaseSummary:
    """What was written."""

    folder: Path
    step: int
    parameters: int
    bytes: int


def release(run: Path, out: Path, choice: Choice | Checkpoint = "best", text: str = "") -> ReleaseSummary:
    """Write a RUN that holds what sampling and fine-tuning need, and nothing else.

    Args:
        run: RUN folder.
        out: Folder to write, which must not exist yet; its last part names the model.
        choice: Which checkpoint, or what `chosen_checkpoint` returned.
        text: What the model card begins with, in Markdown: data, licence, intended use.

    Returns:
        Its step, its number of parameters and the size of its weights. They are float16: every weight is off by at most
        a 2,048th of itself.

    Raises:
        FolderError: If `run` is no RUN or holds no such checkpoint, or `out` exists.
        UsageError: If a weight is too large for half precision.
    """
    config = run_config(run)
    checkpoint = chosen_checkpoint(run, choice)
    weights = {name: _half(name, weight) for name, weight in load_file(checkpoint.folder / EMA).items()}
    parameters = sum(weight.numel() for weight in weights.values())
    with atomic_folder(out) as aside:
        folder = aside / "checkpoints" / checkpoint.folder.name
        folder.mkdir(parents=True)
        (folder / EMA).write_bytes(save(weights))
        write_json(folder / HASHES, {EMA: sha256_of(folder / EMA)})
        for name in (CONDITIONS, _DATASET, _IMPORTED, _AVERAGE):
            if (run / name).exists():
                (aside / name).write_bytes((run / name).read_bytes())
        write_held_out(run, checkpoint.step, aside)
        write_text(aside / "config.yaml", config.to_yaml())
        facts = _facts(run, config, checkpoint, parameters)
        card = _CARD.format(**facts, text=text, name=out.name, sha256=sha256_of(folder / EMA))
        write_text(aside / "README.md", card.lstrip("\n"))
        size = (folder / EMA).stat().st_size
    return ReleaseSummary(out, checkpoint.step, parameters, size)


def _half(name: str, weight: torch.Tensor) -> torch.Tensor:
    """A weight in half precision."""
    half = weight.to(torch.float16)
    if not torch.isfinite(half).all():
        raise UsageError(
            f"{name} holds weights beyond 65,504, which half precision cannot; train on, or longer."
        )
    return half.contiguous()


def _facts(run: Path, config: RunConfig, checkpoint: Checkpoint, parameters: int) -> dict[str, Any]:
    """What the card says of the training."""
    channels, height, width = config.data.shape
    names = [
        f"{condition.name} ({', '.join(condition.categories) or 'a number'})"
        for condition in read_conditions(run, config).members
    ]
    loss = _validation_loss(run, checkpoint.step)
    return {
        "channels": channels,
        "height": height,
        "width": width,
        "parameters": parameters,
        "prediction": config.diffusion.prediction_type,
        "timesteps": config.schedule.num_timesteps,
        "schedule": config.schedule.kind,
        "conditions": "; ".join(names) or "nothing",
        "training": _training(run, config, checkpoint.step),
        "loss": "not measured at this step" if loss is None else f"{loss:.5f}",
        "version": environment(torch.device("cpu"))["xraygen"],
    }


def _training(run: Path, config: RunConfig, step: int) -> str:
    """How long it was trained, and what kind of average its weights are; of an imported network neither is known."""
    if (run / _IMPORTED).exists():
        return "elsewhere; not known"
    average = f"average of decay {config.train.ema_decay:g}"
    if (run / _AVERAGE).exists():
        width = json.loads((run / _AVERAGE).read_text(encoding="utf-8"))["sigma_rel"]
        average = f"average of relative width {width:g} (Karras et al. 2024)"
    batch = config.train.batch_size
    return f"step {step:,} of batch {batch}: {step * batch:,} images seen; {average}"


def _validation_loss(run: Path, step: int) -> float | None:
    """The loss on held-out films that the log holds for a step."""
    for entry in read_log(run):
        if entry["step"] == step and "validation_loss" in entry:
            return float(entry["validation_loss"])
    return None
