"""dinov2, rad-dino and clip with tiny random models, saved as the Hub's are; no network.

Skipped without the extra `features`, which `dev` leaves out: MONAI imports transformers wherever it finds it, in
seconds, in every process.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from xraygen.atomic import sha256_of
from xraygen.errors import FolderError, UsageError
from xraygen.metrics.extractors.extractor import UNPUBLISHED, ExtractorOptions
from xraygen.metrics.features import load_extractor

transformers = pytest.importorskip("transformers")
SIDE = 28
MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 14,
}


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    settings = {"image_mean": MEAN, "image_std": DEVIATION, "crop_size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SHAPE)).eval()
    return save(model, tmp_path_factory.mktemp("dinov2")), model


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The whole model, text and all, as the Hub has it."""
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
    config = transformers.CLIPConfig(
        vision_config={**SHAPE, "intermediate_size": 32, "projection_dim": 8},
        text_config={
            **text,
            "intermediate_size": 32,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
        },
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CLIPModel(config).eval()
    return save(model, tmp_path_factory.mktemp("clip")), model


@pytest.fixture(scope="module")
def films() -> Tensor:
    return torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def normalised(films: Tensor) -> Tensor:
    channels = [(films[:, 0] - mean) / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)]
    return torch.stack(channels, dim=1)


@pytest.mark.parametrize("name", ["dinov2", "rad-dino"])
def test_dinov2_gives_the_class_token(dinov2: tuple[Path, Any], films: Tensor, name: str) -> None:
    folder, model = dinov2
    extractor = load_extractor(name, "cpu", ExtractorOptions({name: folder}))
    with torch.inference_mode():
        expected = model(normalised(films)).last_hidden_state[:, 0]
    assert torch.allclose(extractor(films), expected, atol=1e-5)  # float32, other batches of the same sums
    assert extractor.dims == 16
    assert extractor.label.endswith("-2x16/14@28")
    assert extractor.provenance["weights_sha256"] == sha256_of(folder / "model.safetensors")
    assert extractor.provenance["weights_are"] == UNPUBLISHED


def test_clip_gives_image_embeddings_of_length_1(clip: tuple[Path, Any], films: Tensor) -> None:
    folder, model = clip
    extractor = load_extractor("clip", "cpu", ExtractorOptions({"clip": folder}))
    with torch.inference_mode():
        pooled = model.vision_model(normalised(films)).pooler_output
        expected = functional.normalize(pooled @ model.visual_projection.weight.T, dim=1)
    found = extractor(films)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-6)


def test_other_sizes_are_resized_whole(dinov2: tuple[Path, Any]) -> None:
    folder, _ = dinov2
    extractor = load_extractor("dinov2", "cpu", ExtractorOptions({"dinov2": folder}))
    assert extractor(torch.rand(2, 1, 40, 20)).shape == (2, 16)
    assert extractor.provenance["resize"] == "28x28, bicubic with antialiasing, whole film"


def test_a_model_of_another_kind_is_refused(clip: tuple[Path, Any]) -> None:
    with pytest.raises(UsageError, match="holds a model of kind 'clip'; expected dinov2"):
        load_extractor("dinov2", "cpu", ExtractorOptions({"dinov2": clip[0]}))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_folder_that_is_not_whole_is_refused(dinov2: tuple[Path, Any], tmp_path: Path, name: str) -> None:
    for file in dinov2[0].iterdir():
        if file.name != name:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(UsageError, match=f"{name} is missing or unreadable; copy the whole folder"):
        load_extractor("dinov2", "cpu", ExtractorOptions({"dinov2": tmp_path}))


def test_a_folder_without_weights_is_refused(dinov2: tuple[Path, Any], tmp_path: Path) -> None:
    for file in dinov2[0].glob("*.json"):
        (tmp_path / file.name).symlink_to(file)
    with pytest.raises(UsageError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_extractor("dinov2", "cpu", ExtractorOptions({"dinov2": tmp_path}))


def test_weights_that_are_not_all_there_are_refused_and_never_drawn_at_random(
    dinov2: tuple[Path, Any], tmp_path: Path
) -> None:
    model = dinov2[1]
    save(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = model.state_dict()
    state.pop("layernorm.weight")
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        FolderError, match=r"lacks 1 weights of the model, the first of them layernorm.weight"
    ):
        load_extractor("dinov2", "cpu", ExtractorOptions({"dinov2": tmp_path}))
