from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from xraygen.config import ModelConfig, TrainConfig
from xraygen.models.unet import UNet
from xraygen.training.ema import ema_copy, ema_decay_at, update_ema

MODEL = ModelConfig(
    image_size=8, channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), dropout=0.1
)
PATH = [0.0, 1.0, -2.0, 0.5, 3.0, 3.0]
"""What every weight is set to, step after step."""


@pytest.fixture(scope="module")
def ddpm(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("ddpm")


def set_all(model: UNet, value: float) -> None:
    for parameter in model.parameters():
        parameter.data.fill_(value)


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("decay", [0.9999, 0.5, 0.0])
def test_the_average_equals_the_reference(ddpm: ModuleType, decay: float, warmup: bool) -> None:
    config, model = TrainConfig(ema_decay=decay, ema_warmup=warmup), UNet(MODEL)
    set_all(model, PATH[0])
    average = ema_copy(model)
    for step, value in enumerate(PATH[1:], start=1):
        set_all(model, value)
        update_ema(average, model, ema_decay_at(step, config))
    expected = ddpm.ema(PATH, decay, warmup=warmup)
    for parameter in average.parameters():
        # Float32 after five updates of numbers below 4.
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize("step", [1, 2, 100, 800_000])
def test_the_papers_average_has_no_warm_up(step: int) -> None:
    assert ema_decay_at(step, TrainConfig(ema_decay=0.9999, ema_warmup=False)) == 0.9999


@pytest.mark.parametrize(
    ("step", "decay"),
    [(1, 2 / 11), (10, 11 / 20), (89_990, 89_991 / 90_000), (90_000, 0.9999), (10**6, 0.9999)],
)
def test_the_warm_up_rises_to_the_decay_and_stays(step: int, decay: float) -> None:
    assert ema_decay_at(step, TrainConfig(ema_decay=0.9999, ema_warmup=True)) == pytest.approx(
        decay, abs=1e-12
    )


def test_without_warm_up_a_short_run_keeps_most_of_its_first_weights() -> None:
    config, model = TrainConfig(ema_decay=0.9999, ema_warmup=False), UNet(MODEL)
    set_all(model, 1.0)
    average = ema_copy(model)
    set_all(model, 0.0)
    for step in range(1, 1461):
        update_ema(average, model, ema_decay_at(step, config))
    # The docstring's 86 %; float32 drifts by less than 1,460 roundings of 6e-8.
    assert float(average.conv_in.weight.detach().mean()) == pytest.approx(0.9999**1460, abs=1e-4)
    assert round(0.9999**1460, 2) == 0.86


def test_the_average_is_a_frozen_copy_in_evaluation_mode() -> None:
    model = UNet(MODEL).train()
    average = ema_copy(model)
    assert not average.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    before = average.conv_in.weight.clone()
    model.conv_in.weight.data.add_(1.0)
    assert torch.equal(average.conv_in.weight, before)


def test_updating_the_average_leaves_the_model_alone() -> None:
    model = UNet(MODEL)
    average = ema_copy(model)
    set_all(average, 7.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    update_ema(average, model, 0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_everything_that_the_network_keeps_is_averaged() -> None:
    # A buffer (such as a running mean) would be left behind: update_ema walks the parameters only.
    assert not list(UNet(MODEL).buffers())
