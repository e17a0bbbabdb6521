"""Weights both ways, against diffusers' own save_pretrained and from_pretrained."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import Result

from xraygen.atomic import write_text
from xraygen.config import RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import UsageError
from xraygen.interop.diffusers import export_diffusers, import_diffusers
from xraygen.interop.names import diffusers_names
from xraygen.interop.settings import JsonFile, run_config_from, scheduler_settings, unet_settings
from xraygen.models.unet import UNet
from xraygen.seeds import torch_generator
from xraygen.synthesis.generate import generate
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.training.checkpoint import EMA, MODEL, load_run, newest_checkpoint, run_config
from xraygen.training.loop import train

diffusers = pytest.importorskip("diffusers")

Small = Callable[..., RunConfig]
OwnRun = Callable[[Path, RunConfig], Path]
UNET, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
WITHOUT_XRAYGEN = """
import sys
sys.modules["xraygen"] = None  # as where it is not installed: importing it fails
import torch
from diffusers import DDPMPipeline
pipeline = DDPMPipeline.from_pretrained(sys.argv[1])
images = pipeline(num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)).images
torch.save(images, sys.argv[2])
"""
PROCESSES = {
    "linear": (),
    "cosine v": ("schedule.kind=cosine", "diffusion.prediction_type=v_prediction"),
    "zero snr": ("schedule.zero_terminal_snr=true", "diffusion.prediction_type=v_prediction"),
    "sigmoid": ("schedule.kind=sigmoid", "diffusion.prediction_type=sample"),
    "shifted": (
        "schedule.reference_size=8",
        "schedule.beta_end=0.015",
        "diffusion.variance_type=fixed_large",
    ),
    "shifted zero snr": (
        "schedule.kind=cosine",
        "schedule.reference_size=8",
        "schedule.zero_terminal_snr=true",
        "diffusion.prediction_type=v_prediction",
    ),
    "edm noise": ("schedule.kind=edm", "schedule.num_timesteps=200"),
    "learned": ("diffusion.variance_type=learned_range",),
}


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", ["grey", "colour"])
def test_diffusers_to_xraygen_to_diffusers_is_the_same_to_the_bit(
    folder: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: Path = request.getfixturevalue(folder)
    import_diffusers(source, tmp_path / "run")
    export_diffusers(tmp_path / "run", tmp_path / "back")
    assert same_tensors(load_file(source / WEIGHTS), load_file(tmp_path / "back" / WEIGHTS))
    for file in (UNET, SCHEDULER, INDEX):
        assert read_json(source / file) == read_json(tmp_path / "back" / file)


def test_xraygen_to_diffusers_to_xraygen_is_the_same_to_the_bit(
    small_config: Small, own_run: OwnRun, tmp_path: Path
) -> None:
    config = small_config("data.image_size=[16,24]", "model.dropout=0.1", *PROCESSES["shifted"])
    run = own_run(tmp_path / "run", config)
    export_diffusers(run, tmp_path / "folder")
    import_diffusers(tmp_path / "folder", tmp_path / "again")
    again = run_config(tmp_path / "again")
    assert (again.data, again.model, again.schedule) == (config.data, config.model, config.schedule)
    first, second = newest_checkpoint(run), newest_checkpoint(tmp_path / "again")
    assert first.ema_sha256 == second.ema_sha256
    assert (second.folder / MODEL).read_bytes() == (second.folder / EMA).read_bytes()


@pytest.mark.parametrize(("weights", "file"), [("ema", EMA), ("model", MODEL)])
def test_the_chosen_weights_are_exported(
    weights: Any, file: str, small_config: Small, own_run: OwnRun, tmp_path: Path
) -> None:
    run = own_run(tmp_path / "run", small_config())
    assert export_diffusers(run, tmp_path / "folder", weights=weights).step == 40
    import_diffusers(tmp_path / "folder", tmp_path / "again")
    ours, theirs = newest_checkpoint(run).folder / file, newest_checkpoint(tmp_path / "again").folder / EMA
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("process", list(PROCESSES))
def test_every_process_comes_back_as_it_went(process: str, small_config: Small, tmp_path: Path) -> None:
    config = small_config(*PROCESSES[process])
    write_text(tmp_path / "unet.json", json.dumps(unet_settings(config)))
    write_text(tmp_path / "scheduler.json", json.dumps(scheduler_settings(config)))
    again = run_config_from(JsonFile(tmp_path / "unet.json"), JsonFile(tmp_path / "scheduler.json"))
    assert (again.data, again.model) == (config.data, config.model)
    assert (again.schedule, again.diffusion) == (config.schedule, config.diffusion)


@pytest.mark.parametrize("process", ["linear", "learned"])
def test_diffusers_builds_the_exported_network_with_our_names_and_shapes(
    process: str, small_config: Small
) -> None:
    config = small_config(*PROCESSES[process])
    with torch.device("meta"):
        ours, theirs = UNet(config.model), diffusers.UNet2DModel.from_config(unet_settings(config))
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    expected = {name: shapes[mine] for mine, name in diffusers_names(ours).items()}
    assert {name: tensor.shape for name, tensor in theirs.state_dict().items()} == expected


@pytest.mark.parametrize("process", list(PROCESSES))
def test_diffusers_scheduler_has_our_tables(process: str, small_config: Small, numerics: Any) -> None:
    config = small_config(*PROCESSES[process])
    scheduler = diffusers.DDPMScheduler.from_config(scheduler_settings(config))
    ours = NoiseSchedule.from_config(config.schedule).alphas_cumprod
    numerics.check("export-alphas-cumprod", ours, scheduler.alphas_cumprod)


def test_the_exported_pipeline_predicts_what_the_run_predicts(
    imported: Path, exported: Path, numerics: Any
) -> None:
    model, _, config = load_run(imported)
    pipeline = diffusers.DDPMPipeline.from_pretrained(exported)
    x_t = torch.randn((1, *config.data.shape), generator=torch_generator(0, "test", "x_t"))
    t = torch.tensor([60])
    with torch.no_grad():
        numerics.check("export-prediction", model(x_t, t), pipeline.unet(x_t, t).sample)


def test_a_network_that_was_told_augmentations_goes_out_as_what_it_is_for_films_as_they_are(
    small_config: Small, own_run: OwnRun, tmp_path: Path
) -> None:
    config = small_config("data.augment_probability=0.12")
    run = own_run(tmp_path / "run", config)
    summary = export_diffusers(run, tmp_path / "folder")
    import_diffusers(tmp_path / "folder", tmp_path / "again")
    (ours, _, _), (theirs, _, again) = load_run(run), load_run(tmp_path / "again")
    assert not again.model.hears_augmentation
    assert sum(weight.numel() for weight in ours.parameters()) == summary.parameters + 6 * 128
    x_t = torch.randn((1, *config.data.shape), generator=torch_generator(0, "test", "x_t"))
    assert torch.equal(ours(x_t, torch.tensor([60])), theirs(x_t, torch.tensor([60])))


def test_the_exported_pipeline_runs_where_xraygen_is_not_installed(exported: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        WITHOUT_XRAYGEN,
        str(exported),
        str(tmp_path / "images.pt"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    pipeline = diffusers.DDPMPipeline.from_pretrained(exported)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)
    ).images
    assert images.shape == (1, 1, 16, 24)
    assert float(images.std()) > 0
    torch.testing.assert_close(torch.load(tmp_path / "images.pt"), images, rtol=0, atol=1e-5)  # other threads


def test_an_imported_run_generates(imported: Path, tmp_path: Path) -> None:
    summary = generate(
        imported, tmp_path / "out", [3], SamplerSettings(steps=2, compute_batch=1), device="cpu"
    )
    assert summary.made == 1
    assert (tmp_path / "out" / "images" / "3.png").is_file()


def test_an_imported_run_does_not_go_on_training(imported: Path, tiny_dataset: Path) -> None:
    config = run_config(imported)
    dataset = open_dataset(tiny_dataset)
    fitting = replace(dataset, info=replace(dataset.info, size=config.data.shape[1:]))
    with pytest.raises(UsageError, match="was imported, not trained here"):
        train(config, fitting, imported, device="cpu")


def test_the_flat_layout_and_the_old_names_of_googles_files_are_read(colour: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(colour / WEIGHTS)
    named = dict(tensors)
    for name in tensors:
        for modern, former in old.items():
            if f".{modern}." in name:
                named[name.replace(f".{modern}.", f".{former}.")] = named.pop(name)
    assert (
        len(named.keys() - tensors.keys()) == 8 * 4
    )  # weight and bias of four layers, in each of four attentions
    torch.save(named, flat / "diffusion_pytorch_model.bin")
    shutil.copy(colour / UNET, flat / "config.json")
    early = {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": "0.1.1",
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "beta_start": 0.0001,
        "clip_sample": True,
        "num_train_timesteps": 1000,
        "trained_betas": None,
        "variance_type": "fixed_large",
    }
    (flat / "scheduler_config.json").write_text(json.dumps(early), encoding="utf-8")
    import_diffusers(flat, tmp_path / "run")
    import_diffusers(colour, tmp_path / "other")
    runs = (tmp_path / "run", tmp_path / "other")
    assert len({newest_checkpoint(run).ema_sha256 for run in runs}) == 1
    assert run_config(runs[0]).schedule.num_timesteps == 1000


def test_the_command_line_imports_exports_and_generates(
    grey: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    run, folder, out = tmp_path / "run", tmp_path / "folder", tmp_path / "out"
    commands: list[tuple[object, ...]] = [
        ("import", grey, "--out", run, "--json"),
        ("export", run, "--to", "diffusers", "--out", folder, "--acknowledge-patient-data", "--json"),
        ("generate", run, "--out", out, "--seeds", "5", "--steps", "2", "--batch-size", "1", "--json"),
    ]
    results = [xraygen_cli(*command) for command in commands]
    assert [result.exit_code for result in results] == [0, 0, 0]
    told = [json.loads(result.stdout) for result in results]
    assert (
        told[0]["parameters"]
        == told[1]["parameters"]
        == sum(map(torch.numel, load_file(grey / WEIGHTS).values()))
    )
    assert told[2]["made"] == 1
    assert same_tensors(load_file(grey / WEIGHTS), load_file(folder / WEIGHTS))


@pytest.mark.parametrize("verb", ["import", "export"])
def test_a_dry_run_writes_nothing(
    verb: str, grey: Path, imported: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    source = (grey,) if verb == "import" else (imported, "--to", "diffusers", "--acknowledge-patient-data")
    result = xraygen_cli(verb, *source, "--out", tmp_path / "new", "--dry-run")
    assert result.exit_code == 0
    assert not (tmp_path / "new").exists()
