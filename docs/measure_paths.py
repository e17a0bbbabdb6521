"""Measures paths between held-out real films in every mode, on films like those that a RUN was trained on and others.

    python docs/measure_paths.py [FILMS] --run RUN --data DATASET --out FOLDER

RUN was trained on DATASET; FILMS is the folder of real films, of which the Hannover set's adults are taken. Pairs are
of different patients. The tables go to stdout; FOLDER gets `modes.png`, all modes between the films of one pair,
`paths.png`, their curves, and `inversion.png`, how exactly inversion returns a film.
"""

import csv
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray
from real_films import parse, parser, say, say_how, say_table, with_interval

from xraygen.dataset.conditions import Conditions
from xraygen.dataset.store import Dataset, open_dataset
from xraygen.films.writers import write_png
from xraygen.metrics.features import FeatureExtractor, extract, load_extractor
from xraygen.metrics.neighbours import nearest
from xraygen.presets import run_folder
from xraygen.ranges import Stored, model_to_unit
from xraygen.seeds import numpy_generator
from xraygen.synthesis.path_curves import joined, measure_curves, save_chart
from xraygen.synthesis.path_ends import End, read_end
from xraygen.synthesis.path_familiarity import Judge
from xraygen.synthesis.path_frames import MODES, Mode, Way, lambdas
from xraygen.synthesis.progressive import captioned
from xraygen.synthesis.sampling import SamplerSettings, as_stored, sampling_diffusion
from xraygen.synthesis.timesteps import log_snrs, nearest_step, timestep_of_log_snr
from xraygen.training.checkpoint import chosen_checkpoint, load_run
from xraygen.training.conditions import read_conditions

ADULTS = "hannover-cxr"
BITS = 16
COLOURS = {"paper": "#D55E00", "shared-noise": "#0072B2", "slerp": "#009E73", "inversion": "#CC79A7"}
CURVES = ("SSIM", "distance", "nearest", "detail")
"""Likeness and distance to film A, distance to the nearest training film, and fine detail, frame by frame."""
TITLES = {
    "SSIM": "SSIM to film A",
    "distance": "distance to film A / from A to B",
    "nearest": "distance to the nearest training film",
    "detail": "detail, of the films' own",
}
_DRAWS = 1000

Pair = tuple[End, End]
Floats = NDArray[np.float64]
Features = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Measured:
    """One pair in one mode.

    Attributes:
        curves: Name -> a figure per frame, `[F]`.
        variance: Mean square of the noise, `[F]`.
        smoothness: Largest step over mean step.
        error: Root mean square error of both reconstructions, of 255.
    """

    curves: dict[str, Floats]
    variance: Floats
    smoothness: float
    error: float


def children(dataset: Dataset, count: int, seed: int, read: Callable[[str, str], End]) -> Iterator[Pair]:
    """Pairs of test films of different patients."""
    rows = numpy_generator(seed, "pairs").permutation(dataset.indices("test"))
    patients = dataset.manifest["patient"].to_numpy()
    _, first = np.unique(patients[rows], return_index=True)  # one film of each patient
    chosen = rows[np.sort(first)][: 2 * count].reshape(-1, 2)
    for row_a, row_b in chosen:
        yield read(f"{dataset.folder}#{row_a}", "a"), read(f"{dataset.folder}#{row_b}", "b")


