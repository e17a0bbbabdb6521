"""Frames as a video that every player shows: H.264 in MP4, by the ffmpeg that imageio-ffmpeg brings."""

import math
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from xraygen.atomic import atomic_file
from xraygen.errors import UsageError
from xraygen.films.grids import tile
from xraygen.ranges import Stored

FRAMES_PER_SECOND = 8
_SMALLEST_PX = 256
"""Smaller frames are enlarged by a whole factor: players blur what they enlarge themselves, and codecs small blocks."""
_REPEATABLE = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-threads", "1"]


def require_video() -> None:
    """See that videos can be written, before the work is done that one would show.

    Raises:
        UsageError: If imageio-ffmpeg is missing.
    """
    if find_spec("imageio_ffmpeg") is None:
        raise UsageError(
            "A video needs imageio-ffmpeg, which is not installed: run `pip install 'xraygen[video]'`, or leave out "
            "--mp4 and take path.gif."
        )


def write_mp4(path: Path, frames: Stored, bits: int, comment: str) -> None:
    """Write frames as an MP4 that runs forth and back, 8 bits, whole or absent, the same bytes from the same frames.

    Args:
        path: File to write; missing folders are made.
        frames: `[N, H, W]` or `[N, H, W, 3]`, stored levels.
        bits: Their depth.
        comment: What the file says of itself.

    Raises:
        UsageError: If imageio-ffmpeg is missing.
    """
    require_video()
    shown = np.stack([tile(frame[None], bits) for frame in frames])  # [N, H, W] or [N, H, W, 3], uint8
    scale = math.ceil(_SMALLEST_PX / min(shown.shape[1:3]))
    shown = shown.repeat(scale, axis=1).repeat(scale, axis=2)
    even = [(0, 0), (0, shown.shape[1] % 2), (0, shown.shape[2] % 2), (0, 0)][: shown.ndim]
    shown = np.pad(shown, even)  # half of the colour is kept, so sides must be even
    swing = [*shown, *shown[-2:0:-1]]
    with atomic_file(path) as aside:
        writer = import_module("imageio_ffmpeg").write_frames(
            str(aside),
            (shown.shape[2], shown.shape[1]),
            pix_fmt_in="gray" if shown.ndim == 3 else "rgb24",
            fps=FRAMES_PER_SECOND,
            quality=None,
            bitrate=None,
            macro_block_size=2,
            output_params=["-crf", "18", *_REPEATABLE, "-metadata", f"comment={comment}", "-f", "mp4"],
        )
        writer.send(None)
        for frame in swing:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
