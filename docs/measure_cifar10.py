"""Trains the CIFAR10 preset beside diffusers' network: the same weights, batches, timesteps, noise and dropout.

    python docs/measure_cifar10.py IMAGES --out FOLDER --steps 300 --batch-size 8

Ours is a RUN by `train`, as `xraygen train` calls it; theirs a plain loop over diffusers' UNet2DModel with its
scheduler's add_noise, torch's Adam, and a clipped gradient. They share the batches and the random masks of dropout,
which sit in their network in place of its own. IMAGES as `xraygen benchmark cifar10 --data` takes them; all else is the
preset's but for the batch and what `--set` changes. The loss of each step goes to curve.csv, the picture to curve.png,
a table to stdout. Killed? The same command goes on, and so does one with more steps.
"""

import argparse
import csv
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from matplotlib.figure import Figure
from real_films import say, say_how, say_table
from torch import Tensor, nn
from torch.nn import functional

from xraygen.atomic import atomic_file
from xraygen.config import RunConfig, load_config
from xraygen.dataset.natural import prepare_natural
from xraygen.dataset.store import Dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.interop.names import diffusers_names
from xraygen.interop.settings import scheduler_settings, unet_settings
from xraygen.models.dropout import KeyedDropout
from xraygen.models.unet import UNet
from xraygen.training.batches import Batch, Batches
from xraygen.training.logging import read_log
from xraygen.training.loop import train
from xraygen.training.step import fresh_state, learning_rate_at

_CPU = torch.device("cpu")
_PACKAGES = ("xraygen", "torch", "diffusers")


class Masked(nn.Module):
    """Our dropout in their place, with the keys of the batch that is being computed."""

    def __init__(self, dropout: KeyedDropout) -> None:
        super().__init__()
        self.inner = dropout
        self.keys: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Features `(B, C, H, W)` to features."""
        masked: Tensor = self.inner(x, self.keys)
        return masked


def their_network(ours: UNet, config: RunConfig) -> tuple[nn.Module, list[Masked]]:
    """UNet2DModel with our weights and our masks."""
    settings = {key: value for key, value in unet_settings(config).items() if key[0] != "_"}
    theirs: nn.Module = UNet2DModel(**settings)
    names = diffusers_names(ours)
    theirs.load_state_dict({names[name]: tensor.clone() for name, tensor in ours.state_dict().items()})
    masks = []
    for name, module in ours.named_modules():
        if isinstance(module, KeyedDropout):
            block = names[f"{name.removesuffix('dropout')}conv2.weight"].removesuffix(".conv2.weight")
            masks.append(Masked(module))
            theirs.get_submodule(block).dropout = masks[-1]
    return theirs.train(), masks


def their_curve(config: RunConfig, dataset: Dataset, kept: Path) -> list[float]:
    """Loss of each step of the plain loop, which goes on from what a call before has kept."""
    section = config.train
    ours = fresh_state(config, _CPU, ()).model
    network, masks = their_network(ours.train(), config)
    settings = {key: value for key, value in scheduler_settings(config).items() if key[0] != "_"}
    scheduler: Any = DDPMScheduler(**settings)
    diffusion = GaussianDiffusion(NoiseSchedule.from_config(config.schedule), config.diffusion)
    rows = dataset.indices("train")
    batches = Batches(dataset, rows, section.batch_size, diffusion, section.seed, config.data)
    optimizer = torch.optim.Adam(network.parameters(), lr=section.learning_rate)
    losses = _read(kept, network, optimizer)
    for step in range(len(losses), section.max_steps):
        batch: Batch = batches.at(step)
        for mask in masks:
            mask.keys = batch.dropout_keys
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, section.learning_rate, section.warmup_steps)
        x_t = scheduler.add_noise(batch.x_start, batch.noise, batch.t)
        loss = functional.mse_loss(network(x_t, batch.t).sample, batch.noise)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), section.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) % section.save_every == 0 or len(losses) == section.max_steps:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
            with atomic_file(kept) as aside:
                torch.save(state, aside)
    return losses[: section.max_steps]


def _read(kept: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """Losses so far, with the network and the optimiser as they were after the last of them."""
    if not kept.is_file():
        return []
    state = torch.load(kept, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    losses: list[float] = state["losses"]
    return losses


def our_curve(config: RunConfig, dataset: Dataset, run: Path) -> list[float]:
    """Loss of each step of a RUN."""
    train(config, dataset, run, device="cpu")
    return [entry["loss"] for entry in read_log(run) if "loss" in entry][: config.train.max_steps]


def curves(config: RunConfig, dataset: Dataset, out: Path) -> tuple[list[float], list[float]]:
    """Losses of both, step by step; the RUN and what is kept of the plain loop lie in `out`."""
    every_step = {"log_every": 1, "data_on_device": False, "compile": False, "channels_last": False}
    config = config.model_copy(update={"train": config.train.model_copy(update=every_step)})
    with torch.random.fork_rng(devices=[]):
        ours = our_curve(config, dataset, out / "run")
        return ours, their_curve(config, dataset, out / "diffusers.pt")


def write(out: Path, ours: Sequence[float], theirs: Sequence[float]) -> None:
    """curve.csv and curve.png."""
    with atomic_file(out / "curve.csv") as aside, aside.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["step", "xraygen", "diffusers"])
        table.writerows(zip(range(1, len(ours) + 1), ours, theirs, strict=True))
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    losses, differences = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    steps = range(1, len(ours) + 1)
    losses.plot(steps, theirs, color="#D55E00", lw=3, alpha=0.5, label="diffusers")
    losses.plot(steps, ours, color="#0072B2", lw=1, label="xraygen")
    losses.set(ylabel="L_simple of the batch", yscale="log")
    losses.legend(frameon=False)
    differences.plot(steps, apart(ours, theirs), color="#5A5A5A", lw=1)
    differences.set(xlabel="step", ylabel="relative difference")
    differences.set_yscale("symlog", linthresh=1e-8)  # two losses may be the same number
    for axes in (losses, differences):
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(out / "curve.png") as aside:
        figure.savefig(aside, format="png", dpi=140)


def apart(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Relative difference of each step."""
    return [abs(a - b) / b for a, b in zip(ours, theirs, strict=True)]


