"""What scripts that train on a few films share: so many minutes of training a call, and films of the newest step."""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

from xraygen.config import RunConfig
from xraygen.dataset.store import Dataset
from xraygen.synthesis.generate import generate
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.training.checkpoint import newest_checkpoint
from xraygen.training.loop import train


class Trained(NamedTuple):
    """Where the films are."""

    run: Path
    synthetic: Path
    step: int
    finished: bool


def train_and_generate(config: RunConfig, dataset: Dataset, arguments: argparse.Namespace) -> Trained:
    """Train `out`/run for --minutes, going on where it stopped, and make --count films of its newest checkpoint."""
    begin, run = time.monotonic(), arguments.out / "run"
    summary = train(
        config,
        dataset,
        run,
        device=arguments.device,
        should_stop=lambda: time.monotonic() - begin > 60 * arguments.minutes,
    )
    step = newest_checkpoint(run).step
    synthetic = arguments.out / f"synthetic-{step}"
    generate(run, synthetic, range(arguments.count), SamplerSettings(), device=arguments.device)
    return Trained(run, synthetic, step, summary.finished)
