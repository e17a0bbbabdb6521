"""Trains a narrow `cxr-256` on eight real films until it gives them back: high resolution is shown to learn.

    python docs/measure_eight_films.py ../shared/data --out FOLDER --minutes 60

Eight frontal films of the Hannover set, of eight patients, at 256 px. The preset with a shifted schedule, but 32
channels wide, over patches of 2 x 2 pixels, one block at each of five levels, every timestep's loss counting alike, and
with a learning rate for minutes in place of days. The loss of the first and of the last 100 steps is told, and for each
film the root mean square difference to the nearest of `--count` films that are made, [0, 1], beside that to the nearest
other film. `eight.png`: the films above, below each the film that is nearest to it. Out of time or killed? The same
command goes on.
"""

import argparse
import csv
import statistics
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from real_films import parse, parser, say, say_how, say_table
from trained_films import train_and_generate

from xraygen.config import load_config
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.store import Dataset, open_dataset
from xraygen.films.grids import tile
from xraygen.films.reader import read_film
from xraygen.films.transforms import PrepareSettings
from xraygen.films.writers import write_png
from xraygen.ranges import Stored, stored_to_unit, unit_to_stored
from xraygen.training.logging import read_log

SIDE, BITS, EIGHT, AT_EACH_END = 256, 16, 8, 100
NARROW = (
    "model.channels=32",
    "model.channel_mult=[1,1,2,4,4]",
    "model.num_res_blocks=1",
    "model.patch_size=2",
    "diffusion.loss_weighting=simple",
    "schedule.reference_size=64",
    f"train.batch_size={EIGHT}",
    "train.learning_rate=1e-3",
    "train.warmup_steps=100",
    "train.ema_decay=0.99",
    "train.log_every=1",
    "train.save_every=200",
    "train.sample_every=1000",
    "train.sample_count=4",
    "train.trackers=[]",
)
_PACKAGES = ("xraygen", "torch", "numpy")


def eight_films(films: Path, out: Path) -> Dataset:
    """The first film of each of the first eight patients in the collection's table, all of them to train on."""
    folder = out / "dataset"
    if not folder.exists():
        source = films / "hannover-cxr"
        with (source / "gray1024_metadata.csv").open(encoding="utf-8", newline="") as table:
            by_patient: dict[str, str] = {}
            for row in csv.DictReader(table):
                if (source / "gray1024" / row["filename"]).is_file():
                    by_patient.setdefault(row["patientid"], row["filename"])
        labels = out / "labels.csv"
        rows = [(file, patient, "train") for patient, file in by_patient.items()][:EIGHT]
        with labels.open("w", encoding="utf-8", newline="") as table:
            csv.writer(table).writerows([("file", "patient", "split"), *rows])
        settings = IngestSettings(
            prepare=PrepareSettings(size=(SIDE, SIDE)), labels=labels, split_column="split"
        )
        ingest([source / "gray1024" / file for file, _, _ in rows], folder, settings)
    return open_dataset(folder)


def apart(a: Stored, b: Stored) -> NDArray[np.float64]:
    """Root mean square differences of light, `[N, M]`, of `[N, H, W]` and `[M, H, W]`."""
    x, y = (stored_to_unit(films, BITS).reshape(len(films), -1).astype(np.float64) for films in (a, b))
    distances: NDArray[np.float64] = np.sqrt(((x[:, None] - y[None]) ** 2).mean(axis=-1))
    return distances


def show(out: Path, films: Stored, made: Stored) -> None:
    """Each film, and what was made that is nearest to it; then how far apart they are."""
    found, among = apart(films, made), apart(films, films)
    np.fill_diagonal(among, np.inf)
    nearest = found.argmin(axis=1)
    write_png(out / "eight.png", tile(np.concatenate([films, made[nearest]]), BITS, columns=len(films)))
    rows = [(film + 1, f"{found[film].min():.4f}", f"{among[film].min():.4f}") for film in range(len(films))]
    say_table(("film", "to the nearest film made", "to the nearest other film"), rows)
    closer = found.min(axis=0)  # of each film that was made
    near = np.count_nonzero(closer < among.min() / 2)
    say(
        f"Of {len(made)} films made {near} lie nearer to one of the eight than half the distance between any two of "
        f"these; the median distance is {np.median(closer):.4f}."
    )


def measure(arguments: argparse.Namespace) -> None:
    """Train, make, compare."""
    dataset = eight_films(arguments.films, arguments.out)
    config = load_config(
        "cxr-256",
        [
            *NARROW,
            f"train.max_steps={arguments.steps}",
            f"train.precision={arguments.precision}",
            f"train.seed={arguments.seed}",
        ],
    )
    run, synthetic, step, finished = train_and_generate(config, dataset, arguments)
    losses = [entry["loss"] for entry in read_log(run) if "loss" in entry][:step]
    first, last = (statistics.mean(part) for part in (losses[:AT_EACH_END], losses[-AT_EACH_END:]))
    say(
        f"{len(dataset)} films of {SIDE} px, {step} steps{'' if finished else ', not finished'}: the loss fell "
        f"from {first:.4f} to {last:.4f} (means of the first and the last {AT_EACH_END} steps).\n"
    )
    made = np.stack(
        [read_film(synthetic / "images" / f"{seed}.png").values for seed in range(arguments.count)]
    )
    films = unit_to_stored(stored_to_unit(dataset.gather(dataset.indices("train")), dataset.info.bits), BITS)
    show(arguments.out, films, made.astype(np.uint16))


def main() -> None:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--minutes", type=float, default=60, help="of training in this call")
    made.add_argument("--steps", type=int, default=2_000)
    made.add_argument("--count", type=int, default=32, help="films to make")
    made.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="in training")
    made.add_argument("--device", default="auto")
    arguments = parse(made)
    arguments.out.mkdir(parents=True, exist_ok=True)
    measure(arguments)
    say_how("python docs/measure_eight_films.py ../shared/data --out FOLDER", arguments.seed, _PACKAGES)


if __name__ == "__main__":
    main()
