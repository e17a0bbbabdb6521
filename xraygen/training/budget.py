"""What a run will take, said before its first step: arithmetic, memory, time and disk, from its configuration alone.

The network's own code is walked on torch's meta device (`xraygen.training.ledger`); only the speed of the device is
measured.
"""

from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any

import torch
from torch import nn

from xraygen.config import ModelConfig, RunConfig
from xraygen.models.augmentation import AUGMENTATIONS
from xraygen.models.blocks import SelfAttention
from xraygen.models.unet import UNet, level_heights
from xraygen.training.ledger import AsOnDevice, Ledger
from xraygen.training.peak import DevicePeak
from xraygen.training.validation import HELD_FILMS

_FLOAT = 4
_COPIES_ON_DISK = 4
"""A checkpoint holds the weights, their average and Adam's two moments."""
_OPTIMISER_PASSES = 13
"""Times that each weight's four bytes go through memory: clipping reads and writes the gradient and its norm reads it
(3), Adam reads weight, gradient and two moments and writes all but the gradient (7), the average reads two and writes
one (3)."""
_MUCH_FASTER = 2.0
"""In matrix products alone; a network of small convolutions gains less, and below this nothing that is sure."""


@dataclass(frozen=True)
class Walk:
    """A forward pass, or a forward and a backward pass, of `images` images on one process.

    Attributes:
        images: Images in the pass.
        forward_flops: Floating-point operations of all images, forward.
        backward_flops: The same, backward; 0 in a forward pass alone. What activation checkpointing does again counts.
        kept_bytes: Alive after the forward pass: what the backward pass needs, and the prediction.
        peak_bytes: Most alive at once on top of the weights: activations, and the gradients that exist by then.
        traffic_bytes: Read and written by all operations.
    """

    images: int
    forward_flops: int
    backward_flops: int
    kept_bytes: int
    peak_bytes: int
    traffic_bytes: int

    @property
    def flops(self) -> int:
        """Forward and backward."""
        return self.forward_flops + self.backward_flops


def walk(
    config: ModelConfig,
    images: int,
    *,
    bfloat16: bool = False,
    training: bool = True,
    accumulating: bool = False,
) -> Walk:
    """Go through the network on the meta device.

    Args:
        config: The network's.
        images: Images in the pass.
        bfloat16: Under autocast to bfloat16; otherwise in float32.
        training: Forward and backward in training mode; otherwise forward alone, as in sampling.
        accumulating: The gradients are there already, and not counted; what the pass adds goes into them.

    Returns:
        What the pass takes.
    """
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    with torch.device("meta"):
        network = UNet(config).train(training)
        x_t = torch.empty(images, config.in_channels, height, width)
        t = torch.empty(images, dtype=torch.int64)
        keys = torch.empty(images, dtype=torch.int64)
        labels = torch.empty(images, len(AUGMENTATIONS) if training and config.hears_augmentation else 0)
        for weight in network.parameters() if accumulating else ():
            weight.grad = torch.empty_like(weight)
    AsOnDevice(bfloat16=bfloat16).around(
        layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear | SelfAttention)
    )
    ledger = Ledger()
    with torch.set_grad_enabled(training), ledger:
        prediction = network(x_t, t, dropout_keys=keys, augmentation=labels)
        forward, kept = ledger.flops, ledger.live
        if training:
            prediction.float().square().mean().backward()
    return Walk(images, forward, ledger.flops - forward, kept, ledger.peak, ledger.traffic)


@cache
def flops_per_image(config: ModelConfig) -> int:
    """Forward and backward, as a network that recomputes nothing would need them: what a share of peak means."""
    return walk(config.model_copy(update={"checkpoint_activations": False}), 1).flops


