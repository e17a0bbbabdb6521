"""Trains a network on 50 films until it repeats them, and counts how many of its samples the audit catches.

    python docs/measure_overfitted.py ../shared/data --out FOLDER --minutes 240

Kermany's films at 64 px, split by the numbers in their names: 50 training films of 50 numbers, and at least 300 test
films of others, which stand for chance. The network is small, sees each film with new noise and no augmentation, and is
trained for --steps steps or until the minutes are over; killed or out of time, the same command goes on. Then --count
films are made from its newest checkpoint and audited, with the membership attack. Films that are not caught are shown
in `missed.png` above the training film that they lie nearest to: whether those are copies is for a person to say.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from real_films import parse, parser, say, say_how, say_table, unpack_kermany
from trained_films import train_and_generate

from xraygen.audit.audit import audit
from xraygen.audit.by_choice import Choices
from xraygen.audit.sets import read_set
from xraygen.audit.settings import AuditSettings
from xraygen.config import RunConfig, load_config
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.store import Dataset, open_dataset
from xraygen.films.grids import tile
from xraygen.films.transforms import PrepareSettings
from xraygen.films.writers import write_png
from xraygen.metrics.aligned import nearest_aligned
from xraygen.ranges import stored_to_unit, unit_to_stored
from xraygen.seeds import numpy_generator

SIDE = 64
BITS = 16
SHOWN = 12


def make_dataset(arguments: argparse.Namespace) -> Dataset:
    """50 training films of as many numbers; of the other numbers the test films."""
    folder = arguments.out / "dataset"
    if not folder.exists():
        by_patient = unpack_kermany(arguments.films, arguments.out / "films")
        patients = sorted(by_patient)
        numpy_generator(arguments.seed, "overfitted-split").shuffle(patients)
        train_on = patients[: arguments.train]
        rows = [(by_patient[patient][0], patient, "train") for patient in train_on]
        others = [
            (path, patient, "test") for patient in patients[arguments.train :] for path in by_patient[patient]
        ]
        rows += others[: arguments.test]
        labels = arguments.out / "labels.csv"
        with labels.open("w", newline="") as table:
            named = ((path.name, patient, split) for path, patient, split in rows)
            csv.writer(table).writerows([("file", "patient", "split"), *named])
        settings = IngestSettings(
            prepare=PrepareSettings(size=(SIDE, SIDE)), labels=labels, split_column="split"
        )
        ingest([path for path, _, _ in rows], folder, settings)
    return open_dataset(folder)


def network(arguments: argparse.Namespace) -> RunConfig:
    """Small, without dropout, and remembered from step to step rather than averaged over many."""
    return load_config(
        "cxr-64",
        [
            f"data.image_size={SIDE}",
            "model.channels=32",
            "model.channel_mult=[1,2,4]",
            "model.patch_size=4",
            "model.num_res_blocks=1",
            "model.attention_resolutions=[16]",
            "model.dropout=0",
            "diffusion.loss_weighting=min_snr",
            "train.batch_size=10",
            "train.learning_rate=1e-3",
            "train.warmup_steps=200",
            "train.ema_decay=0.995",
            "train.save_every=250",
            "train.sample_every=2000",
            f"train.max_steps={arguments.steps}",
            f"train.seed={arguments.seed}",
        ],
    )


def show_missed(out: Path, dataset: Dataset, synthetic: Path, caught: set[str]) -> None:
    """Films that are no suspects, above the training film nearest in aligned pixels."""
    films = read_set(synthetic, dataset.info.size)
    missed = np.array(
        [row for row, name in enumerate(films.file_names) if name not in caught], dtype=np.int64
    )
    missed = missed[:SHOWN]
    if not len(missed):
        return
    known, bits = dataset.gather(dataset.indices("train")), dataset.info.bits
    _, which = nearest_aligned(films.images[missed], films.bits, known, bits)
    theirs = unit_to_stored(stored_to_unit(known[which], bits), BITS)
    sheet = tile(np.concatenate([films.images[missed], theirs]), BITS, columns=len(missed))
    write_png(out / "missed.png", sheet.repeat(2, axis=0).repeat(2, axis=1))


def measure(arguments: argparse.Namespace) -> None:
    """Train, make, audit, count."""
    dataset = make_dataset(arguments)
    run, synthetic, step, finished = train_and_generate(network(arguments), dataset, arguments)
    settings = AuditSettings(
        seed=arguments.seed,
        device=arguments.device,
        choices=Choices(run=run),
        features=("efficientnet-lite0",),
    )
    result = audit(dataset.folder, synthetic, arguments.out / "report", settings)
    privacy, membership = result["privacy"], result["membership"]
    suspects = {suspect["file_name"] for suspect in privacy["suspects"]}
    say(
        f"{len(dataset.indices('train'))} training films, {len(dataset.indices('test'))} test films, {SIDE} px; "
        f"step {step}{'' if finished else ', not finished'}.\n"
    )
    say_table(
        ("films", "suspects", "beyond the copy threshold", "verdict", "membership AUC", "gap"),
        [
            (
                arguments.count,
                len(suspects),
                privacy["gate"]["copies"],
                privacy["gate"]["verdict"],
                f"{membership['value']:.3f} ({membership['low']:.3f} to {membership['high']:.3f})",
                f"{100 * membership['gap']:+.0f} %",
            )
        ],
    )
    say(privacy["gate"]["sentence"])
    say(membership["sentence"])
    show_missed(arguments.out, dataset, synthetic, suspects)
    by_space = ", ".join(f"{space['suspects']} in {name}" for name, space in privacy["spaces"].items())
    say(f"Suspects: {by_space}.")


def main() -> None:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--out", type=Path, required=True)
    made.add_argument("--minutes", type=float, default=240, help="of training in this call")
    made.add_argument("--steps", type=int, default=20_000)
    made.add_argument("--train", type=int, default=50, help="training films")
    made.add_argument("--test", type=int, default=600, help="test films")
    made.add_argument("--count", type=int, default=200, help="samples")
    made.add_argument("--device", default="auto")
    arguments = parse(made)
    arguments.out.mkdir(parents=True, exist_ok=True)
    measure(arguments)
    say_how("python docs/measure_overfitted.py", arguments.seed)


if __name__ == "__main__":
    main()
