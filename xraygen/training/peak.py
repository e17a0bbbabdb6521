"""How fast this device can be at best: measured in about a second, on matrix products and on a copy."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

_LARGEST_SIDE = 8192
_ENOUGH_SECONDS = 0.05
_REPEATS = 5
_COPY_BYTES = 128 * 2**20


@dataclass(frozen=True)
class DevicePeak:
    """The best of a few tries; a machine that does other work at the same time shows less than it has.

    Attributes:
        float32: Floating-point operations per second in a float32 matrix product.
        bfloat16: The same in bfloat16.
        bandwidth: Bytes read and written per second by a copy that no cache holds.
    """

    float32: float
    bfloat16: float
    bandwidth: float

    def of(self, precision: str) -> float:
        """The peak that training in `train.precision` is held against."""
        return self.bfloat16 if precision == "bfloat16" else self.float32

    @property
    def fastest(self) -> float:
        """What a share of peak is a share of, in every precision: float32 may go by faster arithmetic too (TF32)."""
        return max(self.float32, self.bfloat16)


def measure_peak(device: torch.device) -> DevicePeak:
    """Time matrix products and copies on an idle device."""
    return DevicePeak(
        matmul_peak(device, torch.float32), matmul_peak(device, torch.bfloat16), copy_bandwidth(device)
    )


_measured = cache(measure_peak)


def device_peak(device: torch.device) -> DevicePeak:
    """The peak, measured when a process first asks for it."""
    if device == torch.device("cuda"):  # whichever is the current one
        device = torch.device("cuda", torch.cuda.current_device())
    return _measured(device)


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second, 2 n^3 for a product of n x n, at the side n that is best.

    The sides double until one product takes long enough to be timed well: a device without bfloat16 arithmetic is
    found out by a small one.
    """
    best, side = 0.0, 256
    generator = torch.Generator(device).manual_seed(0)
    while side <= _LARGEST_SIDE:
        a = torch.randn(side, side, device=device, generator=generator).to(dtype)
        seconds = least_seconds(lambda a=a: a @ a, device)  # type: ignore[misc]
        best = max(best, 2 * side**3 / seconds)
        if seconds > _ENOUGH_SECONDS:
            break
        side *= 2
    return best


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, each byte of a copy counted twice: read and written."""
    source = torch.ones(_COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / least_seconds(lambda: target.copy_(source), device)


def least_seconds(task: Callable[[], object], device: torch.device) -> float:
    """Shortest of a few runs after one that does not count."""
    task()
    times = []
    for _ in range(_REPEATS):
        synchronise(device)
        start = time.perf_counter()
        task()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return min(times)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was told; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
