"""DenseNet-121 (Huang et al. 2017, table 1) and ResNet-50 (He et al. 2016, table 1; stride in the 3x3), in float64.

Lists of layers and plain loops; weights by the names that torchvision gave them, with random ones to go with.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, max_pool2d

BLOCKS = (6, 12, 24, 16)
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
Weights = Mapping[str, Tensor]


def norm(x: Tensor, name: str, weights: Weights) -> Tensor:
    mean, variance, scale, shift = (
        weights[f"{name}.{part}"].double()[:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def convolve(x: Tensor, name: str, weights: Weights, stride: int = 1) -> Tensor:
    kernel = weights[f"{name}.weight"].double()
    return conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)


def densenet121(x: Tensor, weights: Weights) -> Tensor:
    """Mean over positions of the last maps after ReLU, (B, 1024)."""
    x = convolve(x.double(), "features.conv0", weights, 2)
    x = max_pool2d(norm(x, "features.norm0", weights).clamp(min=0), 3, 2, 1)
    for block, layers in enumerate(BLOCKS, 1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            y = convolve(norm(x, f"{name}.norm1", weights).clamp(min=0), f"{name}.conv1", weights)
            y = convolve(norm(y, f"{name}.norm2", weights).clamp(min=0), f"{name}.conv2", weights)
            x = torch.cat([x, y], dim=1)
        if block < len(BLOCKS):
            name = f"features.transition{block}"
            x = avg_pool2d(
                convolve(norm(x, f"{name}.norm", weights).clamp(min=0), f"{name}.conv", weights), 2
            )
    return norm(x, "features.norm5", weights).clamp(min=0).mean(dim=(2, 3))


def resnet50(x: Tensor, weights: Weights) -> Tensor:
    """Mean over positions of the last maps, (B, 2048)."""
    x = norm(convolve(x.double(), "conv1", weights, 2), "bn1", weights).clamp(min=0)
    x = max_pool2d(x, 3, 2, 1)
    for stage, (blocks, _) in enumerate(STAGES, 1):
        for block in range(blocks):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = norm(convolve(x, f"{name}.conv1", weights), f"{name}.bn1", weights).clamp(min=0)
            y = norm(convolve(y, f"{name}.conv2", weights, stride), f"{name}.bn2", weights).clamp(min=0)
            y = norm(convolve(y, f"{name}.conv3", weights), f"{name}.bn3", weights)
            if block == 0:
                x = norm(
                    convolve(x, f"{name}.downsample.0", weights, stride), f"{name}.downsample.1", weights
                )
            x = (x + y).clamp(min=0)
    return x.mean(dim=(2, 3))


def densenet121_weights(channels: int, classes: int) -> dict[str, Tensor]:
    """Random, of a size that keeps activations near 1."""
    drawn: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    draw_conv(drawn, "features.conv0", channels, 64, 7, generator)
    draw_norm(drawn, "features.norm0", 64, generator)
    width = 64
    for block, layers in enumerate(BLOCKS, 1):
        for layer in range(1, layers + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            draw_norm(drawn, f"{name}.norm1", width, generator)
            draw_conv(drawn, f"{name}.conv1", width, 128, 1, generator)
            draw_norm(drawn, f"{name}.norm2", 128, generator)
            draw_conv(drawn, f"{name}.conv2", 128, 32, 3, generator)
            width += 32
        if block < len(BLOCKS):
            draw_norm(drawn, f"features.transition{block}.norm", width, generator)
            draw_conv(drawn, f"features.transition{block}.conv", width, width // 2, 1, generator)
            width //= 2
    draw_norm(drawn, "features.norm5", width, generator)
    drawn["classifier.weight"], drawn["classifier.bias"] = torch.zeros(classes, width), torch.zeros(classes)
    return drawn


def resnet50_weights() -> dict[str, Tensor]:
    """Random, of a size that keeps activations near 1."""
    drawn: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    draw_conv(drawn, "conv1", 3, 64, 7, generator)
    draw_norm(drawn, "bn1", 64, generator)
    width = 64
    for stage, (blocks, inner) in enumerate(STAGES, 1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for part, (inputs, outputs, side) in enumerate(
                ((width, inner, 1), (inner, inner, 3), (inner, 4 * inner, 1)), 1
            ):
                draw_conv(drawn, f"{name}.conv{part}", inputs, outputs, side, generator)
                draw_norm(drawn, f"{name}.bn{part}", outputs, generator)
            if block == 0:
                draw_conv(drawn, f"{name}.downsample.0", width, 4 * inner, 1, generator)
                draw_norm(drawn, f"{name}.downsample.1", 4 * inner, generator)
            width = 4 * inner
    return drawn


def draw_conv(
    drawn: dict[str, Tensor], name: str, inputs: int, outputs: int, side: int, generator: torch.Generator
) -> None:
    size = (2 / (inputs * side**2)) ** 0.5
    drawn[f"{name}.weight"] = size * torch.randn(outputs, inputs, side, side, generator=generator)


def draw_norm(drawn: dict[str, Tensor], name: str, width: int, generator: torch.Generator) -> None:
    noise = torch.randn(4, width, generator=generator)
    drawn[f"{name}.weight"], drawn[f"{name}.bias"] = 1 + 0.1 * noise[0], 0.1 * noise[1]
    drawn[f"{name}.running_mean"], drawn[f"{name}.running_var"] = 0.1 * noise[2], 1 + 0.1 * noise[3].abs()
    drawn[f"{name}.num_batches_tracked"] = torch.tensor(7)
