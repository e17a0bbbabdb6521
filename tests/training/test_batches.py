"""What a step sees: other noise, timesteps and dropout at every step and place, its films as they are or mirrored."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from xraygen.config import DataConfig, DiffusionConfig
from xraygen.dataset.store import open_dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule, linear_betas
from xraygen.training.batches import Batches, as_model_input

DIFFUSION = GaussianDiffusion(NoiseSchedule.from_betas(linear_betas(20, 1e-4, 0.02)), DiffusionConfig())
STEPS, SIZE = 40, 8

Make = Callable[..., Batches]


@pytest.fixture
def batches(tiny_dataset: Path) -> Make:
    """`batches(seed=0, data=DataConfig())`: of eight of the 32 training films."""

    def make(seed: int = 0, data: DataConfig | None = None) -> Batches:
        dataset = open_dataset(tiny_dataset)
        return Batches(dataset, dataset.indices("train"), SIZE, DIFFUSION, seed, data or DataConfig())

    return make


def test_the_noise_of_every_step_and_place_is_normal_and_its_own(batches: Make) -> None:
    made = batches()
    noise = torch.stack([made.at(step).noise for step in range(STEPS)]).flatten(0, 1).flatten(1).double()
    assert noise.shape == (STEPS * SIZE, 256)
    # Standard errors of z, z^2 and z^4, whose variances are 1, 2 and 96; five of each.
    count = noise.numel()
    assert float(noise.mean()) == pytest.approx(0, abs=5 * (1 / count) ** 0.5)
    assert float(noise.square().mean()) == pytest.approx(1, abs=5 * (2 / count) ** 0.5)
    assert float(noise.pow(4).mean()) == pytest.approx(3, abs=5 * (96 / count) ** 0.5)  # uniform: 1.8
    correlations = torch.corrcoef(noise) - torch.eye(len(noise))
    # 51,040 pairs with a standard error of 1 / 16 each: none beyond six of those but once in 10,000 seeds.
    assert float(correlations.abs().max()) < 6 / 256**0.5


def test_timesteps_and_dropout_keys_repeat_at_no_step(batches: Make) -> None:
    made = [batches().at(step) for step in range(STEPS)]
    assert len({tuple(batch.t.tolist()) for batch in made}) == STEPS
    assert len(set(torch.cat([batch.dropout_keys for batch in made]).tolist())) == STEPS * SIZE
    t = torch.cat([batch.t for batch in made])
    assert set(t.tolist()) <= set(range(20))
    # Uniform on 0 ... 19 has a standard deviation of 5.77: five standard errors of the mean of 320.
    assert float(t.double().mean()) == pytest.approx(9.5, abs=5 * 5.77 / 320**0.5)


def test_another_seed_sees_other_films_noise_timesteps_and_dropout(batches: Make) -> None:
    here, there = batches(0).at(3), batches(1).at(3)
    for name in ("x_start", "t", "noise", "dropout_keys"):
        assert not torch.equal(getattr(here, name), getattr(there, name)), name


def test_films_come_as_they_are_in_the_order_of_the_rows(batches: Make) -> None:
    made = batches()
    for step in (0, 1, 5):
        x_start = made.at(step).x_start
        assert torch.equal(x_start, as_model_input(made.dataset, made.rows_at(step)))
        by_hand = made.dataset.images[made.rows_at(step)] / 65535 * 2 - 1
        np.testing.assert_allclose(x_start[:, 0], by_hand, rtol=0, atol=2e-7)  # two roundings of float32


def test_horizontal_flip_mirrors_half_of_the_films_each_for_itself(batches: Make) -> None:
    made = batches(data=DataConfig(horizontal_flip=True))
    steps = 50
    mirrored = np.zeros((steps, SIZE), dtype=bool)
    for step in range(steps):
        plain = as_model_input(made.dataset, made.rows_at(step)).numpy()
        for place, (film, seen) in enumerate(zip(plain, made.at(step).x_start.numpy(), strict=True)):
            mirrored[step, place] = np.array_equal(seen, film[..., ::-1])
            assert mirrored[step, place] != np.array_equal(
                seen, film
            )  # one or the other: no disc is symmetric
    assert mirrored.mean() == pytest.approx(0.5, abs=5 * (0.25 / 400) ** 0.5)
    both_kinds = mirrored.any(axis=1) & ~mirrored.all(axis=1)
    assert both_kinds.sum() >= 45  # each batch of eight with a probability of 1 - 2 / 256
    assert len(np.unique(mirrored, axis=0)) >= 35  # of 256 patterns 50 draws hit 45.5 on average
