"""One optimiser step and one update of the average, and the state that they change."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from xraygen.config import RunConfig, TrainConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.models.unet import UNet
from xraygen.seeds import derive_seed
from xraygen.training.batches import Batch
from xraygen.training.checkpoint import checkpoints, load_checkpoint, newest_checkpoint
from xraygen.training.ema import ema_copy, ema_decay_at, update_ema
from xraygen.training.logging import rewind_log

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8


@dataclass
class State:
    """What changes while training."""

    model: UNet
    ema: UNet
    optimizer: torch.optim.Adam
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)


def initial_or_resumed(config: RunConfig, run: Path, device: torch.device) -> State:
    """Fresh weights, or those of the newest whole checkpoint."""
    torch.manual_seed(derive_seed(config.train.seed, "weights"))
    model = UNet(config.model).to(device)
    ema = ema_copy(model)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.train.learning_rate, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True
    )
    state = State(model, ema, optimizer)
    if checkpoints(run):
        checkpoint = newest_checkpoint(run)
        optimizer.load_state_dict(load_checkpoint(checkpoint, model, ema))
        state.step = checkpoint.step
        rewind_log(run, state.step)
    return state


def optimiser_step(
    state: State,
    network: nn.Module,
    batch: Batch,
    diffusion: GaussianDiffusion,
    config: TrainConfig,
    accelerator: Accelerator,
) -> None:
    """Move the weights once, and the average after them.

    Args:
        state: What the step changes.
        network: The state's model as Accelerate has wrapped it.
        batch: This process's share, on the device.
        diffusion: The run's diffusion.
        config: The run's `train` section.
        accelerator: Precision, gradients over all processes.
    """
    torch.manual_seed(derive_seed(config.seed, "dropout", state.step, accelerator.process_index))
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate_at(state.step, config.learning_rate, config.warmup_steps)
    state.model.train()
    with accelerator.autocast():
        loss = diffusion.training_losses(network, batch.x_start, batch.t, batch.noise).mean()
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(state.model.parameters(), config.gradient_clip)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.step += 1
    update_ema(state.ema, state.model, ema_decay_at(state.step, config))
    state.losses.append(loss.detach())


def learning_rate_at(step: int, learning_rate: float, warmup_steps: int) -> float:
    """Linear warm-up from 0 at step 0, then constant (Ho et al. 2020, code)."""
    return learning_rate * min(step / warmup_steps, 1.0) if warmup_steps else learning_rate
