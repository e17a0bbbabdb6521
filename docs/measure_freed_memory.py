"""What it is worth on a CPU that the C library keeps the memory that training frees, and what memory that takes.

Training steps of a preset (forward, backward, clip, Adam, average), in processes that take turns: with what
`xraygen train` does (xraygen.memory), and without.
"""

import argparse
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from xraygen.benchmark.processes import in_own_process
from xraygen.config import load_config
from xraygen.memory import freed_memory_kept
from xraygen.progress import Report, silent
from xraygen.training.ema import update_ema
from xraygen.training.step import fresh_state

Measured = tuple[list[float], int]


def steps(preset: str, settings: list[str], count: int, kept: bool, report: Report = silent) -> Measured:
    """Seconds of each step but the first two, and bytes of the most memory that the process had."""
    del report
    config, device = load_config(preset, settings), torch.device("cpu")
    state = fresh_state(config, device)
    state.model.train()
    x_t = torch.randn(config.train.batch_size, *config.data.shape)
    t = torch.zeros(config.train.batch_size, dtype=torch.int64)
    seconds = []
    with freed_memory_kept() if kept else nullcontext():
        for _ in range(count + 2):
            begin = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bfloat16"):
                loss = state.model(x_t, t, dropout_keys=t).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
            state.optimizer.step()
            state.optimizer.zero_grad()
            update_ema(state.ema, state.model, 0.999)
            seconds.append(time.perf_counter() - begin)
    return seconds[2:], _most_bytes()


def _most_bytes() -> int:
    """VmHWM of this process."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise KeyError("VmHWM")


def main() -> None:
    """Print a row of the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset")
    parser.add_argument("settings", nargs="*", help="KEY=VALUE, as train's --set")
    parser.add_argument("--steps", type=int, default=5, help="in each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    arguments = parser.parse_args()
    seconds: dict[bool, list[float]] = {False: [], True: []}
    most = {False: 0, True: 0}
    for _ in range(arguments.rounds):
        for kept in (False, True):
            found, memory = in_own_process(
                torch.get_num_threads(), steps, arguments.preset, arguments.settings, arguments.steps, kept
            )
            seconds[kept] += found
            most[kept] = max(most[kept], memory)
    before, after = (statistics.median(seconds[kept]) for kept in (False, True))
    sys.stdout.write(
        f"| {arguments.preset} {' '.join(arguments.settings)} | {before:.2f} | {after:.2f} | {after / before:.2f} "
        f"| {most[False] / 1e6:,.0f} | {most[True] / 1e6:,.0f} |\n"
    )


if __name__ == "__main__":
    main()