def adults(films: Path, count: int, seed: int, read: Callable[[str, str], End]) -> Iterator[Pair]:
    """Pairs of frontal films of different patients of the Hannover set."""
    folder = films / ADULTS
    by_patient: dict[str, Path] = {}
    with (folder / "gray640_data.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            path = folder / "gray640" / f"{row['image_id']}.jpg"
            if row["projection"].lower() in ("pa", "ap") and path.is_file():
                by_patient.setdefault(row["patient_id"], path)
    names = sorted(by_patient)
    order = numpy_generator(seed, "adults").permutation(len(names))[: 2 * count].reshape(-1, 2)
    for first, second in order:
        yield read(str(by_patient[names[first]]), "a"), read(str(by_patient[names[second]]), "b")


def detail(images: Stored) -> Floats:
    """Mean square of the differences between neighbouring pixels, `[N]`: what is lost first when a film is blurred."""
    light = images.astype(np.float64)
    down, across = np.diff(light, axis=1), np.diff(light, axis=2)
    result: Floats = (down**2).mean(axis=(1, 2)) + (across**2).mean(axis=(1, 2))
    return result


def measure(
    way: Way, lam: torch.Tensor, start: int, extractor: FeatureExtractor, known: NDArray[np.float32]
) -> Measured:
    """Go one way and look at it; `known` are the features of the training films."""
    frames = way.frames(lam, start)
    ends = as_stored(torch.stack([end.x for end in way.ends]))
    stored = as_stored(frames.x)
    curves = measure_curves(stored, ends, BITS, extractor)
    films = extract(extractor, joined(ends, stored), BITS)
    apart = float(np.linalg.norm(films[0].astype(np.float64) - films[1]))
    weight = lam.numpy()
    own = (1 - weight) * detail(ends)[0] + weight * detail(ends)[1]
    back = model_to_unit(frames.x[[0, -1]]) - model_to_unit(torch.stack([end.x for end in way.ends]))
    assert curves.ssim is not None
    found = {
        "SSIM": curves.ssim[:, 0],
        "distance": curves.distance[:, 0] / apart,
        "nearest": nearest(films[2:], known)[0],
        "detail": detail(stored) / own,
    }
    return Measured(
        found,
        frames.noise_variance.numpy(),
        curves.smoothness or float("nan"),
        255 * float(back.square().mean().sqrt()),
    )


def interval(values: Sequence[float] | Floats, seed: int) -> tuple[float, float, float]:
    """Mean over pairs with its 95 % interval from a bootstrap of the pairs."""
    known = np.asarray(values, dtype=np.float64)
    rows = numpy_generator(seed, "bootstrap").integers(0, len(known), (_DRAWS, len(known)))
    low, high = np.percentile(known[rows].mean(axis=1), [2.5, 97.5])
    return float(known.mean()), float(low), float(high)


def mean_with_interval(values: Sequence[float] | Floats, seed: int, digits: int = 2) -> str:
    """The same, as it stands in a table."""
    mean, low, high = interval(values, seed)
    return with_interval(mean, low, high, digits)


def say_modes(name: str, found: dict[Mode, list[Measured]], seed: int) -> None:
    """What becomes of films half-way, by mode."""
    pairs = len(next(iter(found.values())))
    say(f"{name}: {pairs} pairs, at lambda 0.5 where nothing else is said; mean (95 % interval over pairs)\n")
    rows = []
    for mode, pair in found.items():
        middle = [len(one.variance) // 2 for one in pair]

        def at(curve: str, pair: list[Measured] = pair, middle: list[int] = middle) -> list[float]:
            return [float(one.curves[curve][place]) for one, place in zip(pair, middle, strict=True)]

        noise = [float(one.variance[place]) for one, place in zip(pair, middle, strict=True)]
        rows.append(
            (
                f"`{mode}`",
                mean_with_interval(noise, seed),
                mean_with_interval([one.error for one in pair], seed, 1),
                mean_with_interval(at("SSIM"), seed),
                mean_with_interval(at("distance"), seed),
                mean_with_interval(at("nearest"), seed, 1),
                mean_with_interval(at("detail"), seed),
                mean_with_interval([one.smoothness for one in pair], seed),
            )
        )
    head = ("mode", "noise variance", "error of the ends, of 255", "SSIM to A", "distance to A / A to B",
            "to the nearest training film", "detail / the films'", "smoothness")  # fmt: skip
    say_table(head, rows)


def draw_paths(path: Path, lam: torch.Tensor, sets: dict[str, dict[Mode, list[Measured]]], seed: int) -> None:
    """The curves: a row per set of films, a line and its interval per mode."""
    figure = Figure(figsize=(12.5, 2.9 * len(sets)), layout="constrained")
    for row, (name, found) in zip(
        figure.subplots(len(sets), len(CURVES), squeeze=False), sets.items(), strict=True
    ):
        for axes, curve in zip(row, CURVES, strict=True):
            for mode, pairs in found.items():
                columns = np.stack([one.curves[curve] for one in pairs]).T  # [F, pairs]
                mean, low, high = np.array([interval(column, seed) for column in columns]).T
                axes.plot(lam.numpy(), mean, color=COLOURS[mode], lw=1.4, label=mode)
                axes.fill_between(lam.numpy(), low, high, color=COLOURS[mode], alpha=0.15, lw=0)
            axes.set_title(f"{name}: {TITLES[curve]}", fontsize=9)
            axes.set_xlabel("$\\lambda$")
            axes.spines[["top", "right"]].set_visible(False)
        row[0].legend(frameon=False, fontsize=8)
    save_chart(path, figure)


def draw_modes(path: Path, way: Way, start: int) -> None:
    """All modes between the same two films."""
    lam = lambdas(7, 0)
    films = [end.x[None] for end in way.ends]
    rows = [torch.cat([films[0], replace(way, mode=mode).frames(lam, start).x, films[1]]) for mode in MODES]
    top = ["film A", "rec.", *(f"{place:.2f}" for place in lam[1:-1].tolist()), "rec.", "film B"]
    write_png(path, captioned(as_stored(torch.cat(rows)), top, list(MODES)))


def measure_inversion(path: Path, whole: Way, pairs: Sequence[Pair], steps: Sequence[int]) -> None:
    """How exactly inversion and decoding return a film: by steps of the whole chain, and evaluations per step."""
    lam, errors = lambdas(2, 0), {}
    for iterations in (1, 2):
        for count in steps:
            sampler = replace(whole.sampler, steps=count)
            chain = sampling_diffusion(whole.chain, sampler)
            found = []
            for pair in pairs:
                finer = replace(
                    whole, mode="inversion", ends=pair, chain=chain, sampler=sampler, iterations=iterations
                )
                frames = finer.frames(lam, count - 1)
                films = model_to_unit(torch.stack([end.x for end in pair]))
                found.append(255 * float((model_to_unit(frames.x) - films).square().mean().sqrt()))
            errors[iterations, count] = float(np.mean(found))
    say(f"Error of inversion to the last timestep and back, RMSE of 255, mean over {len(pairs)} pairs\n")
    say_table(
        ("steps", "1 evaluation per step", "2 evaluations per step"),
        [(count, *(f"{errors[iterations, count]:.2f}" for iterations in (1, 2))) for count in steps],
    )
    draw_inversion(path, steps, errors)


def draw_inversion(path: Path, steps: Sequence[int], errors: Mapping[tuple[int, int], float]) -> None:
    """The errors, by evaluations per step and steps, on axes of powers."""
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = figure.subplots()
    for iterations, colour in ((1, COLOURS["inversion"]), (2, "#5A5A5A")):
        values = [errors[iterations, count] for count in steps]
        axes.loglog(steps, values, marker=".", color=colour, label=f"{iterations} per step")
    axes.set_xticks(list(steps), list(map(str, steps)), minor=False)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("steps of the chain")
    axes.set_ylabel("RMSE of the film, of 255")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save_chart(path, figure)


def measure_likeness(way: Way, dataset: Dataset, run: Path, step: int, sets: dict[str, list[Pair]]) -> None:
    """Denoising losses as shares of held-out films': who would be warned of."""
    judge = Judge(way.network, way.chain, way.device)
    conditions = read_conditions_of(run)
    reference = judge.reference(run, step, dataset, conditions, lambda progress: None)
    if reference is None:
        say("The RUN and its DATASET know no held-out films.")
        return
    rows = [
        (f"{reference.films} validation films", "1.00", f"{reference.low:.2f} to {reference.high:.2f}", "")
    ]
    for name, pairs in sets.items():
        films = torch.stack([end.x for pair in pairs for end in pair])
        told = torch.stack([end.condition for pair in pairs for end in pair])
        for how, x in (("", films), (", as negatives", -films), (", upside down", films.flip(2))):
            ratios = reference.ratio(judge.losses(x, told, reference.t))
            outside = int(((ratios < reference.low) | (ratios > reference.high)).sum())
            least, most = ratios.min(), ratios.max()
            rows.append(
                (
                    f"{name}{how}",
                    f"{np.mean(ratios):.2f}",
                    f"{least:.2f} to {most:.2f}",
                    f"{outside} of {len(x)}",
                )
            )
    say("Denoising loss over that of held-out films, averaged over five bands of timesteps\n")
    say_table(("films", "mean", "range", "warned of"), rows)


def read_conditions_of(run: Path) -> Conditions:
    """What the RUN can be told."""
    return read_conditions(run, load_run(run).config)


def options() -> Namespace:
    """The command line."""
    made: ArgumentParser = parser(__doc__)
    made.add_argument("--run", required=True, help="RUN folder")
    made.add_argument("--data", required=True, type=Path, help="its DATASET")
    made.add_argument("--out", required=True, type=Path)
    made.add_argument("--pairs", type=int, default=20, help="of test films of the DATASET")
    made.add_argument("--adults", type=int, default=10, help="pairs of the Hannover set")
    made.add_argument("--log-snr", type=float, default=0.0, help="noise of the paths, as at 64 px")
    made.add_argument("--frames", type=int, default=11)
    made.add_argument("--steps", type=int, default=50, help="of the whole ddim chain")
    made.add_argument("--inversion-pairs", type=int, default=5)
    made.add_argument("--inversion-steps", type=int, nargs="+", default=[10, 20, 50, 100, 200])
    made.add_argument("--guidance", type=float, default=1.0)
    made.add_argument("--checkpoint", default="newest", choices=["newest", "best"])
    return parse(made)


def main() -> None:
    """All of it."""
    chosen = options()
    chosen.out.mkdir(parents=True, exist_ok=True)
    run, dataset = run_folder(chosen.run), open_dataset(chosen.data)
    checkpoint = chosen_checkpoint(run, chosen.checkpoint)
    model, diffusion, config = load_run(run, "cpu", checkpoint)
    shape, conditions = config.data.shape, read_conditions_of(run)

    def read(film: str, side: str) -> End:
        return read_end(run, film, shape, conditions, {}, side)

    sets = {
        "children": list(children(dataset, chosen.pairs, chosen.seed, read)),
        "adults": list(adults(chosen.films, chosen.adults, chosen.seed, read)),
    }
    sampler = SamplerSettings("ddim", chosen.steps)
    chain, pair = sampling_diffusion(diffusion, sampler), sets["children"][0]
    start = nearest_step(chain, timestep_of_log_snr(diffusion, chosen.log_snr, shape))
    way = Way(model, chain, pair, "slerp", sampler, chosen.seed, 1, chosen.guidance, torch.device("cpu"))
    say(
        f"Step {checkpoint.step}; t = {int(chain.schedule.timesteps[start])}, a log-SNR of "
        f"{float(log_snrs(chain, shape)[start]):.2f} at 64 px; ddim, {start + 1} of {chosen.steps} steps.\n"
    )
    draw_modes(chosen.out / "modes.png", way, start)
    measure_sets(chosen, way, start, dataset, sets)
    whole = replace(way, chain=diffusion)
    measure_inversion(
        chosen.out / "inversion.png",
        whole,
        sets["children"][: chosen.inversion_pairs],
        chosen.inversion_steps,
    )
    measure_likeness(whole, dataset, run, checkpoint.step, sets)
    numbers = {name: value for name, value in vars(chosen).items() if isinstance(value, int | float)}
    how = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in numbers.items())
    say_how(f"python docs/measure_paths.py {how}", chosen.seed)


def measure_sets(
    chosen: Namespace, way: Way, start: int, dataset: Dataset, sets: dict[str, list[Pair]]
) -> None:
    """Tables and curves of all pairs."""
    lam, extractor = lambdas(chosen.frames, 0), load_extractor("efficientnet-lite0", "cpu")
    known = extract(extractor, dataset.gather(dataset.indices("train")), dataset.info.bits)
    found: dict[str, dict[Mode, list[Measured]]] = {
        name: {
            mode: [
                measure(replace(way, mode=mode, ends=pair), lam, start, extractor, known) for pair in pairs
            ]
            for mode in MODES
        }
        for name, pairs in sets.items()
        if pairs
    }
    for name, modes in found.items():
        say_modes(name, modes, chosen.seed)
    draw_paths(chosen.out / "paths.png", lam, found, chosen.seed)


if __name__ == "__main__":
    main()
