"""Trains the CIFAR10 preset beside diffusers' network: the same weights, batches, timesteps, noise and dropout.

    python docs/measure_cifar10.py IMAGES --out FOLDER --steps 40 --set train.batch_size=4 --set train.warmup_steps=10

Ours is a RUN by `train`, as `xraygen train` calls it; theirs a plain loop over diffusers' UNet2DModel with its
scheduler's add_noise, torch's Adam, and a clipped gradient. They share the batches and the random masks of dropout,
which sit in their network in place of its own. IMAGES as `xraygen benchmark cifar10 --data` takes them. The loss of
each step goes to curve.csv, the picture to curve.png, a table to stdout.
"""

import argparse
import csv
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


def their_curve(config: RunConfig, dataset: Dataset) -> list[float]:
    """Loss of each step of the plain loop."""
    section = config.train
    ours = fresh_state(config, _CPU, ()).model
    network, masks = their_network(ours.train(), config)
    settings = {key: value for key, value in scheduler_settings(config).items() if key[0] != "_"}
    scheduler: Any = DDPMScheduler(**settings)
    diffusion = GaussianDiffusion(NoiseSchedule.from_config(config.schedule), config.diffusion)
    rows = dataset.indices("train")
    batches = Batches(dataset, rows, section.batch_size, diffusion, section.seed, config.data)
    optimizer = torch.optim.Adam(network.parameters(), lr=section.learning_rate)
    losses = []
    for step in range(section.max_steps):
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
    return losses


def our_curve(config: RunConfig, dataset: Dataset, run: Path) -> list[float]:
    """Loss of each step of a RUN."""
    train(config, dataset, run, device="cpu")
    return [entry["loss"] for entry in read_log(run) if "loss" in entry]


def curves(config: RunConfig, dataset: Dataset, run: Path) -> tuple[list[float], list[float]]:
    """Losses of both, step by step."""
    every_step = {"log_every": 1, "data_on_device": False, "compile": False, "channels_last": False}
    config = config.model_copy(update={"train": config.train.model_copy(update=every_step)})
    with torch.random.fork_rng(devices=[]):
        return our_curve(config, dataset, run), their_curve(config, dataset)


def write(out: Path, ours: Sequence[float], theirs: Sequence[float]) -> None:
    """curve.csv and curve.png."""
    with atomic_file(out / "curve.csv") as aside, aside.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["step", "xraygen", "diffusers"])
        table.writerows(zip(range(1, len(ours) + 1), ours, theirs, strict=True))
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    steps = range(1, len(ours) + 1)
    axes.plot(steps, theirs, color="#D55E00", lw=3, alpha=0.5, label="diffusers")
    axes.plot(steps, ours, color="#0072B2", lw=1, label="xraygen")
    axes.set(xlabel="step", ylabel="L_simple of the batch", yscale="log")
    axes.legend(frameon=False)
    with atomic_file(out / "curve.png") as aside:
        figure.savefig(aside, format="png", dpi=140)


def main() -> None:
    """Both curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    asked = parser.parse_args()
    quiet = ["train.trackers=[]", "train.sample_count=1", "train.sample_steps=1"]
    config = load_config("cifar10", [*quiet, *asked.changes, f"train.max_steps={asked.steps}"])
    _, height, width = config.data.shape
    dataset = prepare_natural(asked.images, asked.out / "dataset", (height, width))
    ours, theirs = curves(config, dataset, asked.out / "run")
    write(asked.out, ours, theirs)
    shown = sorted({0, *range(4, len(ours), max(1, len(ours) // 8)), len(ours) - 1})
    cells = [(step + 1, f"{ours[step]:.6f}", f"{theirs[step]:.6f}") for step in shown]
    say_table(("step", "xraygen", "diffusers"), cells)
    apart = max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True))
    say(
        f"Largest relative difference over {len(ours)} steps of batch {config.train.batch_size}: {apart:.2g}."
    )
    say_how(f"python docs/measure_cifar10.py {' '.join(sys.argv[1:])}", config.train.seed)


if __name__ == "__main__":
    main()
