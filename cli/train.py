"""`xraygen train`: DATASET -> RUN."""

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from . import console, options

if TYPE_CHECKING:
    from xraygen.config import RunConfig

_INTERRUPTED = 130


def train(
    preset: Annotated[
        str, typer.Option("--config", metavar="PRESET|YAML", help="What to train; see `xraygen config`.")
    ],
    data: Annotated[Path, typer.Option(help="DATASET folder that `xraygen ingest` wrote.")],
    out: Annotated[Path, typer.Option(help="RUN folder.")],
    changes: options.Set = None,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Train a diffusion model. To go on after an interruption, run the same command again.

    --dry-run tells what it would take, then looks whether the DATASET fits and whether OUT is free, or the same RUN.

    xraygen train --config cxr-64 --data dataset --out run

    xraygen train --config cxr-128 --data dataset --out run --set train.batch_size=32 --set train.max_steps=20000

    torchrun --nproc-per-node 4 --no-python xraygen train --config cxr-256 --data dataset --out run
    """
    from xraygen.config import load_config

    config = load_config(preset, changes or [])
    if dry_run:
        if not as_json:
            typer.echo(config.to_yaml(), nl=False)
        _tell_budget(config, device, as_json=as_json)
    from xraygen.dataset.store import open_dataset
    from xraygen.training import loop

    opened = open_dataset(data)
    if dry_run:
        loop.check_start(config, opened, out)
        return
    _tell_budget(config, device)

    asked_to_stop: list[int] = []

    def stop_soon(number: int, frame: FrameType | None) -> None:
        asked_to_stop.append(number)
        signal.signal(number, signal.SIG_DFL)  # a second Ctrl-C stops at once
        console.say("Saving after this step; press Ctrl-C again to stop at once.")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop_soon)
    with console.progress() as report:
        summary = loop.train(
            config,
            opened,
            out,
            device=device,
            report=report,
            should_stop=lambda: bool(asked_to_stop),
        )
    if not summary.main:
        raise typer.Exit(0 if summary.finished else _INTERRUPTED)
    console.emit({"run": str(out), "step": summary.step, "finished": summary.finished}, as_json=as_json)
    if not summary.finished:
        console.say(
            f"Stopped and saved at step {summary.step} of {out}; run the same command again to go on."
        )
        raise typer.Exit(_INTERRUPTED)
    console.say(
        f"{out} is trained: {summary.step} steps. Next: xraygen generate {out} --out synthetic --seeds 0-63"
    )


def _tell_budget(config: "RunConfig", device: str, *, as_json: bool = False) -> None:
    """What the run will take, from its first process alone."""
    import os

    from xraygen.devices import choose_device, memory_bytes, name_of
    from xraygen.training.budget import budget, budget_figures, budget_sentences
    from xraygen.training.peak import device_peak

    if int(os.environ.get("RANK", "0")):
        return
    needed = budget(config, int(os.environ.get("WORLD_SIZE", "1")))
    chosen = choose_device(device)
    peak = device_peak(chosen)
    console.emit(
        {"config": config.model_dump(mode="json"), "budget": budget_figures(needed, peak)}, as_json=as_json
    )
    for sentence in budget_sentences(needed, peak, name_of(chosen), memory_bytes(chosen)):
        console.say(sentence)
