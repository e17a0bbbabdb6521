"""DATASET -> RUN: fit the network, and leave a folder from which the same command goes on."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from xraygen.atomic import sole_writer
from xraygen.config import RunConfig
from xraygen.dataset.store import Dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import UsageError, XraygenError
from xraygen.films.writers import write_png
from xraygen.progress import Progress, Report, silent
from xraygen.training.batches import Batch, Batches
from xraygen.training.checkpoint import checkpoints, newest_checkpoint, prune_checkpoints, save_checkpoint
from xraygen.training.folder import check_fit, prepare_folder
from xraygen.training.logging import append_log, nameless_event_files, rewind_log
from xraygen.training.processes import Agreement, start_accelerator, told_by_main
from xraygen.training.resident import resident_films
from xraygen.training.samples import sample_grid
from xraygen.training.step import State, dtype_of, fresh_state, optimiser_step, resume
from xraygen.training.validation import fixed_batch, validation_loss


@dataclass(frozen=True)
class TrainSummary:
    """How a call to `train` ended."""

    run: Path
    step: int
    finished: bool
    main: bool = True
    """Whether this is the process that speaks for all."""


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
    check_fit(config, dataset)
    accelerator = start_accelerator(config, run, device)
    with sole_writer(run) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            prepare_folder(config, dataset, run, accelerator.device)
        accelerator.wait_for_everyone()
        with torch.random.fork_rng(devices=[]):
            return _Training(config, dataset, run, accelerator, report).loop(should_stop)


class _Training:
    """The parts that every step needs."""

    def __init__(
        self, config: RunConfig, dataset: Dataset, run: Path, accelerator: Accelerator, report: Report
    ) -> None:
        self.config, self.run, self.accelerator = config, run, accelerator
        self.report = report if accelerator.is_main_process else silent
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
            resident_films(dataset, rows, accelerator.device, config.train.data_on_device),
        )
        self.validation = self._validation_batch(dataset)
        self.state = self._fresh_or_resumed()
        self.network = accelerator.prepare_model(self.state.model)
        self.agreement = Agreement(accelerator)
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
            stopped = self.agreement.any(should_stop())
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
        return TrainSummary(
            self.run, state.step, state.step >= train.max_steps, self.accelerator.is_main_process
        )

    def _step(self) -> None:
        """One optimiser step on this process's share of the batch."""
        accelerator = self.accelerator
        share = self.batches.at(self.state.step, accelerator.process_index, accelerator.num_processes)
        optimiser_step(
            self.state,
            self.network,
            self._on_device(share),
            self.diffusion,
            self.config.train,
            accelerator,
        )

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
            loss = validation_loss(state.ema, self.diffusion, self.validation, self.config.train.batch_size)
            self._finite("validation loss", loss)
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

    def _write_samples(self) -> None:
        """A picture of what the averaged network makes of the same noise."""
        if not self.accelerator.is_main_process:
            return
        step = self.state.step
        grid = sample_grid(self.state.ema, self.diffusion, self.config, self.accelerator.device)
        write_png(self.run / "samples" / f"step-{step:08d}.png", grid)
        tracker = self.accelerator.get_tracker("tensorboard", unwrap=True)
        tracker.add_image("samples", grid, step, dataformats="HW" if grid.ndim == 2 else "HWC")

    def _validation_batch(self, dataset: Dataset) -> Batch | None:
        batch = fixed_batch(dataset, self.diffusion, self.config.train.seed)
        return None if batch is None else self._on_device(batch)

    def _on_device(self, batch: Batch) -> Batch:
        return batch.to(self.accelerator.device, dtype_of(self.config.train))

    def _fresh_or_resumed(self) -> State:
        """Fresh weights, or those of the newest whole checkpoint: the one that the main process sees."""
        state = fresh_state(self.config, self.accelerator.device)
        main = self.accelerator.is_main_process
        newest = newest_checkpoint(self.run) if main and checkpoints(self.run) else None
        checkpoint = told_by_main(self.accelerator, newest)
        if checkpoint is not None:
            resume(state, checkpoint)
            if main:
                rewind_log(self.run, state.step)
        return state
