import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor
from typer.testing import Result

from xraygen.config import DiffusionConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule, linear_betas
from xraygen.errors import UsageError
from xraygen.films.reader import read_film
from xraygen.progress import Progress
from xraygen.synthesis.chains import (
    BranchingNoise,
    Chains,
    mean_pairwise_rmse,
    progressive_frames,
    shared_chain,
)
from xraygen.synthesis.generate import generate
from xraygen.synthesis.noise import SeededNoise
from xraygen.synthesis.progressive import (
    ProgressiveSettings,
    captioned,
    kept_steps,
    progressive,
    split_timesteps,
)
from xraygen.synthesis.sampling import SamplerName, SamplerSettings

CPU = torch.device("cpu")
FULL = SamplerSettings(sampler="ddpm", compute_batch=16)
STD = 0.2
"""Gaussian pixels of mean 0: +-1 lies five standard deviations away, so that clipping plays no part."""


def gaussian_chains(steps: int, sampler: SamplerSettings, side: int = 64) -> Chains:
    """The best possible network for pixels N(0, STD^2) on the paper's schedule: E[x_0 | x_t]."""
    schedule = NoiseSchedule.from_betas(linear_betas(1000, 1e-4, 0.02))
    config = DiffusionConfig(prediction_type="sample", variance_type="fixed_small")
    abar = schedule.alphas_cumprod

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        gain = abar[t].sqrt() * STD**2 / (abar[t] * STD**2 + 1 - abar[t])
        return gain.view(-1, 1, 1, 1).to(x_t.dtype) * x_t

    return Chains(model, GaussianDiffusion(schedule, config).respace(steps), (1, side, side), sampler, CPU)


def expected_distance(t: int) -> float:
    """RMSE in grey levels between two draws of x_0 given one x_t, t in 1 ... T, by Bayes."""
    abar = float(torch.cumprod(1 - linear_betas(1000, 1e-4, 0.02), 0)[t - 1])
    return float(127.5 * (2 * STD**2 * (1 - abar) / (abar * STD**2 + 1 - abar)) ** 0.5)


def described(folder: Path) -> dict:
    told: dict = json.loads((folder / "progressive.json").read_text())
    return told


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


@pytest.mark.parametrize(
    ("sampler", "steps", "allowed"),
    # the posterior's variance leaves out that x_0 is not known, which makes the steps' own error 0.019 to 0.023 at 1000
    # of them and 0.061 to 0.075 at 250 (exact recursion of the variance); chance adds 0.003
    [
        (SamplerSettings("ddpm"), 1000, 0.03),
        (SamplerSettings("ddim", eta=1.0), 1000, 0.03),
        (SamplerSettings("ddpm"), 250, 0.085),
    ],
)
def test_branches_lie_as_far_apart_as_the_posterior_is_wide(
    sampler: SamplerSettings, steps: int, allowed: float
) -> None:
    chains = gaussian_chains(steps, sampler)
    splits = [1000, 500, 250, 125]
    indices = [int((chains.diffusion.schedule.timesteps - (t - 1)).abs().argmin()) for t in splits]
    kept = [int(chains.diffusion.schedule.timesteps[index]) + 1 for index in indices]
    measured = [mean_pairwise_rmse(x) for x in shared_chain(chains, 0, indices, 4).samples]
    assert measured == pytest.approx([expected_distance(t) for t in kept], rel=allowed)
    assert measured == sorted(measured, reverse=True)


def test_branches_of_a_trained_run_share_more_as_t_falls(tiny_run: Path, tmp_path: Path) -> None:
    progressive(tiny_run, tmp_path / "out", [0], ProgressiveSettings(), FULL, device="cpu")
    rows = described(tmp_path / "out")["pictures"]["shared-chain.png"]["rows"]
    assert [row["timestep"] for row in rows] == [20, 15, 10, 5]
    distances = [row["mean_pairwise_rmse"] for row in rows]
    assert all(noisier > cleaner for noisier, cleaner in pairwise(distances))
    assert distances[-1] > 0


def test_a_split_at_the_last_step_leaves_nothing_to_chance() -> None:
    chains = gaussian_chains(20, FULL, side=4)
    assert mean_pairwise_rmse(shared_chain(chains, 0, [0], 3).samples[0]) == 0


