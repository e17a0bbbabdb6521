"""The paper's setups end to end: prepare, train, generate, score, by the functions behind every other command.

OUT/ dataset/  run/  synthetic/step-*/  scores/step-*.json  likelihood/step-*/  progressive/step-*/  paths/step-*/
     features/  times/  benchmark.json  benchmark.md

Whatever is finished stays: the same command goes on where it was stopped, and one with more steps uses what is there.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xraygen.atomic import sole_writer, write_json, write_text
from xraygen.benchmark.paper_table import paper_table
from xraygen.benchmark.paths import draw_paths
from xraygen.benchmark.published import Setup
from xraygen.benchmark.scores import Ruler, ruler
from xraygen.benchmark.sets import finish_set, read_set
from xraygen.benchmark.trajectory import REVERSE, trajectory
from xraygen.config import RunConfig, load_config
from xraygen.dataset.natural import prepare_natural
from xraygen.dataset.store import Dataset, Split
from xraygen.devices import choose_device, environment, machine
from xraygen.errors import UsageError
from xraygen.metrics.features import load_extractor
from xraygen.metrics.inception import inception_extractor
from xraygen.presets import read_overrides
from xraygen.progress import Report, silent
from xraygen.synthesis.likelihood import LikelihoodSettings, measure_likelihood
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.training.checkpoint import checkpoints, run_config
from xraygen.training.folder import check_settings
from xraygen.training.logging import read_log
from xraygen.training.loop import train

FORMAT_VERSION = 1
_HARMLESS = {
    "train.max_steps",
    "train.save_every",
    "train.keep_checkpoints",
    "train.sample_every",
    "train.sample_count",
    "train.sample_steps",
    "train.log_every",
    "train.micro_batch_size",
    "train.data_on_device",
    "train.trackers",
    "train.compile",
    "train.channels_last",
    "model.checkpoint_activations",
    "train.seed",
}
"""Settings that leave the paper's setup what it is."""


@dataclass(frozen=True)
class PaperSettings:
    """How much of a setup is run.

    Attributes:
        steps: Training steps; None takes the paper's.
        samples: Images of each set that is scored.
        chain_steps: Timesteps of ddim; None takes the paper's ddpm, over all of them.
        ladder: Steps before the last whose sets are scored too; None takes those of the published ladder.
        likelihood_images: Images of each split whose bound is measured; 0 leaves it out.
        progressive_samples: Chains whose estimate is scored by step; 0 leaves it out.
        paths: Pairs of images between which the way is drawn; 0 leaves it out.
        reference_images: Real images of each split that sets are compared with, at most; None takes all.
        compute_batch: Images sampled together.
        weights: FID's network; None does without FID and Inception Score.
        changes: Settings that differ from the preset.
    """

    steps: int | None = None
    samples: int = 50_000
    chain_steps: int | None = None
    ladder: tuple[int, ...] | None = None
    likelihood_images: int = 64
    progressive_samples: int = 5_000
    paths: int = 2
    reference_images: int | None = None
    compute_batch: int = 64
    weights: Path | None = None
    changes: tuple[str, ...] = ()


def planned(setup: Setup, settings: PaperSettings) -> tuple[RunConfig, list[int]]:
    """The configuration, and the steps at which sets are scored, rising.

    Raises:
        ConfigError: If a change does not fit.
        UsageError: If a size cannot be, or `train.max_steps` is among the changes.
    """
    section = read_overrides(settings.changes).get("train")
    if isinstance(section, Mapping) and "max_steps" in section:
        raise UsageError("--set train.max_steps: here it is --steps.")
    config = load_config(
        setup.preset, [*settings.changes, f"train.max_steps={settings.steps or setup.steps}"]
    )
    last = config.train.max_steps
    if settings.samples < 2:
        raise UsageError(f"--samples {settings.samples}: a distance needs at least 2 images.")
    ladder = setup.ladder if settings.ladder is None else settings.ladder
    return config, sorted({step for step in ladder if 0 < step < last} | {last})


