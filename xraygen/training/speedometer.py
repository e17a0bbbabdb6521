"""How fast training goes by the wall clock: images, their arithmetic, and what share that is of the devices' peak."""

import time
from typing import NamedTuple, Self

from accelerate import Accelerator

from xraygen.config import RunConfig
from xraygen.training.budget import flops_per_image
from xraygen.training.peak import device_peak


class Speed(NamedTuple):
    """Of all processes together; the fields are the log's.

    Attributes:
        images_per_second: Images that steps have seen.
        tflops_per_second: 1e12 floating-point operations, as a network that recomputes nothing would need them.
        share_of_peak: The same as a share of what all devices reach in a matrix product.
    """

    images_per_second: float
    tflops_per_second: float
    share_of_peak: float

    def curves(self) -> dict[str, float]:
        """By the names that a person reads."""
        return dict(zip(("images/s", "TFLOP/s", "share of peak"), self, strict=True))


class Speedometer:
    """Speed between two lines of the log. What happens there beside steps, such as samples and checkpoints, counts.

    Args:
        batch_size: Images per step, over all processes.
        flops_per_image: Floating-point operations of one of them.
        peak: Floating-point operations per second of all devices together.
    """

    def __init__(self, batch_size: int, flops_per_image: float, peak: float) -> None:
        self.batch_size, self.flops_per_image, self.peak = batch_size, flops_per_image, peak
        self.start(0)

    @classmethod
    def of(cls, config: RunConfig, accelerator: Accelerator) -> Self:
        """For a run, the other processes' devices being like this one's, whose peak is measured."""
        peak = accelerator.num_processes * device_peak(accelerator.device).fastest
        return cls(config.train.batch_size, flops_per_image(config.model), peak)

    def start(self, step: int) -> None:
        """Count from here."""
        self._since = (time.monotonic(), step)

    def read(self, step: int) -> Speed:
        """The speed up to here; count on from here."""
        (then, before), now = self._since, time.monotonic()
        self._since = (now, step)
        images_per_second = (step - before) * self.batch_size / (now - then)
        flops_per_second = images_per_second * self.flops_per_image
        return Speed(images_per_second, flops_per_second / 1e12, flops_per_second / self.peak)
