"""Lays out the pictures of the documentation:
phantoms FILMS | augmented FILMS | paths SHARED PAPER | beside DATASET SYNTHETIC NAME | report REPORT.
"""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from xraygen.config import DataConfig
from xraygen.dataset.store import open_dataset
from xraygen.films.dicom import read_radiograph
from xraygen.films.grids import tile
from xraygen.films.reader import read_film
from xraygen.films.writers import write_png
from xraygen.ranges import unit_to_stored
from xraygen.seeds import numpy_generator, torch_generator
from xraygen.training.augmentation import augmented, draw_labels

IMAGES = Path(__file__).parent / "images"


def enlarged(sheet: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    """Pixels as squares."""
    return sheet.repeat(times, axis=0).repeat(times, axis=1)


def phantoms(films: Path) -> None:
    """The first image of six patients."""
    paths = sorted(films.glob("patient-*/image-0.dcm"))[:6]
    images = unit_to_stored(np.stack([read_radiograph(path).pixels for path in paths]), 8)
    write_png(IMAGES / "phantoms.png", tile(images, 8, columns=6))


def augmented_phantoms(films: Path) -> None:
    """Six phantoms at 96 px as they are, and below each three times with every augmentation at its default size."""
    paths = sorted(films.glob("patient-*/image-0.dcm"))[:6]
    pixels = torch.from_numpy(np.stack([read_radiograph(path).pixels for path in paths]))[:, None]
    x = functional.interpolate(2 * pixels - 1, (96, 96), mode="area")  # (6, 1, 96, 96)
    # As good as every time: training has less of it.
    config = DataConfig(augment_probability=0.999)
    rows = [augmented(x, draw_labels(config, 6, torch_generator(row, "picture")), config) for row in range(3)]
    images = unit_to_stored((torch.cat([x, *rows])[:, 0].numpy() + 1) / 2, 8)
    write_png(IMAGES / "augmented.png", tile(images, 8, columns=6))


def paths(shared: Path, paper: Path) -> None:
    """The strips of two PATHs between the same films, one below the other."""
    strips = [read_film(folder / "strip.png").values.astype(np.uint8) for folder in (shared, paper)]
    write_png(IMAGES / "path.png", np.vstack(strips))


def beside(dataset: Path, synthetic: Path, name: str) -> None:
    """25 real test films, chosen by a seed, and 25 synthetic ones, evenly drawn from the set, in `name`.png."""
    real = open_dataset(dataset)
    rows = numpy_generator(0, "picture").choice(real.indices("test"), 25, replace=False)
    with (synthetic / "metadata.csv").open(encoding="utf-8", newline="") as table:
        files = [row["file_name"] for row in csv.DictReader(table)]
    made = np.stack([read_film(synthetic / files[k * len(files) // 25]).values for k in range(25)])
    left, right = tile(real.gather(rows), real.info.bits, 5), tile(made, 16, 5)
    gap = np.full((left.shape[0], 8), 255, np.uint8)
    write_png(IMAGES / f"{name}.png", enlarged(np.hstack([left, gap, right]), 2))


def report(folder: Path) -> None:
    """The top of a REPORT's page in Chromium."""
    program = os.environ.get("XRAYGEN_CHROMIUM") or shutil.which("chromium")
    if program is None:
        sys.exit("There is no Chromium here; install it or set XRAYGEN_CHROMIUM.")
    options = ["--headless", "--hide-scrollbars", "--window-size=960,1500"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium refuses to sandbox what root runs
    page = (folder / "report.html").absolute().as_uri()
    subprocess.run([program, *options, f"--screenshot={IMAGES / 'report.png'}", page], check=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["phantoms", films]:
            phantoms(Path(films))
        case ["augmented", films]:
            augmented_phantoms(Path(films))
        case ["paths", shared, paper]:
            paths(Path(shared), Path(paper))
        case ["beside", dataset, synthetic, name]:
            beside(Path(dataset), Path(synthetic), name)
        case ["report", folder]:
            report(Path(folder))
        case _:
            sys.exit(__doc__)