def benchmark_paper(
    setup: Setup,
    data: Path,
    out: Path,
    settings: PaperSettings,
    *,
    device: str = "auto",
    report: Report = silent,
) -> dict[str, Any]:
    """Run a setup, or go on with it, and write benchmark.json and benchmark.md.

    Args:
        setup: The paper's setup.
        data: Its images, as `prepare_natural` takes them.
        out: Folder of all that comes of it.
        settings: How much of it is run.
        device: "auto", "cpu" or "cuda[:i]".
        report: Told how far each part is.

    Returns:
        What benchmark.json holds: figures, on what they were measured, and for how long.

    Raises:
        UsageError: If the images, the weights or the settings do not fit, or `out` was made from others.
        FolderError: If `out` is being written to, holds something else, or has no checkpoint any more that is needed.
    """
    config, steps = planned(setup, settings)
    target = choose_device(device)
    extractors = [load_extractor("efficientnet-lite0", device)]
    if settings.weights is not None:
        extractors.append(inception_extractor(settings.weights, target))
    _, height, width = config.data.shape
    with sole_writer(out):
        dataset = prepare_natural(data, out / "dataset", (height, width), report=report)
        work = _Work(setup, settings, config, dataset, out, device, report)
        rulers: list[Ruler] = []
        ladder = []
        for step in steps:
            work.train_to(step)
            rulers = rulers or [
                ruler(extractor, dataset, settings.reference_images, out / "features", report)
                for extractor in extractors
            ]
            ladder.append(work.scored(step, rulers))
        result = {
            "format_version": FORMAT_VERSION,
            **work.about(),
            "machine": machine(target),
            "environment": environment(target),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "ladder": ladder,
            "floor": {r.extractor.label: r.floor(settings.samples, config.train.seed) for r in rulers},
            "likelihood": work.likelihood(steps[-1]),
            "progressive": work.progressive(steps[-1], rulers),
            "interpolation": work.interpolation(steps[-1]),
        }
        write_json(out / "benchmark.json", result)
        write_text(out / "benchmark.md", paper_table(setup, result))
    return result


