import pytest
import torch
from torch import Tensor

from xraygen.config import ModelConfig
from xraygen.models.dropout import KeyedDropout
from xraygen.models.unet import UNet
from xraygen.seeds import counted_bits

SMALL = ModelConfig(
    image_size=16, channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(8,), dropout=0.3
)


def splitmix64(state: int, count: int) -> list[int]:
    """Vigna's splitmix64.c in Python's integers, outputs as signed numbers."""
    words, mask = [], (1 << 64) - 1
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        words.append(z - (1 << 64) if z >> 63 else z)
    return words


def test_counted_bits_are_splitmix64() -> None:
    keys = [0, 1, -1, 1234567, -(1 << 63), (1 << 63) - 1]
    expected = [splitmix64(key % (1 << 64), 9) for key in keys]
    assert counted_bits(torch.tensor(keys), 9).tolist() == expected
    # The first output from state 1234567 that the reference implementation is known for.
    assert splitmix64(1234567, 1)[0] == 6457827717110365317


def dropped(p: float, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    return KeyedDropout(p).train().forward(torch.ones(len(keys), *shape), keys)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_p_is_zero_and_the_mean_stays(p: float) -> None:
    out = dropped(p, torch.arange(64), (4, 64, 64))
    count = out.numel()
    zeros = float((out == 0).double().mean())
    # Five standard errors of a Bernoulli share, and 2^-17 for p's rounding.
    assert zeros == pytest.approx(p, abs=5 * (p * (1 - p) / count) ** 0.5 + 2**-17)
    assert out.max() == pytest.approx(1 / (1 - p), rel=1e-4)  # 2^-17 / (1 - p)
    assert float(out.double().mean()) == pytest.approx(1, abs=5 * (p / (1 - p) / count) ** 0.5)


def test_masks_are_bernoulli_within_an_image_between_images_and_between_layers() -> None:
    keys = counted_bits(torch.tensor([3]), 16)[0]
    layers = [KeyedDropout(0.5).train() for _ in range(2)]
    layers[1].offset = 12345
    x = torch.ones(16, 1, 128, 128)
    first, second = (layer(x, keys).flatten(1).double() - 1 for layer in layers)  # -1 or 1
    n = first[0].numel()
    pairs = {
        "images": (first[:-1] * first[1:]).mean(),
        "layers": (first * second).mean(),
        "neighbours": (first[:, :-1] * first[:, 1:]).mean(),
        "the same place of the next word": (first[:, :-4] * first[:, 4:]).mean(),
        "rows": (first[:, :-128] * first[:, 128:]).mean(),
    }
    for what, correlation in pairs.items():
        assert abs(float(correlation)) < 5 / (15 * n) ** 0.5, what  # five standard errors
    sizes = first.sum(dim=1) / n**0.5  # standard normal if the values of an image are independent
    assert float(sizes.square().sum()) < 39.25  # chi square of 16 degrees at 0.001


@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 1), (32, 8, 8)])
def test_a_mask_belongs_to_its_image_wherever_it_is_computed(shape: tuple[int, ...]) -> None:
    keys = torch.tensor([5, -6, 7])
    whole = dropped(0.4, keys, shape)
    assert torch.equal(whole, torch.cat([dropped(0.4, key[None], shape) for key in keys]))


def test_without_keys_it_is_torchs_dropout_and_in_evaluation_nothing() -> None:
    x, layer = torch.randn(2, 3, 4, 4), KeyedDropout(0.3)
    torch.manual_seed(1)
    ours = layer.train()(x)
    torch.manual_seed(1)
    assert torch.equal(ours, torch.nn.Dropout(0.3)(x))
    assert torch.equal(layer.eval()(x, torch.tensor([1, 2])), x)


def gradients(config: ModelConfig, keys: Tensor | None) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = UNet(config).train()
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(3, 1, 16, 16, generator=generator), torch.tensor([0, 5, 19])
    torch.manual_seed(2)
    network(x, t, dropout_keys=keys).square().mean().backward()
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("keys", [None, torch.tensor([1, 2, 3])], ids=["torch's masks", "keyed masks"])
def test_recomputed_activations_give_the_same_gradients_bit_for_bit(keys: Tensor | None) -> None:
    kept = gradients(SMALL, keys)
    again = gradients(SMALL.model_copy(update={"checkpoint_activations": True}), keys)
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_the_layers_of_a_network_have_different_masks() -> None:
    offsets = [module.offset for module in UNet(SMALL).modules() if isinstance(module, KeyedDropout)]
    assert len(set(offsets)) == len(offsets) == 8
