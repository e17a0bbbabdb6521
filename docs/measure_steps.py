"""Measures what fewer steps cost: how far films move, and how much farther from real films they lie.

    python docs/measure_steps.py RUN DATASET --out FOLDER

First, for each deterministic sampler and spacing, the RMSE of each film to the solution of the same ODE over all
timesteps (dpm++) from the same noise. Then, for several numbers of steps of the default's sampler, the Fréchet distance
and KID of sets of films, seed by seed the same, from real test films; beside each its ratio to that of the ODE's limit,
with the paired interval of a delete-a-quarter jackknife: the same films and the same seeds are left out of both.
Last, the KID of ancestral films over all timesteps, the paper's. `--limit-steps 200` takes a set of that many steps for
the limit, which is cheaper, and says how near its films are to those over all timesteps.

Killed, it goes on where it stopped: what is made lies in FOLDER. `steps.png` shows the first table.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray
from real_films import say, say_how, say_table, with_interval

from xraygen.atomic import atomic_file, write_json
from xraygen.audit.fidelity import choose
from xraygen.audit.intervals import KEPT, STUDENT_T, SUBSAMPLES
from xraygen.dataset.store import open_dataset
from xraygen.devices import choose_device
from xraygen.diffusion.spacing import Spacing
from xraygen.films.reader import read_film
from xraygen.metrics.features import extract, load_extractor
from xraygen.metrics.frechet import frechet_distance_of_features
from xraygen.metrics.kernel import kernel_distance
from xraygen.models.unet import for_inference
from xraygen.presets import run_folder
from xraygen.progress import Progress
from xraygen.seeds import numpy_generator
from xraygen.synthesis.generate import generate
from xraygen.synthesis.noise import NOISE, SeededNoise
from xraygen.synthesis.sampling import (
    NAMED_STEPS,
    SamplerName,
    SamplerSettings,
    sample,
    sampling_diffusion,
)
from xraygen.training.checkpoint import LoadedRun, chosen_checkpoint, load_run

DETERMINISTIC: tuple[SamplerName, ...] = ("ddim", "dpm++", "unipc")
SPACINGS: tuple[Spacing, ...] = get_args(Spacing)
BITS = 16
_MARKERS = {"uniform": "o", "trailing": "s", "log-snr": "^", "edm": "v"}
_COLOURS = {"ddim": "#D55E00", "dpm++": "#0072B2", "unipc": "#009E73"}

Images = NDArray[np.float32]  # [N, C, H, W] in [-1, 1]
Features = NDArray[np.float32]  # [N, F]


@dataclass(frozen=True)
class Paired:
    """A number of two sets that share seeds, and its 95 % interval."""

    value: float
    low: float
    high: float


def solve(
    run: LoadedRun, settings: SamplerSettings, seeds: Sequence[int], folder: Path, device: torch.device
) -> Images:
    """The films of these seeds, batch by batch, each batch kept as soon as it is there."""
    chain = sampling_diffusion(run.diffusion, settings)
    batches = []
    for first in range(0, len(seeds), settings.compute_batch):
        file = folder / f"{first:06d}.npy"
        if not file.exists():
            part = list(seeds[first : first + settings.compute_batch])
            padded = part + [part[-1]] * (settings.compute_batch - len(part))
            noise = SeededNoise(padded, run.config.data.shape, device)
            x = sample(run.model, chain, noise.draw(), noise, settings)[: len(part)].float().cpu().numpy()
            with atomic_file(file) as aside, aside.open("wb") as stream:
                np.save(stream, x)
            tell(f"{folder.name} {first + len(part)}/{len(seeds)}")
        batches.append(np.load(file))
    return np.concatenate(batches)


def tell(line: str) -> None:
    """How far it is, beside the tables."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - a script


def tell_films(progress: Progress) -> None:
    """How far a set is."""
    tell(f"{progress.task} {progress.done}/{progress.total}")


def rmse_of_each(a: Images, b: Images) -> NDArray[np.float64]:
    """Of films in [-1, 1], as a writer cuts them off: `[N]`."""
    difference = np.clip(a, -1, 1).astype(np.float64) - np.clip(b, -1, 1)
    result: NDArray[np.float64] = np.sqrt(np.square(difference).reshape(len(a), -1).mean(axis=1))
    return result


