"""The classifiers that tell how useful synthetic films are: a linear probe, and a light convolutional network.

N films, K classes, H and W in pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from xraygen.metrics.features import FeatureExtractor, extract
from xraygen.metrics.probe import Probe, fit_probe, log_odds
from xraygen.progress import Report
from xraygen.ranges import Stored, stored_to_unit
from xraygen.seeds import derive_seed, numpy_generator

ClassifierName = Literal["probe", "convnet"]
CLASSIFIERS: tuple[ClassifierName, ...] = ("probe", "convnet")

Inputs = NDArray[np.float32]
"""What a classifier takes of each film: features `(N, F)` or pixels `(N, 1, H, W)`."""
Labels = NDArray[np.int64]


class Fitted(Protocol):
    """A classifier that has learned."""

    def log_odds(self, inputs: Inputs) -> NDArray[np.float64]:
        """Log odds of each class against all others, `(N, K)`."""
        ...


class Classifier(Protocol):
    """A way to learn. All ways to mix real and synthetic films get the same number of optimiser steps."""

    @property
    def provenance(self) -> Mapping[str, str | int | float]:
        """Everything that decides its numbers, apart from the films."""
        ...

    @property
    def has_seeds(self) -> bool:
        """Whether the same films give another classifier with another seed."""
        ...

    @property
    def effort(self) -> str:
        """The optimiser steps of every arm, in a sentence."""
        ...

    def inputs(self, images: Stored, bits: int, report: Report, task: str) -> Inputs:
        """What it takes of films `(N, H, W)`."""
        ...

    def fit(
        self, films: tuple[Inputs, Labels], classes: int, seed: int, *, before: tuple[Inputs, Labels] | None
    ) -> Fitted:
        """Learn from films, and `before` from others where there are such, within the same number of steps."""
        ...


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Logistic regression on features that were learned elsewhere."""

    extractor: FeatureExtractor
    has_seeds: bool = False
    effort: str = (
        "Each fit is carried to its only optimum (L-BFGS), so that no arm is trained longer than another; fine-tuning "
        "penalises the distance from the weights of the synthetic films instead of from 0."
    )

    @property
    def provenance(self) -> Mapping[str, str | int | float]:
        """Extractor and penalty."""
        return {"classifier": "linear probe", "version": 1, **self.extractor.provenance}

    def inputs(self, images: Stored, bits: int, report: Report, task: str) -> Inputs:
        """Features, from the cache where they are known."""
        return extract(self.extractor, images, bits, report=report, task=task)

    def fit(
        self, films: tuple[Inputs, Labels], classes: int, seed: int, *, before: tuple[Inputs, Labels] | None
    ) -> Probe:
        """The probe of the films, drawn towards that of the films before."""
        start = None if before is None else fit_probe(*before, classes)
        return fit_probe(*films, classes, start=start)


@dataclass(frozen=True, eq=False)
class Convnet:
    """A network of four convolutions, trained from nothing on films averaged down to at most 64 px."""

    device: torch.device
    steps: int = 400
    """Optimiser steps of every arm; half of them before, half after, where films come before."""
    batch: int = 64
    """Films per step, drawn with replacement."""
    learning_rate: float = 2e-3
    """Peak of a cosine, AdamW."""
    side_px: int = 64
    """Longer side that films are averaged down to."""
    has_seeds: bool = True

    @property
    def effort(self) -> str:
        """Steps, films and learning rate."""
        return (
            f"Every arm takes {self.steps} optimiser steps of {self.batch} films (AdamW, cosine from "
            f"{self.learning_rate:g}), fine-tuning {self.steps // 2} on synthetic and then "
            f"{self.steps - self.steps // 2} on real films; no augmentation."
        )

    @property
    def provenance(self) -> Mapping[str, str | int | float]:
        """Architecture and training."""
        return {
            "classifier": "convolutional network, 4 blocks of 3x3 convolution, group norm, ReLU, mean over 2x2",
            "version": 1,
            "input": f"at most {self.side_px} px, area mean",
            "steps": self.steps,
            "batch": self.batch,
            "learning_rate": self.learning_rate,
            "device": self.device.type,
        }

    def inputs(self, images: Stored, bits: int, report: Report, task: str) -> Inputs:
        """Pixels in [0, 1], `(N, 1, h, w)`."""
        scale = self.side_px / max(images.shape[1:3])
        size = [max(1, round(side * min(1.0, scale))) for side in images.shape[1:3]]
        pixels = np.empty((len(images), 1, *size), dtype=np.float32)
        for start in range(0, len(images), 256):
            unit = torch.from_numpy(stored_to_unit(images[start : start + 256], bits))[:, None]
            pixels[start : start + 256] = functional.interpolate(unit, size=size, mode="area").numpy()
        return pixels

    def fit(
        self, films: tuple[Inputs, Labels], classes: int, seed: int, *, before: tuple[Inputs, Labels] | None
    ) -> "FittedConvnet":
        """Train from random weights."""
        network = _network(classes, seed).to(self.device)
        if before is None:
            self._train(network, films, self.steps, seed, "films")
        else:
            self._train(network, before, self.steps // 2, seed, "films before")
            self._train(network, films, self.steps - self.steps // 2, seed, "films")
        return FittedConvnet(network.eval(), self.device)

    def _train(
        self, network: nn.Module, films: tuple[Inputs, Labels], steps: int, seed: int, purpose: str
    ) -> None:
        inputs, labels = films
        draw = numpy_generator(seed, "utility batches", purpose)
        optimizer = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            rows = draw.integers(0, len(labels), self.batch)
            x, y = (torch.from_numpy(part[rows]).to(self.device) for part in (inputs, labels))
            optimizer.zero_grad()
            functional.cross_entropy(network(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


@dataclass(frozen=True, eq=False)
class FittedConvnet:
    """A trained network."""

    network: nn.Module
    device: torch.device

    def log_odds(self, inputs: Inputs) -> NDArray[np.float64]:
        """Log odds of each class against all others, `(N, K)`."""
        parts: list[Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(inputs), 256):
                parts.append(
                    self.network(torch.from_numpy(inputs[start : start + 256]).to(self.device)).cpu()
                )
        return log_odds(torch.cat(parts).double())


def _network(classes: int, seed: int) -> nn.Module:
    """(B, 1, H, W) in [0, 1] -> (B, K); the weights follow from the seed alone."""
    widths = (1, 16, 32, 64, 128)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "utility weights"))
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            blocks += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.GroupNorm(8, after), nn.ReLU()]
            blocks += [nn.AvgPool2d(2, ceil_mode=True)]
        return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
