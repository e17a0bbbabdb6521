"""`pixels`: the image itself."""

import torch
from torch import Tensor

from xraygen.metrics.extractors.extractor import (
    DTYPE_RULE,
    ExtractorOptions,
    FeatureExtractor,
    resize_rule,
    resized,
)

SIDE = 32


def pixels(device: torch.device, options: ExtractorOptions) -> FeatureExtractor:
    """The image averaged down to 32x32: no network, no weights, no opinion."""

    def network(images: Tensor) -> Tensor:
        return resized(images.mean(dim=1, keepdim=True), SIDE, "bilinear").flatten(1)

    return FeatureExtractor(
        name="pixels",
        label=f"pixels-{SIDE}",
        dims=SIDE**2,
        provenance={
            "extractor": "pixels",
            "weights_sha256": "no weights",
            "input": "mean over channels, range [0, 1]",
            "dtype": DTYPE_RULE,
            "resize": resize_rule(SIDE, "bilinear"),
            "dims": SIDE**2,
        },
        network=network,
        device=device,
    )
