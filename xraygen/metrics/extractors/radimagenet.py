"""`radimagenet`: ResNet-50 or DenseNet-121 trained on CT, MRI and ultrasound, from the user's file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from xraygen.atomic import sha256_of
from xraygen.errors import UsageError
from xraygen.metrics.extractors.extractor import (
    DTYPE_RULE,
    UNPUBLISHED,
    ExtractorOptions,
    FeatureExtractor,
    Lack,
    resize_rule,
    resized,
)
from xraygen.metrics.extractors.weights import load_exactly, read_tensors, refusal
from xraygen.metrics.extractors.xrv import DIMS as DENSENET_DIMS
from xraygen.metrics.extractors.xrv import densenet121_maps

RESNET_DIMS, SIDE = 2048, 224
_STAGES = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""The published file numbers the parts of a ResNet-50; 2, 3 and 8 are ReLU and pools, which have no weights."""


def lacks_radimagenet(options: ExtractorOptions) -> Lack | None:
    """What is missing; raises UsageError where --weights names no file."""
    if (given := options.weights.get("radimagenet")) is not None:
        if not given.is_file():
            raise UsageError(f"--weights radimagenet={given}: there is no such file.")
        return None
    return Lack(
        "RadImageNet's ResNet50.pt or DenseNet121.pt",
        "--weights radimagenet=FILE, once you have the models from https://github.com/BMEII-AI/RadImageNet",
    )


def radimagenet(device: torch.device, options: ExtractorOptions) -> FeatureExtractor:
    """The mean over positions of the last feature maps: 2,048 of ResNet-50, 1,024 of DenseNet-121.

    Raises:
        UsageError: If no file is given, or there is none.
        FolderError: If it does not hold one of the two networks.
    """
    if (lack := lacks_radimagenet(options)) is not None:
        raise UsageError(refusal("radimagenet", lack))
    file = options.weights["radimagenet"]
    tensors = {_bare(name): tensor for name, tensor in read_tensors(file).items()}
    dense = any("denseblock" in name for name in tensors)
    maps = (
        densenet121_maps(
            {name.removeprefix("0."): tensor for name, tensor in tensors.items()}, file, channels=3
        )
        if dense
        else resnet50_maps(tensors, file)
    ).to(device)
    network_name, dims = ("DenseNet121", DENSENET_DIMS) if dense else ("ResNet50", RESNET_DIMS)

    def network(images: Tensor) -> Tensor:
        x = resized(images.expand(-1, 3, -1, -1), SIDE, "bilinear")  # (B, 3, 224, 224), grey replicated
        return functional.relu(maps(2 * x - 1)).mean(dim=(-2, -1))

    return FeatureExtractor(
        name="radimagenet",
        label=f"RadImageNet-{network_name}",
        dims=dims,
        provenance={
            "extractor": f"RadImageNet {network_name} (Mei et al. 2022; CT, MRI, ultrasound), mean of the last "
            "feature maps",
            "weights": file.name,
            "weights_sha256": sha256_of(file),
            "weights_are": UNPUBLISHED,
            "licence": "MIT for the repository BMEII-AI/RadImageNet; the models' own terms come with them",
            "input": "grey replicated to 3 channels, range 2 x - 1",
            "dtype": DTYPE_RULE,
            "resize": resize_rule(SIDE, "bilinear"),
            "dims": dims,
        },
        network=network,
        device=device,
    )


def resnet50_maps(published: Mapping[str, Tensor], file: Path) -> nn.Module:
    """The convolutional part of MONAI's ResNet-50 with weights in RadImageNet's or torchvision's names.

    Args:
        published: State dict with `4.0.conv1.weight` or `layer1.0.conv1.weight` and their like; `fc` is dropped.
        file: Where it comes from, for messages.

    Returns:
        `(B, 3, H, W)` to `(B, 2048, H / 32, W / 32)`.

    Raises:
        FolderError: If weights are missing, left over or of another shape.
    """
    from monai.networks.nets import resnet50  # noqa: PLC0415 - seconds, which no other extractor needs

    with torch.device("meta"):
        network = resnet50(
            spatial_dims=2,
            n_input_channels=3,
            conv1_t_stride=2,
            feed_forward=False,
            shortcut_type="B",
            bias_downsample=False,
        )
    tensors = {}
    for name, tensor in published.items():
        part, _, rest = name.partition(".")
        if part != "fc":
            tensors[f"{_STAGES.get(part, part)}.{rest}"] = tensor
    load_exactly(network, tensors, file)
    network.eval().requires_grad_(False)
    parts = ("conv1", "bn1", "act", "maxpool", *list(_STAGES.values())[2:])
    return nn.Sequential(*(getattr(network, part) for part in parts))


def _bare(name: str) -> str:
    """Without the wrappers that the published file was saved in."""
    return name.removeprefix("module.").removeprefix("backbone.").removeprefix("features.")
