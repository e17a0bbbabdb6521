from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from xraygen.config import ModelConfig, load_config
from xraygen.models.blocks import SelfAttention
from xraygen.models.unet import UNet
from xraygen.presets import preset_names
from xraygen.seeds import torch_generator

CIFAR10 = ModelConfig(image_size=32, in_channels=3, channel_mult=(1, 2, 2, 2), dropout=0.1)
CELEBA = ModelConfig(image_size=256, in_channels=3, channel_mult=(1, 1, 2, 2, 4, 4))
SMALL: dict[str, object] = {
    "image_size": 16,
    "channels": 64,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (8,),
}


def on_meta(config: ModelConfig) -> UNet:
    """The network without memory: shapes and counts only."""
    with torch.device("meta"):
        return UNet(config)


def seeded(**changes: object) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(ModelConfig.model_validate({**SMALL, **changes}))


def randomised(network: UNet, scale: float = 0.1) -> UNet:
    """Every weight random, the almost-zero ones too, as after training."""
    for name, parameter in network.named_parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=torch_generator(0, "test", name))
    return network.eval()


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, "test", "x"))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (CIFAR10, 35_746_307),
        (CELEBA, 113_673_219),
        (CIFAR10.model_copy(update={"in_channels": 1}), 35_741_697),
        (CELEBA.model_copy(update={"in_channels": 1}), 113_668_609),
    ],
    ids=["cifar10", "celebahq-256", "cifar10 grey", "celebahq-256 grey"],
)
def test_the_papers_networks_have_the_papers_parameters(config: ModelConfig, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in on_meta(config).parameters()) == parameters


@pytest.mark.parametrize(("preset", "parameters"), [("cifar10", 35_746_307), ("celebahq-256", 113_673_219)])
def test_the_papers_presets_build_the_papers_networks(preset: str, parameters: int) -> None:
    network = on_meta(load_config(preset).model)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("preset", preset_names())
def test_every_presets_network_keeps_the_shape(preset: str) -> None:
    config = load_config(preset)
    network = on_meta(config.model)
    with torch.device("meta"):
        x_t, t = torch.empty(2, *config.data.shape), torch.zeros(2, dtype=torch.int64)
    channels = 2 if config.model.learns_variance else 1  # the second half places the variance
    assert network(x_t, t).shape == (2, channels * config.data.channels, *x_t.shape[2:])


@pytest.mark.parametrize("preset", ["cifar10", "celebahq-256"])
def test_the_papers_attention_sits_at_16_pixels_and_in_the_middle(preset: str) -> None:
    config = load_config(preset).model
    network = on_meta(config)
    sides: list[int] = []
    for module in network.modules():
        if isinstance(module, SelfAttention):
            module.register_forward_hook(lambda _, inputs, __: sides.append(inputs[0].shape[-1]))
    with torch.device("meta"):
        size = config.image_size
        assert isinstance(size, int)
        network(torch.empty(1, config.in_channels, size, size), torch.zeros(1, dtype=torch.int64))
    smallest = size // 2 ** (len(config.channel_mult) - 1)
    # After each of two blocks down and three up at 16 px, and between the two in the middle.
    assert sides == [16, 16, smallest, 16, 16, 16]


@pytest.mark.parametrize(
    ("resolutions", "attentions"), [((), 1), ((8,), 4), ((16,), 4), ((16, 8), 7), ((5,), 1)]
)
def test_attention_sits_where_the_config_says(resolutions: tuple[int, ...], attentions: int) -> None:
    config = ModelConfig.model_validate({**SMALL, "attention_resolutions": resolutions})
    found = sum(isinstance(module, SelfAttention) for module in on_meta(config).modules())
    assert found == attentions


