"""Measures a RUN that is told one of two words: distance from real films, and whether it shows what it was told.

    python docs/measure_model.py RUN DATASET --out FOLDER

For each guidance weight as many films of either word as among N test films, made anew or taken from FOLDER, are held
against those test films: FD (expected at this N), KID (population), and the area under the ROC curve of the audit's
probe, trained on real training films. Beside them stand N real training films of other patients (the floor), the
same blurred, and noise. FOLDER gets `guidance.png`, the same seeds at every weight, and `nearest.png`, films that look
least real or lie nearest to a training film, each beside that film.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_films import say, say_how, say_table, with_interval

from xraygen.audit.fidelity import choose, reference_sets
from xraygen.audit.intervals import frechet_intervals
from xraygen.audit.labels import Codes, patients_of
from xraygen.dataset.store import Dataset, open_dataset
from xraygen.films.grids import tile
from xraygen.films.reader import read_film
from xraygen.films.writers import write_png
from xraygen.metrics.features import FeatureExtractor, extract, load_extractor
from xraygen.metrics.kernel import kernel_distance
from xraygen.metrics.neighbours import nearest
from xraygen.metrics.probe import fit_probe
from xraygen.metrics.roc import area_interval, clustered_error, influence
from xraygen.presets import run_folder
from xraygen.ranges import Stored, stored_to_unit, unit_to_stored
from xraygen.synthesis.conditions import Guidance, folder_of
from xraygen.synthesis.generate import generate
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.training.checkpoint import chosen_checkpoint, run_config
from xraygen.training.conditions import read_conditions

BITS = 16
SHOWN = 8

Features = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Made:
    """Synthetic films, `[N, H, W]` of 16 bits, and which of the two words each was told, `[N]`."""

    images: Stored
    told: NDArray[np.int64]


def make(arguments: argparse.Namespace, weight: float, counts: dict[str, int], column: str) -> Made:
    """The films of one guidance weight; seeds run on through both words."""
    run, out = run_folder(arguments.run), arguments.out / f"guidance-{weight:g}"
    settings = SamplerSettings(arguments.sampler, arguments.steps)
    images, told, first = [], [], 0
    for word, count in counts.items():
        guidance = Guidance({column: word}, weight)
        seeds = range(first, first + count)
        generate(run, out, seeds, settings, guidance=guidance, checkpoint=arguments.checkpoint)
        folder = out / "images" / folder_of(guidance.words)
        images += [read_film(folder / f"{seed}.png").values for seed in seeds]
        told += [list(counts).index(word)] * count
        first += count
    return Made(np.stack(images), np.array(told))


def area_with_interval(odds: NDArray[np.float64], labels: NDArray[np.int64], patients: Codes) -> str:
    """The area under the ROC curve of the second word with its 95 % interval, patients as units."""
    positive = labels == 1
    found = influence(odds[:, 1], positive, patients)
    counts = [len(np.unique(patients[kind])) for kind in (positive, ~positive)]
    area = area_interval(found.area, clustered_error(found.of_film, patients), *counts)
    return with_interval(area.value, area.low, area.high, 3)


def labels_of(
    dataset: Dataset, rows: NDArray[np.int64], column: str, words: tuple[str, ...]
) -> NDArray[np.int64]:
    """Which word each film has."""
    return np.array([words.index(word) for word in dataset.manifest[column].iloc[rows]])


def compare(test: Features, sets: dict[str, Features], areas: dict[str, str], seed: int) -> None:
    """The table."""
    intervals = frechet_intervals(test, sets, seed)
    floor = intervals["real training films"].value
    rows = []
    for name, features in sets.items():
        fd, kid = intervals[name], kernel_distance(test, features)
        rows.append(
            (
                name,
                with_interval(fd.value, fd.low, fd.high, 1),
                f"{fd.value / floor:.2f}",
                with_interval(kid.value, kid.low, kid.high, 2, 1000),
                areas.get(name, ""),
            )
        )
    say_table(("films", "FD", "FD / floor", "1000 KID", "AUC"), rows)


def show_guidance(out: Path, made: dict[float, Made]) -> None:
    """The same seeds at every weight: two rows each, one for each word."""
    rows: list[Stored] = []
    for films in made.values():
        picked = [np.flatnonzero(films.told == word)[:SHOWN] for word in (0, 1)]
        rows.append(films.images[np.concatenate(picked)])
    sheet = tile(np.concatenate(rows).astype(np.uint16), BITS, columns=SHOWN)
    write_png(out / "guidance.png", sheet.repeat(2, axis=0).repeat(2, axis=1))


def show_nearest(out: Path, dataset: Dataset, made: Made, features: dict[str, Features]) -> None:
    """Films that are farthest from any real test film, and those nearest to a training film, above that film."""
    train = dataset.indices("train")
    to_test, _ = nearest(features["made"], features["test"])
    to_train, which = nearest(features["made"], features["train"])
    rows = np.concatenate([np.argsort(-to_test)[:SHOWN], np.argsort(to_train)[:SHOWN]])
    theirs = unit_to_stored(stored_to_unit(dataset.gather(train[which[rows]]), dataset.info.bits), BITS)
    sheet = tile(np.concatenate([made.images[rows], theirs]), BITS, columns=len(rows))
    write_png(out / "nearest.png", sheet.repeat(2, axis=0).repeat(2, axis=1))


def measure(arguments: argparse.Namespace) -> None:
    """All of it."""
    dataset, run = open_dataset(arguments.dataset), run_folder(arguments.run)
    (condition,) = read_conditions(run, run_config(run)).members
    column, words = condition.name, condition.categories
    extractor = load_extractor("efficientnet-lite0")
    test_rows = dataset.indices("test")
    chosen = test_rows[choose(len(test_rows), arguments.count, arguments.seed, "test")]
    shares = np.bincount(labels_of(dataset, chosen, column, words), minlength=2)
    counts = {word: int(count) for word, count in zip(words, shares, strict=True)}
    made = {weight: make(arguments, weight, counts, column) for weight in arguments.guidance}
    train = dataset.indices("train")
    real = {split: of_rows(extractor, dataset, dataset.indices(split)) for split in ("train", "test")}
    probe = fit_probe(real["train"], labels_of(dataset, train, column, words), len(words))
    patients = patients_of(list(dataset.manifest["patient"].iloc[test_rows]))
    areas = {
        "real test films, all": area_with_interval(
            probe.log_odds(real["test"]), labels_of(dataset, test_rows, column, words), patients
        )
    }
    references = reference_sets(dataset, train, arguments.count, arguments.seed)
    names = {"real training films": "real", "the same, blurred": "blurred", "noise": "noise"}
    sets = {
        name: extract(extractor, references[key].images, references[key].bits) for name, key in names.items()
    }
    for weight, films in made.items():
        name = f"guidance {weight:g}"
        sets[name] = extract(extractor, films.images, BITS)
        areas[name] = area_with_interval(probe.log_odds(sets[name]), films.told, np.arange(len(films.told)))
    say(f"Step {chosen_checkpoint(run, arguments.checkpoint).step}, N = {arguments.count} ({counts}).")
    say(f"AUC of {words[1]} among all {len(test_rows)} real test films: {areas['real test films, all']}\n")
    compare(real["test"][np.searchsorted(test_rows, chosen)], sets, areas, arguments.seed)
    show_guidance(arguments.out, made)
    weight = 1.0 if 1.0 in made else arguments.guidance[0]
    show_nearest(arguments.out, dataset, made[weight], {**real, "made": sets[f"guidance {weight:g}"]})


def of_rows(extractor: FeatureExtractor, dataset: Dataset, rows: NDArray[np.int64]) -> Features:
    """Features of some films of a DATASET."""
    return extract(extractor, dataset.gather(rows), dataset.info.bits)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500, help="N")
    parser.add_argument("--guidance", type=float, nargs="+", default=[0.0, 1.0, 3.0])
    parser.add_argument("--sampler", default="dpm++")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--checkpoint", default="newest", choices=["newest", "best"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    measure(arguments)
    say_how("python docs/measure_model.py", arguments.seed)


if __name__ == "__main__":
    main()
