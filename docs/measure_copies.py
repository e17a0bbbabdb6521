"""Measures how many planted copies of training films the audit finds, on real films at 128 px.

    python docs/measure_copies.py ../shared/data

Kermany's films are split by the numbers in their names into training, calibration (the null) and evaluation films. A
copy is a training film after one change; clean films are the evaluation films, of yet other numbers, which are no
copies. A film is a suspect, or beyond the copy threshold, as in `xraygen audit`; the gate then judges sets of clean
films among which some are copies. Changes marked * were not looked at when the method was chosen; that
films may be turned and scaled was, so that those two only show that it does what it was made for.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from real_films import Light, kermany, parse, parser, patient_of, say, say_how, say_table
from scipy.stats import beta

from xraygen.audit.privacy import Neighbours, find_aligned, find_neighbours, gate
from xraygen.films.resizing import resize
from xraygen.metrics.features import extract, load_extractor
from xraygen.ranges import Stored
from xraygen.seeds import numpy_generator

SIDE = 128
BITS = 16

Change = Callable[[Light, np.random.Generator], Light]


def shifted(light: Light, generator: np.random.Generator) -> Light:
    """By up to 8 pixels in both directions, edges repeated."""
    down, right = generator.integers(-8, 9, 2)
    padded = np.pad(light, 8, mode="edge")
    return padded[8 - down : 8 - down + SIDE, 8 - right : 8 - right + SIDE]


def blurred(light: Light, generator: np.random.Generator) -> Light:
    """Averaged down to half its size and drawn up again."""
    half = Image.fromarray(light).resize((SIDE // 2, SIDE // 2), Image.Resampling.BOX)
    return np.asarray(half.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def zoomed(light: Light, generator: np.random.Generator) -> Light:
    """5 % larger, cut to size."""
    margin = SIDE * (1 - 1 / 1.05) / 2
    box = (margin, margin, SIDE - margin, SIDE - margin)
    return np.asarray(Image.fromarray(light).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def as_jpeg(light: Light, generator: np.random.Generator) -> Light:
    """Quality 50, 8 bits."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(light * 255).astype(np.uint8)).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer)).astype(np.float32) / np.float32(255)