def slow_forward(w: dict[str, Tensor], x: Tensor, sinusoid: Tensor) -> Tensor:
    """Ho et al. 2020, appendix B, for `SMALL` written out block by block, with nothing but its weights `w`."""

    def swish(h: Tensor) -> Tensor:
        return h * torch.sigmoid(h)

    def norm(name: str, h: Tensor) -> Tensor:
        return functional.group_norm(
            h, min(32, h.shape[1] // 4), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6
        )

    def conv(name: str, h: Tensor, padding: int = 1) -> Tensor:
        return functional.conv2d(h, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding)

    def dense(name: str, h: Tensor) -> Tensor:
        return h @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def residual(name: str, h: Tensor) -> Tensor:
        inner = conv(f"{name}.conv1", swish(norm(f"{name}.norm1", h)))
        inner = inner + dense(f"{name}.time", swish(time))[:, :, None, None]
        inner = conv(f"{name}.conv2", swish(norm(f"{name}.norm2", inner)))
        return inner + (conv(f"{name}.shortcut", h, padding=0) if f"{name}.shortcut.weight" in w else h)

    def attend(name: str, h: Tensor) -> Tensor:
        pixels = torch.einsum("bcij->bijc", norm(f"{name}.norm", h))
        q, k, v = (dense(f"{name}.{letter}", pixels) for letter in "qkv")
        scores = torch.einsum("bijc,bklc->bijkl", q, k) * h.shape[1] ** -0.5
        weights = scores.flatten(3).softmax(dim=3).view_as(scores)
        return h + torch.einsum(
            "bijc->bcij", dense(f"{name}.out", torch.einsum("bijkl,bklc->bijc", weights, v))
        )

    time = dense("time.2", swish(dense("time.0", sinusoid)))
    in_16 = conv("conv_in", x)
    down_16 = residual("down.0.block", in_16)
    in_8 = functional.conv2d(
        functional.pad(down_16, (0, 1, 0, 1)), w["down.1.conv.weight"], w["down.1.conv.bias"], stride=2
    )
    down_8 = attend("down.2.attention", residual("down.2.block", in_8))
    h = residual("middle.1.block", attend("middle.0.attention", residual("middle.0.block", down_8)))
    h = attend("up.0.attention", residual("up.0.block", torch.cat([h, down_8], dim=1)))
    h = attend("up.1.attention", residual("up.1.block", torch.cat([h, in_8], dim=1)))
    h = conv("up.2.conv", h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    h = residual("up.3.block", torch.cat([h, down_16], dim=1))
    h = residual("up.4.block", torch.cat([h, in_16], dim=1))
    return conv("conv_out", swish(norm("norm_out", h)))


@pytest.mark.parametrize("t", [0, 700])
def test_the_whole_network_is_the_papers(reference: Callable[[str], ModuleType], t: int) -> None:
    network, x = randomised(seeded()), draw(2, 1, 16, 16)
    sinusoid = torch.from_numpy(reference("ddpm").sinusoidal_embedding(t, 64))
    weights = {name: value.double() for name, value in network.state_dict().items()}
    expected = slow_forward(weights, x.double(), sinusoid.expand(2, 64))
    # Float32 through twenty layers of random weights, and sines of angles up to 700.
    torch.testing.assert_close(
        network(x, torch.tensor([t, t])).double(),
        expected,
        rtol=0,
        atol=1e-3 * float(expected.std().detach()),
    )


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({}, (2, 1, 16, 16)),
        ({"in_channels": 3}, (2, 3, 16, 16)),
        ({"image_size": (16, 24)}, (2, 1, 16, 24)),
        ({"image_size": (24, 8)}, (2, 1, 24, 8)),
        ({"patch_size": 2}, (2, 1, 16, 16)),
        ({"patch_size": 2, "in_channels": 3, "image_size": (8, 20)}, (2, 3, 8, 20)),
        ({"num_res_blocks": 3, "channel_mult": (1, 1, 2)}, (1, 1, 16, 16)),
    ],
)
def test_the_prediction_has_the_images_shape(changes: dict[str, object], shape: tuple[int, ...]) -> None:
    network = seeded(**changes)
    assert network(draw(*shape), torch.arange(shape[0])).shape == shape


def test_a_fresh_network_predicts_almost_nothing() -> None:
    prediction = seeded()(draw(4, 1, 16, 16), torch.tensor([0, 10, 500, 999]))
    # conv_out starts at 1e-5 of its usual size, and its normalised inputs are of size 1.
    assert 0 < float(prediction.detach().abs().max()) < 1e-3


