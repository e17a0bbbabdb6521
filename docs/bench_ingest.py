"""Times ingest of large films against MONAI's own loading, side by side: `make bench`.

Both sides read the same 2048 x 2048 films of 12 bits and bring them to 256 x 256 by area means, one film at a time in
one process, in turns; the time of a side is the sum over its films of the least of `--rounds` turns. MONAI's chain is
LoadImaged(PydicomReader), EnsureChannelFirstd, Resized(area), ScaleIntensityd; for JPEG lossless and JPEG 2000 pydicom
needs `pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg`, and a row without them says so.
"""

import argparse
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import imagecodecs
import pydicom
import torch
from monai.data import PydicomReader
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized, ScaleIntensityd
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from xraygen.films.phantom import phantom_film
from xraygen.films.phantom_files import write_phantom_dicom
from xraygen.films.transforms import PrepareSettings, prepare_film

SETTINGS = PrepareSettings((256, 256))
SYNTAXES = {
    "uncompressed": None,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG 2000": JPEG2000Lossless,
}


def compressed(source: Path, target: Path, syntax: UID | None) -> None:
    """The same film in another transfer syntax."""
    dataset = pydicom.dcmread(source)
    if syntax == JPEGLosslessSV1:  # pydicom has no encoder for it
        dataset.PixelData = encapsulate([imagecodecs.ljpeg_encode(dataset.pixel_array, bitspersample=16)])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax == JPEG2000Lossless:
        dataset.PixelData = encapsulate(
            [imagecodecs.jpeg2k_encode(dataset.pixel_array, level=0, reversible=True, codecformat="j2k")]
        )
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax is not None:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(target)


def films(folder: Path, count: int, side: int) -> dict[str, list[Path]]:
    """`count` films in each syntax."""
    made: dict[str, list[Path]] = {name: [] for name in SYNTAXES}
    plain = folder / "plain.dcm"
    for patient in range(count):
        write_phantom_dicom(plain, phantom_film(0, patient, 0, side), 0, patient, 0)
        dataset = pydicom.dcmread(plain)
        dataset.decompress()
        dataset.save_as(plain)
        for name, syntax in SYNTAXES.items():
            path = folder / f"{name}-{patient}.dcm"
            compressed(plain, path, syntax)
            made[name].append(path)
    return made


def monai_chain() -> Callable[[Path], object]:
    """What a MONAI user writes."""
    chain = Compose(
        [
            LoadImaged("film", reader=PydicomReader()),
            EnsureChannelFirstd("film"),
            Resized("film", (256, 256), mode="area"),
            ScaleIntensityd("film"),
        ]
    )
    return lambda path: chain({"film": path})


def seconds(task: Callable[[Path], object], path: Path) -> float:
    """One film, once."""
    start = time.perf_counter()
    task(path)
    return time.perf_counter() - start


def rows(made: dict[str, list[Path]], rounds: int) -> Iterator[tuple[str, float, float | None]]:
    """Milliseconds per film of each syntax: ours, and MONAI's or None where it cannot decode."""
    sides = {"ours": lambda path: prepare_film(path, SETTINGS), "monai": monai_chain()}
    for name, paths in made.items():
        least: dict[str, float | None] = {}
        for side, task in sides.items():
            try:
                seconds(task, paths[0])
                least[side] = 0.0
            except Exception as error:  # noqa: BLE001 - whatever a missing plugin raises inside MONAI's Compose
                print(f"{name}: {side} cannot: {str(error).splitlines()[0][:90]}")  # noqa: T201 - a report
                least[side] = None
        for path in paths:
            turns: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side, task in sides.items():
                    if least[side] is not None:
                        turns[side].append(seconds(task, path))
            for side, taken in turns.items():
                least[side] = None if least[side] is None else (least[side] or 0.0) + min(taken)
        ours = least["ours"]
        assert ours is not None
        monai = least["monai"]
        yield name, 1000 * ours / len(paths), None if monai is None else 1000 * monai / len(paths)


def two_workers(paths: list[Path]) -> float:
    """How many times faster two processes are than one, over the same films."""
    times = []
    for workers in (1, 2):
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(_prepare, paths[:4]))  # start the processes
            start = time.perf_counter()
            list(pool.map(_prepare, paths * 3))
            times.append(time.perf_counter() - start)
    return times[0] / times[1]


def _prepare(path: Path) -> None:
    torch.set_num_threads(1)
    prepare_film(path, SETTINGS)


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="films per syntax")
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = films(Path(folder), arguments.count, arguments.side)
        print(  # noqa: T201 - the table is the result
            f"{5 * arguments.count} films of {arguments.side} px, {platform.machine()}, torch {torch.__version__}\n\n"
            "| transfer syntax | xraygen, ms | MONAI, ms | times faster |\n|---|---|---|---|"
        )
        for name, ours, monai in rows(made, arguments.rounds):
            told = "-" if monai is None else f"{monai:.1f} | {monai / ours:.1f}"
            print(f"| {name} | {ours:.1f} | {told if monai else '- | -'} |")  # noqa: T201 - as above
        print(f"\nTwo workers: {two_workers(made['JPEG-LS']):.2f} times one.")  # noqa: T201 - as above


if __name__ == "__main__":
    main()
