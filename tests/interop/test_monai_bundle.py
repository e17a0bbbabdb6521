import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from PIL import Image
from typer.testing import Result

import xraygen
from xraygen.config import load_config
from xraygen.errors import UsageError
from xraygen.interop.monai_bundle import export_bundle
from xraygen.models.unet import UNet
from xraygen.training.checkpoint import load_run, save_checkpoint

WITHOUT_XRAYGEN = """
import runpy, sys
sys.modules["xraygen"] = None  # as where it is not installed: importing it fails
sys.argv = ["monai.bundle", *sys.argv[1:]]
runpy.run_module("monai.bundle", run_name="__main__")
"""
STEPS = 6
"""Which do not divide the 20 timesteps."""


def run_bundle(bundle: Path, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_XRAYGEN, "run", "--config_file"]
    done = subprocess.run(
        [*command, "configs/inference.json", *arguments],
        cwd=bundle,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def expected_film(run: Path, seed: int, told: list[float] | None) -> NDArray[np.float64]:
    """DDIM in a loop, straight from Song et al. 2021, eq. 12 with sigma 0, at t = 19, 16, 12, 9, 6, 2 of 20."""
    model, diffusion, config = load_run(run)
    alphas_cumprod = diffusion.schedule.alphas_cumprod.numpy()
    noise = torch.randn(config.data.shape, generator=torch.Generator().manual_seed(seed))
    x = noise.double().numpy()
    kept = [round(config.schedule.num_timesteps * k / STEPS) - 1 for k in range(STEPS, 0, -1)]
    assert kept == [19, 16, 12, 9, 6, 2]
    condition = None if told is None else torch.tensor([told])
    for t, next_t in zip(kept, [*kept[1:], None], strict=True):
        x_t = torch.from_numpy(x[None]).float()
        with torch.inference_mode():
            v = model(x_t, torch.tensor([t]), condition)[0].double().numpy()
        now, before = alphas_cumprod[t], 1.0 if next_t is None else alphas_cumprod[next_t]
        x_0 = np.clip(np.sqrt(now) * x - np.sqrt(1 - now) * v, -1, 1)
        eps = (x - np.sqrt(now) * x_0) / np.sqrt(1 - now)
        x = np.sqrt(before) * x_0 + np.sqrt(1 - before) * eps
    return np.asarray((x[0].clip(-1, 1) + 1) / 2 * 65535)


def read(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as picture:
        assert picture.mode == "I;16"
        return np.asarray(picture, dtype=np.float64)


def test_the_bundle_makes_the_films_of_the_run_where_xraygen_is_not_installed(
    conditional_run: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    made = export_bundle(conditional_run, bundle)
    assert made.parameters == sum(weight.numel() for weight in load_run(conditional_run).model.parameters())
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["conditions"][0] == {"name": "sex", "numbers": {"F": 0, "M": 1}}
    run_bundle(bundle, "--steps", str(STEPS), "--count", "2", "--first_seed", "3", "--told", "[1.0,0.5]")
    assert sorted(path.name for path in (bundle / "output").iterdir()) == ["3.png", "4.png"]
    for seed in (3, 4):
        expected = expected_film(conditional_run, seed, [1.0, 0.5])
        # float32 in another order, through six steps; 4 of 65,535 levels are 1e-4 of the model's range.
        np.testing.assert_allclose(read(bundle / "output" / f"{seed}.png"), expected, atol=4)
    untold = expected_film(conditional_run, 3, None)
    assert np.abs(read(bundle / "output" / "3.png") - untold).max() > 40  # what is told matters


@pytest.fixture(scope="module")
def long_run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_run` with 99 timesteps, which neither the default of 50 nor 98 divides."""
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("runs") / "long"))
    config = (run / "config.yaml").read_text()
    assert config.count("num_timesteps: 20") == 1
    (run / "config.yaml").write_text(config.replace("num_timesteps: 20", "num_timesteps: 99"))
    return run


@pytest.fixture(scope="module")
def long_bundle(xraygen_cli: Callable[..., Result], long_run: Path) -> Path:
    """Its bundle."""
    bundle = long_run.with_name("bundle")
    words = ("export", long_run, "--to", "monai", "--out", bundle, "--acknowledge-patient-data", "--json")
    result = xraygen_cli(*words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["step"] == 6
    return bundle


def test_a_network_without_conditions_is_told_nothing(long_run: Path, long_bundle: Path) -> None:
    configuration = json.loads((long_bundle / "configs" / "inference.json").read_text())
    assert configuration["context"] is None
    program = torch.export.load(long_bundle / "models" / "model.pt2").module()
    model, diffusion, _ = load_run(long_run)
    x_t = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    ours = diffusion.denoise(model, x_t, torch.full((3,), 7))
    with torch.inference_mode():
        theirs = program(x_t, timesteps=torch.tensor([7.0]), context=None)
    # The same operations, compiled or not, in float32.
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def chain_of(bundle: Path, **changes: object) -> ConfigParser:
    """inference.json, around a network that sees behind all noise."""
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    parser["bundle_root"] = str(bundle)
    parser["network"] = "$lambda x, timesteps, context: torch.full_like(x, 0.5)"
    for name, value in changes.items():
        parser[name] = value
    return parser


@pytest.mark.parametrize("steps", [None, 1, 98, 99])
def test_every_chain_ends_without_noise(long_bundle: Path, steps: int | None) -> None:
    parser = chain_of(long_bundle, **({} if steps is None else {"steps": steps}))
    parser.get_parsed_content("initialize")
    # The last step's noise has the factor sqrt(1 - 1); what is left is float32's rounding of values up to 4.
    torch.testing.assert_close(
        parser.get_parsed_content("films"), torch.full((4, 1, 16, 16), 0.5), atol=1e-6, rtol=0
    )
    assert len(parser.get_parsed_content("kept")) == (steps or 50)


@pytest.mark.parametrize("steps", [0, 100, 2.5])
def test_other_steps_than_the_network_has_are_one_sentence(long_bundle: Path, steps: float) -> None:
    with pytest.raises(SystemExit, match=rf"^--steps {steps}: expected 1 to 99\.$"):
        chain_of(long_bundle, steps=steps).get_parsed_content("initialize")


def test_the_program_tells_nothing_of_the_machine_that_traced_it(long_bundle: Path) -> None:
    with zipfile.ZipFile(long_bundle / "models" / "model.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert any(b"aten." in content for content in members.values())
    paths = [str(folder) for folder in (Path(xraygen.__file__).parents[1], Path(torch.__file__).parents[1])]
    for name, content in members.items():
        for word in (*paths, "stack_trace"):
            assert word.encode() not in content, (name, word)


def test_a_run_of_colour_images_is_no_bundle_of_films(
    tiny: tuple[str, ...], tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    config = load_config("cifar10", tiny)
    network, run, out = UNet(config.model), tmp_path / "run", tmp_path / "bundle"
    run.mkdir()
    (run / "config.yaml").write_text(config.to_yaml())
    save_checkpoint(run, 1, network, network, {})
    with pytest.raises(UsageError, match="makes colour images"):
        export_bundle(run, out)
    words = (
        "--to",
        "monai",
        "--checkpoint",
        "newest",
        "--out",
        out,
        "--acknowledge-patient-data",
        "--dry-run",
    )
    result = xraygen_cli("export", run, *words)
    assert result.exit_code == 2
    assert "makes colour images" in " ".join(result.stderr.split())
    assert not out.exists()
