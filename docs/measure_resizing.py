"""Measures what the order of display and area mean costs on real films, at the size of a DATASET.

    python docs/measure_resizing.py ../shared/data

Reference: the film displayed at full size, then its exact area mean in float64. Against it, in [-1, 1]: the chain that
ingest takes, and the naive one that takes the mean of stored values before any window. The real DICOMs are measured as
they are, and those in JPEG 2000 at a half and a quarter of their size, too. Pictures of 8 bits are written as DICOMs of
12 bits whose window clips at the 1st and the 99th percentile, at the 0.1th and 99.9th, not at all, or is sigmoid.

A further way to bring a film to its size is a further entry of WAYS.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    generate_uid,
)
from real_films import parse, parser, pictures, say, say_how, say_table, scratch

from xraygen.films.jpeg2000 import Detail
from xraygen.films.objects import ReadOptions
from xraygen.films.reader import read_film
from xraygen.films.resizing import resize, size_inside
from xraygen.films.transforms import PrepareSettings, prepare_film
from xraygen.ranges import stored_to_unit

Image = NDArray[np.floating]
ANY_PART = ReadOptions(any_body_part=True)
PICTURES = {
    "hannover, 1024 px": "hannover-cxr/gray1024",
    "hannover, 2000 px": "hannover-cxr/orig2000",
    "nih, 1024 px": "nih-cxr/orig1024",
}
WINDOWS: dict[str, tuple[float, float, str]] = {
    "clips at 1 and 99 %": (1, 99, "LINEAR_EXACT"),
    "clips at 0.1 and 99.9 %": (0.1, 99.9, "LINEAR_EXACT"),
    "clips nothing": (0, 100, "LINEAR_EXACT"),
    "sigmoid": (1, 99, "SIGMOID"),
}


def area_mean(image: Image, size: tuple[int, int]) -> Image:
    """The exact area mean, float64 [size]: overlaps of old and new pixels as two matrices."""
    rows, columns = (
        np.maximum(
            0.0,
            np.minimum.outer(np.arange(1, new + 1) * (old / new), np.arange(1, old + 1))
            - np.maximum.outer(np.arange(new) * (old / new), np.arange(old)),
        )
        * (new / old)
        for old, new in zip(image.shape, size, strict=True)
    )  # [new, old]
    mean: Image = rows @ image.astype(np.float64) @ columns.T
    return mean


def as_ingest(path: Path, size: tuple[int, int], jpeg_2000: Detail = "full") -> Image:
    """What ingest stores, [0, 1]."""
    settings = PrepareSettings(size, "stretch", read=ANY_PART, jpeg_2000=jpeg_2000)
    return stored_to_unit(prepare_film(path, settings).image, 16)


def mean_before_window(path: Path, size: tuple[int, int]) -> Image:
    """The area mean of stored values, displayed."""
    film = read_film(path, ANY_PART)
    return film.display.apply(resize(film.values, size))


Way = Callable[[Path, tuple[int, int]], Image]
WAYS: dict[str, Way] = {"ingest": as_ingest, "mean before window": mean_before_window}
JPEG_2000_WAYS: dict[str, Way] = {
    "ingest": as_ingest,
    "half": partial(as_ingest, jpeg_2000="half"),
    "quarter": partial(as_ingest, jpeg_2000="quarter"),
}


def write_12_bits(source: Path, target: Path, window: tuple[float, float, str]) -> None:
    """An 8-bit picture as CR of 12 bits with a window between two percentiles of its own."""
    values = np.rint(read_film(source).values.astype(np.float64) * (4095 / 255)).astype(np.uint16)
    low, high = np.percentile(values, window[:2])
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = (
        ExplicitVRLittleEndian,
        ComputedRadiographyImageStorage,
    )
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(target), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.Modality, dataset.PhotometricInterpretation = "CR", "MONOCHROME2"
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.WindowCenter, dataset.WindowWidth = f"{(low + high) / 2:.2f}", f"{high - low:.2f}"
    dataset.VOILUTFunction = window[2]
    dataset.PixelData = values.tobytes()
    pydicom.dcmwrite(target, dataset, enforce_file_format=True)


class Errors:
    """How far each way is from the reference, over the pixels of several films, and which way ingest took."""

    def __init__(self, ways: dict[str, Way] = WAYS) -> None:
        self.ways = ways
        self.films = self.commuting = 0
        self.outside: list[float] = []
        self.of: dict[str, list[NDArray[np.float64]]] = {name: [] for name in ways}

    def add(self, path: Path, side: int) -> None:
        """Measure one film."""
        film = read_film(path, ANY_PART)
        size = size_inside(film.values.shape, (side, side))
        light = film.display.apply(film.values)
        reference = area_mean(light, size)
        self.films += 1
        self.commuting += film.display.commutes
        self.outside.append(float(((light == 0) | (light == 1)).mean()))
        for name, way in self.ways.items():
            self.of[name].append(2 * np.abs(way(path, size) - reference).ravel())  # [-1, 1] is twice as wide

    def row(self, name: str) -> tuple[object, ...]:
        """One line of the table."""
        cells = []
        for errors in self.of.values():
            pixels = np.concatenate(errors)
            rms = np.sqrt((pixels**2).mean())
            cells += [f"{pixels.mean():.1e}", f"{rms:.1e}", f"{pixels.max():.1e}"]
        return name, f"{self.commuting} of {self.films}", f"{100 * np.mean(self.outside):.2f} %", *cells


def real_dicoms(films: Path, side: int, ways: dict[str, Way] = WAYS) -> Iterator[tuple[object, ...]]:
    """One line for each real DICOM."""
    for folder in ("dicom-cxr", "dicom-other"):
        for path in pictures(films / folder):
            syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
            if ways is WAYS or syntax == JPEG2000Lossless:
                errors = Errors(ways)
                errors.add(path, side)
                yield errors.row(f"{path.name} ({read_film(path, ANY_PART).display.voi_kind})")


def written(films: Path, side: int) -> Iterator[tuple[object, ...]]:
    """One line for each collection and window."""
    with scratch() as folder:
        target = Path(folder) / "film.dcm"
        for name, place in PICTURES.items():
            for what, window in WINDOWS.items():
                errors = Errors()
                for path in pictures(films / place):
                    write_12_bits(path, target, window)
                    errors.add(target, side)
                yield errors.row(f"{name}, window {what}")


def main() -> None:
    """Print the tables in Markdown."""
    made = parser(__doc__)
    made.add_argument("--side", type=int, default=256, help="size of the images")
    arguments = parse(made)
    films, side = arguments.films, arguments.side
    for ways, rows in (
        (WAYS, real_dicoms(films, side)),
        (JPEG_2000_WAYS, real_dicoms(films, side, JPEG_2000_WAYS)),
        (WAYS, written(films, side)),
    ):
        columns = (f"{way}: {what}" for way in ways for what in ("mean", "rms", "largest"))
        say_table(("film", "means of stored values", "black or white", *columns), rows)
    say("An image of 16 bits is off by up to half a level, 1.5e-5, by itself.\n")
    say_how(f"python docs/measure_resizing.py --side {arguments.side}", None)


if __name__ == "__main__":
    main()
