"""`dinov2`, `rad-dino` and `clip`: vision transformers through the package transformers, from a folder or the Hub.

They see the whole film at the model's own size; nothing is cropped, as the models' own preprocessing would.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from torch import Tensor
from torch.nn import functional

from xraygen.atomic import sha256_of
from xraygen.errors import FolderError, UsageError
from xraygen.metrics.extractors.extractor import (
    DTYPE_RULE,
    UNPUBLISHED,
    ExtractorOptions,
    FeatureExtractor,
    Lack,
    resize_rule,
    resized,
)
from xraygen.metrics.extractors.weights import refusal

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
Name = Literal["dinov2", "rad-dino", "clip"]


@dataclass(frozen=True)
class Family:
    """One of the names, and what the Hub has under it."""

    name: Name
    kinds: tuple[str, ...]
    """What `model_type` of its config.json may be."""
    repository: str
    """On the Hugging Face Hub."""
    revision: str
    """Commit that --download fetches."""
    weights: str
    """The one file of weights that is fetched."""
    sha256: str | None
    """Of that file where it is known from several publications, else None."""
    licence: str
    source: str


FAMILIES: dict[Name, Family] = {
    "dinov2": Family(
        name="dinov2",
        kinds=("dinov2",),
        repository="facebook/dinov2-base",
        revision="f9e44c814b77203eaa57a6bdbbd535f21ede1415",
        weights="model.safetensors",
        sha256=None,
        licence="Apache-2.0",
        source="DINOv2 (Oquab et al. 2024; photographs, without labels), class token",
    ),
    "rad-dino": Family(
        name="rad-dino",
        kinds=("dinov2",),
        repository="microsoft/rad-dino",
        revision="main",
        weights="model.safetensors",
        sha256=None,
        licence="the model card's own terms: MIT, before 2025 MSRLA; for research, not for clinical practice",
        source="RAD-DINO (Pérez-García et al. 2025; chest films, without labels), class token",
    ),
    "clip": Family(
        name="clip",
        kinds=("clip", "clip_vision_model"),
        repository="openai/clip-vit-large-patch14-336",
        revision="ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
        weights="pytorch_model.bin",
        sha256="c6032c2e0caae3dc2d4fba35535fa6307dbb49df59c7e182b1bc4b3329b81801",
        licence="MIT for the repository openai/CLIP; the model card calls deployed use out of scope",
        source="CLIP (Radford et al. 2021; photographs with captions), image embedding of length 1",
    ),
}


def lacks_transformer(name: Name) -> Callable[[ExtractorOptions], Lack | None]:
    """What is missing of a family: the package, or the model; raises UsageError where --weights names no such model."""

    def lacks(options: ExtractorOptions) -> Lack | None:
        if find_spec("transformers") is None:
            return Lack("the package transformers", "pip install 'xraygen[features]'")
        family = FAMILIES[name]
        if (given := options.weights.get(name)) is not None:
            _parts(family, given)
            return None
        if _kept(family) is not None:
            return None
        return Lack(
            f"a folder with {_CONFIG}, {_PREPROCESSOR} and the weights of {family.repository}",
            f"--weights {name}=FOLDER, or --download, which fetches it from the Hugging Face Hub",
            downloads=True,
        )

    return lacks


def transformer(name: Name) -> Callable[[torch.device, ExtractorOptions], FeatureExtractor]:
    """The loader of a family."""

    def load(device: torch.device, options: ExtractorOptions) -> FeatureExtractor:
        family = FAMILIES[name]
        lack = lacks_transformer(name)(options)
        if lack is not None and not (lack.downloads and options.download):
            raise UsageError(refusal(name, lack))
        return _from_folder(family, _folder(family, options), device)

    return load


def _kept(family: Family) -> Path | None:
    """The model's folder in the Hub's own cache."""
    try:
        return Path(_snapshot(family, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None


def _folder(family: Family, options: ExtractorOptions) -> Path:
    """The model's folder: the user's, or the kept one; with --download made whole first."""
    if (given := options.weights.get(family.name)) is not None:
        return given
    kept = _kept(family)
    if kept is not None and not options.download:
        return kept
    try:
        return Path(_snapshot(family, local_files_only=False))
    except (HfHubHTTPError, OSError, ValueError) as error:
        if kept is not None:
            return kept
        raise FolderError(
            f"{family.repository} could not be fetched from the Hugging Face Hub ({type(error).__name__}); bring its "
            f"folder yourself: --weights {family.name}=FOLDER."
        ) from None


def _snapshot(family: Family, *, local_files_only: bool) -> str:
    return snapshot_download(
        family.repository,
        revision=family.revision,
        allow_patterns=[_CONFIG, _PREPROCESSOR, family.weights],
        local_files_only=local_files_only,
    )


def _parts(family: Family, folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """A model's file of weights, and what its pixels are made of.

    Raises:
        UsageError: If the folder does not hold a model of this family.
    """
    config, preprocessor = (_read_json(family, folder / name) for name in (_CONFIG, _PREPROCESSOR))
    if config.get("model_type") not in family.kinds:
        raise UsageError(
            f"--weights {family.name}={folder} holds a model of kind {config.get('model_type')!r}; expected "
            f"{' or '.join(family.kinds)}, such as {family.repository} of the Hugging Face Hub."
        )
    file = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise UsageError(f"--weights {family.name}={folder}: it holds neither {' nor '.join(_WEIGHTS)}.")
    return file, preprocessor


def _from_folder(family: Family, folder: Path, device: torch.device) -> FeatureExtractor:
    """Read a model and what its pixels are made of."""
    file, preprocessor = _parts(family, folder)
    mean, deviation, side = _statistics(family, folder, preprocessor)
    network = _network(family, folder).to(device)
    dims = int(network.config.projection_dim if family.name == "clip" else network.config.hidden_size)
    shift, scale = (torch.tensor(x, device=device).view(1, 3, 1, 1) for x in (mean, deviation))

    def features(images: Tensor) -> Tensor:
        x = resized(images.expand(-1, 3, -1, -1), side, "bicubic").clamp(0, 1)  # (B, 3, side, side)
        output = network(pixel_values=(x - shift) / scale)
        if family.name != "clip":
            tokens: Tensor = output.pooler_output  # (B, F): the class token behind the last norm
            return tokens
        return functional.normalize(output.image_embeds, dim=1)

    sha256 = sha256_of(file)
    return FeatureExtractor(
        name=family.name,
        label=_label(family, network.config, side),
        dims=dims,
        provenance={
            "extractor": family.source,
            "weights": file.name,
            "weights_sha256": sha256,
            "weights_are": f"the published file ({family.repository})"
            if sha256 == family.sha256
            else UNPUBLISHED,
            "licence": family.licence,
            "input": f"grey replicated to 3 channels, range (x - {list(mean)}) / {list(deviation)}",
            "dtype": DTYPE_RULE,
            "resize": resize_rule(side, "bicubic"),
            "dims": dims,
        },
        network=features,
        device=device,
    )


def _network(family: Family, folder: Path) -> Any:
    """The model, every one of its weights from the folder; read as data, never as code."""
    from transformers import CLIPVisionModelWithProjection, Dinov2Model  # noqa: PLC0415 - an extra, and slow
    from transformers.utils import logging  # noqa: PLC0415

    kind = CLIPVisionModelWithProjection if family.name == "clip" else Dinov2Model
    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # the text half of CLIP is left out on purpose
    try:
        network, found = kind.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # transformers raises many kinds
        raise FolderError(f"{folder} cannot be read as a model; copy it again.") from error
    finally:
        logging.set_verbosity(before)
    if missing := sorted(found["missing_keys"]):
        raise FolderError(
            f"{folder} lacks {len(missing)} weights of the model, the first of them {missing[0]}; copy it again."
        )
    return network.eval().requires_grad_(False)


def _read_json(family: Family, file: Path) -> Mapping[str, Any]:
    """A file of settings."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None
    if not isinstance(settings, dict):
        raise UsageError(
            f"--weights {family.name}={file.parent}: {file.name} is missing or unreadable; copy the whole folder of "
            "the model."
        )
    return settings


def _statistics(
    family: Family, folder: Path, preprocessor: Mapping[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Mean and standard deviation per channel, and the side in pixels."""
    try:
        mean, deviation = (tuple(map(float, preprocessor[key])) for key in ("image_mean", "image_std"))
        size = preprocessor.get("crop_size") or preprocessor["size"]
        side = int(size if isinstance(size, int) else size.get("height") or size["shortest_edge"])
    except (KeyError, TypeError, ValueError, AttributeError):
        mean, deviation, side = (), (), 0
    if len(mean) != 3 or len(deviation) != 3 or side < 1 or min(deviation) <= 0:
        raise UsageError(
            f"--weights {family.name}={folder}: {_PREPROCESSOR} says no image_mean, image_std and size."
        )
    return mean, deviation, side


def _label(family: Family, config: Any, side: int) -> str:
    """Names the size of the model, since several share a family."""
    names: dict[Name, str] = {"dinov2": "DINOv2", "rad-dino": "RAD-DINO", "clip": "CLIP"}
    return f"{names[family.name]}-{config.num_hidden_layers}x{config.hidden_size}/{config.patch_size}@{side}"