@pytest.mark.parametrize(
    "layer", ["conv_out.weight", "down.0.block.conv2.weight", "middle.0.attention.out.weight"]
)
def test_layers_that_start_as_nothing_have_a_variance_of_1e_10(layer: str) -> None:
    weights = dict(seeded().named_parameters())[layer].detach()
    outputs, inputs = weights.shape[:2]
    area = weights[0, 0].numel()
    expected = 1e-10 / ((inputs + outputs) / 2 * area)
    # Four standard errors of a uniform's variance.
    assert float(weights.var()) == pytest.approx(expected, rel=4 * (0.8 / weights.numel()) ** 0.5)


def test_dropout_acts_in_training_only() -> None:
    network, x, t = randomised(seeded(dropout=0.5)), draw(1, 1, 16, 16), torch.tensor([3])
    assert torch.equal(network(x, t), network(x, t))
    network.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(network(x, t), network(x, t))


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_every_residual_block_has_the_configured_dropout(rate: float) -> None:
    rates = [module.p for module in seeded(dropout=rate).modules() if isinstance(module, nn.Dropout)]
    assert rates == [rate] * 8  # 2 down, 2 in the middle, 4 up


def test_the_gradient_reaches_every_parameter() -> None:
    network = randomised(seeded()).train()
    (network(draw(2, 1, 16, 16), torch.tensor([3, 700])) * draw(2, 1, 16, 16)).sum().backward()
    largest = {
        name: 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        for name, parameter in network.named_parameters()
    }
    # A key's bias adds the same to all scores of a query, and softmax does not see it.
    deaf = {name for name, gradient in largest.items() if gradient < 1e-6}
    assert deaf == {name for name in largest if name.endswith("attention.k.bias")}


def test_even_a_fresh_networks_last_layer_learns() -> None:
    network = seeded()
    network(draw(2, 1, 16, 16), torch.tensor([3, 700])).sum().backward()
    gradient = network.conv_out.weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0.1


@pytest.mark.parametrize("channels", [32, 64])
def test_the_smallest_network_hears_the_time(channels: int) -> None:
    """See test_blocks: `model.channels=32` is the smallest that the config allows, and phantom-32's."""
    network = randomised(seeded(channels=channels, channel_mult=(1,), attention_resolutions=()))
    x = draw(1, 1, 16, 16)
    early, late = network(x, torch.tensor([0])), network(x, torch.tensor([900]))
    assert float((early - late).abs().max().detach()) > 1e-3


def test_an_image_is_the_same_alone_and_in_a_batch() -> None:
    network, x, t = randomised(seeded()), draw(3, 1, 16, 16), torch.tensor([0, 500, 999])
    # Other shapes take other kernels: the last bits of float32 differ, of numbers of size 1 to 10.
    torch.testing.assert_close(network(x, t)[1:2], network(x[1:2], t[1:2]), rtol=1e-4, atol=1e-4)


def test_patches_are_folded_without_mixing_pixels_up() -> None:
    network = seeded(patch_size=2)
    # A convolution that copies its centre, and nothing in between: fold and unfold must be inverse.
    x = draw(1, 1, 4, 8)
    folded: list[Tensor] = []
    network.conv_in.register_forward_hook(lambda _, inputs, __: folded.append(inputs[0]))
    network.conv_out.register_forward_hook(lambda *_: folded[0])
    assert torch.equal(network(x, torch.tensor([0])), x)
    assert folded[0].shape == (1, 4, 2, 4)
    assert torch.equal(folded[0][0, :, 0, 0], x[0, 0, :2, :2].flatten())


@pytest.mark.parametrize(
    "build",
    [lambda: seeded().state_dict(), lambda: seeded(in_channels=3).state_dict()],
    ids=["grey", "colour"],
)
def test_the_same_seed_gives_the_same_weights(build: Callable[[], dict[str, Tensor]]) -> None:
    first, second = build(), build()
    assert all(torch.equal(first[name], second[name]) for name in first)