@dataclass(frozen=True)
class _Work:
    """The parts of one benchmark."""

    setup: Setup
    settings: PaperSettings
    config: RunConfig
    dataset: Dataset
    out: Path
    device: str
    report: Report

    @property
    def run(self) -> Path:
        """The RUN."""
        return self.out / "run"

    @property
    def sampler(self) -> SamplerSettings:
        """Algorithm 2 of the paper over all timesteps; ddim over fewer, since fixed_large holds for all alone."""
        steps = self.settings.chain_steps
        return SamplerSettings(
            "ddpm" if steps is None else "ddim", steps, compute_batch=self.settings.compute_batch
        )

    def train_to(self, step: int) -> None:
        """Train until this step, unless training is there or beyond."""
        found = checkpoints(self.run)
        if found and found[-1].step >= step:
            check_settings(self.config, self.run)  # which `train` does where it goes on
            return
        section = self.config.train.model_copy(update={"max_steps": step})
        config = self.config.model_copy(update={"train": section})
        train(config, self.dataset, self.run, device=self.device, report=self.report)

    def scored(self, step: int, rulers: list[Ruler]) -> dict[str, Any]:
        """Generate the set of one step and score it; what is known of it is read."""
        file = self.out / "scores" / f"step-{step:08d}.json"
        asked = self._asked(rulers)
        if file.is_file():
            known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if known["asked"] == asked:
                return known
        folder = self.out / "synthetic" / f"step-{step:08d}"
        began = time.monotonic()
        count = self.settings.samples
        made = finish_set(self.run, step, folder, count, self.sampler, self.device, self.report)
        generated = self._add("generation", step, time.monotonic() - began, made)
        images = read_set(folder, count)
        scores = {one.extractor.label: one.scores(images, f"features of step {step}") for one in rulers}
        entry = {
            "asked": asked,
            "step": step,
            "samples": self.settings.samples,
            "scores": scores,
            "training_seconds": training_seconds(self.run, step, self.config.train.batch_size),
            "generated": generated,
        }
        write_json(file, entry)
        return entry

    def likelihood(self, step: int) -> dict[str, Any] | None:
        """Bits per dimension and the rate-distortion curve of the splits that there are."""
        count = self.settings.likelihood_images
        if count == 0:
            return None
        wanted: tuple[Split, ...] = ("test", "train")
        splits = [split for split in wanted if len(self.dataset.indices(split))]
        asked = LikelihoodSettings(count, bits=8)
        folder = self.out / "likelihood" / f"step-{step:08d}"
        with self._timed("likelihood", step) as times:
            found = measure_likelihood(
                self.run,
                self.out / "dataset",
                folder,
                splits,
                asked,
                checkpoint=step,
                device=self.device,
                report=self.report,
            )
        return {"step": step, "seconds": times["seconds"], "splits": found["splits"]}

    def progressive(self, step: int, rulers: list[Ruler]) -> dict[str, Any] | None:
        """Scores of what the chains take for their images, by reverse steps done."""
        count = self.settings.progressive_samples
        if count == 0:
            return None
        folder = self.out / "progressive" / f"step-{step:08d}"
        with self._timed("progressive", step) as times:
            frames = trajectory(self.run, step, folder, count, self.sampler, self.device, self.report)
            rows = [
                {
                    REVERSE: done,
                    "scores": {
                        one.extractor.label: one.scores(images, f"features after {done} steps")
                        for one in rulers
                    },
                }
                for done, images in frames.items()
            ]
        return {"step": step, "samples": count, "seconds": times["seconds"], "rows": rows}

    def interpolation(self, step: int) -> dict[str, Any] | None:
        """The ways between pairs of images, as pictures."""
        if self.settings.paths == 0:
            return None
        with self._timed("paths", step) as times:
            drawn = draw_paths(
                self.run,
                step,
                self.dataset,
                self.out / "paths" / f"step-{step:08d}",
                self.settings.paths,
                self.sampler,
                self.config.schedule.num_timesteps,
                self.device,
                self.report,
            )
        return {"step": step, "seconds": times["seconds"], **drawn}

    @contextmanager
    def _timed(self, part: str, step: int) -> Iterator[dict[str, float]]:
        """What a part took over all calls that worked at it, this one's share added however it ends."""
        times: dict[str, float] = {}
        began = time.monotonic()
        try:
            yield times
        finally:
            times.update(self._add(part, step, time.monotonic() - began))

    def _add(self, part: str, step: int, seconds: float, images: int = 0) -> dict[str, float]:
        """Add a call's share of a part to what earlier calls left in OUT/times."""
        file = self.out / "times" / f"{part}-step-{step:08d}.json"
        before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        total = {
            "images": before.get("images", 0) + images,
            "seconds": before.get("seconds", 0.0) + seconds,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, total)
        return total

    def about(self) -> dict[str, Any]:
        """On what it was run, and what keeps its figures from standing beside the published ones."""
        info = self.dataset.info
        counts = {split: len(self.dataset.indices(split)) for split in ("train", "test")}
        return {
            "setup": self.setup.name,
            "data": {
                "source": info.settings["source"]["name"],
                "original": bool(info.settings["original"]),
                "images": counts,
                "content_sha256": info.content_sha256,
            },
            "settings": {
                "steps": self.config.train.max_steps,
                "samples": self.settings.samples,
                "chain_steps": self.settings.chain_steps or self.config.schedule.num_timesteps,
                "timesteps": self.config.schedule.num_timesteps,
                "sampler": self.sampler.sampler,
                "reference_images": self.settings.reference_images,
                "likelihood_images": self.settings.likelihood_images,
                "fid_weights": self.settings.weights is not None,
            },
            "other_settings": differing(run_config(self.run), load_config(self.setup.preset)),
        }

    def _asked(self, rulers: list[Ruler]) -> dict[str, Any]:
        """What decides the scores of a set."""
        return {
            "samples": self.settings.samples,
            "chain_steps": self.settings.chain_steps,
            "reference_images": self.settings.reference_images,
            "data": self.dataset.info.content_sha256,
            "features": {one.extractor.label: dict(one.extractor.provenance) for one in rulers},
        }


def differing(config: RunConfig, preset: RunConfig) -> list[str]:
    """Settings by which a configuration is no longer the paper's, as `key=value`."""
    theirs: Mapping[str, Any] = preset.model_dump(mode="json")
    return [
        f"{section}.{key}={value}"
        for section, values in config.model_dump(mode="json").items()
        for key, value in values.items()
        if value != theirs[section][key] and f"{section}.{key}" not in _HARMLESS
    ]


def training_seconds(run: Path, step: int, batch_size: int) -> float:
    """Time that the steps up to `step` took, over all calls, from the speeds in the log."""
    total, before = 0.0, 0
    for entry in read_log(run):
        if "images_per_second" in entry and before < entry["step"] <= step:
            total += (entry["step"] - before) * batch_size / entry["images_per_second"]
            before = entry["step"]
    return total
