"""What the scripts that measure figures on real films share: where the films are, and what a table says of itself."""

import argparse
import io
import os
import platform
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xraygen.films.reader import read_film

Light = NDArray[np.float32]
KERMANY = "kermany-cxr-224/kermany_224.tar.xz"
_PACKAGES = ("xraygen", "numpy", "pillow", "scikit-image", "imagecodecs", "pydicom")
_BEGIN = time.perf_counter()


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all scripts have: the folder of films and the seed."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument(
        "films",
        nargs="?",
        type=Path,
        default=Path(os.environ.get("XRAYGEN_FILMS", Path(__file__).parents[2] / "shared" / "data")),
        help="folder of real films [XRAYGEN_FILMS, or ../shared/data]",
    )
    made.add_argument("--seed", type=int, default=0)
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments; one sentence where the folder is missing."""
    arguments = made.parse_args()
    if not arguments.films.is_dir():
        made.error(f"there are no real films at {arguments.films}; set XRAYGEN_FILMS to their folder")
    return arguments


def say(line: str = "") -> None:
    """One line of the result."""
    print(line, flush=True)  # noqa: T201 - the tables are the result


def with_interval(value: float, low: float, high: float, digits: int, scale: float = 1.0) -> str:
    """A number and its interval, each times the scale."""
    return f"{scale * value:.{digits}f} ({scale * low:.{digits}f} to {scale * high:.{digits}f})"


def say_table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """A Markdown table."""
    say("| " + " | ".join(head) + " |")
    say("|" + "---|" * len(head))
    for row in rows:
        say("| " + " | ".join(map(str, row)) + " |")
    say()


def say_how(command: str, seed: int | None, packages: Sequence[str] = _PACKAGES) -> None:
    """Command, time of this call, machine, versions and seed, below the tables that they made."""
    model = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    drawn = "nothing is drawn" if seed is None else f"seed {seed}"
    say(
        f"`{command}`, {(time.perf_counter() - _BEGIN) / 60:.1f} minutes on {len(model)} cores of an {model[0]}; "
        f"{date.today().isoformat()}, {drawn}; Python {platform.python_version()}, {versions}."
    )


def kermany(films: Path) -> Iterator[tuple[str, Light]]:
    """The paediatric films, one after another: name (`PNEUMONIA/person1_virus_6.jpeg`) and light [224, 224]."""
    with tarfile.open(films / KERMANY, "r|xz") as archive:
        for member in archive:
            if member.isfile():
                file = archive.extractfile(member)
                assert file is not None
                grey = np.asarray(Image.open(io.BytesIO(file.read())).convert("L"))
                yield "/".join(Path(member.name).parts[-2:]), grey.astype(np.float32) / np.float32(255)


def unpack_kermany(films: Path, folder: Path) -> dict[str, list[Path]]:
    """Write each content once, as PNG into a folder; returns the files by the number in their names."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[bytes] = set()
    by_patient: dict[str, list[Path]] = {}
    for name, light in kermany(films):
        if light.tobytes() not in seen:
            seen.add(light.tobytes())
            path = folder / f"{name.replace('/', '-').rpartition('.')[0]}.png"
            Image.fromarray(np.rint(light * 255).astype(np.uint8)).save(path)
            by_patient.setdefault(patient_of(name), []).append(path)
    return by_patient


def patient_of(name: str) -> str:
    """The number in a name of Kermany's: `person1` or `IM-0115`; it is not verified as a patient."""
    stem = name.rpartition("/")[2].removeprefix("NORMAL2-")
    return stem.split("_")[0] if stem.startswith("person") else "-".join(stem.split("-")[:2])


def pictures(folder: Path) -> list[Path]:
    """The films of a folder in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png", ".dcm"))


def light_of(path: Path) -> Light:
    """A film as it is displayed, [H, W], [0, 1]."""
    film = read_film(path)
    return film.display.apply(film.values)


def scratch() -> "tempfile.TemporaryDirectory[str]":
    """A folder for films in another form, which goes at the end."""
    return tempfile.TemporaryDirectory(prefix="xraygen-films-")
