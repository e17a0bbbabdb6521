"""DATASET -> RUN: fit the network, and leave a folder from which the same command goes on."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from xraygen.atomic import sole_writer
from xraygen.config import RunConfig
from xraygen.dataset.conditions import fit_conditions
from xraygen.dataset.store import Dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import UsageError, XraygenError
from xraygen.films.writers import write_png
from xraygen.memory import freed_memory_kept
from xraygen.progress import Progress, Report, silent
from xraygen.training.batches import Batches
from xraygen.training.checkpoint import (
    Checkpoint,
    checkpoints,
    mark_best,
    newest_checkpoint,
    prune_checkpoints,
    run_config,
    save_checkpoint,
)
from xraygen.training.conditions import TrainingConditions, read_conditions, taken_over
from xraygen.training.ema_snapshots import write_snapshot
from xraygen.training.folder import check_fit, check_folder, prepare_folder
from xraygen.training.logging import append_log, read_log
from xraygen.training.processes import Agreement, others_are_there, start_accelerator, told_by_main
from xraygen.training.resident import resident_films
from xraygen.training.rollback import finish_roll_back, roll_back, settle
from xraygen.training.samples import as_picture, samples_of
from xraygen.training.sentinels import Reading, grey_levels, memorising, sample_warnings
from xraygen.training.speedometer import Speedometer
from xraygen.training.start import start_from, starting_point
from xraygen.training.step import compiled, dtype_of, fresh_state, optimiser_step, resume
from xraygen.training.trackers import Trackers, check_installed
from xraygen.training.validation import held_films, held_losses

_log = logging.getLogger(__name__)


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
        report: Told the step, the loss and the speed.
        should_stop: Asked after each step; when it says yes the state is saved and training ends.

    Returns:
        The step reached, and whether it is the last.

    Raises:
        UsageError: If the DATASET does not fit the configuration, or the RUN was started with another.
        XraygenError: If the loss stays without a finite value however often training goes back, or another process
            of this training is gone.
    """
    _check_films(config, dataset)
    accelerator = start_accelerator(config, device)
    with sole_writer(run) if accelerator.is_main_process else nullcontext():
        start = None
        if accelerator.is_main_process:
            # Once a RUN has a checkpoint it goes on from that, wherever the folder that it started from is by then.
            start = None if checkpoints(run) else starting_point(config)
            prepare_folder(config, dataset, run, accelerator.device, start)
            finish_roll_back(run)
        # Whoever computes activations twice has more time than memory.
        keeps = accelerator.device.type == "cpu" and not config.model.checkpoint_activations
        kept = freed_memory_kept() if keeps else nullcontext()
        with kept, others_are_there(accelerator, run), torch.random.fork_rng(devices=[]):
            start = told_by_main(accelerator, start)
            return _Training(config, dataset, run, accelerator, report, start).loop(should_stop)


def check_start(config: RunConfig, dataset: Dataset, run: Path) -> None:
    """Whether `train` would begin, or go on; nothing is written.

    Raises:
        UsageError: As `train`.
        FolderError: If `run` is something else than a RUN, or `train.init_from` names none.
    """
    _check_films(config, dataset)
    check_folder(config, dataset, run)
    found = fit_conditions(dataset, config.conditions)
    if checkpoints(run):
        newest_checkpoint(run)
    elif (start := starting_point(config)) is not None and config.conditions.columns:
        taken_over(read_conditions(start.run, config), found)


def _check_films(config: RunConfig, dataset: Dataset) -> None:
    """There are films to train on, of the right size, and what tells of the training."""
    check_fit(config, dataset)
    check_installed(config.train.trackers)
    if len(dataset.indices("train")) == 0:
        raise UsageError(
            f"{dataset.folder} has no film in its train split; ingest it with a larger first --split."
        )


