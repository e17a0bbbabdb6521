"""The network that FID and the Inception Score are defined by: TensorFlow's Inception of 2015-12-05.

Its weights are not shipped: they are the file that pytorch-fid and torch-fidelity publish
(pt_inception-2015-12-05-6726825d.pth). Only with those weights is a distance called FID.

It is Inception-v3 (Szegedy et al. 2016) but for three things that every number in the literature rests on: averages do
not count the padding, the last block takes a maximum where the others average, and there are 1,008 classes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from xraygen.atomic import sha256_of
from xraygen.errors import UsageError
from xraygen.metrics.extractors.extractor import FeatureExtractor
from xraygen.metrics.extractors.weights import read_tensors

SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the file, whose name begins it."""
FEATURES, CLASSES, SIDE = 2048, 1008, 299
FID = "Inception-v3 (2015)"
"""Label of the extractor whose distance is called FID."""
_NORM_EPS = 1e-3
_NEVER_USED = "num_batches_tracked"

Kernel = int | tuple[int, int]


class InceptionOutput(NamedTuple):
    """What is measured of images.

    Attributes:
        features: pool3, `(B, 2048)`: FID's.
        probabilities: p(y|x), `(B, 1008)`, without the last layer's bias, as the Inception Score's authors took it.
    """

    features: Tensor
    probabilities: Tensor


class Conv(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; padded so that stride 1 keeps the size, unless said otherwise."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padding: Kernel | None = None
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        same = (sides[0] // 2, sides[1] // 2)
        self.conv = nn.Conv2d(
            inputs, outputs, sides, stride, same if padding is None else padding, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs, eps=_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H', W')`."""
        return functional.relu(self.bn(self.conv(x)))


def _average(x: Tensor) -> Tensor:
    """3x3 means of what lies inside the picture."""
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class MixedA(nn.Module):
    """Mixed_5b, 5c, 5d at 35x35."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(inputs, 48, 1), Conv(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 64, 1), Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, 35, 35)` to `(B, 224 + pooled, 35, 35)`."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        wide = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), wide, double, self.branch_pool(_average(x))], dim=1)


class MixedB(nn.Module):
    """Mixed_6a: to 17x17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(inputs, 384, 3, stride=2, padding=0)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 64, 1), Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, 35, 35)` to `(B, 480 + C, 17, 17)`."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, functional.max_pool2d(x, 3, stride=2)], dim=1)


class MixedC(nn.Module):
    """Mixed_6b to 6e at 17x17: 7x7 as rows and columns."""

    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Conv(inputs, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = Conv(inputs, inner, 1), Conv(inner, inner, row)
        self.branch7x7_3 = Conv(inner, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(inputs, inner, 1), Conv(inner, inner, column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Conv(inner, inner, row), Conv(inner, inner, column)
        self.branch7x7dbl_5 = Conv(inner, 192, row)
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, 17, 17)` to `(B, 768, 17, 17)`."""
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(_average(x))], dim=1)


class MixedD(nn.Module):
    """Mixed_7a: to 8x8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(inputs, 192, 1), Conv(192, 320, 3, stride=2, padding=0)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(inputs, 192, 1), Conv(192, 192, (1, 7))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1))
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, 17, 17)` to `(B, 512 + C, 8, 8)`."""
        small = self.branch3x3_2(self.branch3x3_1(x))
        large = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([small, large, functional.max_pool2d(x, 3, stride=2)], dim=1)


