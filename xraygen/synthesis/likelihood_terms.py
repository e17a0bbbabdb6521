"""The terms of the bound for many films, in units of work of which each is kept when it is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.atomic import atomic_file
from xraygen.dataset.store import Dataset
from xraygen.diffusion.densities import to_grid
from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.likelihood import bound_terms
from xraygen.progress import Progress, Report
from xraygen.seeds import numpy_generator, torch_generator
from xraygen.training.batches import as_model_input

UNIT_PAIRS = 1024
"""Terms in a unit: what a kill loses at most."""


class Pairs(NamedTuple):
    """Which terms to compute: films (rows of the DATASET) and timesteps, int64 `[n]` each."""

    rows: NDArray[np.int64]
    t: NDArray[np.int64]

    def part(self, start: int, size: int) -> "Pairs":
        """`size` pairs from `start` on, fewer at the end."""
        return Pairs(self.rows[start : start + size], self.t[start : start + size])

    def padded(self, size: int) -> "Pairs":
        """The last pair repeated until there are `size`."""
        places = np.minimum(np.arange(size), len(self.t) - 1)
        return Pairs(self.rows[places], self.t[places])


class Terms(NamedTuple):
    """Bits per dimension of each pair, and the mean squared error of pred_xstart; float64 `[n]` each."""

    bits_per_dim: NDArray[np.float64]
    xstart_mse: NDArray[np.float64]


def at_every_timestep(rows: NDArray[np.int64], steps: int) -> Pairs:
    """Each film at t = 0 ... steps - 1."""
    return Pairs(rows.repeat(steps), np.tile(np.arange(steps), len(rows)))


def at_one_timestep_per_stratum(rows: NDArray[np.int64], edges: NDArray[np.int64], seed: int) -> Pairs:
    """Each film at a timestep drawn evenly from each stratum."""
    drawn = [
        numpy_generator(seed, "likelihood strata", int(row)).integers(edges[:-1], edges[1:]) for row in rows
    ]
    return Pairs(rows.repeat(len(edges) - 1), np.array(drawn, dtype=np.int64).reshape(-1))


@dataclass(frozen=True)
class Measurement:
    """How a term is computed, and where finished units lie.

    Attributes:
        folder: Where the units are kept.
        model: The network.
        diffusion: Its diffusion, respaced or not.
        dataset: Open DATASET.
        bits: Depth of the pixels.
        clip: Clip pred_xstart to [-1, 1].
        seed: Seed of the noise; that of a film at a timestep is always the same.
        batch_size: Pairs computed together, padded to it.
        device: Where to compute.
    """

    folder: Path
    model: Model
    diffusion: GaussianDiffusion
    dataset: Dataset
    bits: int
    clip: bool
    seed: int
    batch_size: int
    device: torch.device

    def compute(self, work: Sequence[tuple[str, Pairs]], report: Report) -> None:
        """Compute the units that no file holds yet.

        Args:
            work: Pairs under a name of their own.
            report: Told how many pairs are done.
        """
        units = [unit for name, pairs in work for unit in self._units(name, pairs)]
        total = sum(len(unit.t) for _, unit in units)
        done = sum(len(unit.t) for path, unit in units if path.exists())
        report(Progress("likelihood", done, total))
        for path, unit in units:
            if path.exists():
                continue
            found: list[NDArray[np.float64]] = []
            for start in range(0, len(unit.t), self.batch_size):
                part = unit.part(start, self.batch_size)
                found.append(self._terms(part))
                done += len(part.t)
                report(Progress("likelihood", done, total))
            with atomic_file(path) as aside:
                aside.write_bytes(np.concatenate(found, axis=1).tobytes())

    def finished(self, name: str, pairs: Pairs) -> Terms:
        """The terms of pairs that have been computed, in the order of the pairs."""
        units = [np.fromfile(path, np.float64).reshape(2, -1) for path, _ in self._units(name, pairs)]
        return Terms(*np.concatenate(units or [np.empty((2, 0))], axis=1))

    def films(self, rows: NDArray[np.int64]) -> Tensor:
        """Films on the grid of their depth, `(B, C, H, W)`, float64, [-1, 1]."""
        return to_grid(as_model_input(self.dataset, rows), self.bits).to(self.device)

    @torch.inference_mode()
    def seen(self, pairs: Pairs) -> Tensor:
        """What the network sees behind the noise: pred_xstart of each pair, `(n, C, H, W)`."""
        x_start, t, noise = self._inputs(pairs)
        x_t = self.diffusion.q_sample(x_start, t, noise)
        return self.diffusion.denoise(self._network, x_t, t)

    def _units(self, name: str, pairs: Pairs) -> list[tuple[Path, Pairs]]:
        return [
            (self.folder / f"{name}-{start // UNIT_PAIRS:06d}.f64", pairs.part(start, UNIT_PAIRS))
            for start in range(0, len(pairs.t), UNIT_PAIRS)
        ]

    def _terms(self, pairs: Pairs) -> NDArray[np.float64]:
        """Bits per dimension and squared error, `[2, n]`."""
        x_start, t, noise = self._inputs(pairs.padded(self.batch_size))
        terms = bound_terms(self._network, self.diffusion, x_start, t, noise, bits=self.bits, clip=self.clip)
        return torch.stack(terms)[:, : len(pairs.t)].cpu().numpy()

    def _inputs(self, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """x_start, t and noise of a batch."""
        x_start = self.films(pairs.rows)
        noise = [
            torch.randn(
                x_start.shape[1:],
                generator=torch_generator(self.seed, "likelihood noise", int(row), int(t)),
                dtype=torch.float64,
            )
            for row, t in zip(*pairs, strict=True)
        ]
        return x_start, torch.from_numpy(pairs.t).to(self.device), torch.stack(noise).to(self.device)

    def _network(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The network computes in float32; the bound around it does not."""
        return self.model(x_t.float(), t if t.dtype == torch.int64 else t.float())
