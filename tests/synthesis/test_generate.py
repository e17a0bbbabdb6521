import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from typer.testing import Result

from xraygen.atomic import sha256_of
from xraygen.errors import FolderError, UsageError
from xraygen.films.reader import read_film
from xraygen.progress import Progress
from xraygen.seeds import derive_seed
from xraygen.synthesis.generate import generate
from xraygen.synthesis.noise import SeededNoise
from xraygen.synthesis.sampling import SamplerName, SamplerSettings, sampling_diffusion
from xraygen.training.checkpoint import load_run

FAST = SamplerSettings(sampler="ddim", steps=4, compute_batch=4)


def pixels(folder: Path, seed: int) -> np.ndarray:
    return read_film(folder / "images" / f"{seed}.png").values


def test_an_image_is_the_same_alone_and_among_others(tiny_run: Path, tmp_path: Path) -> None:
    generate(tiny_run, tmp_path / "many", range(6), FAST, device="cpu")
    generate(tiny_run, tmp_path / "alone", [5], FAST, device="cpu")
    assert np.array_equal(pixels(tmp_path / "many", 5), pixels(tmp_path / "alone", 5))
    assert not np.array_equal(pixels(tmp_path / "many", 4), pixels(tmp_path / "many", 5))


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_every_sampler_makes_the_same_image_alone_and_among_others(
    tiny_run: Path, tmp_path: Path, sampler: SamplerName, xraygen_cli: Callable[..., Result]
) -> None:
    settings = SamplerSettings(sampler, steps=5, compute_batch=2)
    generate(tiny_run, tmp_path / "many", [7, 8, 9], settings, device="cpu")
    words = ["--seeds", "9", "--sampler", sampler, "--steps", "5", "--compute-batch", "2", "--device", "cpu"]
    result = xraygen_cli("generate", tiny_run, "--out", tmp_path / "alone", *words)
    assert result.exit_code == 0, result.stderr
    assert np.array_equal(pixels(tmp_path / "many", 9), pixels(tmp_path / "alone", 9))


@pytest.mark.parametrize(
    ("sampler", "steps"), [("ddpm", 20), ("ddim", 20), ("dpm++", 20), ("dpm++-sde", 20), ("unipc", 20)]
)
def test_no_sampler_takes_more_steps_than_there_are(tiny_run: Path, sampler: SamplerName, steps: int) -> None:
    chain = sampling_diffusion(load_run(tiny_run).diffusion, SamplerSettings(sampler))
    assert len(chain.schedule.timesteps) == steps


def test_images_are_16_bit_and_use_more_than_256_levels(tiny_run: Path, tmp_path: Path) -> None:
    generate(tiny_run, tmp_path / "out", range(4), FAST, device="cpu")
    values = np.stack([pixels(tmp_path / "out", seed) for seed in range(4)])
    assert values.dtype == np.uint16
    assert len(np.unique(values)) > 300


@pytest.mark.parametrize("after", [0, 4, 8])
def test_a_killed_call_is_finished_by_the_same_command(tiny_run: Path, tmp_path: Path, after: int) -> None:
    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        if progress.done >= after:
            raise Killed

    with pytest.raises(Killed):
        generate(tiny_run, tmp_path / "out", range(10), FAST, device="cpu", report=kill)
    summary = generate(tiny_run, tmp_path / "out", range(10), FAST, device="cpu")
    assert (summary.made, summary.present) == (10 - after, after)
    generate(tiny_run, tmp_path / "whole", range(10), FAST, device="cpu")
    assert (tmp_path / "out" / "metadata.csv").read_bytes() == (
        tmp_path / "whole" / "metadata.csv"
    ).read_bytes()


