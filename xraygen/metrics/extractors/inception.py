"""`inception`: the network that FID is defined by, with clean-fid's preprocessing or the original one."""

import torch
from torch import Tensor

from xraygen.atomic import sha256_of
from xraygen.metrics import inception as network_of_fid
from xraygen.metrics.extractors.extractor import (
    DTYPE_RULE,
    ExtractorOptions,
    FeatureExtractor,
    InceptionResize,
    Lack,
    resized,
)
from xraygen.metrics.extractors.weights import Published, lacks_file, weights_file
from xraygen.metrics.inception import FEATURES, FID, SIDE, load_inception, resize_like_tensorflow1

_RULES: dict[InceptionResize, str] = {
    "clean-fid": f"{SIDE}x{SIDE}, bicubic with antialiasing as Pillow's on floats, clipped to [0, 255] "
    "(Parmar et al. 2022)",
    "original": f"{SIDE}x{SIDE}, bilinear as TensorFlow 1, without antialiasing (Heusel et al. 2017)",
}


def published() -> Published:
    """The file that pytorch-fid and torch-fidelity load."""
    return Published(
        extractor="inception",
        file="pt_inception-2015-12-05-6726825d.pth",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        sha256=network_of_fid.SHA256,
        size=95_628_359,
        licence="Apache-2.0",
    )


def lacks_inception(options: ExtractorOptions) -> Lack | None:
    """What is missing."""
    return lacks_file(published(), options)


def inception(device: torch.device, options: ExtractorOptions) -> FeatureExtractor:
    """Pool3 of Inception-v3 of 2015, 2,048 features.

    Both protocols begin with images of 8 bits, so that the film is rounded to 8 bits first; then comes
    --inception-resize.

    Raises:
        UsageError: If the weights are missing or others.
        FolderError: If they cannot be fetched or read.
    """
    file = weights_file(published(), options)
    network = load_inception(file, device)
    how = options.inception_resize

    def features(images: Tensor) -> Tensor:
        levels = (255 * images.expand(-1, 3, -1, -1)).round()  # (B, 3, H, W)
        return network.measure(
            resized(levels, SIDE, "bicubic").clamp(0, 255)
            if how == "clean-fid"
            else resize_like_tensorflow1(levels, SIDE)
        ).features

    return FeatureExtractor(
        name="inception",
        label=FID if how == "original" else f"{FID}, clean-fid",
        dims=FEATURES,
        provenance={
            "extractor": "Inception of 2015-12-05 (Szegedy et al. 2016; ImageNet), pool3",
            "weights": published().file,
            "weights_sha256": sha256_of(file),
            "weights_are": "the published file (pytorch-fid, torch-fidelity)",
            "licence": published().licence,
            "input": "grey replicated to 3 channels, rounded to 8 bits, resized, range (x - 128) / 128",
            "dtype": f"{DTYPE_RULE}, then rounded to 8 bits, as the protocol asks",
            "resize": _RULES[how],
            "dims": FEATURES,
        },
        network=features,
        device=device,
    )
