"""What a PATH holds: frames, strip, GIF, video, grid, the curves, and path.json, which says that they are all there."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from xraygen.atomic import sha256_of, write_json
from xraygen.dataset.store import Dataset
from xraygen.films.grids import tile, write_gif
from xraygen.films.synthetic import SERIES_DESCRIPTION
from xraygen.films.video import write_mp4
from xraygen.films.writers import write_png
from xraygen.metrics.features import load_extractor
from xraygen.progress import Report
from xraygen.ranges import Stored
from xraygen.synthesis.images import write_frames, write_series
from xraygen.synthesis.path_curves import curves_chart, joined, measure_curves, save_chart
from xraygen.synthesis.path_frames import Frames, Way
from xraygen.synthesis.path_grid import make_grid
from xraygen.synthesis.sampling import as_stored
from xraygen.synthesis.timesteps import log_snrs

FORMAT_VERSION = 1
PATH = "path.json"
_FILES = (
    *("provenance.json", "frames/frame-*.png", "series/frame-*.dcm", "path.dcm", "path.gif", "path.mp4"),
    *("strip.png", "curves.png", "grid.png"),
)
_log = logging.getLogger(__name__)
WHOSE = "between two patients' films: personal data"
"""What a video and a DICOM object say of themselves."""


PathFormat = Literal["png", "dicom", "dicom-series"]


@dataclass(frozen=True)
class PathOutputs:
    """What is written besides the frames, and what it is measured by.

    Attributes:
        data: The RUN's DATASET: the nearest training film of each frame, and the held-out films' range of losses.
        features: Features in which distances are measured.
        grid: Write grid.png, the path at eighths of the schedule.
        mp4: Write path.mp4.
    """

    data: Path | None = None
    features: str = "efficientnet-lite0"
    grid: bool = False
    mp4: bool = False


def is_whole(out: Path, outputs: PathOutputs, dataset: Dataset | None) -> bool:
    """Whether a PATH that was made as asked holds all of what is asked for, to the byte, as its path.json says.

    What it warned of when it was made, it warns of again.
    """
    try:
        told = json.loads((out / PATH).read_text(encoding="utf-8"))
        whole = (
            told["asked_sha256"] == _asked(outputs, dataset)
            and told["sha256"].items() <= _hashes(out).items()
        )
        warnings = told["likeness_to_training_films"]["warnings"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    for warning in warnings if whole else ():
        _log.warning(warning)
    return bool(whole)


def _asked(outputs: PathOutputs, dataset: Dataset | None) -> str:
    """A hash of what is written besides the frames and by what it is measured: path.json names no file of a user's."""
    data = "" if dataset is None else dataset.info.content_sha256
    asked = [data, outputs.features, outputs.grid, outputs.mp4]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _hashes(out: Path) -> dict[str, str]:
    """Of the files of a PATH but path.json, by name; others that lie there are not looked at."""
    files = (file for pattern in _FILES for file in sorted(out.glob(pattern)))
    return {file.relative_to(out).as_posix(): sha256_of(file) for file in files}


@dataclass(frozen=True, eq=False)
class PathFolder:
    """The frames of a path, and the folder that they go to."""

    out: Path
    way: Way
    lam: Tensor
    start: int
    frames: Frames

    def write(
        self,
        origin: Mapping[str, Any],
        outputs: PathOutputs,
        dataset: Dataset | None,
        likeness: Mapping[str, Any],
        report: Report,
    ) -> None:
        """The pictures, then path.json, which says that they are all there."""
        stored = as_stored(self.frames.x)
        ends = as_stored(torch.stack([end.x for end in self.way.ends]))
        bits = 16 if stored.dtype == np.uint16 else 8
        self._write_pictures(stored, ends, bits, mp4=outputs.mp4)
        self._write_dicom(stored, origin)
        extractor = load_extractor(outputs.features, str(self.way.device))
        curves = measure_curves(stored, ends, bits, extractor, dataset, report)
        save_chart(self.out / "curves.png", curves_chart(self.lam.tolist(), curves))
        variances = self.frames.noise_variance.tolist()
        entries = [
            {
                "file_name": f"frames/frame-{index:03d}.png",
                "lambda": round(lam, 6),
                "noise_variance": round(variance, 5),
                **curves.of_frame(index),
            }
            for index, (lam, variance) in enumerate(zip(self.lam.tolist(), variances, strict=True))
        ]
        told = {
            "format_version": FORMAT_VERSION,
            "personal_data": True,
            "settings": origin["settings"],
            "log_snr_at_64_px": self._log_snr(),
            "ends": {side: dict(end.prepared) for side, end in zip("ab", self.way.ends, strict=True)},
            "likeness_to_training_films": dict(likeness),
            "features": curves.label,
            "smoothness": None if curves.smoothness is None else round(curves.smoothness, 4),
        }
        if outputs.grid:
            grid = make_grid(self.way, self.lam, report)
            write_png(self.out / "grid.png", grid.picture)
            told["grid"] = grid.shows
        whole = {"asked_sha256": _asked(outputs, dataset), "sha256": _hashes(self.out)}
        write_json(self.out / PATH, {**told, "frames": entries, **whole})

    def _write_pictures(self, stored: Stored, ends: Stored, bits: int, *, mp4: bool) -> None:
        """Frames, strip, GIF and video."""
        for index, frame in enumerate(stored):
            write_png(self.out / "frames" / f"frame-{index:03d}.png", frame)
        strip = joined(ends[:1], stored, ends[1:])
        write_png(self.out / "strip.png", tile(strip, bits, columns=len(strip)))
        write_gif(self.out / "path.gif", stored, bits)
        if mp4:
            write_mp4(self.out / "path.mp4", stored, bits, f"{SERIES_DESCRIPTION}; {WHOSE}")

    def _write_dicom(self, stored: Stored, origin: Mapping[str, Any]) -> None:
        """The frames as DICOM, if the settings say so: one object, or a series."""
        labels = [f"lambda {lam:.4g}" for lam in self.lam.tolist()]
        file_format: PathFormat = origin["settings"].get("format", "png")
        if file_format == "dicom":
            write_frames(self.out / "path.dcm", stored.astype(np.uint16), labels, origin, WHOSE)
        elif file_format == "dicom-series":
            write_series(self.out / "series", stored.astype(np.uint16), labels, origin, WHOSE)

    def _log_snr(self) -> float | None:
        """Of the noise, as it is at 64 px; None where no signal is left."""
        x = self.way.ends[0].x
        log_snr = float(log_snrs(self.way.chain, (x.shape[0], x.shape[1], x.shape[2]))[self.start])
        return round(log_snr, 4) if math.isfinite(log_snr) else None