def test_each_step_of_the_images_under_way_is_told(tiny_run: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    settings = SamplerSettings(steps=2, compute_batch=4)
    generate(tiny_run, tmp_path, range(6), settings, device="cpu", report=told.append)
    reached = [report.done + report.under_way for report in told]
    assert reached == [0, 2, 4, 4, 5, 6, 6]  # four images, then two, in two steps each
    assert [report.done for report in told] == [0, 0, 0, 4, 4, 4, 6]  # on disk
    assert told[1].figures == {"step": "1/2"}


def test_metadata_names_every_image_with_its_hash(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate(tiny_run, out, [3, 11], FAST, device="cpu")
    with (out / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == ["images/3.png", "images/11.png"]
    assert all(row["sha256"] == sha256_of(out / row["file_name"]) for row in rows)
    assert {row["sampler"] for row in rows} == {"ddim"}
    assert "# Synthetic chest films: not for diagnosis" in (out / "README.md").read_text()
    assert (out / "preview.png").is_file()


def test_another_sampler_does_not_mix_into_a_set(tiny_run: Path, tmp_path: Path) -> None:
    generate(tiny_run, tmp_path / "out", [0], FAST, device="cpu")
    with pytest.raises(UsageError, match=r"made with another .*steps"):
        generate(tiny_run, tmp_path / "out", [1], SamplerSettings(steps=5, compute_batch=4), device="cpu")


def test_a_set_grows_when_more_seeds_are_asked_for(tiny_run: Path, tmp_path: Path) -> None:
    generate(tiny_run, tmp_path / "out", range(2), FAST, device="cpu")
    assert generate(tiny_run, tmp_path / "out", range(3), FAST, device="cpu").made == 1
    assert len((tmp_path / "out" / "metadata.csv").read_text().splitlines()) == 4


def test_dicom_carries_the_same_pixels_as_png_and_says_synthetic(tiny_run: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    generate(tiny_run, tmp_path / "png", [7], FAST, device="cpu")
    generate(tiny_run, tmp_path / "dicom", [7], FAST, file_format="dicom", device="cpu")
    film = pydicom.dcmread(tmp_path / "dicom" / "images" / "7.dcm")
    assert np.array_equal(film.pixel_array, pixels(tmp_path / "png", 7))
    assert film[0x0008, 0x001C].value == "YES"
    assert film.PatientID.startswith("SYNTHETIC-")
    assert film.SeriesDescription == "SYNTHETIC, NOT FOR DIAGNOSIS"


def test_provenance_names_the_weights_and_no_path(tiny_run: Path, tmp_path: Path) -> None:
    generate(tiny_run, tmp_path / "out", [0], FAST, device="cpu")
    text = (tmp_path / "out" / "provenance.json").read_text()
    told = json.loads(text)
    weights = tiny_run / "checkpoints" / "step-00000006" / "ema.safetensors"
    assert told["checkpoint"] == {"step": 6, "ema_sha256": sha256_of(weights)}
    assert str(tmp_path) not in text
    assert str(tiny_run) not in text


def test_a_run_without_checkpoint_leaves_no_folder_behind(tiny_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(FolderError, match="no whole checkpoint"):
        generate(run, tmp_path / "out", [0], FAST, device="cpu")
    assert not (tmp_path / "out").exists()


def test_noise_of_a_seed_does_not_depend_on_its_neighbours() -> None:
    device = torch.device("cpu")
    together, alone = SeededNoise([1, 2], (1, 4, 4), device), SeededNoise([2], (1, 4, 4), device)
    for _ in range(3):
        assert torch.equal(together.draw()[1:], alone.draw())


def test_seeds_whose_derived_seeds_share_their_lower_32_bits_have_noise_of_their_own() -> None:
    # Of the seeds 0 to 99,999 two such pairs; torch's generator draws the same for both of each.
    for pair in ([71403, 72097], [16315, 81948]):
        first, second = (derive_seed(seed, "sampling") for seed in pair)
        assert first % 2**32 == second % 2**32
        x = SeededNoise(pair, (1, 8, 8), torch.device("cpu")).draw()
        assert not torch.equal(x[0], x[1])
        # Four standard errors of a correlation of 64 pairs.
        assert abs(torch.corrcoef(x.flatten(1))[0, 1].item()) < 0.5


def test_noise_is_standard_normal() -> None:
    x = SeededNoise(range(64), (1, 32, 32), torch.device("cpu")).draw()
    assert abs(x.mean().item()) < 5 / 65536**0.5  # five standard errors of the mean
    assert abs(x.var().item() - 1) < 5 * (2 / 65536) ** 0.5  # and of the variance
