"""Large films read and brought to a small size by ours and by MONAI's own loading: the same files, in turns.

One film at a time, in one process of one thread (NumPy's BLAS too, whose second thread would wait busily, and count).
MONAI's chain is LoadImaged(PydicomReader), EnsureChannelFirstd, Resized(area), ScaleIntensityd: it ignores window and
polarity, and hashes nothing; ours does all that `xraygen ingest` does.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xraygen.benchmark.processes import in_own_process
from xraygen.benchmark.syntaxes import write_films
from xraygen.benchmark.turns import OURS, Task, Times, figures, take_turns
from xraygen.films.jpeg2000 import Detail
from xraygen.films.transforms import PrepareSettings, prepare_film
from xraygen.progress import Report, silent

MONAI = "MONAI"
_DETAILS: tuple[Detail, ...] = ("full", "half", "quarter")
_DECODERS = "`pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg` brings decoders to it"
_LONGEST_REASON = 90  # characters in a row of the table

Chain = Callable[[Path], object]
Sides = dict[str, Times | str]
"""Seconds per film by the side's name; of one that cannot be timed, why."""


@dataclass(frozen=True)
class IngestCase:
    """What is read.

    Attributes:
        films: How many, in each transfer syntax; a turn reads them all.
        side: Their height and width.
        size: Height and width that they are brought to.
    """

    films: int = 2
    side: int = 2048
    size: tuple[int, int] = (256, 256)


QUICK = IngestCase(2, 256, (64, 64))


def benchmark_ingest(case: IngestCase, rounds: int, report: Report = silent) -> dict[str, Any]:
    """Time every transfer syntax, each in a process of its own.

    Args:
        case: What is read.
        rounds: Rounds in which the sides take turns.
        report: Told after each round.

    Returns:
        JSON-ready: the case, and per transfer syntax and side the seconds per film and the ratio of ours to its.
    """
    measured: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for syntax, paths in write_films(Path(folder), case.films, case.side).items():
            sides = in_own_process(1, measure_syntax, syntax, paths, case.size, rounds, report=report)
            for name, pair in pairs(syntax, sides).items():
                measured[name] = figures(pair, 1)
    return {"films": case.films, "side": case.side, "size": list(case.size), "threads": 1, "cases": measured}


def measure_syntax(
    syntax: str, paths: Sequence[Path], size: tuple[int, int], rounds: int, *, report: Report = silent
) -> Sides:
    """Seconds per film of all sides over the same films: MONAI's, and ours by the detail that JPEG 2000 is decoded in.

    Args:
        syntax: Name of the films' transfer syntax.
        paths: The films; a turn of a side reads one after another.
        size: What they are brought to.
        rounds: Turns of each side.
        report: Told after each round.
    """
    sides: dict[str, Chain] = {
        detail: our_chain(size, detail) for detail in (_DETAILS if syntax == "JPEG 2000" else _DETAILS[:1])
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a decoder thinks of its options
        for chain in sides.values():
            chain(paths[0])
        theirs = _monai_chain_for(paths[0], size)
        if not isinstance(theirs, str):
            sides[MONAI] = theirs
        tasks = {name: _all_of(chain, paths) for name, chain in sides.items()}
        times = take_turns(tasks, rounds, torch.device("cpu"), label=f"ingest, {syntax}", report=report)
    found: Sides = {
        name: Times(taken.wall / len(paths), taken.cpu / len(paths)) for name, taken in times.items()
    }
    return found | {MONAI: theirs} if isinstance(theirs, str) else found


def pairs(syntax: str, sides: Sides) -> dict[str, Sides]:
    """Ours and MONAI's, by what a table calls the films: of JPEG 2000, ours at each size that it was decoded at."""
    return {
        syntax if detail == "full" else f"{syntax}, decoded at a {detail}": {
            OURS: sides[detail],
            MONAI: sides[MONAI],
        }
        for detail in _DETAILS
        if detail in sides
    }


def our_chain(size: tuple[int, int], detail: Detail = "full") -> Chain:
    """What `xraygen ingest` does to a film."""
    settings = PrepareSettings(size, jpeg_2000=detail)
    return lambda path: prepare_film(path, settings)


def monai_chain(size: tuple[int, int]) -> Chain:
    """What a MONAI user writes."""
    from monai.data import PydicomReader  # noqa: PLC0415 - seconds to import
    from monai.transforms import (  # noqa: PLC0415 - as above
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        Resized,
        ScaleIntensityd,
    )

    logging.getLogger("monai").setLevel(logging.ERROR)  # it warns that it has no decoder for a GPU
    chain = Compose(
        [
            LoadImaged("film", reader=PydicomReader()),
            EnsureChannelFirstd("film"),
            Resized("film", size, mode="area"),
            ScaleIntensityd("film"),
        ]
    )
    return lambda path: chain({"film": path})


def _monai_chain_for(path: Path, size: tuple[int, int]) -> Chain | str:
    """MONAI's chain, warm, or why it cannot read such a film here."""
    try:
        chain = monai_chain(size)
        chain(path)
    except Exception as error:  # noqa: BLE001 - whatever a missing decoder raises inside MONAI's Compose
        reason = next(iter(str(_root(error)).splitlines()), type(error).__name__)
        return f"not compared: MONAI cannot read it here ({reason[:_LONGEST_REASON]}); {_DECODERS}."
    return chain


def _root(error: BaseException) -> BaseException:
    """What an error comes of."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _all_of(chain: Chain, paths: Sequence[Path]) -> Task:
    """A turn: film after film, as either is used."""

    def read() -> None:
        for path in paths:
            chain(path)

    return read
