import math

import pytest
import torch
from torch import Tensor

from xraygen.config import ModelConfig
from xraygen.errors import ShapeError
from xraygen.models.conditions import CONTINUOUS, DROPPED, ConditionEmbedding
from xraygen.models.unet import UNet
from xraygen.seeds import torch_generator

MODEL = ModelConfig(
    image_size=8, channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,)
)
SIZES = (3, 2, CONTINUOUS)
NAN = math.nan
T = torch.tensor([3, 700, 12, 0])


def seeded(conditions: tuple[int, ...] = ()) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(MODEL, conditions).eval()


def trained(network: UNet) -> UNet:
    """Every weight random, as after training."""
    for name, parameter in network.named_parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=torch_generator(0, "test", name))
    return network


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch_generator(0, "test", "x"))


TOLD = torch.tensor([[0.0, 1.0, 0.3], [2.0, NAN, NAN], [NAN, NAN, NAN], [DROPPED, DROPPED, DROPPED]])


def test_a_network_without_conditions_has_no_weight_of_them() -> None:
    assert not [name for name in seeded().state_dict() if name.startswith("conditions")]


def test_a_conditional_network_starts_as_the_unconditional_one_to_the_bit() -> None:
    plain, conditional = seeded(), seeded(SIZES)
    shared = {name: w for name, w in conditional.state_dict().items() if not name.startswith("conditions.")}
    assert shared.keys() == plain.state_dict().keys()
    assert all(torch.equal(weight, plain.state_dict()[name]) for name, weight in shared.items())
    assert torch.equal(conditional(images(), T, TOLD), plain(images(), T))


def test_nothing_told_is_the_unconditional_network_and_a_dropped_row_too() -> None:
    network = trained(seeded(SIZES))
    dropped = torch.full((4, 3), DROPPED)
    assert torch.equal(network(images(), T, dropped), network(images(), T))
    assert torch.equal(network(images(), T, TOLD)[3], network(images(), T)[3])


def test_each_condition_is_heard_and_unknown_is_another_thing_than_dropped() -> None:
    network = trained(seeded(SIZES))
    assert network.conditions is not None
    rows = [[0, 1, 0.3], [1, 1, 0.3], [0, 0, 0.3], [0, 1, 0.9], [NAN, 1, 0.3], [0, 1, NAN], [NAN, NAN, NAN]]
    told = torch.tensor([*rows, [DROPPED] * 3])
    vectors = network.conditions(told)
    assert torch.equal(vectors[-1], torch.zeros_like(vectors[-1]))
    distances = torch.cdist(vectors, vectors) + torch.eye(len(told))
    assert distances.min() > 1e-3  # no two of them are told alike


def test_the_vector_is_the_sum_of_the_parts_passed_through_one_layer() -> None:
    embedding = ConditionEmbedding((2, 2), 16)
    for parameter in embedding.parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch_generator(0, "test", *parameter.shape))
    weights = embedding.state_dict()
    first, second = (weights[f"parts.{part}.vectors.weight"].double() for part in range(2))
    summed = first[1] + second[2]  # category 1; not known
    expected = embedding.out.weight.double() @ (summed * summed.sigmoid()) + embedding.out.bias.double()
    torch.testing.assert_close(
        embedding(torch.tensor([[1.0, NAN]]))[0].double(), expected, rtol=1e-5, atol=1e-6
    )  # float32 sums of 16 terms


def test_unknown_values_leave_no_nan_in_the_gradients() -> None:
    network = trained(seeded(SIZES))
    network(images(), T, TOLD).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    heard = gradients["conditions.parts.0.vectors.weight"]
    assert heard is not None
    assert heard.abs().sum(dim=1).gt(0).tolist() == [True, False, True, True]  # 0, 2 and not known were told


def test_one_image_is_told_the_same_alone_and_among_others() -> None:
    conditions = trained(seeded(SIZES)).conditions
    assert conditions is not None
    torch.testing.assert_close(conditions(TOLD[1:2])[0], conditions(TOLD)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "told"), [(SIZES, torch.zeros(4, 2)), ((), torch.zeros(4, 1))], ids=["too few", "none known"]
)
def test_another_number_of_conditions_is_refused(sizes: tuple[int, ...], told: Tensor) -> None:
    with pytest.raises(ShapeError, match="condition"):
        seeded(sizes)(images(), T, told)


def test_what_is_told_is_one_graph_for_the_compiler() -> None:
    conditions = trained(seeded(SIZES)).conditions
    assert conditions is not None
    compiled = torch.compile(conditions, backend="eager", fullgraph=True)  # fails where the graph would break
    assert torch.equal(compiled(TOLD), conditions(TOLD))