def measure_movement(
    run: LoadedRun, arguments: argparse.Namespace, device: torch.device
) -> dict[str, dict[int, float]]:
    """Median RMSE to the limit, by `sampler, spacing` and steps."""
    seeds = range(arguments.films)
    timesteps = run.diffusion.schedule.num_timesteps
    limit_settings = SamplerSettings("dpm++", timesteps, compute_batch=arguments.compute_batch)
    limit = solve(run, limit_settings, seeds, arguments.out / "solutions" / "limit", device)
    counts = [count for count in arguments.steps if count <= timesteps]
    medians: dict[str, dict[int, float]] = {}
    rows = []
    for sampler in DETERMINISTIC:
        for spacing in arguments.spacings:
            cells = []
            for steps in counts:
                settings = replace(limit_settings, sampler=sampler, spacing=spacing, steps=steps)
                folder = arguments.out / "solutions" / f"{sampler}-{spacing}-{steps}"
                errors = rmse_of_each(solve(run, settings, seeds, folder, device), limit)
                medians.setdefault(f"{sampler}, {spacing}", {})[steps] = float(np.median(errors))
                cells.append(f"{np.median(errors):.4f} ({errors.max():.4f})")
            rows.append((sampler, spacing, *cells))
    say(f"Median (largest) RMSE of {arguments.films} films to the ODE over all {timesteps} timesteps:\n")
    say_table(("sampler", "spacing", *(f"{count} steps" for count in counts)), rows)
    if arguments.limit_steps:
        settings = replace(usual(arguments), steps=arguments.limit_steps)
        folder = arguments.out / "solutions" / f"limit-{arguments.limit_steps}"
        errors = rmse_of_each(solve(run, settings, seeds, folder, device), limit)
        say(
            f"The limit of the sets, of {arguments.limit_steps} steps, is {np.median(errors):.4f} ({errors.max():.4f}) "
            "from it.\n"
        )
    return medians


def usual(arguments: argparse.Namespace) -> SamplerSettings:
    """What `generate` does when nothing is said."""
    return replace(NAMED_STEPS["default"], compute_batch=arguments.compute_batch)