@dataclass(frozen=True)
class Budget:
    """What a run of one process takes.

    Attributes:
        parameters: Weights of the network.
        share: Images of an optimiser step on this process.
        parts: Passes through the network for them; the last may be of fewer images.
        plain: One pass with all activations kept.
        checkpointed: One pass with activation checkpointing.
        sampling: One evaluation of the averaged network, for the grids of samples and on held-out films.
        config: The run's.
    """

    parameters: int
    share: int
    parts: int
    plain: Walk
    checkpointed: Walk
    sampling: Walk
    config: RunConfig

    @property
    def work(self) -> Walk:
        """One pass as the configuration has it."""
        return self.checkpointed if self.config.model.checkpoint_activations else self.plain

    @property
    def weights_bytes(self) -> int:
        """One copy of the weights in float32: the average is one more, the gradients too, Adam's moments are two."""
        return _FLOAT * self.parameters

    @property
    def standing_bytes(self) -> int:
        """Alive all the time: weights, average, Adam's two moments, and the two averages of train.posthoc_ema."""
        return self.weights_bytes * (6 if self.config.train.posthoc_ema else 4)

    @property
    def step_flops(self) -> int:
        """Of one optimiser step, as a network that recomputes nothing would need them: what a share of peak means."""
        return self.plain.flops * self.share // self.plain.images

    def memory_bytes(self, work: Walk) -> int:
        """Most alive at once: weights, average, moments, and the fullest moment of a step or of a grid of samples.

        The gradients are in the fullest moment of a step; where it has several parts, those of the first are alive
        through the others.
        """
        gradients = self.weights_bytes if self.parts > 1 else 0
        return self.standing_bytes + max(gradients + work.peak_bytes, self.sampling.peak_bytes)

    def seconds_per_step(self, peak: DevicePeak) -> float:
        """All arithmetic at the device's peak, then all memory traffic at its bandwidth: nothing overlaps or is fused.

        A compiled network, which fuses the traffic, lies below it; a device that others use, above.
        """
        passes = self.share / self.work.images
        arithmetic = self.work.flops * passes / peak.of(self.config.train.precision)
        traffic = self.work.traffic_bytes * passes + _OPTIMISER_PASSES * self.weights_bytes
        return arithmetic + traffic / peak.bandwidth

    def disk_bytes(self) -> int:
        """Most that checkpoints and snapshots of averages take; grids of samples and logs are small beside them.

        What is not needed any more is deleted once the next one is there: beside the checkpoints that are kept lie the
        best one and the one being written, beside the snapshots one being written.
        """
        train = self.config.train
        checkpoints = min(train.keep_checkpoints + 2, 1 + ceil(train.max_steps / train.save_every))
        copies = _COPIES_ON_DISK * checkpoints
        if train.posthoc_ema:  # two more in each checkpoint, and two of half the size in each snapshot
            copies += 2 * checkpoints
            copies += min(train.posthoc_ema_keep + 1, train.max_steps // train.posthoc_ema_every)
        return self.weights_bytes * copies


def budget(config: RunConfig, processes: int = 1) -> Budget:
    """Work out what one of `processes` processes will need.

    Args:
        config: The run's configuration.
        processes: Processes that share the batch.

    Returns:
        The budget, without a device: `seconds_per_step` takes its measured peak.
    """
    share = ceil(config.train.batch_size / processes)
    part = config.train.images_at_once(processes)
    bfloat16 = config.train.precision == "bfloat16"
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in UNet(config.model).parameters())
    parts = ceil(share / part)

    def one_pass(checkpointing: bool) -> Walk:
        model = config.model.model_copy(update={"checkpoint_activations": checkpointing})
        return walk(model, part, bfloat16=bfloat16, accumulating=parts > 1)

    together = min(max(config.train.sample_count, HELD_FILMS), part)
    sampling = walk(config.model, together, training=False)
    return Budget(parameters, share, parts, one_pass(False), one_pass(True), sampling, config)


def budget_figures(budget: Budget, peak: DevicePeak) -> dict[str, Any]:
    """The budget as numbers, JSON-ready: bytes, floating-point operations, seconds."""
    train, seconds = budget.config.train, budget.seconds_per_step(peak)
    return {
        "parameters": budget.parameters,
        "flops_per_image": {
            "forward": budget.plain.forward_flops / budget.plain.images,
            "backward": budget.plain.backward_flops / budget.plain.images,
        },
        "flops_per_step": budget.step_flops,
        "parts_per_step": budget.parts,
        "memory_bytes": {
            "weights": budget.weights_bytes,
            "average": budget.weights_bytes,
            "adam": 2 * budget.weights_bytes,
            "gradients": budget.weights_bytes,
            "kept_activations": budget.work.kept_bytes,
            "samples": budget.sampling.peak_bytes,
            "fullest": budget.memory_bytes(budget.work),
            "fullest_with_checkpoint_activations": budget.memory_bytes(budget.checkpointed),
        },
        "peak": {"flops_per_second": peak.of(train.precision), "bytes_per_second": peak.bandwidth},
        "seconds_per_step": seconds,
        "seconds": seconds * train.max_steps,
        "disk_bytes": budget.disk_bytes(),
    }


