"""Most memory that two optimiser steps take on top of the program: run as a process of its own, prints bytes.

python peak_memory.py PRESET SETTING...
"""

import sys
from pathlib import Path

import torch
from torch import nn

from xraygen.config import RunConfig, load_config
from xraygen.training.ema import update_ema
from xraygen.training.step import fresh_state


def status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(key)


def two_steps(config: RunConfig) -> None:
    """Two, since Adam's moments come into being at the end of the first."""
    state = fresh_state(config, torch.device("cpu"))
    state.model.train()
    x_t = torch.randn(config.train.batch_size, *config.data.shape)
    t = torch.zeros(config.train.batch_size, dtype=torch.int64)
    for _ in range(2):
        state.model(x_t, t, dropout_keys=t).square().mean().backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
        state.optimizer.step()
        state.optimizer.zero_grad()
        update_ema(state.ema, state.model, 0.999)


if __name__ == "__main__":
    # What the libraries load when they are first used is no part of a network's memory.
    two_steps(load_config("cxr-64", ["data.image_size=16", "model.channels=32", "train.batch_size=1"]))
    before = status_bytes("VmRSS")
    two_steps(load_config(sys.argv[1], sys.argv[2:]))
    sys.stdout.write(f"{status_bytes('VmHWM') - before}\n")
