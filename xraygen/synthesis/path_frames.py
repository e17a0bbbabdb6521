"""The frames of a PATH: two films mixed under noise, and decoded.

F frames, C channel, H, W sides, D embedding.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xraygen.devices import moved
from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.guidance import guided
from xraygen.diffusion.interpolation import (
    interpolate_paper,
    interpolate_shared_noise,
    interpolate_spherically,
    inverted_noise,
    noise_cosine,
    noise_variance,
)
from xraygen.diffusion.paths import Watch, unwatched
from xraygen.diffusion.samplers import ddim_sample, no_noise
from xraygen.errors import UsageError
from xraygen.models.unet import UNet
from xraygen.progress import Counter, silent
from xraygen.seeds import torch_generator
from xraygen.synthesis.arithmetic import evaluated
from xraygen.synthesis.path_ends import End
from xraygen.synthesis.sampling import SamplerSettings, sample

Mode = Literal["paper", "shared-noise", "slerp", "inversion"]
MODES: tuple[Mode, ...] = ("paper", "shared-noise", "slerp", "inversion")

FARTHEST = 0.5
"""How far lambda may lie outside [0, 1]: there the images' mean may lie in [-2, 2], twice what any film holds."""


def lambdas(frames: int, beyond: int) -> Tensor:
    """Places of the frames, float64: `frames` of them from 0 to 1, `beyond` more at the same distance past either end.

    Raises:
        UsageError: If there are fewer than 2, or lambda would lie more than `FARTHEST` outside [0, 1].
    """
    if frames < 2:
        raise UsageError(f"--frames {frames}: a path has two ends, so at least 2 frames.")
    if not 0 <= beyond <= FARTHEST * (frames - 1):
        raise UsageError(
            f"--beyond {beyond}: with {frames} frames a step is {1 / (frames - 1):.3g}; expected 0 to "
            f"{int(FARTHEST * (frames - 1))}, lambda from {-FARTHEST:g} to {1 + FARTHEST:g}."
        )
    return torch.arange(-beyond, frames + beyond, dtype=torch.float64) / (frames - 1)


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames as they are decoded, `(F, C, H, W)`, and the mean square of each one's noise before that, `(F,)`."""

    x: Tensor
    noise_variance: Tensor


