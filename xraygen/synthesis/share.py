"""Several processes that fill one SYNTHETIC: they share nothing but the folder, and none waits for another.

`torchrun` and `accelerate launch` tell each process its number by the environment. Process r of n takes every n-th film
from the r-th on, whatever the others do; so one that dies takes no other with it, and any number of processes can go on
with what another number began.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import torch

from xraygen.atomic import sole_writer, writer_among_others
from xraygen.devices import choose_device
from xraygen.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """Which of several processes this one is.

    Attributes:
        number: From 0.
        count: How many there are.
        local: Its number on its machine, which decides its GPU.
    """

    number: int = 0
    count: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls) -> Self:
        """What the launcher says; without one, this process is alone.

        Raises:
            UsageError: If RANK and WORLD_SIZE contradict each other.
        """
        told = {name: os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
        try:
            number, count, local = int(told["RANK"] or 0), int(told["WORLD_SIZE"] or 1), told["LOCAL_RANK"]
            share = cls(number, count, int(local or number))
        except ValueError:
            share = cls(0, 0)
        if not 0 <= share.number < share.count:
            raise UsageError(
                f"The environment says RANK={told['RANK']} and WORLD_SIZE={told['WORLD_SIZE']}; expected a number "
                "below the size, as torchrun sets them: start xraygen by torchrun, or unset both."
            )
        return share

    def of(self, whole: Sequence[T]) -> list[T]:
        """This process's part of the work."""
        return list(whole[self.number :: self.count])

    def device(self, device: str) -> torch.device:
        """Its device: with several processes each takes a GPU of its own, unless one is named."""
        chosen = choose_device(device)
        if chosen.type == "cuda" and ":" not in device and self.count > 1:
            return torch.device("cuda", self.local % torch.cuda.device_count())
        return chosen

    @contextmanager
    def writer(self, folder: Path) -> Iterator[None]:
        """Hold the folder: alone, or beside the other processes of the same launch.

        Raises:
            FolderError: If a process that is not of this launch holds it.
        """
        with sole_writer(folder) if self.count == 1 else writer_among_others(folder):
            yield
