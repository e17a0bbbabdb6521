import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from xraygen.audit.membership import (
    SIGMAS,
    Attacked,
    attack,
    denoising_errors,
    measure_membership,
    noise_levels,
    noise_of,
)
from xraygen.config import DiffusionConfig, ScheduleConfig
from xraygen.dataset.store import open_dataset
from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import UsageError


@pytest.fixture(scope="module")
def diffusion() -> GaussianDiffusion:
    return GaussianDiffusion(NoiseSchedule.from_config(ScheduleConfig()), DiffusionConfig())


def by_heart(diffusion: GaussianDiffusion, known: Tensor) -> Model:
    """The network that has learned its training films and nothing else: E[noise | x_t] for x_0 among them, exactly."""

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = diffusion.schedule.alphas_cumprod[t].float().view(-1, 1, 1, 1)
        apart = x_t[:, None] - alpha_bar.sqrt()[:, None] * known[None]  # (B, M, C, H, W)
        distance = apart.square().flatten(2).sum(2) / (2 * (1 - alpha_bar.view(-1, 1)))  # (B, M)
        weight = (-distance).softmax(dim=1)
        x_0 = torch.einsum("bm,mchw->bchw", weight, known)
        return (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()

    return predict


def attacked(diffusion: GaussianDiffusion, model: Model, films: Tensor, members: int) -> Attacked:
    t = noise_levels(diffusion)
    noise = noise_of([f"film {number}" for number in range(len(films))], tuple(films.shape[1:]), len(t), 0)
    errors = denoising_errors(model, diffusion, films, t, noise)
    return Attacked(errors, np.arange(len(films)) < members, np.arange(len(films)))


def smooth_films(count: int) -> Tensor:
    """Broad random patterns, in [-1, 1]."""
    coarse = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(coarse, size=16, mode="bilinear").clamp(-1, 1)


def test_a_network_that_knows_its_films_by_heart_gives_them_away(diffusion: GaussianDiffusion) -> None:
    films = smooth_films(40)
    found = attack(
        attacked(diffusion, by_heart(diffusion, films[:20]), films, 20), noise_levels(diffusion), diffusion
    )
    assert found["value"] > 0.99
    assert found["low"] > 0.8
    assert found["verdict"] == "signal"
    assert found["sentence"].endswith("the network knows its training films by heart: do not share it.")
    assert found["gap"] > 0.1
    assert [level["sigma"] for level in found["levels"]] == pytest.approx(SIGMAS, rel=0.1)


def test_an_untrained_network_tells_nobody_apart(diffusion: GaussianDiffusion) -> None:
    """It predicts no noise; 25 draws of noise and films: 95 % of the intervals should hold 0.5, 20 are enough."""
    held = 0
    t = noise_levels(diffusion)
    for number in range(25):
        films = smooth_films(60)
        names = [f"{number} {film}" for film in range(60)]
        errors = denoising_errors(
            lambda x_t, _: torch.zeros_like(x_t), diffusion, films, t, noise_of(names, (1, 16, 16), len(t), 0)
        )
        found = attack(Attacked(errors, np.arange(60) < 30, np.arange(60)), t, diffusion)
        held += found["low"] <= 0.5 <= found["high"]
        assert (found["verdict"] == "signal") == (found["low"] > 0.5)
    assert held >= 20


def test_errors_are_those_of_the_equation(diffusion: GaussianDiffusion) -> None:
    """Of a network that always says 0.3: the mean square of 0.3 - noise, whatever the film."""
    t = noise_levels(diffusion)
    noise = noise_of(["a", "b"], (1, 5, 5), len(t), seed=7)
    errors = denoising_errors(
        lambda x_t, _: torch.full_like(x_t, 0.3), diffusion, torch.zeros(2, 1, 5, 5), t, noise
    )
    by_hand = np.square(0.3 - noise.numpy().astype(np.float64)).mean(axis=(2, 3, 4))
    np.testing.assert_allclose(errors, by_hand, rtol=1e-6)  # float32 squares


def test_a_films_noise_follows_from_its_name_and_the_seed() -> None:
    alone = noise_of(["b"], (1, 4, 4), 3, seed=1)
    together = noise_of(["a", "b"], (1, 4, 4), 3, seed=1)
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(alone, noise_of(["b"], (1, 4, 4), 3, seed=2))


def test_a_run_is_attacked_with_its_own_films(tiny_run: Path, tiny_dataset: Path) -> None:
    dataset = open_dataset(tiny_dataset)
    found = measure_membership(tiny_run, dataset, count=20, device="cpu")
    assert (found["train_films"], found["held_out_films"], found["held_out_patients"]) == (20, 8, 8)
    assert found["dataset_known"]
    assert found["made_the_films"] is None
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    json.dumps(found, allow_nan=False)
    again = measure_membership(tiny_run, dataset, count=20, device="cpu", made_by="another checkpoint")
    assert again["made_the_films"] is False
    assert again["levels"] == found["levels"]
    newest = found["checkpoint"]["ema_sha256"]
    assert measure_membership(tiny_run, dataset, count=8, device="cpu", made_by=newest)["made_the_films"]


def test_a_network_with_conditions_is_told_what_is_known(
    conditional_run: Path, labelled_dataset: Path
) -> None:
    found = measure_membership(conditional_run, open_dataset(labelled_dataset), count=8, device="cpu")
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_a_run_of_another_dataset_is_refused(
    tiny_run: Path, labelled_dataset: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="was trained on another DATASET"):
        measure_membership(tiny_run, open_dataset(labelled_dataset))
    nameless = Path(shutil.copytree(tiny_run, tmp_path / "nameless"))
    (nameless / "dataset.json").unlink()
    found = measure_membership(nameless, open_dataset(tiny_dataset), count=8, device="cpu")
    assert not found["dataset_known"]