@dataclass(frozen=True, eq=False)
class Way:
    """How to go from film A to film B.

    Everything is computed in the order of the films' content and turned round at last if that is B's, so that the way
    from B to A is the same frames, bit for bit, in reverse.

    Attributes:
        network: The network.
        chain: Its diffusion over the steps of the decoding.
        ends: A and B.
        mode: How they are mixed.
        sampler: How frames are decoded.
        seed: Seed of the noise.
        iterations: Evaluations of the network per step of the inversion.
        guidance: Weight of the conditions, where anything is told.
        device: Where to compute.
    """

    network: UNet
    chain: GaussianDiffusion
    ends: tuple[End, End]
    mode: Mode
    sampler: SamplerSettings
    seed: int
    iterations: int
    guidance: float
    device: torch.device

    @property
    def turned(self) -> bool:
        """Whether B comes before A in the order of content."""
        return self.ends[0].order > self.ends[1].order

    @property
    def ordered(self) -> tuple[End, End]:
        """The ends in the order of their content."""
        first, second = self.ends
        return (second, first) if self.turned else (first, second)

    def frames(self, lam: Tensor, start: int, counter: Counter | None = None) -> Frames:
        """Decode the frames at these places.

        Args:
            lam: Places from A to B, float64 `(F,)`, symmetric about 1/2.
            start: Step of the chain to which the films are noised.
            counter: Counts frames that are done, and the steps of those under way.

        Returns:
            Frames on the CPU.
        """
        counter = counter or Counter("frames", len(lam), silent)
        x_t = self.noisy(
            lam, start, lambda step, _: counter.step(step + 1, start + 1, worth=0, name="inversion")
        )
        first, second = (end.x for end in self.ordered)
        weight = lam.float().view(-1, 1, 1, 1)
        clean = (1 - weight) * first + weight * second
        variance = noise_variance(self.chain, x_t.cpu(), clean, torch.full((len(lam),), start))
        x = self._decode(x_t, lam, start, counter)
        return Frames(x.flip(0), variance.flip(0)) if self.turned else Frames(x, variance)

    def noisy(self, lam: Tensor, start: int, watch: Watch = unwatched) -> Tensor:
        """Noisy frames, `(F, C, H, W)`, in the order of content; `watch` is told of an inversion's steps."""
        count = len(lam)
        t = torch.full((count,), start)
        x_a, x_b = (end.x.expand(count, -1, -1, -1) for end in self.ordered)
        if self.mode == "shared-noise":
            noise = torch.randn(x_a.shape[1:], generator=torch_generator(self.seed, "shared noise"))
            x_t = interpolate_shared_noise(self.chain, x_a, x_b, noise.expand_as(x_a), t, lam.float())
            return x_t.to(self.device)
        noises = self.inverted(start, watch) if self.mode == "inversion" else self._keyed_noises()
        noise_a, noise_b = (noise.expand(count, -1, -1, -1) for noise in noises)
        if self.mode == "paper":
            return interpolate_paper(self.chain, x_a, x_b, noise_a, noise_b, t, lam.float()).to(self.device)
        x_t = interpolate_spherically(
            self.chain, x_a, x_b, noise_a, noise_b, t, lam, self._cosine(noises[:1], noises[1:])
        )
        return x_t.to(self.device)

    def inverted(self, start: int, watch: Watch = unwatched) -> Tensor:
        """The noises that inversion finds, `(2, C, H, W)`, in the order of content, on the CPU."""
        films = torch.stack([end.x for end in self.ordered]).to(self.device)
        with torch.inference_mode():
            noises = inverted_noise(
                self.model(torch.tensor([0.0, 1.0])),
                self.chain,
                films,
                stop=start,
                iterations=self.iterations,
                watch=watch,
            )
        return noises.cpu().clone()

    def model(self, lam: Tensor) -> Model:
        """The network for frames at these places: what it is told of the films is mixed as its embedding.

        Past an end it is told what it is told there.
        """
        condition = torch.stack([end.condition for end in self.ordered])  # (2, F)
        network = evaluated(self.network, self.sampler.precision, self.device)
        if self.network.conditions is None or self.guidance == 0 or bool(condition.isinf().all()):
            return network
        first, second = self.network.conditions(condition.to(self.device))  # (D,) each
        share = lam.float().clamp(0, 1).view(-1, 1).to(self.device)
        mixed = (1 - share) * first + share * second  # (F, D)

        def told_of(x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
            return network(x_t, t, condition_embedding=condition)

        return guided(told_of, mixed, self.guidance)

    def _keyed_noises(self) -> Tensor:
        """The noise of each film, keyed by its pixels, `(2, C, H, W)`."""
        generators = (torch_generator(self.seed, "film noise", end.content) for end in self.ordered)
        return torch.stack([torch.randn(self.ends[0].x.shape, generator=draw) for draw in generators])

    def _cosine(self, noise_a: Tensor, noise_b: Tensor) -> Tensor | float:
        """Of the angle between two noises: known where they were drawn, measured where they were found."""
        if self.mode == "inversion":
            return noise_cosine(noise_a, noise_b)
        return 1.0 if self.ends[0].content == self.ends[1].content else 0.0

    def _decode(self, x_t: Tensor, lam: Tensor, start: int, counter: Counter) -> Tensor:
        """Noisy frames to frames, on the CPU; the chain's noise is one for all, so that frames differ by lambda alone.

        All parts are of one size, the last one padded, since torch's kernels give other bits at other shapes.
        """

        def shared_noise(step: int) -> Tensor:
            generator = torch_generator(self.seed, "decoding noise", step)
            return moved(torch.randn(x_t.shape[1:], generator=generator), x_t.device)

        count = len(x_t)
        size = min(self.sampler.compute_batch, count)
        decoded: list[Tensor] = []
        for first in range(0, count, size):
            places = torch.arange(first, first + size).clamp(max=count - 1)
            model, part = self.model(lam[places]), x_t[places.to(x_t.device)]
            kept = min(size, count - first)

            def watch(step: int, _: Tensor, kept: int = kept) -> None:
                counter.step(start + 1 - step, start + 1, worth=kept)

            if self.mode == "inversion":  # what clipping cuts off would not come back
                x = ddim_sample(model, self.chain, part, no_noise, start=start, clip=False, watch=watch)
            else:
                x = sample(model, self.chain, part, shared_noise, self.sampler, start=start, watch=watch)
            decoded.append(x[:kept].cpu().clone())
            counter.advance(kept)
        return torch.cat(decoded)
