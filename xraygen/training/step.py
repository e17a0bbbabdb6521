"""One optimiser step and one update of the average, and the state that they change."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import torch
from accelerate import Accelerator
from torch import nn

from xraygen.config import RunConfig, TrainConfig
from xraygen.devices import compiles
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.guidance import told
from xraygen.models.unet import UNet
from xraygen.seeds import derive_seed
from xraygen.training.batches import Batch
from xraygen.training.checkpoint import Checkpoint, load_checkpoint, read_progress
from xraygen.training.ema import ema_copy, ema_decay_at, update_ema
from xraygen.training.posthoc_ema import PowerAverages
from xraygen.training.rollback import Detour
from xraygen.training.sentinels import Tally

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8


@dataclass
class State:
    """What changes while training."""

    model: UNet
    ema: UNet
    optimizer: torch.optim.Adam
    step: int = 0
    detour: Detour = field(default_factory=Detour)
    tally: Tally = field(default_factory=Tally)
    averages: PowerAverages | None = None

    @property
    def batch(self) -> int:
        """Number of the batch that the next step sees."""
        return self.step + self.detour.passed_over

    def progress(self) -> dict[str, Any]:
        """What a checkpoint holds beside weights and optimiser."""
        held = {"tally": self.tally.to_state(), **self.detour._asdict()}
        return {**held, "power_averages": self.averages.to_state()} if self.averages else held


def dtype_of(config: TrainConfig) -> torch.dtype:
    """In what the weights are kept; bfloat16 is for the arithmetic of the network alone."""
    return torch.float64 if config.precision == "float64" else torch.float32


def fresh_state(config: RunConfig, device: torch.device, conditions: Sequence[int] = ()) -> State:
    """The state before the first step of a network with conditions of these sizes."""
    torch.manual_seed(derive_seed(config.train.seed, "weights"))
    model = UNet(config.model, conditions).to(device, dtype_of(config.train))
    if _pays_on_gpu(config.train.channels_last, device):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs leave this form out
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.train.learning_rate, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True
    )
    averages = PowerAverages(model) if config.train.posthoc_ema else None
    return State(model, ema_copy(model), optimizer, averages=averages)


def compiled(model: UNet, config: TrainConfig, device: torch.device) -> nn.Module:
    """The network as `train.compile` wants it; it shares the weights."""
    chosen = compiles(device) if config.compile == "auto" else config.compile
    # Not dynamic: a batch's last part may be smaller, and kernels for any size would then serve the others too.
    return cast(nn.Module, torch.compile(model, dynamic=False)) if chosen else model


def _pays_on_gpu(choice: bool | Literal["auto"], device: torch.device) -> bool:
    """What the configuration says, and where it leaves it open: yes on a GPU, no on a CPU."""
    return device.type == "cuda" if choice == "auto" else choice


def resume(state: State, checkpoint: Checkpoint, detour: Detour) -> None:
    """Bring a state to where a checkpoint was written, by way of the roll-backs done since."""
    state.optimizer.load_state_dict(load_checkpoint(checkpoint, state.model, state.ema))
    _lay_out_as_weights(state.optimizer)
    state.step, state.detour = checkpoint.step, detour
    progress = read_progress(checkpoint)
    state.tally = Tally.from_state(progress["tally"], next(state.model.parameters()).device)
    if state.averages:
        state.averages.load_state(progress["power_averages"])


def _lay_out_as_weights(optimizer: torch.optim.Adam) -> None:
    """Moments lie in memory as their weights do, whatever layout `train.channels_last` had when they were saved.

    The fused kernel of a CPU walks all of them side by side and asks for no strides; that of a GPU refuses.
    """
    for weight, held in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            held[name] = torch.empty_like(weight).copy_(held[name])


def optimiser_step(
    state: State,
    network: nn.Module,
    batch: Batch,
    diffusion: GaussianDiffusion,
    config: TrainConfig,
    accelerator: Accelerator,
) -> None:
    """Move the weights once, and the average after them, without waiting for the device.

    The loss is the mean over the whole batch, whoever computes how much of it and in how many parts. Where it or its
    gradient is not finite, weights and optimiser stay as they are and the average takes the same weights once more.

    Args:
        state: What the step changes.
        network: The state's model as Accelerate has wrapped it.
        batch: This process's share, on the device.
        diffusion: The run's diffusion.
        config: The run's `train` section.
        accelerator: Precision, gradients over all processes.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate_at(state.step, config.learning_rate, config.warmup_steps)
    state.model.train()
    parts = list(batch.split(config.micro_batch_size))
    loss = torch.zeros((), device=batch.t.device)
    for number, part in enumerate(parts, start=1):
        with nullcontext() if number == len(parts) else accelerator.no_sync(network):
            with accelerator.autocast():
                keyed = partial(network, dropout_keys=part.dropout_keys, augmentation=part.augmentation)
                model = told(keyed, part.condition)
                losses = diffusion.training_losses(model, part.x_start, part.t, part.noise)
            # Accelerate averages gradients over processes: times their number, the shares' sums make up the mean.
            part_loss = losses.sum() / config.batch_size
            accelerator.backward(part_loss * accelerator.num_processes)
        loss = loss + part_loss.detach()
    loss = accelerator.reduce(loss, "sum")
    norm = accelerator.clip_grad_norm_(state.model.parameters(), config.gradient_clip)
    finite = loss.isfinite() & norm.isfinite()  # the same on all processes
    state.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # fused Adam then moves nothing
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1
    update_ema(state.ema, state.model, ema_decay_at(state.step, config))
    if state.averages:
        state.averages.update(state.model, state.step)
    state.tally.add(loss, finite)


def learning_rate_at(step: int, learning_rate: float, warmup_steps: int) -> float:
    """Linear warm-up from 0 at step 0, then constant (Ho et al. 2020, code)."""
    return learning_rate * min(step / warmup_steps, 1.0) if warmup_steps else learning_rate
