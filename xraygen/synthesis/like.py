"""A film of a SYNTHETIC made again from its row in metadata.csv, and whether it is the same file."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from xraygen import __version__
from xraygen.atomic import sha256_of
from xraygen.devices import COMPILED, choose_device, compiles
from xraygen.errors import FolderError, UsageError
from xraygen.films.colour import read_colour
from xraygen.films.listing import METADATA, Row, column_of, read_rows
from xraygen.films.reader import read_film
from xraygen.ranges import Stored
from xraygen.synthesis.conditions import Guidance, Wish
from xraygen.synthesis.generate import generate
from xraygen.synthesis.provenance import read_provenance, settings_of
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.synthesis.share import Share
from xraygen.training.checkpoint import Checkpoint, checkpoints, chosen_checkpoint, run_config
from xraygen.training.conditions import read_conditions

EQUIVALENT_DB = 60.0
"""PSNR above which a film made on another machine counts as the same."""


@dataclass(frozen=True)
class Remade:
    """A film that was made again.

    Attributes:
        file_name: Its name in the set, and in the new folder.
        identical: Whether its SHA-256 is the one in its row.
        psnr_db: Its distance from the old film, where that still lies there; infinite between equal pixels.
        made_on: Machine of the old film.
        machine: Machine of the new one.
    """

    file_name: str
    identical: bool
    psnr_db: float | None
    made_on: str
    machine: str

    @property
    def same(self) -> bool:
        """Identical, or made on another machine and, as far as can be told, equivalent."""
        near = self.psnr_db is None or self.psnr_db > EQUIVALENT_DB
        return self.identical or (self.machine != self.made_on and near)

    @property
    def finite_psnr_db(self) -> float | None:
        """`psnr_db`, None between equal pixels too, for JSON."""
        return self.psnr_db if self.psnr_db is not None and math.isfinite(self.psnr_db) else None

    @property
    def sentence(self) -> str:
        """Whether it is the same film, and if not, why."""
        if self.identical:
            return f"made again, identical to the byte ({self.machine})"
        if self.psnr_db is None:
            near = "the old film is not there to compare with"
        elif math.isinf(self.psnr_db) and self.psnr_db > 0:
            near = "the pixels are equal, the files are not"
        else:
            near = f"PSNR {self.psnr_db:.1f} dB"
        if self.machine == self.made_on:
            return f"made again on the same kind of machine ({self.machine}), and it is another file: {near}"
        kind = "equivalent, not identical" if self.same else "not the same"
        return f"made again, {kind}: {near}; made on {self.made_on}, now on {self.machine}"


def remake(run: Path, like: str, out: Path | None, *, device: str = "auto") -> Remade:
    """Make one film again, under the provenance of its set.

    On a CPU it is computed on as many threads as the old one, on a GPU by a compiled network if the old one was and one
    can be had there: its last bits depend on both.

    Args:
        run: RUN folder that holds the checkpoint.
        like: `SYNTHETIC/metadata.csv#17`: the row with that number, the first is 0, as in `dataset#17`.
        out: SYNTHETIC folder for it, which does not hold it yet; None makes it aside, compares it and throws it away.
        device: "auto", "cpu" or "cuda[:i]".

    Raises:
        UsageError: If there is no such row, the RUN has no such checkpoint, xraygen is of another version, or `out` is
            the set or has the film already.
        FolderError: If the SYNTHETIC cannot be read.
    """
    folder, row = row_of(like)
    if out is not None and out.resolve() == folder.resolve():
        raise UsageError(f"--out {out} is the set itself, and nothing was made again; choose another --out.")
    origin = read_provenance(folder)
    if origin["version"] != __version__:
        raise UsageError(
            f"{folder} was made by xraygen {origin['version']} and this is {__version__}; install that version to make "
            "its films again."
        )
    checkpoint = _checkpoint_of(run, folder, origin)
    made_on = row.get("machine", "")
    with _threads_of(made_on), TemporaryDirectory() as aside:
        target = Path(aside) / "synthetic" if out is None else out
        if not _generate_like(run, target, row, origin, checkpoint, device):
            raise UsageError(
                f"{target} has {row['file_name']} already or in quarantine, and nothing was made again; choose another "
                "--out."
            )
        colour = origin["config"]["data"]["channels"] == 3
        new, old = target / row["file_name"], folder / row["file_name"]
        digest = sha256_of(new)
        return Remade(
            row["file_name"],
            digest == row["sha256"],
            psnr_db(_read(old, colour=colour), _read(new, colour=colour)) if old.exists() else None,
            made_on,
            {film["file_name"]: film["machine"] for film in read_rows(target / METADATA)}[row["file_name"]],
        )


def row_of(like: str) -> tuple[Path, Row]:
    """The SYNTHETIC and the row that `SYNTHETIC/metadata.csv#17` names."""
    name, hash_sign, number = like.rpartition("#")
    if not (hash_sign and number.isdecimal()):
        raise UsageError(f"--like {like}: expected a row of a set, such as synthetic/{METADATA}#17.")
    path = Path(name) if Path(name).name == METADATA else Path(name) / METADATA
    if not path.is_file():
        raise UsageError(f"--like {like}: there is no file {path}; expected the {METADATA} of a SYNTHETIC.")
    rows = read_rows(path)
    if int(number) >= len(rows):
        raise UsageError(f"--like {like}: {path} has rows 0 to {len(rows) - 1}.")
    return path.parent, rows[int(number)]


def psnr_db(first: Stored, second: Stored) -> float:
    """Peak signal-to-noise ratio of two images of one type, infinite where they are equal."""
    if first.shape != second.shape:
        return -math.inf
    error = float(np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(np.iinfo(first.dtype).max ** 2 / error)


def _read(path: Path, *, colour: bool) -> Stored:
    """An image of a set, uint16 `[H, W]`, or uint8 `[H, W, 3]` in colour."""
    return read_colour(path) if colour else read_film(path).values


def _checkpoint_of(run: Path, folder: Path, origin: dict[str, Any]) -> Checkpoint:
    """The RUN's checkpoint with the weights that made the set."""
    run_config(run)  # says what is wrong with the folder before its checkpoints are looked at
    step, wanted = origin["checkpoint"]["step"], origin["checkpoint"]["ema_sha256"]
    for checkpoint in checkpoints(run):
        try:
            if checkpoint.ema_sha256 == wanted:
                return chosen_checkpoint(run, checkpoint.step)
        except (OSError, ValueError, KeyError):
            continue
    have = ", ".join(str(checkpoint.step) for checkpoint in checkpoints(run)) or "none"
    raise UsageError(
        f"{folder} was made by the checkpoint of step {step} with the hash {wanted[:16]}..., and {run} holds no such "
        f"checkpoint (its steps: {have}); give the RUN that made the set."
    )