def test_the_shared_chain_is_the_chain_of_its_seed() -> None:
    chains = gaussian_chains(20, FULL, side=8)
    splits = [19, 14, 3, 0]
    frames = progressive_frames(chains, [5], splits)[:, 0]
    assert torch.allclose(
        shared_chain(chains, 5, splits, 2).estimates, frames, atol=1e-6
    )  # batches of 1 and 8


def test_a_batch_that_is_cut_shows_the_same() -> None:
    whole = gaussian_chains(20, SamplerSettings("ddpm", compute_batch=16), side=8)
    cut = gaussian_chains(20, SamplerSettings("ddpm", compute_batch=3), side=8)
    for one, other in zip(shared_chain(whole, 0, [19, 5], 4), shared_chain(cut, 0, [19, 5], 4), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    seeds = range(4)
    assert torch.allclose(
        progressive_frames(whole, seeds, [10, 0]), progressive_frames(cut, seeds, [10, 0]), atol=1e-6
    )


def test_rows_share_the_noise_down_to_their_split_and_no_further() -> None:
    shape = (1, 4, 4)
    noise, alone = BranchingNoise(3, [(2, 0), (2, 1), (1, 0)], shape, CPU), SeededNoise([3], shape, CPU)
    assert torch.equal(noise.draw(), alone.draw().expand(3, -1, -1, -1))
    assert torch.equal(noise(3), alone.draw().expand(3, -1, -1, -1))
    first, second, later = noise(2)
    assert torch.equal(later, alone.draw()[0])
    assert not torch.equal(first, later)
    assert not torch.equal(first, second)
    first, second, later = noise(1)
    assert torch.equal(first, later)  # one branch, whichever its split
    assert not torch.equal(first, second)


def test_the_distance_is_in_grey_levels() -> None:
    x = torch.tensor([-1.0, 1.0, 0.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert mean_pairwise_rmse(x) == pytest.approx((255 + 127.5 + 127.5) / 3)


def test_fifty_of_a_thousand_steps_are_twenty_columns_that_end_with_the_image() -> None:
    steps = kept_steps(1000, 50)
    assert len(steps) == 20
    assert steps[:2] == [950, 900]
    assert steps[-1] == 0
    assert kept_steps(10, 10) == [0]
    assert kept_steps(10, 4) == [8, 4, 0]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_the_last_column_is_the_image_that_generate_makes(
    tiny_run: Path, tmp_path: Path, sampler: SamplerName
) -> None:
    settings = SamplerSettings(sampler, steps=20, compute_batch=4)
    progressive(tiny_run, tmp_path / "out", [3, 8], ProgressiveSettings(splits=()), settings, device="cpu")
    generate(tiny_run, tmp_path / "set", [3, 8], settings, device="cpu")
    strip = np.asarray(Image.open(tmp_path / "out" / "strip.png"))
    for row, seed in enumerate([3, 8]):
        shown = strip[24 + 66 * row :, -64:][:64][::4, ::4]  # each pixel a square of four
        image = read_film(tmp_path / "set" / "images" / f"{seed}.png").values
        assert abs(shown.astype(float) - image / 257).max() <= 1  # rounded to 8 bits


def test_pixels_stay_square_beside_their_captions() -> None:
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1).repeat(16, 1).repeat(16, 2) * 40
    images[:, 0, 0] = 255
    picture = captioned(images, ["t = 951", "t = 501", "t = 1"], ["seed 0", "seed 1"])
    sheet = picture[24:, -(3 * 64 + 2 * 2) :]
    assert sheet.shape == (2 * 64 + 2, 3 * 64 + 2 * 2)
    assert np.array_equal(sheet[66:130, 66:130], images[4].repeat(4, 0).repeat(4, 1))
    assert picture[:24].max() == 255  # the captions
    assert picture[24:, : -(3 * 64 + 2 * 2)].max() == 255


def test_colour_pictures_are_captioned_too() -> None:
    images = np.full((2, 32, 32, 3), (200, 10, 30), dtype=np.uint8)
    picture = captioned(images, ["t = 1", "t = 2"], ["seed 0"])
    assert tuple(picture[-1, -1]) == (200, 10, 30)


def test_the_folder_says_what_it_shows(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ProgressiveSettings(every=5, splits=(4, 20), branches=3)
    summary = progressive(tiny_run, out, [7, 9], settings, FULL, device="cpu")
    assert summary.made == ("strip.png", "chain.gif", "shared-chain.png")
    told = described(out)
    assert told["synthetic"] is True
    assert told["checkpoint"]["step"] == 6
    assert len(told["checkpoint"]["ema_sha256"]) == 64
    assert told["settings"]["seeds"] == [7, 9]
    assert "torch" in told["environment"]["packages"]
    assert told["pictures"]["strip.png"]["timesteps"] == [16, 11, 6, 1]
    shared = told["pictures"]["shared-chain.png"]
    assert (shared["seed"], shared["branches"]) == (7, 3)
    assert [row["split"] for row in shared["rows"]] == [20, 4]
    with Image.open(out / "strip.png") as strip:
        assert strip.size[1] == 24 + 2 * 64 + 2
        assert "NOT FOR DIAGNOSIS" in str(strip.info["Description"])
    with Image.open(out / "chain.gif") as chain:
        assert chain.size == (2 * 64 + 2, 64)
        assert len(list(ImageSequence.Iterator(chain))) == 4 + 2  # forth and back, the pause one long frame
    text = (out / "progressive.json").read_text()
    assert str(tiny_run) not in text


def test_a_split_falls_on_the_nearest_step_that_is_kept(tiny_run: Path, tmp_path: Path) -> None:
    sampler = SamplerSettings("ddim", steps=4)
    settings = ProgressiveSettings(splits=(20, 19, 12, 1))
    progressive(tiny_run, tmp_path / "out", [0], settings, sampler, gif=False, device="cpu")
    rows = described(tmp_path / "out")["pictures"]["shared-chain.png"]["rows"]
    assert [(row["split"], row["timestep"]) for row in rows] == [(20, 20), (19, 20), (12, 14), (1, 1)]
    assert rows[0]["mean_pairwise_rmse"] == rows[1]["mean_pairwise_rmse"] > 0
    assert rows[-1]["mean_pairwise_rmse"] == 0


def test_a_deterministic_sampler_branches_with_chance_and_says_so(tiny_run: Path, tmp_path: Path) -> None:
    sampler = SamplerSettings("ddim", steps=10)
    progressive(tiny_run, tmp_path / "out", [0], ProgressiveSettings(), sampler, device="cpu")
    pictures = described(tmp_path / "out")["pictures"]
    assert pictures["strip.png"]["eta"] == 0
    assert pictures["shared-chain.png"]["eta"] == 1
    assert pictures["shared-chain.png"]["rows"][0]["mean_pairwise_rmse"] > 0


def test_the_same_command_makes_only_what_is_missing(tiny_run: Path, tmp_path: Path) -> None:
    def make(*, gif: bool = True) -> tuple[tuple[str, ...], tuple[str, ...]]:
        summary = progressive(
            tiny_run, tmp_path / "out", [0, 1], ProgressiveSettings(every=10), FULL, gif=gif, device="cpu"
        )
        return summary.made, summary.present

    assert make(gif=False) == (("strip.png", "shared-chain.png"), ())
    assert make() == (("chain.gif",), ("strip.png", "shared-chain.png"))
    first = files(tmp_path / "out")
    assert make() == ((), ("strip.png", "chain.gif", "shared-chain.png"))
    (tmp_path / "out" / "shared-chain.png").unlink()
    (tmp_path / "out" / "strip.png").unlink()
    assert make() == (("strip.png", "shared-chain.png"), ("chain.gif",))
    assert files(tmp_path / "out") == first
    (tmp_path / "out" / "progressive.json").write_text("{")
    assert make()[1] == ()
    assert files(tmp_path / "out") == first


@pytest.mark.parametrize("task", ["progressive", "shared chain"])
def test_a_killed_call_is_finished_by_the_same_command(tiny_run: Path, tmp_path: Path, task: str) -> None:
    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        assert 0 < progress.done <= progress.total == 20
        if progress.task == task and progress.done == 12:
            raise Killed

    def make(report: Callable[[Progress], None]) -> None:
        settings = ProgressiveSettings(every=10)
        progressive(tiny_run, tmp_path / "out", [0, 1], settings, FULL, device="cpu", report=report)

    seen: list[str] = []
    with pytest.raises(Killed):
        make(kill)
    make(lambda progress: seen.append(progress.task))
    assert set(seen) == ({"progressive", "shared chain"} if task == "progressive" else {"shared chain"})
    whole = ProgressiveSettings(every=10)
    progressive(tiny_run, tmp_path / "whole", [0, 1], whole, FULL, device="cpu")
    pictures = ("strip.png", "chain.gif", "shared-chain.png")
    finished, uninterrupted = files(tmp_path / "out"), files(tmp_path / "whole")
    assert [finished[name] for name in pictures] == [uninterrupted[name] for name in pictures]
    assert described(tmp_path / "out")["pictures"] == described(tmp_path / "whole")["pictures"]


def test_other_seeds_do_not_mix_into_a_folder(tiny_run: Path, tmp_path: Path) -> None:
    settings = ProgressiveSettings(every=20, splits=())
    progressive(tiny_run, tmp_path / "out", [0], settings, FULL, gif=False, device="cpu")
    with pytest.raises(UsageError, match=r"made with another seeds \(\[0\], now \[1\]\)"):
        progressive(tiny_run, tmp_path / "out", [1], settings, FULL, gif=False, device="cpu")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (ProgressiveSettings(every=21), "--every 21: expected 1 to 20"),
        (ProgressiveSettings(every=0), "--every 0: expected 1 to 20"),
        (ProgressiveSettings(splits=(21, 3)), "--split 21: expected 1 .* to 20"),
        (ProgressiveSettings(splits=(0,)), "--split 0: expected 1 .* to 20"),
        (ProgressiveSettings(branches=1), "--branches 1: expected at least 2"),
    ],
)
def test_what_does_not_fit_the_chain_is_one_sentence_and_no_folder(
    tiny_run: Path, tmp_path: Path, settings: ProgressiveSettings, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        progressive(tiny_run, tmp_path / "out", [0], settings, FULL, device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("num_timesteps", "splits"), [(1000, (1000, 750, 500, 250)), (20, (20, 15, 10, 5)), (1, (1,))]
)
def test_the_splits_are_the_papers_whatever_the_length_of_the_chain(
    num_timesteps: int, splits: tuple[int, ...]
) -> None:
    assert split_timesteps(ProgressiveSettings(), num_timesteps) == splits


def test_the_command_line_writes_the_figures(
    xraygen_cli: Callable[..., Result], tiny_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("progressive", tiny_run, "--out", out, "--seeds", "0-1", "--every", 10, "--split", "20,5")
    rest = ("--branches", 2, "--no-gif", "--device", "cpu")
    assert xraygen_cli(*command, *rest, "--dry-run").exit_code == 0
    assert not out.exists()
    result = xraygen_cli(*command, *rest, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {
        "progressive": str(out),
        "made": ["strip.png", "shared-chain.png"],
        "present": [],
    }
    assert [row["split"] for row in described(out)["pictures"]["shared-chain.png"]["rows"]] == [20, 5]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--split", "half"), "--split half: expected timesteps such as 1000,750,500,250, or none."),
        (("--split", "21"), "--split 21: expected 1 (almost clean) to 20"),
        (("--every", 21), "--every 21: expected 1 to 20"),
        (("--steps", 21), "21 sampling steps were asked for; expected 1 to 20"),
    ],
)
def test_the_command_line_refuses_in_one_sentence(
    xraygen_cli: Callable[..., Result], tiny_run: Path, tmp_path: Path, arguments: tuple, sentence: str
) -> None:
    out = tmp_path / "out"
    result = xraygen_cli("progressive", tiny_run, "--out", out, "--seeds", 0, *arguments, "--device", "cpu")
    assert result.exit_code == 2
    assert f"xraygen: {sentence}" in result.stderr
    assert not out.exists()
