"""Folders of diffusers that are not ours to read, and RUNs that diffusers cannot express: each is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xraygen.atomic import write_text
from xraygen.config import RunConfig
from xraygen.errors import FolderError, UsageError, XraygenError
from xraygen.interop.diffusers import export_diffusers, import_diffusers, settings_for_diffusers

pytest.importorskip("diffusers")

UNET, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def with_json(source: Path, folder: Path, file: str, **changes: object) -> Path:
    """The folder with some keys of one file changed, `...` taking a key out; the weights are left behind."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    values = {**json.loads((folder / file).read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in values.items() if value is not ...}
    (folder / file).write_text(json.dumps(kept), encoding="utf-8")
    return folder


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
    overrides: tuple[str, ...], said: str, small_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    tmp_path.joinpath("run").mkdir()
    write_text(tmp_path / "run" / "config.yaml", small_config(*overrides).to_yaml())
    with pytest.raises(UsageError, match=said):
        export_diffusers(tmp_path / "run", tmp_path / "folder")
    with pytest.raises(UsageError, match=said):
        settings_for_diffusers(tmp_path / "run")
    assert not (tmp_path / "folder").exists()


def test_nothing_is_written_over(grey: Path, imported: Path, exported: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [*imported.rglob("*"), *exported.rglob("*")]}
    for call in (lambda: import_diffusers(grey, imported), lambda: export_diffusers(imported, exported)):
        with pytest.raises(XraygenError, match="exists already"):
            call()
    assert before == {path: path.stat().st_mtime_ns for path in [*imported.rglob("*"), *exported.rglob("*")]}
