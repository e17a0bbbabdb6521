"""What a PATH holds, and how the command line asks for one."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image, ImageSequence
from typer.testing import Result

from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError
from xraygen.films.reader import read_film
from xraygen.metrics.features import extract, load_extractor
from xraygen.progress import Counter, Progress
from xraygen.ranges import stored_to_unit
from xraygen.synthesis.interpolate import InterpolateSettings, interpolate
from xraygen.synthesis.path_folder import PathOutputs
from xraygen.synthesis.path_frames import Mode, Way
from xraygen.synthesis.sampling import DEFAULT_STEPS, SamplerSettings
from xraygen.synthesis.timesteps import log_snrs, timestep_of_log_snr
from xraygen.training.checkpoint import LoadedRun

PLAIN = PathOutputs(features="pixels")


def pixels_of(folder: Path) -> np.ndarray:
    return np.stack([read_film(frame).values for frame in sorted((folder / "frames").iterdir())])


@pytest.fixture(scope="module")
def make_path(tiny_run: Path, tiny_dataset: Path, fast: SamplerSettings) -> Callable[[Path], None]:
    """`make_path(out)`: a PATH with all that can be in it."""
    settings = InterpolateSettings(mode="slerp", timestep=10, frames=5, beyond=1)
    outputs = PathOutputs(tiny_dataset, "pixels", grid=True)
    rows = f"{tiny_dataset}#1", f"{tiny_dataset}#9"

    def make(out: Path) -> None:
        interpolate(tiny_run, *rows, out, settings, fast, outputs=outputs, file_format="dicom", device="cpu")

    return make


@pytest.fixture(scope="module")
def path(
    make_path: Callable[[Path], None], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Such a PATH, and its path.json."""
    out = tmp_path_factory.mktemp("path") / "out"
    make_path(out)
    return out, json.loads((out / "path.json").read_text())


