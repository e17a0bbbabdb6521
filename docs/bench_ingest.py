"""Times ingest of large films against MONAI's own loading, side by side: `make bench`.

Both sides read the same 2048 x 2048 films of 12 bits, whose window cuts off 0.5 % of the pixels at each end, and bring
them to 256 x 256 by area means, one film at a time in one process of one thread (NumPy's BLAS too, whose second thread
would wait busily, and count), in turns of a few films each. A figure
is the processor time of a side over all films (the least of `--rounds` turns of each film), so that other work on the
machine weighs little. MONAI's chain is LoadImaged(PydicomReader), EnsureChannelFirstd, Resized(area), ScaleIntensityd;
for JPEG lossless and JPEG 2000 it needs `pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg`, and a row without
them says so. MONAI's chain ignores window and polarity, and hashes nothing; ours does all that `xraygen ingest` does.
"""

import argparse
import copy
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import imagecodecs
import numpy as np
import torch
from monai.data import PydicomReader
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized, ScaleIntensityd
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders import RLELosslessEncoder
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from xraygen.films.jpeg2000 import Detail
from xraygen.films.phantom import phantom_film
from xraygen.films.transforms import PrepareSettings, prepare_film, resize
from xraygen.films.writers import hashed_uid, save_dicom
from xraygen.seeds import numpy_generator

Task = Callable[[Path], object]

SIZE = (256, 256)
_FILMS_PER_TURN = 4
NOISE = 25.0
"""Standard deviation in stored values; files as large as real films' come of it."""
SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG 2000": JPEG2000Lossless,
}


def film(patient: int, side: int) -> Dataset:
    """A computed radiograph, 12 bits in 16, with the window that an exporter would write."""
    phantom = phantom_film(0, patient, 0, min(side, 512)).pixels
    smooth = resize(phantom, (side, side))  # a phantom of full size would take ten times as long
    noise = numpy_generator(0, "bench", patient).normal(0, NOISE, smooth.shape)
    stored = np.clip(np.rint(smooth + noise), 0, 4095).astype("<u2")  # [side, side]
    low, high = (round(float(end)) for end in np.percentile(stored, [0.5, 99.5]))
    dataset = Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = hashed_uid("bench", str(patient))
    dataset.Modality, dataset.PatientID, dataset.BodyPartExamined = "CR", f"BENCH-{patient}", "CHEST"
    dataset.ViewPosition, dataset.PatientOrientation = "PA", ["L", "F"]
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.WindowCenter, dataset.WindowWidth = (low + high) / 2, high - low
    dataset.PixelData = stored.tobytes()
    return dataset


def encoded(dataset: Dataset, syntax: str) -> bytes:
    """Pixel Data in a transfer syntax."""
    stored = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
    if syntax == RLELossless:
        frame = RLELosslessEncoder.encode(
            stored,
            rows=dataset.Rows,
            columns=dataset.Columns,
            samples_per_pixel=1,
            bits_allocated=16,
            bits_stored=12,
            photometric_interpretation="MONOCHROME2",
            number_of_frames=1,
            pixel_representation=0,
        )
    elif syntax == JPEGLSLossless:
        frame = imagecodecs.jpegls_encode(stored)
    elif syntax == JPEGLosslessSV1:
        frame = imagecodecs.ljpeg_encode(stored, bitspersample=12)
    elif syntax == JPEG2000Lossless:
        frame = imagecodecs.jpeg2k_encode(
            stored, level=0, reversible=True, codecformat="j2k", bitspersample=12
        )
    else:
        return bytes(dataset.PixelData)
    return bytes(encapsulate([bytes(frame)]))


def films(folder: Path, count: int, side: int) -> dict[str, list[Path]]:
    """`count` films, each in every syntax."""
    made: dict[str, list[Path]] = {name: [] for name in SYNTAXES}
    for patient in range(count):
        dataset = film(patient, side)
        for name, syntax in SYNTAXES.items():
            path = folder / f"{name.replace(' ', '-')}-{patient}.dcm"
            copied = copy.deepcopy(dataset)
            copied.PixelData = encoded(dataset, syntax)
            save_dicom(path, copied, syntax)
            made[name].append(path)
    return made


def monai_chain() -> Task:
    """What a MONAI user writes."""
    chain = Compose(
        [
            LoadImaged("film", reader=PydicomReader()),
            EnsureChannelFirstd("film"),
            Resized("film", SIZE, mode="area"),
            ScaleIntensityd("film"),
        ]
    )
    return lambda path: chain({"film": path})