def budget_sentences(budget: Budget, peak: DevicePeak, where: str, has_bytes: int | None = None) -> list[str]:
    """The budget for a person: one line each on arithmetic, memory, time and disk.

    Args:
        budget: What is needed.
        peak: What the device showed.
        where: The device's name.
        has_bytes: Its memory, where it is known.
    """
    train, seconds = budget.config.train, budget.seconds_per_step(peak)
    static, fullest = budget.standing_bytes, budget.memory_bytes(budget.work)
    lines = [
        f"{budget.parameters:,} parameters; {_quantity(budget.plain.flops / budget.plain.images, 'FLOP')} per image, a "
        f"third of it forward; {_quantity(budget.step_flops, 'FLOP')} per step.",
        f"Memory: {_quantity(fullest, 'B')} per process at the fullest, {_quantity(static, 'B')} of it weights, their "
        f"averages and Adam's moments" + _with_checkpointing(budget, fullest),
        f"Time: about {duration(seconds)} per step and {duration(seconds * train.max_steps)} for {train.max_steps:,} "
        f"steps, at the {_quantity(peak.of(train.precision), 'FLOP/s')} and {_quantity(peak.bandwidth, 'B/s')} that "
        f"{where} showed just now.",
        f"Disk: {_quantity(budget.disk_bytes(), 'B')} at the fullest, for {train.keep_checkpoints} checkpoints, the "
        "best one and the one being written.",
    ]
    asked, heights = budget.config.model.attention_resolutions, level_heights(budget.config.model)
    for unmet in [height for height in asked if height not in heights]:
        lines.append(
            f"WARNING: model.attention_resolutions names {unmet}, and no level is so high (they are "
            f"{', '.join(map(str, heights))} px): it does nothing."
        )
    if train.precision == "float32" and peak.bfloat16 > _MUCH_FASTER * peak.float32:
        lines.append(
            f"{where[0].upper()}{where[1:]} multiplies {peak.bfloat16 / peak.float32:.2g} times as fast in bfloat16: "
            "train.precision=bfloat16, which is chosen before the first step, may train faster."
        )
    if has_bytes is not None and fullest > has_bytes:
        lines.append(_too_much(budget, where, has_bytes))
    if budget.sampling.peak_bytes > budget.work.peak_bytes:
        lines.append(
            f"Samples and held-out films need the most memory, with {budget.sampling.images} images at once; a "
            "smaller train.micro_batch_size needs less."
        )
    return lines


def _too_much(budget: Budget, where: str, has_bytes: int) -> str:
    """A warning where the fullest moment does not fit, and what needs less."""
    images = budget.work.images
    fewer = f"train.micro_batch_size={images // 2} or less, " if images > 1 else ""
    return (
        f"WARNING: {where} has {_quantity(has_bytes, 'B')} of memory, which will not do. Less is needed with {fewer}"
        "model.checkpoint_activations=true, or train.precision=bfloat16, which is chosen before the first step."
    )


def _with_checkpointing(budget: Budget, fullest: int) -> str:
    """What model.checkpoint_activations would save, where it would."""
    less = budget.memory_bytes(budget.checkpointed)
    return f"; {_quantity(less, 'B')} with model.checkpoint_activations." if less < 0.95 * fullest else "."


def _quantity(value: float, unit: str) -> str:
    """Three digits and a decimal prefix."""
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} P{unit}"


def duration(seconds: float) -> str:
    """In the largest unit of which there are two."""
    for size, name in ((86_400, "days"), (3600, "hours"), (60, "minutes"), (1, "s")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {name}"
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