def main() -> None:
    """Both curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128, help="the preset's by default")
    parser.add_argument("--save-every", type=int, default=50, help="steps that a kill may cost")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    quiet = ["train.trackers=[]", "train.sample_count=1", "train.sample_steps=1", "train.keep_checkpoints=1"]
    sizes = {"batch_size": asked.batch_size, "max_steps": asked.steps, "save_every": asked.save_every}
    set_sizes = [f"train.{key}={value}" for key, value in sizes.items()]
    config = load_config("cifar10", [*quiet, *set_sizes, *asked.changes])
    _, height, width = config.data.shape
    dataset = prepare_natural(asked.images, asked.out / "dataset", (height, width))
    ours, theirs = curves(config, dataset, asked.out)
    write(asked.out, ours, theirs)
    shown = sorted({0, *range(4, len(ours), max(1, len(ours) // 8)), len(ours) - 1})
    far = apart(ours, theirs)
    cells = [(step + 1, f"{ours[step]:.6f}", f"{theirs[step]:.6f}", f"{far[step]:.1e}") for step in shown]
    say_table(("step", "xraygen", "diffusers", "relative difference"), cells)
    say(
        f"Largest relative difference over {len(ours)} steps of batch {config.train.batch_size}: {max(far):.2g}, "
        f"median {statistics.median(far):.2g}; learning rate up to "
        f"{learning_rate_at(len(ours) - 1, config.train.learning_rate, config.train.warmup_steps):.2g}."
    )
    say_how(f"python docs/measure_cifar10.py {' '.join(sys.argv[1:])}", config.train.seed, _PACKAGES)


if __name__ == "__main__":
    main()
