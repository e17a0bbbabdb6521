"""Trains diffusers' U-Net on a DATASET for some CPU time and measures its films as `measure_model.py` does a RUN's.

    python docs/measure_peer.py DATASET --out FOLDER --cpu-minutes 200 --count 500

The network is UNet2DModel, told the category of a column by its class embedding; objective v, cosine schedule, AdamW
and EMAModel as in diffusers' train_unconditional.py, and 20 steps of DPMSolverMultistepScheduler. CPU time is that of
the process, all threads together, and that of training alone. Killed, it goes on from the newest checkpoint in FOLDER,
written every `--save-minutes`; with more minutes it trains on. The films are in FOLDER/films.npy.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from measure_model import BITS, compare, labels_of, of_rows
from numpy.typing import NDArray
from real_films import say, say_how
from torch import nn
from torch.nn import functional

from xraygen.atomic import atomic_file
from xraygen.audit.fidelity import choose, reference_sets
from xraygen.dataset.store import Dataset, open_dataset
from xraygen.films.grids import tile
from xraygen.films.writers import write_png
from xraygen.metrics.features import extract, load_extractor
from xraygen.ranges import Stored, model_to_stored, stored_to_model
from xraygen.seeds import numpy_generator, torch_generator

_SHOWN = 32
_MINUTE = 60.0


@dataclass
class Peer:
    """Network, optimiser and average of diffusers, and what they have taken so far."""

    network: Any
    optimizer: torch.optim.Optimizer
    average: Any
    step: int = 0
    cpu_seconds: float = 0.0
    loss: float = float("nan")

    def save(self, path: Path) -> None:
        """All of it, whole or not at all."""
        with atomic_file(path) as aside:
            torch.save(
                {
                    "network": self.network.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "average": self.average.state_dict(),
                    "step": self.step,
                    "cpu_seconds": self.cpu_seconds,
                },
                aside,
            )

    def load(self, path: Path) -> None:
        """What `save` wrote."""
        held = torch.load(path, weights_only=True)
        self.network.load_state_dict(held["network"])
        self.optimizer.load_state_dict(held["optimizer"])
        self.average.load_state_dict(held["average"])
        self.step, self.cpu_seconds = held["step"], held["cpu_seconds"]


def fresh(size: int, words: int, arguments: argparse.Namespace) -> Peer:
    """Widths doubled level by level, attention from 16 pixels down, as our small networks have it."""
    widths = tuple(arguments.channels * mult for mult in (1, 2, 4))
    attends = [size >> level <= 16 for level in range(len(widths))]
    torch.manual_seed(arguments.seed)
    network: Any = UNet2DModel(
        sample_size=size,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=widths,
        down_block_types=["AttnDownBlock2D" if here else "DownBlock2D" for here in attends],
        up_block_types=["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)],
        num_class_embeds=words,
    )
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=arguments.learning_rate, betas=(0.95, 0.999), weight_decay=1e-6
    )
    average = EMAModel(
        network.parameters(),
        decay=0.9999,
        use_ema_warmup=True,
        inv_gamma=1.0,
        power=0.75,
        model_cls=UNet2DModel,
    )
    return Peer(network, optimizer, average)


def train_on(peer: Peer, dataset: Dataset, labels: NDArray[np.int64], arguments: argparse.Namespace) -> None:
    """Steps until the CPU time is used up."""
    scheduler: Any = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    rows, file = dataset.indices("train"), arguments.out / "peer.pt"
    saved = peer.cpu_seconds
    while peer.cpu_seconds < _MINUTE * arguments.cpu_minutes:
        began = time.process_time()
        draw = numpy_generator(arguments.seed, f"batch {peer.step}").integers(
            0, len(rows), arguments.batch_size
        )
        generator = torch_generator(arguments.seed, f"noise {peer.step}")
        x_start = stored_to_model(dataset.gather(rows[draw]), dataset.info.bits)[:, None]  # (B, 1, H, W)
        noise = torch.randn(x_start.shape, generator=generator)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(x_start),), generator=generator)
        told = torch.from_numpy(labels[draw])
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.precision == "bfloat16"):
            prediction = peer.network(scheduler.add_noise(x_start, noise, t), t, class_labels=told).sample
        loss = functional.mse_loss(prediction.float(), scheduler.get_velocity(x_start, noise, t))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(peer.network.parameters(), 1.0)
        for group in peer.optimizer.param_groups:
            group["lr"] = arguments.learning_rate * min(1.0, (peer.step + 1) / 500)
        peer.optimizer.step()
        peer.optimizer.zero_grad()
        peer.average.step(peer.network.parameters())
        peer.step, peer.loss = peer.step + 1, loss.item()
        peer.cpu_seconds += time.process_time() - began
        if peer.step % 50 == 0:
            tell(f"step {peer.step}: loss {peer.loss:.4f}, {peer.cpu_seconds / _MINUTE:.1f} CPU minutes")
        if peer.cpu_seconds - saved > _MINUTE * arguments.save_minutes:
            peer.save(file)
            saved = peer.cpu_seconds
    peer.save(file)


@torch.no_grad()
def make(peer: Peer, size: int, told: NDArray[np.int64], arguments: argparse.Namespace) -> Stored:
    """Films of the averaged weights, one for each word that is told: `[N, H, W]` of 16 bits."""
    peer.average.store(peer.network.parameters())
    peer.average.copy_to(peer.network.parameters())
    peer.network.eval()
    films = []
    for first in range(0, len(told), arguments.batch_size):
        scheduler: Any = DPMSolverMultistepScheduler(
            beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
        )
        scheduler.set_timesteps(arguments.steps)
        labels = torch.from_numpy(told[first : first + arguments.batch_size])
        generator = torch_generator(arguments.seed, f"films {first}")
        x = torch.randn((len(labels), 1, size, size), generator=generator)
        for t in scheduler.timesteps:
            x = scheduler.step(peer.network(x, t, class_labels=labels).sample, t, x).prev_sample
        films.append(model_to_stored(x[:, 0], BITS))
        tell(f"films {first + len(labels)}/{len(told)}")
    peer.network.train()
    peer.average.restore(peer.network.parameters())
    made: Stored = np.concatenate(films).astype(np.uint16)
    return made


def tell(line: str) -> None:
    """How far it is, beside the tables."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a script