def stretched(light: Light, generator: np.random.Generator) -> Light:
    """4 % wider, cut to size."""
    margin = SIDE * (1 - 1 / 1.04) / 2
    box = (margin, 0, SIDE - margin, SIDE)
    return np.asarray(Image.fromarray(light).resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def rotated(light: Light, generator: np.random.Generator) -> Light:
    """By 3 degrees."""
    return np.asarray(Image.fromarray(light).rotate(3, Image.Resampling.BICUBIC))


CHANGES: dict[str, Change] = {
    "exact": lambda light, _: light,
    "mirrored": lambda light, _: light[:, ::-1],
    "shifted by up to 8 px": shifted,
    "brightened by 0.1": lambda light, _: light + np.float32(0.1),
    "blurred": blurred,
    "2 % noise": lambda light, g: light + np.float32(0.02) * g.standard_normal(light.shape, dtype=np.float32),
    "rotated by 3 degrees": rotated,
    "zoomed by 5 %": zoomed,
    "gamma 1.4 *": lambda light, _: light ** np.float32(1.4),
    "JPEG quality 50 *": as_jpeg,
    "stretched by 4 % across *": stretched,
    "window 10 % narrower at both ends *": lambda light, _: (light - 0.1) / np.float32(0.8),
}


def stored(films: list[Light]) -> Stored:
    """16 bits, `[N, H, W]`."""
    return np.asarray(np.rint(np.stack(films).clip(0, 1) * 65535), dtype=np.uint16)


def split(films: dict[str, Light], seed: int, counts: tuple[int, int, int]) -> list[Stored]:
    """Training, calibration and evaluation films of disjoint numbers."""
    patients = sorted({patient_of(name) for name in films})
    numpy_generator(seed, "copies-split").shuffle(patients)
    part = {patient: place * 20 // len(patients) for place, patient in enumerate(patients)}  # 20ths
    groups: list[list[Light]] = [[], [], []]
    for name, light in films.items():
        twentieth = part[patient_of(name)]
        group = 0 if twentieth < 10 else 1 if twentieth < 15 else 2
        if len(groups[group]) < counts[group]:
            groups[group].append(light)
    return [stored(group) for group in groups]


def share(found: NDArray[np.bool_]) -> str:
    """With its exact binomial interval (Clopper & Pearson)."""
    k, n = int(found.sum()), len(found)
    low = beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return f"{100 * k / n:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def verdicts(
    spaces: Sequence[Neighbours], clean: int, generator: np.random.Generator, draws: int = 200
) -> Iterator[tuple[object, ...]]:
    """Rows of a table: how many sets of the clean films pass with so many of them replaced by copies of any kind."""
    films = len(spaces[0].distance)
    for copies in (0, 1, 5, 50):
        told: Counter[str] = Counter()
        for _ in range(draws if copies else 1):
            kept = generator.choice(clean, clean - copies, replace=False)
            planted = generator.choice(np.arange(clean, films), copies, replace=False)
            rows = np.concatenate([kept, planted])
            part = [
                replace(space, distance=space.distance[rows], index=space.index[rows]) for space in spaces
            ]
            told[gate(part)["verdict"]] += 1
        yield (copies, *(told[verdict] for verdict in ("fail", "undecided", "pass")))


def all_films(folder: Path) -> dict[str, Light]:
    """Kermany's films at SIDE px by name, each once."""
    seen: dict[bytes, str] = {}
    films: dict[str, Light] = {}
    for name, light in kermany(folder):
        if seen.setdefault(light.tobytes(), name) == name:
            films[name] = resize(light, (SIDE, SIDE))
    return films


def spaces_of(everything: Stored, train: Stored, calibration: Stored, features: bool) -> list[Neighbours]:
    """Where copies are looked for: the aligned pixels, and by choice the default features."""
    number = 1 + features
    spaces = [find_aligned((everything, BITS), (train, BITS), (calibration, BITS), spaces=number)]
    if features:
        extractor = load_extractor("efficientnet-lite0")
        found = [extract(extractor, images, BITS) for images in (everything, train, calibration)]
        named = dict(zip(("synthetic", "train", "test"), found, strict=True))
        spaces.append(find_neighbours("features", extractor.label, **named, spaces=number))
    return spaces


def found_in(spaces: Sequence[Neighbours]) -> dict[str, NDArray[np.bool_]]:
    """Which films are suspects, and which lie beyond the copy threshold that a set of 1,000 films would have."""
    found = {f"suspects by {space.label}": space.distance < space.limit for space in spaces}
    found["suspects"] = np.any(list(found.values()), axis=0)
    limits = [replace(space, distance=np.resize(space.distance, 1000)).copy_limit for space in spaces]
    beyond = [space.distance < (limit or 0.0) for space, limit in zip(spaces, limits, strict=True)]
    found["beyond a copy threshold"] = np.any(beyond, axis=0)
    return found


def main() -> None:
    """Print the tables."""
    made = parser(__doc__)
    made.add_argument("--train", type=int, default=2000)
    made.add_argument("--calibration", type=int, default=600)
    made.add_argument("--evaluation", type=int, default=1000)
    made.add_argument("--copies", type=int, default=200, help="of each change")
    made.add_argument("--skip-features", action="store_true", help="pixels only, in a tenth of the time")
    arguments = parse(made)
    counts = (arguments.train, arguments.calibration, arguments.evaluation)
    train, calibration, clean = split(all_films(arguments.films), arguments.seed, counts)
    generator = numpy_generator(arguments.seed, "copies")
    rows = generator.choice(len(train), arguments.copies, replace=False)
    originals = [film.astype(np.float32) / 65535 for film in train[rows]]
    sets = {name: stored([change(one, generator) for one in originals]) for name, change in CHANGES.items()}
    everything = np.concatenate([clean, *sets.values()])
    spaces = spaces_of(everything, train, calibration, not arguments.skip_features)
    found = found_in(spaces)
    table: list[tuple[object, ...]] = []
    start = 0
    for name, count in [("none (false alarms)", len(clean)), *((name, len(of)) for name, of in sets.items())]:
        part = slice(start, start + count)
        table.append((name, count, *(share(films[part]) for films in found.values())))
        start += count
    say(f"{len(train)} training, {len(calibration)} calibration, {len(clean)} evaluation films; {SIDE} px.\n")
    say_table(("change", "films", *found), table)
    say(f"Sets of {len(clean)} films: how many of 200 draws (of none, the one set) get which verdict.\n")
    say_table(("copies", "fail", "undecided", "pass"), verdicts(spaces, len(clean), generator))
    for space, told in zip(spaces, gate(spaces)["thresholds"], strict=True):
        say(f"{told} `{space.tail}`.\n")
    say_how("python docs/measure_copies.py", arguments.seed)


if __name__ == "__main__":
    main()
