"""DATASET -> RUN: fit the network, and leave a folder from which the same command goes on."""

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from xraygen.atomic import sole_writer, write_json, write_text
from xraygen.config import RunConfig
from xraygen.dataset.store import Dataset
from xraygen.devices import choose_device, environment
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.samplers import ddim_sample, no_noise
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import FolderError, UsageError, XraygenError
from xraygen.films.grids import tile
from xraygen.films.writers import write_png
from xraygen.models.unet import UNet
from xraygen.progress import Progress, Report, silent
from xraygen.ranges import model_to_stored
from xraygen.seeds import derive_seed, torch_generator
from xraygen.training.batches import Batch, Batches, as_model_input
from xraygen.training.checkpoint import (
    checkpoints,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    run_config,
    save_checkpoint,
)
from xraygen.training.ema import ema_copy, ema_decay_at, update_ema
from xraygen.training.logging import append_log, nameless_event_files, rewind_log

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
_VALIDATION_IMAGES = 256
_FIRST_FILES = {"environment.json", "dataset.json"}
_MAY_CHANGE = {
    "max_steps",
    "save_every",
    "keep_checkpoints",
    "sample_every",
    "sample_count",
    "sample_steps",
    "log_every",
}
"""Settings of `train` that do not alter what a step does, and so may differ when a run goes on."""


@dataclass(frozen=True)
class TrainSummary:
    """How a call to `train` ended."""

    run: Path
    step: int
    finished: bool


@dataclass
class _State:
    """What changes while training."""

    model: UNet
    ema: UNet
    optimizer: torch.optim.Adam
    step: int = 0
    losses: list[Tensor] = field(default_factory=list)


def train(
    config: RunConfig,
    dataset: Dataset,
    run: Path,
    *,
    device: str = "auto",
    report: Report = silent,
    should_stop: Callable[[], bool] = lambda: False,
) -> TrainSummary:
    """Train, or go on training, until `train.max_steps`.

    Each step depends on the seed and its number alone, so an interrupted run ends with the same weights as one
    that was not, on the same machine.

    Args:
        config: The resolved configuration.
        dataset: Open DATASET whose size and channels are those of `config.data`.
        run: RUN folder; created, or gone on with if it was started with the same settings and data.
        device: "auto", "cpu" or "cuda[:i]".
        report: Told the step, the loss and images per second.
        should_stop: Asked after each step; when it says yes the state is saved and training ends.

    Returns:
        The step reached, and whether it is the last.

    Raises:
        UsageError: If the DATASET does not fit the configuration, or the RUN was started with another.
        XraygenError: If the loss stops being finite.
    """
    _check_fit(config, dataset)
    accelerator = _accelerator(config, run, device)
    with sole_writer(run) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            _prepare_folder(config, dataset, run, accelerator.device)
        accelerator.wait_for_everyone()
        with torch.random.fork_rng(devices=[]):
            return _Training(config, dataset, run, accelerator, report).loop(should_stop)


