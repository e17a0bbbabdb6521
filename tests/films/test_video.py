import importlib.util
import subprocess
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from xraygen.errors import UsageError
from xraygen.films import video
from xraygen.films.video import write_mp4
from xraygen.ranges import Stored
from xraygen.seeds import numpy_generator

FRAMES = numpy_generator(0, "video").integers(0, 65536, (3, 15, 17), dtype=np.uint16)

needs_ffmpeg = pytest.mark.skipif(
    importlib.util.find_spec("imageio_ffmpeg") is None, reason="needs imageio-ffmpeg (xraygen[video])"
)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("frames", "bits"), [(FRAMES, 16), (np.stack([FRAMES % 256] * 3, axis=3).astype(np.uint8), 8)]
)
def test_a_video_runs_forth_and_back_enlarged_to_even_sides(
    tmp_path: Path, frames: Stored, bits: int
) -> None:
    write_mp4(tmp_path / "path.mp4", frames, bits, "SYNTHETIC")
    ffmpeg = import_module("imageio_ffmpeg")
    assert ffmpeg.count_frames_and_secs(str(tmp_path / "path.mp4"))[0] == 4
    reader = ffmpeg.read_frames(str(tmp_path / "path.mp4"), pix_fmt="gray")
    meta = next(reader)
    reader.close()
    assert meta["size"] == (18 * 17, 18 * 15)  # 256 / 15 rounded up
    content = (tmp_path / "path.mp4").read_bytes()
    assert b"SYNTHETIC" in content
    write_mp4(tmp_path / "again.mp4", frames, bits, "SYNTHETIC")
    assert (tmp_path / "again.mp4").read_bytes() == content
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["again.mp4", "path.mp4"]


@needs_ffmpeg
def test_a_video_shows_its_frames_forth_and_back(tmp_path: Path) -> None:
    frames = np.stack([np.full((32, 48), level, np.uint16) for level in (6000, 20000, 40000, 60000)])
    write_mp4(tmp_path / "path.mp4", frames, 16, "SYNTHETIC")
    ffmpeg = import_module("imageio_ffmpeg").get_ffmpeg_exe()
    command = [ffmpeg, "-i", tmp_path / "path.mp4", "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    content = subprocess.run(command, check=True, capture_output=True).stdout
    shown = np.frombuffer(content, np.uint8).reshape(6, -1)  # 32 x 48 pixels, eight times as large
    assert shown.shape[1] == 256 * 384
    # 255 / 65535 of a level each. Video has 220 levels for 256, and loses up to 3 more at this quality.
    np.testing.assert_allclose(shown.mean(axis=1), [23, 78, 156, 233, 156, 78], atol=4)
    assert shown.std(axis=1).max() < 2  # flat as they were


def test_without_ffmpeg_one_sentence_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'xraygen\[video\]'"):
        write_mp4(tmp_path / "path.mp4", FRAMES, 16, "SYNTHETIC")
    assert not list(tmp_path.iterdir())
