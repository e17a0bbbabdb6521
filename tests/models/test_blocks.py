import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xraygen.models.blocks import (
    Downsample,
    ResidualBlock,
    SelfAttention,
    Upsample,
    conv,
    dense,
    group_norm,
    timestep_embedding,
)
from xraygen.seeds import torch_generator


def groups(channels: int) -> int:
    """32 as in the paper, but never less than 4 channels in a group."""
    return min(32, channels // 4)


@pytest.fixture(scope="module")
def ddpm(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("ddpm")


def draw(purpose: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, "test", purpose), dtype=torch.float64)


def randomised(module: nn.Module) -> nn.Module:
    """Every weight random, the almost-zero ones too, in float64."""
    module = module.double()
    for name, parameter in module.named_parameters():
        parameter.data = 0.3 * draw(name, *parameter.shape)
    return module


@pytest.mark.parametrize("t", [0, 1, 17, 500, 999])
@pytest.mark.parametrize("channels", [32, 128])
def test_the_timestep_embedding_equals_the_reference(ddpm: ModuleType, t: int, channels: int) -> None:
    measured = timestep_embedding(torch.tensor([t, 3]), channels)
    assert measured.shape == (2, channels)
    assert measured.dtype == torch.float32
    # Float32 angles up to 999 are known to 999 x 6e-8, and the sine no better.
    np.testing.assert_allclose(
        measured[0].double().numpy(), ddpm.sinusoidal_embedding(t, channels), rtol=0, atol=1e-4
    )


def test_the_timestep_embedding_is_sines_then_cosines() -> None:
    embedding = timestep_embedding(torch.tensor([0]), 64)[0]
    assert torch.equal(embedding[:32], torch.zeros(32))
    assert torch.equal(embedding[32:], torch.ones(32))


def test_the_timestep_embedding_ends_at_a_ten_thousandth() -> None:
    # With `half` instead of `half - 1` in the exponent the last frequency would be 1.33e-4.
    assert float(timestep_embedding(torch.tensor([1]), 64)[0, 31]) == pytest.approx(1e-4, rel=1e-5)


@pytest.mark.parametrize("size", [(6, 6), (4, 8), (8, 2)])
def test_downsampling_pads_right_and_bottom(ddpm: ModuleType, size: tuple[int, int]) -> None:
    layer, image = randomised(Downsample(3)), draw("image", 1, 3, *size)
    parameters = dict(layer.named_parameters())
    expected = ddpm.downsample(
        image[0].numpy(), parameters["conv.weight"].detach().numpy(), parameters["conv.bias"].detach().numpy()
    )
    assert expected.shape[1:] == (size[0] // 2, size[1] // 2)
    np.testing.assert_allclose(layer(image)[0].detach().numpy(), expected, rtol=0, atol=1e-12)


def test_downsampling_sees_the_first_pixel_in_its_first_window_corner() -> None:
    layer = Downsample(1)
    layer.conv.weight.data.zero_()
    layer.conv.weight.data[0, 0, 0, 0] = 1.0
    image = torch.arange(16.0).view(1, 1, 4, 4)
    # Symmetric padding would shift the grid by one and bring zeros in from the top left.
    assert layer(image).flatten().tolist() == [0, 2, 8, 10]


def test_upsampling_repeats_pixels_before_its_convolution() -> None:
    layer, image = randomised(Upsample(2)), draw("image", 1, 2, 3, 2)
    doubled = np.repeat(np.repeat(image.numpy(), 2, axis=2), 2, axis=3)
    parameters = dict(layer.named_parameters())
    expected = functional.conv2d(
        torch.from_numpy(doubled), parameters["conv.weight"], parameters["conv.bias"], padding=1
    )
    torch.testing.assert_close(layer(image), expected, rtol=0, atol=1e-12)


def test_group_normalisation_equals_the_reference(ddpm: ModuleType) -> None:
    # Small values, so that the paper's eps of 1e-6 (torch's default is 1e-5) matters.
    image = 1e-3 * draw("image", 1, 64, 2, 3)
    expected = ddpm.group_norm(image[0].numpy(), groups(image.shape[1]))
    np.testing.assert_allclose(
        group_norm(64).double()(image)[0].detach().numpy(), expected, rtol=0, atol=1e-10
    )


def test_self_attention_equals_the_reference(ddpm: ModuleType) -> None:
    channels, layer = 32, SelfAttention(32).double()
    for name, parameter in layer.named_parameters():
        if name.endswith("weight") and not name.startswith("norm"):
            parameter.data = 0.3 * draw(name, *parameter.shape)
    image = draw("image", 1, channels, 2, 3)
    normed = ddpm.group_norm(image[0].numpy(), groups(image.shape[1])).reshape(channels, 6).T  # (HW, C)
    q, k, v, out = (
        dict(layer.named_parameters())[f"{name}.weight"].detach().numpy() for name in ("q", "k", "v", "out")
    )
    attended = ddpm.self_attention(normed, (q, k, v)) @ out.T
    expected = image[0].numpy() + attended.T.reshape(channels, 2, 3)
    np.testing.assert_allclose(layer(image)[0].detach().numpy(), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("out_channels", [64, 128], ids=["identity shortcut", "1x1 shortcut"])
def test_a_residual_block_is_the_papers(ddpm: ModuleType, out_channels: int) -> None:
    block = ResidualBlock(64, out_channels, embedding=8, dropout=0.5).eval()
    randomised(block)
    block.norm1.weight.data.fill_(1.0)
    block.norm2.weight.data.fill_(1.0)
    block.norm1.bias.data.zero_()
    block.norm2.bias.data.zero_()
    x, embedding = draw("x", 1, 64, 3, 2), draw("embedding", 1, 8)

    def swish(values: np.ndarray) -> np.ndarray:
        return np.asarray(values / (1 + np.exp(-values)))

    def convolve(values: np.ndarray, layer: nn.Conv2d, padding: int) -> np.ndarray:
        image = torch.from_numpy(values)[None]
        return functional.conv2d(image, layer.weight, layer.bias, padding=padding)[0].detach().numpy()

    h = convolve(swish(ddpm.group_norm(x[0].numpy(), groups(x.shape[1]))), block.conv1, 1)
    shift = (
        block.time.weight.detach().numpy() @ swish(embedding[0].numpy()) + block.time.bias.detach().numpy()
    )
    h = h + shift[:, None, None]
    h = convolve(swish(ddpm.group_norm(h, groups(len(h)))), block.conv2, 1)
    shortcut = x[0].numpy()
    if isinstance(block.shortcut, nn.Conv2d):
        assert block.shortcut.kernel_size == (1, 1)
        shortcut = convolve(shortcut, block.shortcut, 0)
    np.testing.assert_allclose(block(x, embedding)[0].detach().numpy(), shortcut + h, rtol=0, atol=1e-10)


def test_the_shortcut_is_a_convolution_only_where_channels_change() -> None:
    assert isinstance(ResidualBlock(64, 64, 8, 0.0).shortcut, nn.Identity)
    assert isinstance(ResidualBlock(64, 128, 8, 0.0).shortcut, nn.Conv2d)


def test_a_fresh_residual_block_and_a_fresh_attention_do_nothing() -> None:
    x, embedding = draw("x", 2, 64, 4, 4).float(), draw("embedding", 2, 8).float()
    # The last layer starts at 1e-5 of its usual size (variance 1e-10), and sums over 576 inputs.
    assert float((ResidualBlock(64, 64, 8, 0.0)(x, embedding) - x).detach().abs().max()) < 1e-3
    assert float((SelfAttention(64)(x) - x).detach().abs().max()) < 1e-3


@pytest.mark.parametrize("width", [32, 64, 96])
def test_a_residual_block_hears_the_time(width: int) -> None:
    """Found 2026-11-23: at 32 channels each of the 32 groups is one channel, and norm2 removes the embedding.

    The time is added as one constant per channel, which a normalisation of single channels subtracts again.
    """
    block = randomised(ResidualBlock(width, width, embedding=8, dropout=0.0))
    x = draw("x", 1, width, 4, 4)
    early, late = block(x, draw("early", 1, 8)), block(x, draw("late", 1, 8))
    assert float((early - late).abs().max().detach()) > 1e-3


def test_dropout_acts_in_training_only() -> None:
    block = ResidualBlock(64, 64, 8, dropout=0.5)
    block.conv2.weight.data.normal_(generator=torch_generator(0, "conv2"))
    x, embedding = draw("x", 1, 64, 4, 4).float(), draw("embedding", 1, 8).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(block.train()(x, embedding), block(x, embedding))
    assert torch.equal(block.eval()(x, embedding), block(x, embedding))


@pytest.mark.parametrize("scale", [1.0, 1e-10])
@pytest.mark.parametrize(
    ("make", "fan_in", "fan_out"),
    [
        (lambda scale: conv(32, 96, scale=scale), 32 * 9, 96 * 9),
        (lambda scale: conv(96, 64, kernel=1, scale=scale), 96, 64),
        (lambda scale: dense(128, 512, scale=scale), 128, 512),
    ],
    ids=["conv 3x3", "conv 1x1", "dense"],
)
def test_weights_start_uniform_within_the_fan_average_bound(
    ddpm: ModuleType, make: Callable[[float], nn.Conv2d | nn.Linear], fan_in: int, fan_out: int, scale: float
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = make(scale)
    bound, weights = ddpm.fan_average_bound(fan_in, fan_out, scale), layer.weight.detach().double()
    assert float(weights.abs().max()) <= bound * (1 + 1e-6)
    assert float(weights.abs().max()) > 0.99 * bound  # thousands of draws come as near as that
    # Variance scale / fan average; four standard errors of a uniform's variance, sqrt(0.8 / n) each.
    variance = scale / ((fan_in + fan_out) / 2)
    assert float(weights.var()) == pytest.approx(variance, rel=4 * math.sqrt(0.8 / weights.numel()))
    assert layer.bias is not None
    assert not layer.bias.any()


def test_the_strided_convolution_starts_within_the_fan_average_bound(ddpm: ModuleType) -> None:
    layer = Downsample(64).conv
    bound = ddpm.fan_average_bound(64 * 9, 64 * 9, 1.0)
    assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound * (1 + 1e-6)
    assert layer.bias is not None
    assert not layer.bias.any()
