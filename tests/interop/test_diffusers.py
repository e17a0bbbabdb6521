"""Weights both ways, against diffusers' own save_pretrained and from_pretrained."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import Result

from xraygen.atomic import write_text
from xraygen.config import RunConfig, load_config
from xraygen.dataset.store import open_dataset
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import FolderError, UsageError, XraygenError
from xraygen.interop.diffusers import export_diffusers, import_diffusers
from xraygen.interop.names import diffusers_names
from xraygen.interop.settings import JsonFile, run_config_from, scheduler_settings, unet_settings
from xraygen.models.unet import UNet
from xraygen.seeds import torch_generator
from xraygen.synthesis.generate import generate
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.training.checkpoint import EMA, MODEL, load_run, newest_checkpoint, run_config, save_checkpoint
from xraygen.training.loop import train

diffusers = pytest.importorskip("diffusers")

UNET, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SMALL = (
    "data.image_size=16",
    "data.channels=1",
    "data.horizontal_flip=false",
    "model.dropout=0",
    "model.channel_mult=[1,1]",
    "model.num_res_blocks=1",
    "model.attention_resolutions=[8]",
)
"""Overrides of cifar10 that make the smallest network which attends and has the paper's 32 groups everywhere."""
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


def redrawn(network: torch.nn.Module, seed: int) -> None:
    """Random weights of the size that training leaves, the almost-zero ones too."""
    weights = {
        name: 0.05 * torch.randn(tensor.shape, generator=torch_generator(seed, "test", name))
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(weights, assign=True)


def diffusers_folder(folder: Path, channels: int) -> Path:
    """What diffusers writes of a random UNet2DModel with attention and two widths, and a scheduler."""
    with torch.device("meta"):
        unet = diffusers.UNet2DModel(
            sample_size=[16, 24],
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(128, 256),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
            norm_eps=1e-6,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
            dropout=0.1,
        )
    redrawn(unet, channels)
    scheduler = diffusers.DDPMScheduler(beta_end=0.015, variance_type="fixed_large", num_train_timesteps=100)
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusers_folder(tmp_path_factory.mktemp("diffusers") / "grey", 1)


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return diffusers_folder(tmp_path_factory.mktemp("diffusers") / "colour", 3)


@pytest.fixture(scope="module")
def imported(grey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN of the grey folder; tests only read it."""
    run = tmp_path_factory.mktemp("runs") / "imported"
    import_diffusers(grey, run)
    return run


@pytest.fixture(scope="module")
def exported(imported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That RUN as a diffusers folder again."""
    folder = tmp_path_factory.mktemp("diffusers") / "exported"
    export_diffusers(imported, folder)
    return folder


def small_config(*overrides: str) -> RunConfig:
    return load_config("cifar10", [*SMALL, *overrides])


def own_run(run: Path, config: RunConfig) -> Path:
    """A RUN as training leaves it, whose average differs from its last step."""
    networks = []
    for seed in (1, 2):
        with torch.device("meta"):
            network = UNet(config.model)
        redrawn(network, seed)
        networks.append(network)
    run.mkdir()
    write_text(run / "config.yaml", config.to_yaml())
    save_checkpoint(
        run, 40, networks[0], networks[1], torch.optim.Adam(networks[0].parameters()).state_dict()
    )
    return run


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def with_json(source: Path, folder: Path, file: str, **changes: object) -> Path:
    """The folder with some keys of one file changed, `...` taking a key out; the weights are left behind."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    values = {**read_json(folder / file), **changes}
    kept = {key: value for key, value in values.items() if value is not ...}
    (folder / file).write_text(json.dumps(kept), encoding="utf-8")
    return folder


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


def test_xraygen_to_diffusers_to_xraygen_is_the_same_to_the_bit(tmp_path: Path) -> None:
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
def test_the_chosen_weights_are_exported(weights: Any, file: str, tmp_path: Path) -> None:
    run = own_run(tmp_path / "run", small_config())
    assert export_diffusers(run, tmp_path / "folder", weights=weights).step == 40
    import_diffusers(tmp_path / "folder", tmp_path / "again")
    ours, theirs = newest_checkpoint(run).folder / file, newest_checkpoint(tmp_path / "again").folder / EMA
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("process", list(PROCESSES))
def test_every_process_comes_back_as_it_went(process: str, tmp_path: Path) -> None:
    config = small_config(*PROCESSES[process])
    write_text(tmp_path / "unet.json", json.dumps(unet_settings(config)))
    write_text(tmp_path / "scheduler.json", json.dumps(scheduler_settings(config)))
    again = run_config_from(JsonFile(tmp_path / "unet.json"), JsonFile(tmp_path / "scheduler.json"))
    assert (again.data, again.model) == (config.data, config.model)
    assert (again.schedule, again.diffusion) == (config.schedule, config.diffusion)


@pytest.mark.parametrize("process", ["linear", "learned"])
def test_diffusers_builds_the_exported_network_with_our_names_and_shapes(process: str) -> None:
    config = small_config(*PROCESSES[process])
    with torch.device("meta"):
        ours, theirs = UNet(config.model), diffusers.UNet2DModel.from_config(unet_settings(config))
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    expected = {name: shapes[mine] for mine, name in diffusers_names(ours).items()}
    assert {name: tensor.shape for name, tensor in theirs.state_dict().items()} == expected


@pytest.mark.parametrize("process", list(PROCESSES))
def test_diffusers_scheduler_has_our_tables(process: str, numerics: Any) -> None:
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
    tmp_path: Path,
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


def test_the_exported_pipeline_runs(exported: Path) -> None:
    pipeline = diffusers.DDPMPipeline.from_pretrained(exported)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)
    ).images
    assert images.shape == (1, 1, 16, 24)
    assert float(images.std()) > 0


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


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        (UNET, "_class_name", "UNet2DConditionModel"),
        (UNET, "sample_size", None),
        (UNET, "in_channels", 4),
        (UNET, "out_channels", 2),
        (UNET, "center_input_sample", True),
        (UNET, "time_embedding_type", "fourier"),
        (UNET, "time_embedding_dim", 128),
        (UNET, "freq_shift", 0),
        (UNET, "freq_shift", True),
        (UNET, "freq_shift", ...),
        (UNET, "flip_sin_to_cos", ...),
        (UNET, "down_block_types", ["ResnetDownsampleBlock2D", "AttnDownBlock2D"]),
        (UNET, "down_block_types", ["DownBlock2D"]),
        (UNET, "down_block_types", None),
        (UNET, "up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
        (UNET, "mid_block_type", None),
        (UNET, "mid_block_scale_factor", 1.4),
        (UNET, "downsample_padding", 1),
        (UNET, "downsample_type", "resnet"),
        (UNET, "upsample_type", "resnet"),
        (UNET, "act_fn", "gelu"),
        (UNET, "attention_head_dim", 8),
        (UNET, "attention_head_dim", [8, 8]),
        (UNET, "attention_head_dim", ...),
        (UNET, "norm_num_groups", 16),
        (UNET, "attn_norm_num_groups", 8),
        (UNET, "norm_eps", 1e-5),
        (UNET, "norm_eps", ...),
        (UNET, "resnet_time_scale_shift", "scale_shift"),
        (UNET, "add_attention", False),
        (UNET, "class_embed_type", "timestep"),
        (UNET, "num_class_embeds", 10),
        (UNET, "block_out_channels", [64, 128]),
        (UNET, "block_out_channels", [128, 192]),
        (UNET, "block_out_channels", []),
        (UNET, "block_out_channels", 128),
        (UNET, "dropout", 1.5),
        (UNET, "a_key_of_tomorrow", 1),
        (SCHEDULER, "_class_name", "EulerDiscreteScheduler"),
        (SCHEDULER, "beta_schedule", "scaled_linear"),
        (SCHEDULER, "beta_schedule", "sigmoid"),
        (SCHEDULER, "beta_schedule", ["linear"]),
        (SCHEDULER, "rescale_betas_zero_snr", True),
        (SCHEDULER, "beta_end", 2.0),
        (SCHEDULER, "trained_betas", [0.1, 0.2]),
        (SCHEDULER, "variance_type", "learned"),
        (SCHEDULER, "variance_type", "fixed_large_log"),
        (SCHEDULER, "prediction_type", "flow"),
        (SCHEDULER, "clip_sample", False),
        (SCHEDULER, "clip_sample_range", 2.0),
        (SCHEDULER, "thresholding", True),
        (SCHEDULER, "num_train_timesteps", 1),
        (SCHEDULER, "a_key_of_tomorrow", 1),
        (INDEX, "vqvae", ["diffusers", "VQModel"]),
    ],
)
def test_what_is_not_our_network_or_process_is_refused_by_name(
    file: str, key: str, value: object, grey: Path, tmp_path: Path
) -> None:
    folder = with_json(grey, tmp_path / "folder", file, **{key: value})
    (folder / WEIGHTS).touch()
    ours = {"rescale_betas_zero_snr": "zero_terminal_snr", "num_train_timesteps": "num_timesteps"}
    with pytest.raises(FolderError, match=ours.get(key, key)):
        import_diffusers(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def spoiled(tensors: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    """The tensors with one thing wrong about conv_in.weight, or about a name."""
    weight, name = tensors["conv_in.weight"], "conv_in.weight"
    match how:
        case "missing":
            return {key: tensor for key, tensor in tensors.items() if key != name}
        case "unexpected":
            return {**tensors, "class_embedding.weight": torch.zeros(2)}
        case "twice":
            twin = "mid_block.attentions.0.query.weight"
            return {**tensors, twin: tensors["mid_block.attentions.0.to_q.weight"].clone()}
        case "shape":
            return {**tensors, name: weight.repeat(1, 3, 1, 1)}
        case "half":
            return {**tensors, name: weight.half()}
    return {**tensors, name: weight * float("nan")}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "has no conv_in.weight"),
        ("unexpected", "unexpected class_embedding.weight"),
        ("twice", "unexpected mid_block.attentions.0.query.weight"),
        ("shape", r"conv_in.weight is \(128, 3, 3, 3\); expected \(128, 1, 3, 3\)"),
        ("half", "conv_in.weight is torch.float16"),
        ("nan", "conv_in.weight holds NaN"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(how: str, said: str, grey: Path, tmp_path: Path) -> None:
    folder = with_json(grey, tmp_path / "folder", UNET)
    save_file(spoiled(load_file(grey / WEIGHTS), how), folder / WEIGHTS)
    with pytest.raises(FolderError, match=said):
        import_diffusers(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class _Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["cut", "code", "list"])
def test_a_damaged_or_dangerous_file_is_refused_and_not_run(kind: str, grey: Path, tmp_path: Path) -> None:
    folder = with_json(grey, tmp_path / "folder", UNET)
    if kind == "cut":
        (folder / WEIGHTS).write_bytes((grey / WEIGHTS).read_bytes()[:1000])
    else:
        content = {"conv_in.weight": _Trap(tmp_path / "sprung")} if kind == "code" else [torch.zeros(1)]
        torch.save(content, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(FolderError, match="diffusion_pytorch_model"):
        import_diffusers(folder, tmp_path / "run")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("file", [UNET, SCHEDULER, WEIGHTS])
def test_an_incomplete_folder_is_refused_with_what_it_lacks(file: str, grey: Path, tmp_path: Path) -> None:
    shutil.copytree(grey, tmp_path / "folder")
    (tmp_path / "folder" / file).unlink()
    with pytest.raises(FolderError, match=file):
        import_diffusers(tmp_path / "folder", tmp_path / "run")


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no folder"):
        import_diffusers(tmp_path / "nowhere", tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("model.channels=64",), "channels >= 128"),
        (("model.patch_size=2", "model.attention_resolutions=[4]"), "patch_size"),
        (("diffusion.prediction_type=edm", "schedule.kind=edm"), "edm"),
    ],
)
def test_what_diffusers_cannot_express_is_refused_with_the_reason(
    overrides: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    tmp_path.joinpath("run").mkdir()
    write_text(tmp_path / "run" / "config.yaml", small_config(*overrides).to_yaml())
    with pytest.raises(UsageError, match=said):
        export_diffusers(tmp_path / "run", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_nothing_is_written_over(grey: Path, imported: Path, exported: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [*imported.rglob("*"), *exported.rglob("*")]}
    for call in (lambda: import_diffusers(grey, imported), lambda: export_diffusers(imported, exported)):
        with pytest.raises(XraygenError, match="exists already"):
            call()
    assert before == {path: path.stat().st_mtime_ns for path in [*imported.rglob("*"), *exported.rglob("*")]}


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
    source = (grey,) if verb == "import" else (imported, "--to", "diffusers")
    result = xraygen_cli(verb, *source, "--out", tmp_path / "new", "--dry-run")
    assert result.exit_code == 0
    assert not (tmp_path / "new").exists()