def our_chain(detail: Detail) -> Task:
    """What `xraygen ingest` does to a film."""
    settings = PrepareSettings(SIZE, jpeg_2000=detail)
    return lambda path: prepare_film(path, settings)


def sides_of(syntax: str) -> dict[str, Task]:
    """The chains that are timed on films of a syntax; the first is MONAI's."""
    chosen: tuple[Detail, ...] = ("full", "half", "quarter") if syntax == "JPEG 2000" else ("full",)
    return {"MONAI": monai_chain(), **{how: our_chain(how) for how in chosen}}


def milliseconds(task: Task, path: Path) -> float:
    """Processor time of one film, once."""
    start = time.process_time()
    task(path)
    return 1000 * (time.process_time() - start)


def can(task: Task, path: Path) -> bool:
    """Whether a chain reads a film at all; it is warm afterwards."""
    try:
        task(path)
    except Exception as error:  # noqa: BLE001 - whatever a missing plugin raises inside MONAI's Compose
        print(f"cannot read {path.name}: {str(error).splitlines()[0][:90]}")  # noqa: T201 - a report
        return False
    return True


def means(sides: dict[str, Task], paths: list[Path], rounds: int) -> dict[str, float]:
    """Milliseconds per film of each side, in turns of `_FILMS_PER_TURN` films, as either is used: film after film."""
    sides = {side: task for side, task in sides.items() if can(task, paths[0])}
    least: dict[tuple[str, Path], float] = {}
    for first in range(0, len(paths), _FILMS_PER_TURN):
        turn = paths[first : first + _FILMS_PER_TURN]
        for _ in range(rounds):
            for side, task in sides.items():
                for path in turn:
                    spent = milliseconds(task, path)
                    least[side, path] = min(spent, least.get((side, path), spent))
    return {side: sum(least[side, path] for path in paths) / len(paths) for side in sides}


def measure(syntax: str, paths: list[Path], rounds: int) -> dict[str, float]:
    """The same of all sides of a syntax, in a process that does nothing else."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    return means(sides_of(syntax), paths, rounds)


def rows(made: dict[str, list[Path]], rounds: int) -> Iterator[str]:
    """The lines of the table."""
    for syntax, paths in made.items():
        with get_context("spawn").Pool(1) as pool:
            figures = pool.apply(measure, (syntax, paths, rounds))
        monai = figures.pop("MONAI", None)
        for how, ours in figures.items():
            name = syntax if how == "full" else f"{syntax}, decoded at a {how}"
            theirs = "- | -" if monai is None else f"{monai:.1f} | {monai / ours:.1f}"
            yield f"| {name} | {ours:.1f} | {theirs} |"


def two_workers(paths: list[Path]) -> float:
    """How many times faster two processes are than one, over the same films."""
    times = []
    for workers in (1, 2):
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            while len(set(pool.map(_prepare, paths[: 2 * workers]))) < workers:
                pass  # a process that has just begun still imports; all must have prepared a film
            start = time.perf_counter()
            list(pool.map(_prepare, paths * 3))
            times.append(time.perf_counter() - start)
    return times[0] / times[1]


def _prepare(path: Path) -> int:
    """Prepare a film; returns which process did."""
    torch.set_num_threads(1)
    prepare_film(path, PrepareSettings(SIZE))
    return os.getpid()


def machine() -> str:
    """What the figures depend on."""
    packages = ("torch", "monai", "pydicom", "numpy", "imagecodecs", "pillow")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{os.cpu_count()} processors ({platform.machine()}), Python {platform.python_version()}, {versions}"
    )


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="films, each in every syntax")
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    with tempfile.TemporaryDirectory() as folder:
        made = films(Path(folder), arguments.count, arguments.side)
        print(  # noqa: T201 - the table is the result
            f"{arguments.count} films of {arguments.side} px, each in {len(SYNTAXES)} syntaxes, seed 0; "
            f"{datetime.now(UTC):%Y-%m-%d}, {machine()}\n\n"
            "| transfer syntax | xraygen, ms | MONAI, ms | times faster |\n|---|---|---|---|"
        )
        for row in rows(made, arguments.rounds):
            print(row, flush=True)  # noqa: T201 - as above
        print(f"\nTwo workers: {two_workers(made['JPEG-LS'][:40]):.2f} times one.")  # noqa: T201 - as above


if __name__ == "__main__":
    main()
