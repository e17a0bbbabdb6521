"""Chains under observation: what they take for the image at each step, and what is left to chance at one.

S splits, N branches; i is a step of the chain, which may be respaced, 0 the last and least noisy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xraygen.devices import moved
from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.paths import StepNoise, Watch
from xraygen.progress import Progress, Report, silent
from xraygen.ranges import model_to_unit
from xraygen.seeds import torch_generator
from xraygen.synthesis.arithmetic import evaluated
from xraygen.synthesis.noise import SeededNoise
from xraygen.synthesis.sampling import SamplerSettings, sample

Shape = tuple[int, int, int]
"""(C, H, W) of one image."""


@dataclass(frozen=True)
class Chains:
    """A network and how its chains are run.

    Attributes:
        model: The network.
        diffusion: Its diffusion, respaced to the steps of the chain.
        shape: (C, H, W) of one image.
        sampler: How they are run; compute_batch of them at a time.
        device: Where they run.
        report: Told how many steps are done, over all batches.
    """

    model: Model
    diffusion: GaussianDiffusion
    shape: Shape
    sampler: SamplerSettings
    device: torch.device
    report: Report = silent

    @property
    def steps(self) -> int:
        """Evaluations of the network per image."""
        return len(self.diffusion.schedule.timesteps)

    def sample(self, x_t: Tensor, noise: StepNoise, watch: Watch) -> Tensor:
        """Noise `(B, C, H, W)` to images of that shape."""
        model = evaluated(self.model, self.sampler.precision, self.device)
        return sample(model, self.diffusion, x_t, noise, self.sampler, watch=watch)


def progressive_frames(chains: Chains, seeds: Sequence[int], columns: Sequence[int]) -> Tensor:
    """What each chain takes for its image at some of its steps.

    Args:
        chains: Network, diffusion and sampler.
        seeds: One chain each, with the noise that `generate` gives this seed.
        columns: Steps whose pred_xstart is kept, falling. That of step 0 is the image itself.

    Returns:
        `(len(columns), len(seeds), C, H, W)` on the CPU, [-1, 1].

    Source:
        Ho et al. 2020, eq. 15 and fig. 6.
    """
    frames = torch.empty(len(columns), len(seeds), *chains.shape)
    for first in range(0, len(seeds), chains.sampler.compute_batch):
        rows = slice(first, first + chains.sampler.compute_batch)
        noise = SeededNoise(seeds[rows], chains.shape, chains.device)

        def watch(step: int, pred_xstart: Tensor, rows: slice = rows) -> None:
            if step in columns:
                frames[columns.index(step), rows] = pred_xstart.cpu()
            _report(chains, "progressive", rows.start, step, len(seeds))

        chains.sample(noise.draw(), noise, watch)
    return frames


class BranchingNoise:
    """The step noise of one chain that splits: all rows share it down to a row's split, then it is the branch's own.

    A branch has the same noise at a step wherever it split off, so that the rows of a branch differ by the split alone.

    Args:
        seed: Seed of the chain; what is shared is the noise that `generate` gives this seed.
        rows: (i of the split, branch) of each row; the step from x_i on is the branch's own.
        shape: (C, H, W) of one image.
        device: Where the noise goes; it is drawn on the CPU.
    """

    def __init__(
        self, seed: int, rows: Sequence[tuple[int, int]], shape: Shape, device: torch.device
    ) -> None:
        self._shared = SeededNoise([seed], shape, torch.device("cpu"))
        self._seed, self._rows, self._shape, self._device = seed, rows, shape, device

    def draw(self) -> Tensor:
        """The start of the chain, the same in all rows, `(B, C, H, W)`."""
        return moved(self._shared.draw().repeat(len(self._rows), 1, 1, 1), self._device)

    def __call__(self, step: int) -> Tensor:
        """As the samplers ask for it: once per step, the noisiest first. `(B, C, H, W)`."""
        shared = self._shared.draw()[0]
        drawn = [self._own(branch, step) if step <= split else shared for split, branch in self._rows]
        return moved(torch.stack(drawn), self._device)

    def _own(self, branch: int, step: int) -> Tensor:
        return torch.randn(self._shape, generator=torch_generator(self._seed, "branch", branch, step))


class SharedChain(NamedTuple):
    """One chain, split at S steps into N branches each.

    Attributes:
        estimates: pred_xstart of each split, `(S, C, H, W)`, [-1, 1].
        samples: Where the branches end, `(S, N, C, H, W)`, [-1, 1].
    """

    estimates: Tensor
    samples: Tensor


def shared_chain(chains: Chains, seed: int, splits: Sequence[int], branches: int) -> SharedChain:
    """Split one chain into branches, which share x_i at the split i and have their own noise from there on.

    All branches run side by side from the start and share the noise down to their split. That evaluates the network on
    the common part once per branch, and in return takes one pass and any sampler that asks for its noise.

    Args:
        chains: Network, diffusion and a sampler that is random: ddpm, or ddim with eta above 0.
        seed: Seed of the chain.
        splits: i of each split.
        branches: Continuations from each.

    Returns:
        What the chain takes for its image at each split, and the branches' images.

    Source:
        Ho et al. 2020, fig. 7.
    """
    rows = [(split, branch) for split in splits for branch in range(branches)]
    estimates = torch.empty(len(rows), *chains.shape)
    samples = torch.empty(len(rows), *chains.shape)
    for first in range(0, len(rows), chains.sampler.compute_batch):
        part = slice(first, first + chains.sampler.compute_batch)
        noise = BranchingNoise(seed, rows[part], chains.shape, chains.device)

        def watch(step: int, pred_xstart: Tensor, part: slice = part) -> None:
            for row, (split, _) in enumerate(rows[part]):
                if split == step:
                    estimates[part.start + row] = pred_xstart[row].cpu()
            _report(chains, "shared chain", part.start, step, len(rows))

        samples[part] = chains.sample(noise.draw(), noise, watch).cpu()
    shape = (len(splits), branches, *chains.shape)
    return SharedChain(estimates.view(shape)[:, 0], samples.view(shape))


def mean_pairwise_rmse(x: Tensor) -> float:
    """How far images `(N, C, H, W)` in [-1, 1] lie apart: RMSE in grey levels of [0, 255], mean over the pairs."""
    grey = 255 * model_to_unit(x).double()
    return float(np.mean([(a - b).square().mean().sqrt().item() for a, b in combinations(grey, 2)]))


def _report(chains: Chains, task: str, first: int, step: int, count: int) -> None:
    """Steps done of all batches together, after this step of the batch that begins at row `first`."""
    batches = -(-count // chains.sampler.compute_batch)
    done = first // chains.sampler.compute_batch * chains.steps + chains.steps - step
    chains.report(Progress(task, done, batches * chains.steps))