class _Training:
    """The parts that every step needs."""

    def __init__(
        self, config: RunConfig, dataset: Dataset, run: Path, accelerator: Accelerator, report: Report
    ) -> None:
        self.config, self.run, self.report, self.accelerator = config, run, report, accelerator
        self.diffusion = GaussianDiffusion(NoiseSchedule.from_config(config.schedule), config.diffusion)
        rows = dataset.indices("train")
        if len(rows) == 0:
            raise UsageError(
                f"{dataset.folder} has no film in its train split; ingest it with a larger first --split."
            )
        self.batches = Batches(
            dataset,
            rows,
            config.train.batch_size,
            self.diffusion,
            config.train.seed,
            config.data.horizontal_flip,
        )
        self.validation = self._fixed_batch(dataset)
        self.state = self._initial_or_resumed()
        self.network = accelerator.prepare_model(self.state.model)
        with nameless_event_files():
            accelerator.init_trackers(
                "tensorboard", init_kwargs={"tensorboard": {"purge_step": self.state.step}}
            )

    def loop(self, should_stop: Callable[[], bool]) -> TrainSummary:
        """Step until done or stopped, saving, sampling and logging on the way."""
        train, state = self.config.train, self.state
        if state.step == 0:
            self._save()
        self.report(Progress("train", state.step, train.max_steps))
        stopped, since = False, (time.monotonic(), state.step)
        while state.step < train.max_steps and not stopped:
            self._step()
            stopped = should_stop()
            last = stopped or state.step == train.max_steps
            saving = last or state.step % train.save_every == 0
            if (
                saving or state.step % train.log_every == 0
            ):  # no checkpoint before its loss has been looked at
                now = (time.monotonic(), state.step)
                self._write_log((now[1] - since[1]) * train.batch_size / (now[0] - since[0]))
                since = now
            if saving:
                self._save()
            if state.step % train.sample_every == 0 or (last and not stopped):
                self._write_samples()
        self.accelerator.end_training()
        return TrainSummary(self.run, state.step, state.step >= train.max_steps)

    def _step(self) -> None:
        """One optimiser step and one update of the average."""
        config, state, accelerator = self.config.train, self.state, self.accelerator
        batch = self._on_device(
            self.batches.at(state.step, accelerator.process_index, accelerator.num_processes)
        )
        torch.manual_seed(derive_seed(config.seed, "dropout", state.step, accelerator.process_index))
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate_at(state.step, config.learning_rate, config.warmup_steps)
        state.model.train()
        with accelerator.autocast():
            loss = self.diffusion.training_losses(self.network, batch.x_start, batch.t, batch.noise).mean()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(state.model.parameters(), config.gradient_clip)
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        update_ema(state.ema, state.model, ema_decay_at(state.step, config))
        state.losses.append(loss.detach())

    def _write_log(self, images_per_second: float) -> None:
        """Mean loss since the last line; the only place where the loop waits for the device."""
        state, train = self.state, self.config.train
        loss = self._finite("loss", torch.stack(state.losses).mean().item())
        state.losses.clear()
        figures = {"loss": loss, "images/s": images_per_second}
        if self.accelerator.is_main_process:
            append_log(self.run, {"step": state.step, "loss": loss, "images_per_second": images_per_second})
        self.accelerator.log(figures, step=state.step)
        self.report(Progress("train", state.step, train.max_steps, figures))

    def _save(self) -> None:
        """Checkpoint, with the denoising loss of held-out films beside it."""
        state = self.state
        if not self.accelerator.is_main_process:
            return
        if self.validation is not None and state.step > 0:
            loss = self._finite("validation loss", self._validation_loss(self.validation))
            append_log(self.run, {"step": state.step, "validation_loss": loss})
            self.accelerator.log({"validation loss": loss}, step=state.step)
        save_checkpoint(self.run, state.step, state.model, state.ema, state.optimizer.state_dict())
        prune_checkpoints(self.run, self.config.train.keep_checkpoints)

    def _finite(self, name: str, loss: float) -> float:
        """Stop before a checkpoint of broken weights is written."""
        if math.isfinite(loss):
            return loss
        raise XraygenError(
            f"The {name} became {loss} before step {self.state.step}; the last checkpoint is intact. Lower "
            "train.learning_rate or raise train.warmup_steps, and train into a new folder."
        )

    @torch.no_grad()
    def _validation_loss(self, batch: Batch) -> float:
        """The averaged network's loss on the same held-out films, timesteps and noise every time."""
        size = self.config.train.batch_size
        losses = [
            self.diffusion.training_losses(self.state.ema, *part)
            for part in zip(*(torch.split(tensor, size) for tensor in batch), strict=True)
        ]
        return torch.cat(losses).mean().item()

    def _write_samples(self) -> None:
        """A grid of DDIM samples of the averaged network, from the same noise every time."""
        if not self.accelerator.is_main_process:
            return
        train, shape = self.config.train, self.config.data.shape
        generator = torch_generator(train.seed, "sample grid")
        x_t = torch.randn((train.sample_count, *shape), generator=generator).to(self.accelerator.device)
        steps = min(train.sample_steps, self.config.schedule.num_timesteps)
        diffusion = self.diffusion.with_variance("fixed_small").respace(steps)
        x = ddim_sample(self.state.ema, diffusion, x_t, no_noise)
        stored = model_to_stored(x.permute(0, 2, 3, 1).squeeze(-1), 8)
        grid = tile(stored, 8)
        write_png(self.run / "samples" / f"step-{self.state.step:08d}.png", grid)
        tracker = self.accelerator.get_tracker("tensorboard", unwrap=True)
        tracker.add_image("samples", grid, self.state.step, dataformats="HW" if grid.ndim == 2 else "HWC")

    def _initial_or_resumed(self) -> _State:
        """Fresh weights, or those of the newest whole checkpoint."""
        config, device = self.config.train, self.accelerator.device
        torch.manual_seed(derive_seed(config.seed, "weights"))
        model = UNet(self.config.model).to(device)
        ema = ema_copy(model)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=config.learning_rate, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True
        )
        state = _State(model, ema, optimizer)
        if checkpoints(self.run):
            checkpoint = newest_checkpoint(self.run)
            optimizer.load_state_dict(load_checkpoint(checkpoint, model, ema))
            state.step = checkpoint.step
            rewind_log(self.run, state.step)
        return state

    def _fixed_batch(self, dataset: Dataset) -> Batch | None:
        """Up to 256 validation films spread over the split, with their timesteps and noise."""
        rows = dataset.indices("validation")
        if len(rows) == 0:
            return None
        rows = rows[:: max(1, len(rows) // _VALIDATION_IMAGES)][:_VALIDATION_IMAGES]
        generator = torch_generator(self.config.train.seed, "validation")
        x_start = as_model_input(dataset, rows)
        t = self.diffusion.draw_timesteps(len(rows), generator)
        return self._on_device(Batch(x_start, t, torch.randn(x_start.shape, generator=generator)))

    def _on_device(self, batch: Batch) -> Batch:
        device = self.accelerator.device
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in batch))


