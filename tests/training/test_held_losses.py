"""The losses on held-out and on training films: one noise for both, and the averaged network's by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from xraygen.config import RunConfig
from xraygen.dataset.store import open_dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.models.unet import UNet
from xraygen.training.batches import Batch, as_model_input
from xraygen.training.checkpoint import EMA, MODEL, load_weights, newest_checkpoint
from xraygen.training.logging import read_log
from xraygen.training.loop import train
from xraygen.training.validation import Held, held_films

TinyConfig = Callable[..., RunConfig]
PLAIN = (
    "diffusion.loss_weighting=simple",
    "model.dropout=0.5",
    "train.learning_rate=1e-2",
    "train.warmup_steps=0",
    "train.max_steps=2",
    "train.sample_count=1",
    "train.trackers=[]",
)
"""No weights in the loss, dropout that only training may have, and weights that leave their average behind."""


@pytest.fixture(scope="module")
def config(tiny_config: TinyConfig) -> RunConfig:
    return tiny_config(*PLAIN)


def held(config: RunConfig, dataset: Path, seed: int = 0) -> Held:
    diffusion = GaussianDiffusion(NoiseSchedule.from_config(config.schedule), config.diffusion)
    return held_films(open_dataset(dataset), diffusion, seed)


def test_both_splits_have_the_same_timesteps_and_noise_whenever_they_are_asked_for(
    config: RunConfig, tiny_dataset: Path
) -> None:
    first, again = held(config, tiny_dataset), held(config, tiny_dataset)
    assert first.validation is not None
    assert again.validation is not None
    for other in (first.validation, again.train, again.validation):
        assert torch.equal(other.t, first.train.t)
        assert torch.equal(other.noise, first.train.noise)
    assert torch.equal(again.train.x_start, first.train.x_start)
    assert torch.equal(again.validation.x_start, first.validation.x_start)
    assert not torch.equal(held(config, tiny_dataset, seed=1).train.noise, first.train.noise)


def test_as_many_training_films_as_held_out_ones_spread_over_their_split(
    config: RunConfig, tiny_dataset: Path
) -> None:
    found, dataset = held(config, tiny_dataset), open_dataset(tiny_dataset)
    assert found.validation is not None
    assert torch.equal(found.train.x_start, as_model_input(dataset, dataset.indices("train")[::4]))  # 8 of 32
    assert torch.equal(found.validation.x_start, as_model_input(dataset, dataset.indices("validation")))


def loss_by_hand(network: UNet, alphas_cumprod: torch.Tensor, batch: Batch) -> float:
    """Mean over films of the squared error of v = sqrt(abar) noise - sqrt(1 - abar) x_0."""
    errors = []
    for x, t, noise in zip(batch.x_start, batch.t, batch.noise, strict=True):
        alpha, sigma = alphas_cumprod[t].sqrt(), (1 - alphas_cumprod[t]).sqrt()
        with torch.no_grad():
            v = network((alpha * x + sigma * noise).float()[None], t[None])[0]
        errors.append(float((v - (alpha * noise - sigma * x)).square().mean()))
    return sum(errors) / len(errors)


def test_what_is_logged_is_the_averaged_networks_squared_error(
    config: RunConfig, tiny_dataset: Path, tmp_path: Path
) -> None:
    train(config, open_dataset(tiny_dataset), tmp_path / "run", device="cpu")
    (logged,) = [entry for entry in read_log(tmp_path / "run") if "validation_loss" in entry]
    found = held(config, tiny_dataset)
    assert found.validation is not None
    abar = NoiseSchedule.from_config(config.schedule).alphas_cumprod
    by_hand = {}
    for name in (EMA, MODEL):
        network = UNet(config.model).eval()
        load_weights(network, newest_checkpoint(tmp_path / "run").folder / name)
        by_hand[name] = [loss_by_hand(network, abar, batch) for batch in (found.train, found.validation)]
    told = [logged["train_loss"], logged["validation_loss"]]
    assert told == pytest.approx(by_hand[EMA], rel=1e-5)  # float32, one film at a time instead of eight
    for raw, averaged in zip(by_hand[MODEL], by_hand[EMA], strict=True):
        assert abs(raw - averaged) > 1e-3 * averaged
    assert logged["gap"] == pytest.approx(by_hand[EMA][1] / by_hand[EMA][0] - 1, abs=1e-4)