def _generate_like(
    run: Path, out: Path, row: Row, origin: dict[str, Any], checkpoint: Checkpoint, device: str
) -> bool:
    """Make the film of a row; whether it was made, and not there already."""
    told = settings_of(origin)
    compiled = row.get("machine", "").endswith(COMPILED) and compiles(choose_device(device))
    try:
        settings = SamplerSettings(**{field.name: told[field.name] for field in fields(SamplerSettings)})
        interval = told.get("guidance_interval")
        guidance = Guidance({}, told.get("guidance", 1.0), None if interval is None else tuple(interval))
        names = read_conditions(run, run_config(run)).names
        words = {name: row[column_of(name)] for name in names if row[column_of(name)]}
        wish = Wish(int(row["seed"]), words, float(row["guidance"] or guidance.weight))
        file_format, mark = told["format"], told.get("mark", False)  # None would mark DX
    except (KeyError, TypeError, ValueError):
        raise FolderError(f"The row of {row['file_name']} or the provenance beside it is damaged.") from None
    summary = generate(
        run,
        out,
        [wish],
        settings,
        guidance=guidance,
        file_format=file_format,
        mark=mark,
        checkpoint=checkpoint,
        device=device,
        compiled=compiled,
        share=Share(),
        origin=origin,
    )
    return summary.made == 1


@contextmanager
def _threads_of(made_on: str) -> Iterator[None]:
    """Compute on as many threads as a machine's description says."""
    found = re.search(r"(\d+) threads?", made_on)
    before = torch.get_num_threads()
    torch.set_num_threads(int(found[1]) if found else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
