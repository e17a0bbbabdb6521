"""What a RUN knows of how well it denoises held-out films: the last look that its log holds, band by band."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from xraygen.atomic import write_json

LOG, HELD_OUT = "log.jsonl", "held-out.json"


class Band(NamedTuple):
    """Held-out films noised to a timestep between `first` and `last`, and their mean denoising loss."""

    first: int
    last: int
    loss: float


def held_out_bands(run: Path, step: int) -> list[Band] | None:
    """The bands of the last look at held-out films up to a step, the least noisy first.

    Args:
        run: RUN folder: one that was trained here has a log, one that was released held-out.json.
        step: Of the checkpoint.

    Returns:
        None where the RUN does not know: it was imported, had no held-out films, or never looked at them.
    """
    for line in reversed(_lines(run)):
        try:
            entry = json.loads(line)
            if entry["step"] <= step and "bands" in entry:
                bands = [
                    Band(int(band["t"][0]), int(band["t"][1]), float(band["validation_loss"]))
                    for band in entry["bands"]
                ]
                return sorted(bands)
        except (ValueError, LookupError, TypeError):
            continue  # a line that was cut short says nothing
    return None


def write_held_out(run: Path, step: int, out: Path) -> None:
    """Write held-out.json into a folder, where the RUN knows the bands of this step: means over films, no film's."""
    bands = held_out_bands(run, step)
    if bands is None:
        return
    told: list[dict[str, Any]] = [
        {"t": [band.first, band.last], "validation_loss": band.loss} for band in bands
    ]
    write_json(out / HELD_OUT, {"step": step, "bands": told})


def _lines(run: Path) -> list[str]:
    """The log's lines, or held-out.json as one."""
    for name in (HELD_OUT, LOG):
        try:
            text = (run / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        return [" ".join(text.split())] if name == HELD_OUT else text.splitlines()
    return []