def main() -> None:
    """Train, make, compare."""
    arguments = read_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    dataset, column = open_dataset(arguments.dataset), arguments.column
    train, test = dataset.indices("train"), dataset.indices("test")
    words = tuple(sorted(set(dataset.manifest[column].iloc[train])))
    size = dataset.info.size[0]
    peer = fresh(size, len(words), arguments)
    if (arguments.out / "peer.pt").exists():
        peer.load(arguments.out / "peer.pt")
    train_on(peer, dataset, labels_of(dataset, train, column, words), arguments)
    chosen = test[choose(len(test), arguments.count, arguments.seed, "test")]
    films = make(peer, size, labels_of(dataset, chosen, column, words), arguments)
    with atomic_file(arguments.out / "films.npy") as aside, aside.open("wb") as stream:
        np.save(stream, films)
    write_png(arguments.out / "films.png", tile(films[:_SHOWN].astype(np.uint16), BITS, columns=8))
    extractor = load_extractor("efficientnet-lite0")
    real = reference_sets(dataset, train, arguments.count, arguments.seed)["real"]
    sets = {"real training films": extract(extractor, real.images, real.bits)}
    sets["diffusers"] = extract(extractor, films, BITS)
    parameters = sum(weight.numel() for weight in peer.network.parameters())
    seen = peer.step * arguments.batch_size
    say(
        f"UNet2DModel, {parameters:,} parameters: {peer.step} steps, {seen:,} films in "
        f"{peer.cpu_seconds / _MINUTE:.0f} CPU minutes in {arguments.precision}; {arguments.steps} steps of dpm++, "
        f"N = {arguments.count}.\n"
    )
    compare(of_rows(extractor, dataset, chosen), sets, {}, arguments.seed)
    say_how(f"python docs/measure_peer.py --cpu-minutes {arguments.cpu_minutes:g}", arguments.seed)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cpu-minutes", type=float, default=200)
    parser.add_argument("--save-minutes", type=float, default=10)
    parser.add_argument("--count", type=int, default=500, help="N")
    parser.add_argument("--column", default="finding", help="what the network is told")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="in training")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