def draw(medians: dict[str, dict[int, float]], path: Path) -> None:
    """Error against steps, both logarithmic."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, by_steps in medians.items():
        sampler, _, spacing = name.partition(", ")
        axes.plot(
            list(by_steps),
            [max(error, 1e-6) for error in by_steps.values()],
            label=name,
            color=_COLOURS[sampler],
            marker=_MARKERS[spacing],
            linewidth=1,
            markersize=5,
        )
    axes.axhline(0.02, color="#5A5A5A", linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel="median RMSE of [-1, 1]")
    counts = sorted({steps for by_steps in medians.values() for steps in by_steps})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.legend(fontsize=7, ncols=3)
    with atomic_file(path) as aside:
        figure.savefig(aside, format="png", dpi=140)


def features_of_set(
    run: Path, settings: SamplerSettings, arguments: argparse.Namespace, name: str
) -> Features:
    """Films of the seeds from 0 on, generated as anyone would, and their features."""
    out = arguments.out / "sets" / name
    count = arguments.ancestral if settings.sampler == "ddpm" else arguments.count
    tell(name)
    generate(
        run,
        out,
        range(count),
        settings,
        checkpoint=arguments.checkpoint,
        device=arguments.device,
        report=tell_films,
    )
    images = np.stack([read_film(out / "images" / f"{seed}.png").values for seed in range(count)])
    return extract(load_extractor("efficientnet-lite0", arguments.device), images, BITS)


def paired(numbers: Sequence[float], value: float, left_in: float) -> Paired:
    """Value +- t SE, SE^2 = kept / left out times the variance over the subsamples (Shao & Wu 1989)."""
    spread = STUDENT_T * math.sqrt(left_in / (1 - left_in) * float(np.var(numbers, ddof=1)))
    return Paired(value, value - spread, value + spread)


def compare(
    test: Features, films: Features, limit: Features, seed: int
) -> tuple[float, Paired, float, Paired]:
    """FD, its ratio to the limit's, KID, its difference from the limit's."""
    generator = numpy_generator(seed, "measure steps")
    kept = int(KEPT * len(test)), int(KEPT * len(films))
    parts = [
        (generator.permutation(len(test))[: kept[0]], generator.permutation(len(films))[: kept[1]])
        for _ in range(SUBSAMPLES)
    ]

    def fd(a: Features, b: Features) -> float:
        return frechet_distance_of_features(a, b)

    def kid(a: Features, b: Features) -> float:
        return kernel_distance(a, b).value

    ratios = [fd(test[a], films[b]) / fd(test[a], limit[b]) for a, b in parts]
    gaps = [kid(test[a], films[b]) - kid(test[a], limit[b]) for a, b in parts]
    whole_fd, whole_kid = fd(test, films), kid(test, films)
    return (
        whole_fd,
        paired(ratios, whole_fd / fd(test, limit), KEPT),
        whole_kid,
        paired(gaps, whole_kid - kid(test, limit), KEPT),
    )


def measure_sets(run: Path, timesteps: int, arguments: argparse.Namespace) -> None:
    """The table of sets."""
    dataset = open_dataset(arguments.dataset)
    rows = dataset.indices("test")
    chosen = rows[choose(len(rows), min(arguments.count, len(rows)), arguments.seed, "test")]
    extractor = load_extractor("efficientnet-lite0", arguments.device)
    test = extract(extractor, dataset.gather(chosen), dataset.info.bits)
    default = usual(arguments)
    most = min(timesteps, arguments.limit_steps or timesteps)
    limit = features_of_set(run, replace(default, steps=most), arguments, f"limit-{most}")
    head = ("steps", "FD", "FD / FD of the limit", "1000 KID", "1000 (KID - KID of the limit)")
    table = []
    for steps in (count for count in arguments.set_steps if count <= timesteps):
        films = features_of_set(run, replace(default, steps=steps), arguments, f"steps-{steps}")
        fd, ratio, kid, gap = compare(test, films, limit, arguments.seed)
        table.append((steps, f"{fd:.2f}", between(ratio), f"{1000 * kid:.2f}", between(gap, 1000)))
    of_limit = kernel_distance(test, limit)
    table.append((f"limit, {most}", f"{frechet_distance_of_features(test, limit):.2f}", "1",
                  f"{1000 * of_limit.value:.2f}", "0"))  # fmt: skip
    say(f"{default.sampler}, {default.spacing}: {arguments.count} films against {len(test)} test films:\n")
    say_table(head, table)
    if arguments.ancestral:
        settings = replace(NAMED_STEPS["paper"], compute_batch=arguments.compute_batch)
        ancestral = features_of_set(run, settings, arguments, "ancestral")
        alone = kernel_distance(test, ancestral)
        say(
            f"ddpm over all {timesteps} timesteps, {arguments.ancestral} films: 1000 KID "
            f"{with_interval(alone.value, alone.low, alone.high, 2, 1000)}, "
            f"{1000 * (alone.value - of_limit.value):+.2f} beside the limit's.\n"
        )


def between(number: Paired, scale: float = 1.0) -> str:
    """A number and its interval."""
    return with_interval(number.value, number.low, number.high, 3, scale)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--films", type=int, default=64, help="films whose movement is measured")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 15, 20, 50, 100])
    parser.add_argument("--spacings", nargs="+", choices=SPACINGS, default=SPACINGS)
    parser.add_argument("--count", type=int, default=1000, help="films in each set")
    parser.add_argument("--set-steps", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--limit-steps", type=int, help="steps of the limit's set; all timesteps if left out")
    parser.add_argument(
        "--ancestral", type=int, default=100, help="films by ddpm over all timesteps; 0: none"
    )
    parser.add_argument("--compute-batch", type=int, default=16)
    parser.add_argument("--checkpoint", default="newest", choices=["newest", "best"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0, help="of the subsamples")
    return parser.parse_args()


def agree(arguments: argparse.Namespace, ema_sha256: str) -> None:
    """What is kept in FOLDER is of one network, one noise and one compute batch."""
    made = {"ema_sha256": ema_sha256, "compute_batch": arguments.compute_batch, "films": arguments.films}
    made["noise"] = NOISE
    file = arguments.out / "measured.json"
    if not file.exists():
        write_json(file, made)
    if json.loads(file.read_text(encoding="utf-8")) != made:
        raise SystemExit(
            f"{arguments.out} holds solutions of another network, noise or size; choose another --out."
        )


def main() -> None:
    """All of it."""
    arguments = read_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    folder, device = run_folder(arguments.run), choose_device(arguments.device)
    checkpoint = chosen_checkpoint(folder, arguments.checkpoint)
    agree(arguments, checkpoint.ema_sha256)
    run = load_run(folder, device, checkpoint)
    run = run._replace(model=for_inference(run.model))
    say(f"Step {checkpoint.step}; `--steps draft` is {described('draft')}, default {described('default')}.\n")
    draw(measure_movement(run, arguments, device), arguments.out / "steps.png")
    measure_sets(folder, run.diffusion.schedule.num_timesteps, arguments)
    say_how("python docs/measure_steps.py", arguments.seed)


def described(name: str) -> str:
    """A named choice, in words."""
    settings = next(value for key, value in NAMED_STEPS.items() if key == name)
    return f"{settings.sampler}, {settings.spacing}, {settings.steps or 20} steps"


if __name__ == "__main__":
    main()
