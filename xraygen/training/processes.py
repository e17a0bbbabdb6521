"""One process or many: how they are started, and how they agree.

`torchrun` and `accelerate launch` start a process per device and tell each its number by the environment; Accelerate
reads it. Every process loads the same checkpoint and takes its share of each batch; the main one alone writes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import distributed

from xraygen.config import RunConfig
from xraygen.devices import choose_device
from xraygen.errors import UsageError, XraygenError


def start_accelerator(config: RunConfig, device: str) -> Accelerator:
    """Device, precision and processes.

    Raises:
        UsageError: If the device is not there, or the batch is smaller than the number of processes.
    """
    target = choose_device(device)
    if target.index is not None:
        torch.cuda.set_device(target)
    # Else what trained before in this process decides precision and device; processes that found each other stay so.
    AcceleratorState._reset_state(reset_partial_state=not distributed.is_initialized())
    accelerator = Accelerator(
        cpu=target.type == "cpu",
        mixed_precision="bf16" if config.train.precision == "bfloat16" else "no",
    )
    if config.train.batch_size < accelerator.num_processes:
        raise UsageError(
            f"train.batch_size is {config.train.batch_size}, less than the {accelerator.num_processes} processes that "
            "were started; raise it, or start fewer."
        )
    return accelerator


@contextmanager
def others_are_there(accelerator: Accelerator, run: Path) -> Iterator[None]:
    """Says in one sentence that another process of a training is gone, where the network's own error is a traceback.

    gloo raises a RuntimeError whose message begins with the file of gloo that noticed; NCCL and the store raise
    DistError.

    Raises:
        XraygenError: If another process died or was silent for longer than the process group waits.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, distributed.DistError) or "gloo" in str(error)
        if accelerator.num_processes == 1 or not lost:
            raise
        raise XraygenError(
            f"Process {accelerator.process_index} of {accelerator.num_processes} heard no more from another: it was "
            f"killed, failed or stood still for too long; what it printed says more. The last checkpoint of {run} is "
            "intact; run the same command again to go on."
        ) from error


def told_by_main(accelerator: Accelerator, value: Any) -> Any:
    """The main process's value, on every process."""
    if accelerator.num_processes == 1:
        return value
    values = [value]
    broadcast_object_list(values)
    return values[0]


class Agreement:
    """Whether any process was asked to stop, asked of all after each step.

    A signal reaches the processes at different steps. They ask each other over the network beside the device (gloo),
    so that none waits for its GPU.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._alone = accelerator.num_processes == 1
        self._group = None if self._alone else distributed.new_group(backend="gloo")

    def any(self, asked: bool) -> bool:
        """True on every process if it is on one."""
        if self._alone:
            return asked
        flag = torch.tensor(int(asked))
        distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._group)
        return bool(flag)
