"""`xrv`: TorchXRayVision's DenseNet-121, trained on chest films; its weights in MONAI's network of the same shape."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from xraygen.metrics.extractors.extractor import (
    DTYPE_RULE,
    ExtractorOptions,
    FeatureExtractor,
    Lack,
    resize_rule,
    resized,
)
from xraygen.metrics.extractors.pickled import read_module
from xraygen.metrics.extractors.weights import (
    Published,
    check_published,
    lacks_file,
    load_exactly,
    weights_file,
)

DIMS, SIDE = 1024, 224
_RELEASE = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
_TRAINED = "-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"


def _publication(model: str, stem: str, sha256: str, size: int) -> tuple[str, Published]:
    """One file of the release, by the name of its model."""
    file = stem + _TRAINED
    return model, Published("xrv", file, _RELEASE + file, sha256, size, "Apache-2.0")


PUBLISHED = dict(
    (
        _publication(
            "densenet121-res224-all",
            "nih-pc-chex-mimic_ch-google-openi-kaggle",
            "56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899",
            28_382_008,
        ),
        _publication(
            "densenet121-res224-pc",
            "pc",
            "a9148ef62ae4e7a31a9bed8cef22811f39681cd61e4390398936efc6280af521",
            28_381_804,
        ),
        _publication(
            "densenet121-res224-rsna",
            "kaggle",
            "906a59f48cf09638b745d66848a6c6f9d741368c66244717a81207329d140268",
            28_381_974,
        ),
    )
)
"""Models whose hash `torchxrayvision` gives on the Hugging Face Hub; --download fetches the first."""


def lacks_xrv(options: ExtractorOptions) -> Lack | None:
    """What is missing."""
    wanted, *others = PUBLISHED.values()
    return lacks_file(wanted, options, also=others)


def xrv(device: torch.device, options: ExtractorOptions) -> FeatureExtractor:
    """The mean over positions of the last 1,024 feature maps, after ReLU: TorchXRayVision's `features2`.

    Raises:
        UsageError: If the weights are missing or none of PUBLISHED.
        FolderError: If they cannot be fetched or read.
    """
    wanted, *others = PUBLISHED.values()
    file = weights_file(wanted, options, also=others)
    found = check_published(file, PUBLISHED.values())
    model = next(name for name, one in PUBLISHED.items() if one == found)
    maps = densenet121_maps(read_module(file), file, channels=1).to(device)

    def network(images: Tensor) -> Tensor:
        grey = resized(images.mean(dim=1, keepdim=True), SIDE, "bilinear")  # (B, 1, 224, 224)
        return functional.relu(maps((2 * grey - 1) * 1024)).mean(dim=(-2, -1))

    return FeatureExtractor(
        name="xrv",
        label=f"XRV-{model}",
        dims=DIMS,
        provenance={
            "extractor": f"TorchXRayVision {model} (Cohen et al. 2022; chest films), mean of the last feature maps",
            "weights": found.file,
            "weights_sha256": found.sha256,
            "weights_are": "the published file (mlmed/torchxrayvision, release v1)",
            "licence": found.licence,
            "input": "mean over channels, range (2 x - 1) 1024",
            "dtype": DTYPE_RULE,
            "resize": resize_rule(SIDE, "bilinear"),
            "dims": DIMS,
        },
        network=network,
        device=device,
    )


def densenet121_maps(published: Mapping[str, Tensor], file: Path, *, channels: int) -> nn.Module:
    """The convolutional part of MONAI's DenseNet121 with weights that are named as torchvision names them.

    Args:
        published: State dict with `features.denseblock1.denselayer1.norm1.weight` and so on; a classifier is dropped.
        file: Where it comes from, for messages.
        channels: Of the image.

    Returns:
        `(B, channels, H, W)` to `(B, 1024, H / 32, W / 32)`, before the last ReLU.

    Raises:
        FolderError: If weights are missing, left over or of another shape.
    """
    from monai.networks.nets import DenseNet121  # noqa: PLC0415 - seconds, which no other extractor needs

    with torch.device("meta"):
        network = DenseNet121(spatial_dims=2, in_channels=channels, out_channels=1).features
    tensors = {
        re.sub(r"(denselayer\d+\.)", r"\1layers.", name.removeprefix("features.")): tensor
        for name, tensor in published.items()
        if not name.startswith("classifier.")
    }
    load_exactly(network, tensors, file)
    maps: nn.Module = network.eval().requires_grad_(False)
    return maps
