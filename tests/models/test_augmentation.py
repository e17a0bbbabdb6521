import pytest
import torch
from torch import Tensor

from xraygen.config import ModelConfig
from xraygen.errors import ShapeError
from xraygen.models.augmentation import AUGMENTATION_WEIGHTS, AUGMENTATIONS
from xraygen.models.unet import UNet
from xraygen.seeds import torch_generator

PLAIN = ModelConfig(
    image_size=8, channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,)
)
HEARING = PLAIN.model_copy(update={"hears_augmentation": True})
T = torch.tensor([3, 700])
ZEROS = torch.zeros(2, len(AUGMENTATIONS))


def network(config: ModelConfig, *conditions: int) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(config, conditions).eval()


def trained(config: ModelConfig) -> UNet:
    """Every weight random, as after training."""
    ready = network(config)
    for name, parameter in ready.named_parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=torch_generator(0, "test", name))
    return ready


def images() -> Tensor:
    return torch.randn(2, 1, 8, 8, generator=torch_generator(0, "test", "x"))


@pytest.mark.parametrize("conditions", [(), (3, 0)])
def test_all_other_weights_are_those_of_the_network_that_is_told_nothing(conditions: tuple[int, ...]) -> None:
    plain, hearing = network(PLAIN, *conditions).state_dict(), network(HEARING, *conditions).state_dict()
    assert hearing.keys() - plain.keys() == {AUGMENTATION_WEIGHTS}
    assert all(torch.equal(hearing[name], weight) for name, weight in plain.items())
    assert hearing[AUGMENTATION_WEIGHTS].shape == (32, len(AUGMENTATIONS))


def test_zeros_are_nothing_told_to_the_bit() -> None:
    plain, hearing = trained(PLAIN), trained(HEARING)
    assert torch.equal(hearing(images(), T), plain(images(), T))
    assert torch.equal(hearing(images(), T, augmentation=ZEROS), plain(images(), T))
    assert torch.equal(hearing(images(), T, augmentation=torch.empty(2, 0)), plain(images(), T))


@pytest.mark.parametrize("column", range(len(AUGMENTATIONS)), ids=AUGMENTATIONS)
def test_each_augmentation_is_heard_by_the_image_that_it_is_told_of(column: int) -> None:
    hearing, labels = trained(HEARING), ZEROS.clone()
    labels[1, column] = 1.0
    out, as_it_is = hearing(images(), T, augmentation=labels), hearing(images(), T)
    assert torch.equal(out[0], as_it_is[0])
    assert (out[1] - as_it_is[1]).abs().max() > 1e-3


@pytest.mark.parametrize(("config", "columns"), [(PLAIN, len(AUGMENTATIONS)), (HEARING, 2)])
def test_labels_that_the_network_does_not_know_are_refused(config: ModelConfig, columns: int) -> None:
    with pytest.raises(ShapeError, match="augmentation"):
        network(config)(images(), T, augmentation=torch.zeros(2, columns))