def learning_rate_at(step: int, learning_rate: float, warmup_steps: int) -> float:
    """Linear warm-up from 0 at step 0, then constant (Ho et al. 2020, code)."""
    return learning_rate * min(step / warmup_steps, 1.0) if warmup_steps else learning_rate


def _accelerator(config: RunConfig, run: Path, device: str) -> Accelerator:
    """Device, precision and trackers."""
    target = choose_device(device)
    if target.index is not None:
        torch.cuda.set_device(target)
    mixed = "bf16" if config.train.precision == "bfloat16" else "no"
    return Accelerator(
        cpu=target.type == "cpu", mixed_precision=mixed, log_with="tensorboard", project_dir=run
    )


def _check_fit(config: RunConfig, dataset: Dataset) -> None:
    """The DATASET's pictures are those that the network expects."""
    channels, height, width = config.data.shape
    if (dataset.info.channels, *dataset.info.size) != (channels, height, width):
        have = f"{dataset.info.size[0]}x{dataset.info.size[1]} with {dataset.info.channels} channel(s)"
        raise UsageError(
            f"{dataset.folder} holds images of {have}, and the configuration expects {height}x{width} with {channels}; "
            f"ingest with --size {height}x{width}, or set data.image_size."
        )


def _prepare_folder(config: RunConfig, dataset: Dataset, run: Path, device: torch.device) -> None:
    """Start a RUN, or see that this one was started with the same settings and data."""
    origin = {"content_sha256": dataset.info.content_sha256, "settings": dict(dataset.info.settings)}
    if not (run / "config.yaml").exists():
        foreign = [
            path.name for path in run.iterdir() if path.name not in _FIRST_FILES and path.name[0] != "."
        ]
        if foreign:
            raise FolderError(
                f"{run} is not a RUN and not empty (it holds {foreign[0]}); choose another --out."
            )
        write_json(run / "environment.json", environment(device))
        write_json(run / "dataset.json", origin)
        write_text(run / "config.yaml", config.to_yaml())  # last: it makes the folder a RUN
        return
    if not (run / "dataset.json").exists():
        raise UsageError(
            f"{run} was imported, not trained here, and names no DATASET; it cannot go on training: choose another "
            "--out."
        )
    if json.loads((run / "dataset.json").read_text(encoding="utf-8")) != origin:
        raise UsageError(f"{run} was trained on another DATASET than {dataset.folder}; choose another --out.")
    differences = _differences(run_config(run).model_dump(), config.model_dump())
    if differences:
        raise UsageError(
            f"{run} was started with other settings ({'; '.join(differences)}); repeat them or choose another --out."
        )


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that a continued run may not change, as `key: old -> new`."""
    return [
        f"{section}.{key}: {old[section][key]} -> {value}"
        for section, values in new.items()
        for key, value in values.items()
        if old[section][key] != value and not (section == "train" and key in _MAY_CHANGE)
    ]