class _Training:
    """The parts that every step needs."""

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        run: Path,
        accelerator: Accelerator,
        report: Report,
        start: Checkpoint | None,
    ) -> None:
        self.config, self.run, self.accelerator = config, run, accelerator
        self.report = report if accelerator.is_main_process else silent
        # Measured before there is anything else for the devices to do: the others wait for the main process.
        measured = Speedometer.of(config, accelerator) if self._main else None
        self.speedometer: Speedometer = told_by_main(accelerator, measured)
        self.diffusion = GaussianDiffusion(NoiseSchedule.from_config(config.schedule), config.diffusion)
        rows = dataset.indices("train")
        self.conditions = TrainingConditions.of(config, dataset, run) if config.conditions.columns else None
        self.batches = Batches(
            dataset,
            rows,
            config.train.batch_size,
            self.diffusion,
            config.train.seed,
            config.data,
            resident_films(dataset, rows, accelerator.device, config.train.data_on_device),
            self.conditions,
        )
        if self._main and len(dataset.indices("validation")) == 0:
            _log.warning(
                "%s has no validation films: no checkpoint will be called best, and nobody sees whether films are "
                "learned by heart; for both, ingest it with a larger second --split.",
                dataset.folder,
            )
        self.held = held_films(dataset, self.diffusion, config.train.seed, self.conditions)
        self.films = grey_levels(self.held.train.x_start)
        self.state = fresh_state(config, accelerator.device, self._sizes)
        self._go_on_from(newest_checkpoint(run) if self._main and checkpoints(run) else None, start)
        self.network = accelerator.prepare_model(compiled(self.state.model, config.train, accelerator.device))
        self.agreement = Agreement(accelerator)
        names = config.train.trackers if self._main else ()
        self.trackers = Trackers(names, run, self.state.step, run_config(run).model_dump(mode="json"))

    @property
    def _main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return () if self.conditions is None else self.conditions.conditions.sizes

    def loop(self, should_stop: Callable[[], bool]) -> TrainSummary:
        """Step until done or stopped, saving, sampling and logging on the way."""
        train, state = self.config.train, self.state
        if state.step == 0:
            self._save()
        self.report(Progress("train", state.step, train.max_steps))
        stopped, done = False, self._memorising()
        self.speedometer.start(state.step)
        while state.step < train.max_steps and not (stopped or done):
            accelerator = self.accelerator
            share = self.batches.at(state.batch, accelerator.process_index, accelerator.num_processes)
            share = share.to(accelerator.device, dtype_of(train)).augmented(self.config.data)
            optimiser_step(state, self.network, share, self.diffusion, train, accelerator)
            if self._main and state.averages and state.step % train.posthoc_ema_every == 0:
                write_snapshot(self.run, state.step, state.averages, train.posthoc_ema_keep)
            stopped = self.agreement.any(should_stop())
            scheduled = state.step == train.max_steps or state.step % train.save_every == 0
            good = self._tell(saving=scheduled)
            if not good:
                self._roll_back()
            elif scheduled or stopped:
                self._save()
                done = self._memorising()
        self.trackers.finish()
        self.accelerator.end_training()
        return TrainSummary(self.run, state.step, done or state.step >= train.max_steps, self._main)

    def _tell(self, *, saving: bool) -> bool:
        """Log, look at held-out films and draw samples where the step's number says so.

        A checkpoint is written after all this, so that a kill in between repeats it. What a stop adds is the
        checkpoint alone: the log of a run that was stopped is that of one that was not.

        Returns:
            False if what came out is not finite, so that training must go back.
        """
        train, state = self.config.train, self.state
        last = state.step == train.max_steps
        if saving or state.step % train.log_every == 0:
            reading = state.tally.read()
            self._write_log(reading)
            if reading.longest_row >= train.skips_before_rollback:
                return False
        if saving and not self._write_held_losses():
            return False
        if state.step % train.sample_every == 0 or last:
            self._write_samples()
        return True

    def _write_log(self, reading: Reading) -> None:
        """Mean loss and speed since the last line."""
        if not self._main:
            return
        step, speed = self.state.step, self.speedometer.read(self.state.step)
        entry = {"step": step, "loss": reading.loss, **speed._asdict()}
        append_log(self.run, {**entry, "skipped": reading.skipped} if reading.skipped else entry)
        if reading.skipped:
            _log.warning(
                "%d steps before step %d had no finite loss or gradient and were skipped.",
                reading.skipped,
                step,
            )
        figures = {} if reading.loss is None else {"loss": reading.loss}
        figures |= speed.curves()
        self.trackers.log(figures, step)
        self.report(Progress("train", step, self.config.train.max_steps, figures))

    def _write_held_losses(self) -> bool:
        """The averaged network's loss on held-out and on training films; False if it is not finite."""
        state, finite = self.state, True
        if self._main:
            size = self.config.train.images_at_once(self.accelerator.num_processes)
            losses = held_losses(state.ema, self.diffusion, self.held, size, self.accelerator.device)
            finite = losses.finite
            if finite:
                entry = losses.entry()
                append_log(self.run, {"step": state.step, **entry})
                self.trackers.log(_scalars(entry), state.step)
        return bool(told_by_main(self.accelerator, finite))

    def _write_samples(self) -> None:
        """A picture of what the averaged network makes of the same noise, and a warning if that is no film."""
        if not self._main:
            return
        step = self.state.step
        device, told = self.accelerator.device, self.conditions
        size = self.config.train.images_at_once(self.accelerator.num_processes)
        x = samples_of(self.state.ema, self.diffusion, self.config, device, size, told)
        picture, levels = as_picture(x, told), grey_levels(x)
        write_png(self.run / "samples" / f"step-{step:08d}.png", picture)
        warnings = sample_warnings(levels, self.films)
        entry = {"samples": levels._asdict(), "films": self.films._asdict(), "warnings": warnings}
        append_log(self.run, {"step": step, **entry})
        for warning in warnings:
            _log.warning("At step %d %s.", step, warning)
        self.trackers.picture("samples", picture, step)

    def _save(self) -> None:
        """Checkpoint; the last thing that a step does. Not in a row of steps that failed, unless it is the end."""
        state, train = self.state, self.config.train
        failing = state.tally.in_a_row > 0 and state.step < train.max_steps
        scheduled = state.step % train.save_every == 0
        if not self._main or (failing and scheduled):
            return
        save_checkpoint(
            self.run,
            state.step,
            state.model,
            state.ema,
            state.optimizer.state_dict(),
            state.progress(),
            scheduled=scheduled,
        )
        self._tidy()

    def _tidy(self) -> None:
        """Which checkpoint is best, and which are needed; a kill before it is made good when training goes on."""
        mark_best(self.run, read_log(self.run))
        prune_checkpoints(self.run, self.config.train.keep_checkpoints, self.state.step)

    def _go_on_from(self, newest: Checkpoint | None, start: Checkpoint | None) -> None:
        """Bring the state to the newest whole checkpoint, the one that the main process sees, else to the start."""
        found = (newest, settle(self.run, newest)) if newest is not None else None
        found = told_by_main(self.accelerator, found)
        if found is None:
            start_from(self.state, self.run, start)
            return
        resume(self.state, *found)
        if self._main:
            self._tidy()

    def _roll_back(self) -> None:
        """Go back to the last good checkpoint, and on with other films and noise; give up when it did not help."""
        state, train = self.state, self.config.train
        if state.detour.rollbacks >= train.max_rollbacks:
            raise XraygenError(
                f"At step {state.step} the loss or its gradient was not finite, on held films or "
                f"{train.skips_before_rollback} times in a row, and going back {state.detour.rollbacks} times did not "
                "help; the last good checkpoint is intact. Lower train.learning_rate or raise train.warmup_steps, and "
                "train into a new folder."
            )
        failed = state.step
        found = roll_back(self.run, failed, state.detour) if self._main else None
        checkpoint, detour = told_by_main(self.accelerator, found)
        resume(state, checkpoint, detour)
        self.speedometer.start(state.step)
        if self._main:
            _log.warning("Went back from step %d to step %d; other films follow.", failed, state.step)

    def _memorising(self) -> bool:
        """Whether training ends because the films are being learned by heart; the configuration decides if it may."""
        threshold = self.config.train.stop_at_gap
        if threshold is None:
            return False
        found = memorising(read_log(self.run), threshold) if self._main else False
        if found:
            _log.warning(
                "Held-out films have become harder than training films; training ends at step %d.",
                self.state.step,
            )
        return bool(told_by_main(self.accelerator, found))


def _scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """Held losses as curves: means, their gap, and the gap of each band of timesteps."""
    names = {"train_loss": "train loss", "validation_loss": "validation loss", "gap": "gap"}
    curves = {name: entry[key] for key, name in names.items() if key in entry}
    for band in entry.get("bands", []):
        low, high = band["t"]
        curves[f"gap at t {low}-{high}"] = band["validation_loss"] / band["train_loss"] - 1
    return curves