def test_a_path_has_its_pictures_and_its_description(path: tuple[Path, dict[str, Any]]) -> None:
    out, told = path
    with Image.open(out / "strip.png") as strip:
        assert strip.size == (9 * 16 + 8 * 2, 16)  # both films and seven frames, two pixels apart
    with Image.open(out / "path.gif") as gif:
        assert len(list(ImageSequence.Iterator(gif))) == 12  # forth and back
    with Image.open(out / "frames" / "frame-000.png") as frame:
        assert frame.mode == "I;16"
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert [frame["lambda"] for frame in told["frames"]] == [-0.25, 0, 0.25, 0.5, 0.75, 1, 1.25]
    assert told["personal_data"] is True
    assert (
        told["settings"]["timestep"] == 11
    )  # the nearest of the ten steps 19, 17, 15, 13, 11, 8, ... that the chain has
    assert told["ends"] == {"a": {"dataset_row": 1}, "b": {"dataset_row": 9}}


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian's package dicom3tools)"
)
def test_the_multi_frame_object_passes_dciodvfy_but_for_synthetic_data(
    path: tuple[Path, dict[str, Any]],
) -> None:
    """dciodvfy does not know (0008,001C), which came with the edition of 2023."""
    told = subprocess.run(["dciodvfy", str(path[0] / "path.dcm")], capture_output=True, text=True, check=True)
    errors = [line for line in told.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert "(0x0008,0x001c)" in errors[0]


def test_the_curves_are_what_they_say(path: tuple[Path, dict[str, Any]], tiny_dataset: Path) -> None:
    """Against scikit-image and distances taken one by one."""
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - slow to import

    out, told = path
    dataset, frames = open_dataset(tiny_dataset), pixels_of(out)
    features = extract(load_extractor("pixels", "cpu"), np.concatenate([dataset.images, frames]), 16)
    films, way = features[:48].astype(float), features[48:].astype(float)
    steps = [float(np.linalg.norm(b - a)) for a, b in pairwise(way)]
    for index, frame in enumerate(told["frames"]):
        for side, row in (("a", 1), ("b", 9)):
            assert frame[f"distance_{side}"] == pytest.approx(
                np.linalg.norm(way[index] - films[row]), abs=1e-4
            )
            expected = structural_similarity(
                stored_to_unit(frames[index], 16).astype(float), stored_to_unit(dataset.images[row], 16).astype(float),
                data_range=1.0, gaussian_weights=True, use_sample_covariance=False,
            )  # fmt: skip
            assert frame[f"ssim_{side}"] == pytest.approx(expected, abs=1e-4)
        distances = np.linalg.norm(films[:32] - way[index], axis=1)  # the first 32 are the train split
        nearest = frame["nearest_training_film"]
        assert nearest["dataset_row"] == int(distances.argmin())
        assert nearest["image_id"] == f"I{distances.argmin()}"
        assert nearest["distance"] == pytest.approx(distances.min(), abs=1e-4)
        if index < len(steps):
            assert frame["step_to_next"] == pytest.approx(steps[index], abs=1e-4)
    assert told["smoothness"] == pytest.approx(max(steps) / np.mean(steps), abs=1e-3)


def test_the_grid_has_a_row_per_noise_and_ends_with_the_mixed_films(
    path: tuple[Path, dict[str, Any]], way: Way, tiny_dataset: Path
) -> None:
    out, told = path
    # Eighths of 20 steps are 20, 18 (17.5 rounded), 15, 12, 10, 8, 5 and 2; the chain has 20, 18, 16, 14, 12, 9, 7, 5,
    # 3 and 1. Of two that are as near the less noisy one is taken.
    steps = told["grid"]["timesteps_counted_from_1"]
    assert steps == [20, 18, 14, 12, 9, 7, 5, 1, 0]
    grid = grid_cells(out / "grid.png", 9, 9)
    films = open_dataset(tiny_dataset).images[[1, 9]] / 257.0
    assert np.abs(grid[:, 0] - films[0]).max() <= 1
    assert np.abs(grid[:, -1] - films[1]).max() <= 1
    lam = np.array([-0.25, 0, 0.25, 0.5, 0.75, 1, 1.25])
    weight = lam[:, None, None]
    mixed = ((1 - weight) * films[0] + weight * films[1]).clip(0, 255)
    assert np.abs(grid[-1, 1:-1] - mixed).max() <= 1
    slerp, timesteps = replace(way, mode="slerp"), way.chain.schedule.timesteps.tolist()
    for row, t in zip(grid[:-1:3], steps[:-1:3], strict=True):
        frames = slerp.frames(torch.from_numpy(lam), timesteps.index(t - 1)).x
        expected = ((frames[:, 0].numpy() + 1) * 127.5).clip(0, 255)
        assert np.abs(row[1:-1] - expected).max() <= 1


def grid_cells(picture: Path, rows: int, columns: int) -> np.ndarray:
    """The films of a captioned grid, (rows, columns, 16, 16): each 64 px, two apart, below and beside its captions."""
    with Image.open(picture) as image:
        sheet = np.asarray(image).astype(np.float64)
    top, left = (side - 66 * cells + 2 for side, cells in zip(sheet.shape, (rows, columns), strict=True))
    corners = [[(top + 66 * row, left + 66 * column) for column in range(columns)] for row in range(rows)]
    cells = np.array([[sheet[y : y + 64, x : x + 64] for y, x in row] for row in corners])
    films: np.ndarray = cells[..., ::4, ::4]
    assert np.array_equal(cells, films.repeat(4, axis=-2).repeat(4, axis=-1))  # every pixel a square of 4
    return films


def test_another_command_on_a_path_is_refused(
    path: tuple[Path, dict[str, Any]], tiny_run: Path, tiny_dataset: Path, fast: SamplerSettings
) -> None:
    out, _ = path
    settings = InterpolateSettings(mode="paper", timestep=10, frames=5, beyond=1)
    with pytest.raises(UsageError, match=r"was made with another .*mode"):
        interpolate(
            tiny_run,
            f"{tiny_dataset}#1",
            f"{tiny_dataset}#9",
            out,
            settings,
            fast,
            outputs=PLAIN,
            device="cpu",
        )


def test_the_same_command_makes_the_path_anew(
    path: tuple[Path, dict[str, Any]],
    make_path: Callable[[Path], None],
    tmp_path: Path,
) -> None:
    """With a frame gone and a picture damaged it ends with the same bytes in the same files."""
    again = Path(shutil.copytree(path[0], tmp_path / "again"))
    (again / "frames" / "frame-003.png").unlink()
    (again / "strip.png").write_bytes(b"damaged")
    make_path(again)
    assert bytes_of(again) == bytes_of(path[0])


def test_a_finished_path_is_not_made_again(
    path: tuple[Path, dict[str, Any]],
    tiny_run: Path,
    tiny_dataset: Path,
    fast: SamplerSettings,
    tmp_path: Path,
) -> None:
    again = Path(shutil.copytree(path[0], tmp_path / "again"))
    reports: list[Progress] = []

    def make(features: str = "pixels") -> bool:
        return interpolate(
            tiny_run, f"{tiny_dataset}#1", f"{tiny_dataset}#9", again,
            InterpolateSettings(mode="slerp", timestep=10, frames=5, beyond=1), fast,
            outputs=PathOutputs(tiny_dataset, features, grid=True), file_format="dicom", device="cpu",
            report=reports.append,
        ).present  # fmt: skip

    assert make()
    assert reports == []  # neither frames nor features were computed
    assert not make("efficientnet-lite0")  # measured otherwise
    (again / "grid.png").write_bytes(b"damaged")
    assert not make("efficientnet-lite0")
    assert make("efficientnet-lite0")


@pytest.mark.parametrize("mode", ["slerp", "inversion"])
def test_a_path_tells_each_step_of_the_frames_under_way(way: Way, mode: Mode) -> None:
    """Seven frames, five and two at a time, from step 3: four steps each, after four of an inversion."""
    told: list[Progress] = []
    counter = Counter("interpolate", 7, told.append)
    lam = torch.arange(7, dtype=torch.float64) / 6
    replace(way, mode=mode).frames(lam, 3, counter)
    steps = [(report.done + report.under_way, report.figures.get("step")) for report in told]
    inverted = [(0, None)] * 4 if mode == "inversion" else []
    first = [(1.25, "1/4"), (2.5, "2/4"), (3.75, "3/4"), (5.0, "4/4"), (5, None)]
    second = [(5.5, "1/4"), (6.0, "2/4"), (6.5, "3/4"), (7.0, "4/4"), (7, None)]
    assert steps == [*inverted, *first, *second]
    found = [report.figures["inversion"] for report in told if "inversion" in report.figures]
    assert found == (["1/4", "2/4", "3/4", "4/4"] if inverted else [])


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_log_snr_means_the_same_at_every_size(loaded: LoadedRun) -> None:
    """A film of 4 n px with 16 times the noise's variance looks, made n px large, like one of n px: by pooling both."""
    small, large = (log_snrs(loaded.diffusion, (1, side, side)) for side in (64, 256))
    snr = loaded.diffusion.schedule.snr
    torch.testing.assert_close(small, snr.log())
    torch.testing.assert_close(large, (16 * snr).log(), rtol=1e-12, atol=1e-12)
    t = timestep_of_log_snr(loaded.diffusion, 0.0, (1, 64, 64))
    assert abs(float(small[t])) == float(small.abs().min())
    with pytest.raises(UsageError, match=r"--log-snr 99: expected .* \(noisiest\) to"):
        timestep_of_log_snr(loaded.diffusion, 99, (1, 64, 64))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timestep": 20}, "--timestep 20: expected 0 to 19"),
        ({"frames": 1}, "at least 2 frames"),
        ({"beyond": 6}, "lambda from -0.5 to 1.5"),
        ({"mode": "cubic"}, "--mode cubic: expected one of paper, shared-noise, slerp, inversion"),
        ({"iterations": 0}, "--iterations 0"),
        ({"guidance": 2.0}, "trained without conditions"),
        ({"log_snr": -99.0}, "--log-snr -99: expected"),
    ],
)
def test_settings_out_of_range_name_it(
    try_path: Callable[..., None], tiny_dataset: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        try_path(f"{tiny_dataset}#1", f"{tiny_dataset}#9", tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_inversion_takes_no_other_sampler(tiny_run: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    for sampler in (SamplerSettings("ddpm"), SamplerSettings("ddim", eta=0.5), SamplerSettings("dpm++")):
        with pytest.raises(UsageError, match="leave out --sampler, or say ddim"):
            interpolate(
                tiny_run, f"{tiny_dataset}#1", f"{tiny_dataset}#9", tmp_path / "out",
                InterpolateSettings(mode="inversion", timestep=9), sampler, outputs=PLAIN, device="cpu",
            )  # fmt: skip


def test_a_path_says_how_many_steps_its_sampler_takes_where_none_were_asked_for(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEFAULT_STEPS, "ddim", 5)  # of the 20 timesteps of this RUN
    interpolate(
        tiny_run, f"{tiny_dataset}#1", f"{tiny_dataset}#9", tmp_path / "out",
        InterpolateSettings(timestep=9, frames=2), SamplerSettings("ddim"), outputs=PLAIN, file_format="dicom",
        device="cpu",
    )  # fmt: skip
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["settings"]["steps"] == 5
    assert "ddim, 5 steps" in pydicom.dcmread(tmp_path / "out" / "path.dcm").DerivationDescription


def test_another_dataset_than_the_runs_says_nothing_of_its_training_films(
    tiny_run: Path, labelled_dataset: Path, fast: SamplerSettings, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="this RUN was trained on another DATASET"):
        interpolate(
            tiny_run, f"{labelled_dataset}#1", f"{labelled_dataset}#9", tmp_path / "out",
            InterpolateSettings(timestep=9), fast, outputs=PathOutputs(labelled_dataset, "pixels"), device="cpu",
        )  # fmt: skip


def test_the_command_line_takes_a_negative_log_snr_decodes_inversion_by_ddim_and_makes_a_video(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    pytest.importorskip("imageio_ffmpeg")
    both = ("interpolate", tiny_run, f"{tiny_dataset}#1", f"{tiny_dataset}#9", "--out", tmp_path / "out",
            "--frames", 2, "--mode", "inversion", "--features", "pixels", "--device", "cpu", "--mp4",
            "--precision", "bfloat16")  # fmt: skip
    result = xraygen_cli(*both, "--log-snr", "-3", "--steps", 10)
    assert result.exit_code == 0, result.stderr
    told = json.loads((tmp_path / "out" / "path.json").read_text())
    assert (told["settings"]["sampler"], told["settings"]["precision"]) == ("ddim", "bfloat16")
    assert told["log_snr_at_64_px"] == pytest.approx(-3, abs=1.5)  # the chain has ten steps
    assert b"personal data" in (tmp_path / "out" / "path.mp4").read_bytes()
    result = xraygen_cli(*both, "--log-snr", "-3", "--timestep", 5)
    assert result.exit_code == 2
    assert "say the same thing; leave one out" in result.stderr


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_features_that_are_not_there_are_refused_before_anything_is_computed(
    dry: tuple[str, ...],
    tiny_run: Path,
    tiny_dataset: Path,
    tmp_path: Path,
    xraygen_cli: Callable[..., Result],
) -> None:
    result = xraygen_cli("interpolate", tiny_run, f"{tiny_dataset}#1", f"{tiny_dataset}#9", "--out",
                         tmp_path / "out", "--features", "nonsense", "--device", "cpu", *dry)  # fmt: skip
    assert result.exit_code == 2
    assert "nonsense" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_which_timestep_was_taken_and_what_was_there_already(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    command = ("interpolate", tiny_run, f"{tiny_dataset}#1", f"{tiny_dataset}#9", "--out", tmp_path / "out",
               "--frames", 2, "--features", "pixels", "--device", "cpu", "--steps", 4)  # fmt: skip
    # Four of 20 timesteps, evenly from 19 to 0, are 0, 6, 13 and 19.
    nearest = "t = 13, the nearest to 11 that 4 steps have"
    dry = xraygen_cli(*command, "--timestep", 11, "--dry-run")
    assert nearest in dry.stderr
    made = xraygen_cli(*command, "--timestep", 11)
    assert f"2 frames ({nearest}); see" in made.stderr, made.stderr
    again = xraygen_cli(*command, "--timestep", 13, "--json")  # the same t
    assert "2 frames were there already; see" in again.stderr
    assert json.loads(again.stdout)["present"] is True
    dry = xraygen_cli(*command, "--timestep", 13, "--dry-run")
    assert f"{tmp_path / 'out'} has 2 frames from" in dry.stderr
    assert "expected 0 to 19" in xraygen_cli(*command, "--timestep", 20, "--dry-run").stderr
    elsewhere = (*command, "--out", tmp_path / "elsewhere")
    by_noise = xraygen_cli(*elsewhere, "--log-snr", -3, "--dry-run")
    assert "the nearest to log-SNR -3 at 64 px that 4 steps have" in by_noise.stderr