class MixedE(nn.Module):
    """Mixed_7b, and 7c, whose pool is a maximum."""

    def __init__(self, inputs: int, *, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        row, column = (1, 3), (3, 1)
        self.branch1x1, self.branch3x3_1 = Conv(inputs, 320, 1), Conv(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = Conv(384, 384, row), Conv(384, 384, column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 448, 1), Conv(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Conv(384, 384, row), Conv(384, 384, column)
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, 8, 8)` to `(B, 2048, 8, 8)`."""
        once = self.branch3x3_1(x)
        twice = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = functional.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        parts = [self.branch1x1(x), self.branch3x3_2a(once), self.branch3x3_2b(once)]
        parts += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice), self.branch_pool(pooled)]
        return torch.cat(parts, dim=1)


class Inception(nn.Module):
    """The whole network, to be evaluated only; names of weights are those of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, padding=0)
        self.Conv2d_2a_3x3, self.Conv2d_2b_3x3 = Conv(32, 32, 3, padding=0), Conv(32, 64, 3)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = Conv(64, 80, 1), Conv(80, 192, 3, padding=0)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = MixedA(192, 32), MixedA(256, 64), MixedA(288, 64)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b, self.Mixed_6c = MixedC(768, 128), MixedC(768, 160)
        self.Mixed_6d, self.Mixed_6e = MixedC(768, 160), MixedC(768, 192)
        self.Mixed_7a = MixedD(768)
        self.Mixed_7b, self.Mixed_7c = MixedE(1280, maximum=False), MixedE(2048, maximum=True)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, unit: Tensor) -> InceptionOutput:
        """Measure images.

        Args:
            unit: float32, `(B, 3, H, W)`, range [0, 1].

        Returns:
            float32 features `(B, 2048)` and probabilities `(B, 1008)`.
        """
        return self.measure(resize_like_tensorflow1(255 * unit, SIDE))

    def measure(self, levels: Tensor) -> InceptionOutput:
        """Measure images that have been resized: float32, `(B, 3, 299, 299)`, range [0, 255]."""
        x = (levels - 128) / 128  # what the graph of 2015 does first
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = functional.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = functional.max_pool2d(x, 3, stride=2)  # (B, 192, 35, 35)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # (B, 2048, 8, 8)
        features = x.mean(dim=(-2, -1))
        return InceptionOutput(features, functional.linear(features, self.fc.weight).softmax(dim=1))


def resize_like_tensorflow1(x: Tensor, side: int) -> Tensor:
    """Bilinear as TensorFlow 1 did it: output pixel i lies at i · size / side, with no half pixel and no smoothing.

    Args:
        x: `(B, C, H, W)`.
        side: Height and width wanted.

    Returns:
        `(B, C, side, side)`.
    """
    for axis in (-2, -1):
        size = x.shape[axis]
        place = torch.arange(side, dtype=torch.float32, device=x.device) * (size / side)
        low = place.long()
        share = (place - low).to(x.dtype).view((-1, 1) if axis == -2 else (-1,))
        a, b = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=size - 1))
        x = a + (b - a) * share
    return x


def load_inception(file: Path, device: torch.device) -> Inception:
    """Load the network with the published weights.

    Args:
        file: pt_inception-2015-12-05-6726825d.pth, of pytorch-fid or torch-fidelity; read as data, never as code.
        device: Where it computes.

    Raises:
        UsageError: If the file is missing or another.
        FolderError: If it cannot be read.
    """
    if not file.is_file():
        raise UsageError(f"--weights {file}: there is no such file; expected {_expected()}.")
    found = sha256_of(file)
    if found != SHA256:
        raise UsageError(
            f"--weights {file} has SHA-256 {found[:8]}..., and FID is defined by {_expected()}; with other weights a "
            "distance is no FID."
        )
    return with_weights(read_tensors(file)).to(device)


def inception_extractor(file: Path, device: torch.device) -> FeatureExtractor:
    """Features and, behind them, probabilities: `(B, 2048 + 1008)`.

    Args:
        file: As `load_inception` takes it.
        device: Where it computes.

    Raises:
        UsageError: If the file is missing or another.
    """
    network = load_inception(file, device)

    def measure(unit: Tensor) -> Tensor:
        output = network(unit.expand(-1, 3, -1, -1))
        return torch.cat([output.features, output.probabilities], dim=1)

    return FeatureExtractor(
        name="inception-2015",
        label=FID,
        dims=FEATURES + CLASSES,
        provenance={
            "extractor": "Inception of 2015-12-05: pool3, and class probabilities without the last bias",
            "weights_sha256": sha256_of(file),
            "input": "(255 x - 128) / 128",
            "resize": f"{SIDE}x{SIDE}, bilinear as TensorFlow 1",
            "dims": FEATURES + CLASSES,
        },
        network=measure,
        device=device,
    )


def with_weights(weights: Mapping[str, Tensor]) -> Inception:
    """The network with these weights, ready to be evaluated; a count of batches, which nothing uses, may be missing."""
    with torch.device("meta"):
        network = Inception()
    counts = {
        name: torch.zeros((), dtype=torch.int64) for name in network.state_dict() if _NEVER_USED in name
    }
    network.load_state_dict({**counts, **weights}, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _expected() -> str:
    return f"pt_inception-2015-12-05-{SHA256[:8]}.pth, as pytorch-fid and torch-fidelity publish it"
