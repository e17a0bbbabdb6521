"""The network in bfloat16 and compiled: what that does to a set, and what a set remembers of it."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import Result

from xraygen.atomic import write_json
from xraygen.devices import COMPILED, choose_device
from xraygen.errors import UsageError
from xraygen.films.listing import METADATA, read_rows
from xraygen.films.reader import read_film
from xraygen.models.unet import UNet
from xraygen.synthesis import generate as making
from xraygen.synthesis import like as remaking
from xraygen.synthesis.arithmetic import evaluated
from xraygen.synthesis.conditions import Guidance
from xraygen.synthesis.generate import generate
from xraygen.synthesis.like import remake
from xraygen.synthesis.noise import SeededNoise
from xraygen.synthesis.path_frames import Way
from xraygen.synthesis.provenance import provenance, read_provenance
from xraygen.synthesis.sampling import SamplerName, SamplerSettings, sample, sampling_diffusion
from xraygen.training.checkpoint import LoadedRun, load_run, newest_checkpoint

CPU = torch.device("cpu")
FULL = SamplerSettings("dpm++", 2, compute_batch=2)
HALF = replace(FULL, precision="bfloat16")
SPACING = 2**-8
"""Distance of neighbouring bfloat16 numbers over their size: 8 significant bits."""
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def lively(conditional_run: Path) -> LoadedRun:
    """A network whose prediction is of its noise's size, as a trained one's is; six steps leave it near nothing."""
    run = load_run(conditional_run)
    torch.manual_seed(0)
    nn.init.normal_(run.model.conv_out.weight, std=0.1)
    return run


def films(folder: Path) -> np.ndarray:
    return np.stack([read_film(film).values for film in sorted((folder / "images").rglob("*.png"))]).astype(
        float
    )


def test_a_prediction_in_bfloat16_errs_by_its_roundings_and_comes_back_as_float32(lively: LoadedRun) -> None:
    """Some 50 layers round one after another, each by 0.29 spacings as root mean square: sqrt(50) times as much is 2.

    Not all of it reaches the end, past shortcuts and normalisations: measured 1.6.
    """
    x_t = SeededNoise(range(4), (1, 16, 16), CPU).draw()
    t = torch.tensor([0, 5, 12, 19])
    condition = torch.tensor([[0.0, 0.1]] * 4)
    for told in ((), (condition,)):
        full = evaluated(lively.model, "float32", CPU)(x_t, t, *told)
        half = evaluated(lively.model, "bfloat16", CPU)(x_t, t, *told)
        assert half.dtype == torch.float32
        assert torch.equal(half, half.bfloat16().float())  # as the last convolution gave it
        error = ((half - full).square().mean() / full.square().mean()).sqrt().item()
        assert SPACING / 10 < error < 4 * SPACING


def test_float32_is_the_network_itself_and_another_precision_is_refused(lively: LoadedRun) -> None:
    assert evaluated(lively.model, "float32", CPU) is lively.model
    with pytest.raises(UsageError, match="--precision float16: expected one of float32, bfloat16"):
        evaluated(lively.model, "float16", CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_a_samplers_arithmetic_is_float32_whatever_the_networks_is(
    lively: LoadedRun, sampler: SamplerName
) -> None:
    """Films of both differ by little more than predictions do: no step of the chain itself rounds to bfloat16.

    The network predicts v, and x_0 = alpha x_t - sigma v takes over no more than its error. A chain in bfloat16 would
    leave its films on that grid.
    """
    settings = SamplerSettings(sampler, steps=4, compute_batch=1)
    chain = sampling_diffusion(lively.diffusion, settings)
    made = []
    for precision in ("float32", "bfloat16"):
        noise = SeededNoise([3], (1, 16, 16), CPU)
        network = evaluated(lively.model, precision, CPU)
        made.append(sample(network, chain, noise.draw(), noise, settings))
    full, half = made
    assert half.dtype == torch.float32
    assert not torch.equal(half, half.bfloat16().float())
    assert 0 < (half - full).square().mean().sqrt() < 4 * SPACING


def test_a_set_says_its_precision_repeats_in_it_and_refuses_another_by_name(
    conditional_run: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    words = (
        "generate",
        conditional_run,
        "--sampler",
        "dpm++",
        "--steps",
        2,
        "--compute-batch",
        2,
        "--device",
        "cpu",
    )
    half = (*words, "--out", tmp_path / "half")
    result = xraygen_cli(*half, "--seeds", "0-2", "--precision", "bfloat16")
    assert result.exit_code == 0, result.stderr
    assert read_provenance(tmp_path / "half")["settings"]["precision"] == "bfloat16"
    assert "dpm++, 2 steps, in bfloat16 |" in (tmp_path / "half" / "README.md").read_text()
    alone, full = tmp_path / "alone", tmp_path / "full"
    generate(conditional_run, alone, [2], HALF, device="cpu")
    assert (alone / "images" / "2.png").read_bytes() == (tmp_path / "half" / "images" / "2.png").read_bytes()
    generate(conditional_run, full, range(3), FULL, device="cpu")
    assert read_provenance(full)["settings"]["precision"] == "float32"
    # the six-step network predicts little, so that its films are mostly their noise: 1 % of the levels is ample
    assert 0 < np.abs(films(tmp_path / "half") - films(full)).max() < 0.01 * 65535
    for precision, folder, other in (("bfloat16", "full", "float32"), ("float32", "half", "bfloat16")):
        result = xraygen_cli(*words, "--out", tmp_path / folder, "--seeds", 6, "--precision", precision)
        assert result.exit_code == 2
        assert f"was made with another precision ({other}, now {precision});" in " ".join(
            result.stderr.split()
        )
    result = xraygen_cli("generate", conditional_run, "--like", f"{tmp_path / 'half'}#1", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "identical to the byte" in result.stderr


def test_guidance_mixes_predictions_in_float32(conditional_run: Path, tmp_path: Path) -> None:
    guidance = Guidance({"sex": "F"}, 2.0)
    for settings, name in ((FULL, "full"), (HALF, "half")):
        generate(conditional_run, tmp_path / name, range(2), settings, guidance=guidance, device="cpu")
    assert 0 < np.abs(films(tmp_path / "half") - films(tmp_path / "full")).max() < 0.01 * 65535


def test_a_set_of_before_is_float32_and_keeps_its_id(conditional_run: Path, tmp_path: Path) -> None:
    """Its provenance.json names no precision, and the UIDs of its DICOM files follow from its id."""
    out = tmp_path / "set"
    generate(conditional_run, out, [0], FULL, file_format="dicom", device="cpu")
    told = json.loads((out / "provenance.json").read_text())
    del told["settings"]["precision"]
    write_json(out / "provenance.json", told)
    assert remake(conditional_run, f"{out}#0", None, device="cpu").identical
    assert generate(conditional_run, out, [0, 1], FULL, file_format="dicom", device="cpu").present == 1
    with pytest.raises(UsageError, match=r"another precision \(float32, now bfloat16\)"):
        generate(conditional_run, out, [2], HALF, file_format="dicom", device="cpu")
    ids = [
        provenance(conditional_run, newest_checkpoint(conditional_run), settings, CPU)["id"]
        for settings in (
            {"eta": None},
            {"eta": None, "precision": "float32"},
            {"eta": None, "precision": "bfloat16"},
        )
    ]
    assert ids[0] == ids[1] != ids[2]


def test_a_path_is_decoded_in_it_too_and_turns_round_bit_for_bit(way: Way) -> None:
    lam, frames = torch.tensor([0.0, 0.25, 0.75, 1.0], dtype=torch.float64), {}
    half = replace(way, sampler=replace(way.sampler, precision="bfloat16"))
    for name, taken in (("full", way), ("half", half), ("back", replace(half, ends=half.ends[::-1]))):
        frames[name] = taken.frames(lam, 5).x
    assert torch.equal(frames["half"], frames["back"].flip(0))
    assert 0 < (frames["half"] - frames["full"]).abs().max() < 0.1


def test_compiling_is_for_a_gpu(
    conditional_run: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    result = xraygen_cli(
        "generate", conditional_run, "--out", tmp_path / "out", "--seeds", 0, "--compile", "--device", "cpu"
    )
    assert result.exit_code == 2
    assert "--compile is for a GPU with Triton and a C compiler" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[UNet]:
    """A CPU on which compiling pays, and what was compiled there: such a network shifts its prediction a little."""
    seen: list[UNet] = []

    def compile_network(network: UNet) -> Callable[..., torch.Tensor]:
        seen.append(network)
        return lambda *told: network(*told) + 1e-3

    monkeypatch.setattr(torch, "compile", compile_network)
    monkeypatch.setattr(making, "compiles", lambda device: True)
    monkeypatch.setattr(remaking, "compiles", lambda device: True)
    return seen


def test_a_network_is_compiled_once_a_call_and_its_films_say_so(
    conditional_run: Path, tmp_path: Path, compilations: list[UNet]
) -> None:
    out = tmp_path / "set"
    generate(conditional_run, out, range(3), HALF, device="cpu")  # two batches
    assert len(compilations) == 1
    assert read_provenance(out)["machine"].endswith(COMPILED)
    generate(conditional_run, out, [3], HALF, compiled=False, device="cpu")
    assert len(compilations) == 1
    rows = read_rows(out / METADATA)
    assert [row["repeats"] for row in rows] == ["identical"] * 3 + ["equivalent"]
    assert [row["machine"].endswith(COMPILED) for row in rows] == [True] * 3 + [False]
    for number, expected in ((2, 2), (3, 2)):  # each as its row was made
        assert remake(conditional_run, f"{out}#{number}", None, device="cpu").identical
        assert len(compilations) == expected


def test_float32_is_compiled_only_if_asked(
    conditional_run: Path, tmp_path: Path, compilations: list[UNet]
) -> None:
    generate(conditional_run, tmp_path / "plain", [0], FULL, device="cpu")
    assert not compilations
    generate(conditional_run, tmp_path / "fast", [0], FULL, compiled=True, device="cpu")
    assert len(compilations) == 1


@GPU
@pytest.mark.parametrize("sampler", get_args(SamplerName))
def test_no_step_waits_for_the_gpu(lively: LoadedRun, sampler: SamplerName) -> None:
    """torch's own watch, which ends a program at an operation that waits."""
    device = choose_device("cuda")
    settings = SamplerSettings(sampler, steps=5, eta=1.0, compute_batch=2)
    chain, network = sampling_diffusion(lively.diffusion, settings), deepcopy(lively.model).to(device)
    noise = SeededNoise(range(2), (1, 16, 16), device)
    x_t = noise.draw()
    sample(
        network, chain, x_t, noise, settings
    )  # libraries are loaded and memory is pinned by the first call
    torch.cuda.set_sync_debug_mode("error")
    try:
        sample(network, chain, x_t, noise, settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@GPU
def test_noise_on_a_gpu_is_that_of_the_cpu() -> None:
    there, here = (SeededNoise([3, 4], (1, 8, 8), device) for device in (choose_device("cuda"), CPU))
    for _ in range(3):  # pinned memory is used again
        assert torch.equal(there.draw().cpu(), here.draw())
