"""Counts, peak memory and time of an ingest of very many films: `python docs/measure_ingest_scale.py 1000000`.

The files are real and empty, in folders of a thousand; what reading them would give is made up from their numbers, so
that all but the decoding is measured: listing, pseudonyms, duplicates, near duplicates, journal, crosswalk, DATASET.
How many of them must be accepted and rejected for which reason is known, and compared.
"""

import argparse
import hashlib
import platform
import tempfile
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np

from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.errors import FilmError
from xraygen.films.content import Look
from xraygen.films.dicom import FilmAttributes
from xraygen.films.transforms import PreparedFilm, PrepareSettings
from xraygen.progress import Progress

SIDE = 16
PERIOD = 20
"""Of so many consecutive films one is no film, one a copy of the one before, one nearly so; three are one patient's."""
NO_FILM, COPY, NEAR = 7, 11, 15


def look(number: int) -> bytes:
    """32 bytes whose bits are 1 in 5 of 16 cases: they share more buckets of the index than those of real films do."""
    content = hashlib.shake_128(str(number).encode()).digest(128)
    a, b, c, d = np.frombuffer(content, np.uint8).reshape(4, 32)
    return (a & (b | c & d)).tobytes()


def film(number: int) -> PreparedFilm:
    """What reading film `number` gives; the same number, the same film."""
    role = number % PERIOD
    if role == NO_FILM:
        raise FilmError("not_dicom", "The file is no film.")
    content = hashlib.sha256(str(number - (role == COPY)).encode()).digest()
    perceptual = look(number - (role in (COPY, NEAR)))
    if role == NEAR:
        perceptual = bytes([perceptual[0] ^ 0b111]) + perceptual[1:]
    image = np.resize(np.frombuffer(content, np.uint16), (SIDE, SIDE))
    attributes = FilmAttributes(
        format="dicom", rows=2500, columns=2048, bits_stored=12, photometric="MONOCHROME2", voi="linear", view="PA",
        sex="F", age=63.0, pixel_spacing_mm=0.143, patient_id=f"PAT-{number // 3:09d}",
        study_uid=f"1.2.276.{number // 2}", sop_instance_uid=f"1.2.276.0.{number}",
    )  # fmt: skip
    return PreparedFilm(image, attributes, content.hex(), Look(0.8, 0.0, 0.0, perceptual))


def expected(count: int) -> dict[str, int]:
    """Number of films by reason; "" for the accepted."""
    of_role = {role: len(range(role, count, PERIOD)) for role in (NO_FILM, COPY, NEAR)}
    reasons = {"not_an_image": of_role[NO_FILM], "duplicate": of_role[COPY], "near_duplicate": of_role[NEAR]}
    return {"": count - sum(reasons.values()), **{name: films for name, films in reasons.items() if films}}


class MadeUp(Executor):
    """Reads nothing: a film is known by its file's number."""

    def submit(self, function: Any, /, *arguments: Any, **options: Any) -> Future[Any]:
        """A finished future, as `in_order` wants it of an executor."""
        future: Future[Any] = Future()
        try:
            future.set_result((True, film(int(arguments[0].path.stem))))
        except FilmError as error:
            future.set_result((False, error))
        return future


class Stages:
    """Times and peaks of memory, stage by stage; the kernel keeps the peak, and forgets it when told to."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.rows: list[str] = []

    def end(self, name: str) -> None:
        """Close one stage."""
        seconds = time.monotonic() - self.began
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
        self.rows.append(f"| {name} | {seconds:.0f} s | {int(peak.split()[1]) / 2**20:.2f} GiB |")
        Path("/proc/self/clear_refs").write_text("5")
        self.began = time.monotonic()

    def report(self, progress: Progress) -> None:
        """Close what the first and the last film close."""
        if progress.done == 1:
            self.end("list the files")
        if progress.done == progress.total:
            self.end("compare, name, keep the outcomes")


def write_files(folder: Path, count: int) -> None:
    """Empty files, a thousand in a folder."""
    for number in range(count):
        here = folder / f"ward {number // 1000:04d}"
        if number % 1000 == 0:
            here.mkdir(parents=True)
        (here / f"{number:08d}.dcm").touch()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder, "in"), count)
        settings = IngestSettings(prepare=PrepareSettings((SIDE, SIDE)))
        stages = Stages()
        summary = ingest([Path(folder, "in")], Path(folder, "out"), settings, stages.report, MadeUp())
        stages.end("write the DATASET")
    assert summary.seen == count
    assert {"": summary.accepted, **summary.rejected} == expected(count)
    rejected = ", ".join(f"{number:,} {reason}" for reason, number in summary.rejected.items())
    print(  # noqa: T201 - a report
        f"{count:,} files; {platform.machine()}, Python {platform.python_version()}",
        *("| stage | time | peak |", "|---|---|---|", *stages.rows),
        f"{summary.seen:,} seen = {summary.accepted:,} accepted + {rejected}",
        sep="\n",
    )


if __name__ == "__main__":
    main()
