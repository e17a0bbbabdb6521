from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

from xraygen.config import ModelConfig
from xraygen.errors import UsageError
from xraygen.models.unet import UNet
from xraygen.training.posthoc_ema import (
    SIGMA_RELS,
    PowerAverages,
    Profile,
    beta_at,
    combination,
    error_of,
    gamma_of,
    inner_products,
    sigma_rel_of,
)

MODEL = ModelConfig(image_size=8, channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=())
STEPS = 400
EVERY = 20


@pytest.fixture(scope="module")
def slow(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("posthoc_ema")


def tracked(path: np.ndarray, sigma_rel: float) -> np.ndarray:
    """The average after each step, by the update that training does, in float64."""
    gamma, value, values = gamma_of(sigma_rel), float(path[0]), []
    for step in range(1, len(path)):
        beta = beta_at(step, gamma)
        value = beta * value + (1 - beta) * float(path[step])
        values.append(value)
    return np.array(values)


def wandering(seed: int = 0) -> np.ndarray:
    """A weight that drifts as weights do: a decaying trend with steps of noise on it."""
    noise = np.random.default_rng(seed).normal(size=STEPS + 1).cumsum() / 20
    return 3 * np.exp(-np.arange(STEPS + 1) / 80) + noise


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.10, 0.15, 0.25])
def test_gamma_has_the_width_that_was_asked_for(slow: ModuleType, sigma_rel: float) -> None:
    gamma = gamma_of(sigma_rel)
    assert sigma_rel_of(gamma) == pytest.approx(sigma_rel, rel=1e-12)
    assert slow.sigma_rel(gamma) == pytest.approx(sigma_rel, rel=1e-4)  # the grid's error at 0.01


def test_the_papers_two_widths_have_the_papers_exponents() -> None:
    assert [gamma_of(sigma_rel) for sigma_rel in SIGMA_RELS] == pytest.approx([16.97, 6.94], abs=0.005)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.29, 1.0])
def test_a_width_that_cannot_be_is_refused(sigma_rel: float) -> None:
    with pytest.raises(UsageError, match="sigma_rel"):
        gamma_of(sigma_rel)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10, 0.2])
def test_the_update_is_the_closed_form(slow: ModuleType, sigma_rel: float) -> None:
    path = wandering()
    expected = slow.average(list(path), gamma_of(sigma_rel))
    assert tracked(path, sigma_rel)[-1] == pytest.approx(expected, rel=1e-12)


def test_a_straight_line_is_averaged_to_the_mean_of_its_profile() -> None:
    # The mean of tau under the profile is (gamma + 1) / (gamma + 2) t; steps are half a step later than moments.
    gamma = gamma_of(0.1)
    value = tracked(np.arange(10_001.0), 0.1)[-1]
    assert value == pytest.approx((gamma + 1) / (gamma + 2) * 10_000 + 0.5, rel=1e-6)


def test_the_initial_weights_are_in_no_average() -> None:
    assert beta_at(1, gamma_of(0.05)) == 0.0


@pytest.mark.parametrize(
    ("first", "second"), [((100, 0.05), (100, 0.1)), ((60, 0.2), (100, 0.05)), ((100, 0.1), (40, 0.1))]
)
def test_inner_products_are_the_integrals(
    slow: ModuleType, first: tuple[int, float], second: tuple[int, float]
) -> None:
    points = 200_000
    moments = (np.arange(points) + 0.5) * 100 / points
    p, q = (slow.profile(step, gamma_of(sigma_rel), moments) for step, sigma_rel in (first, second))
    value = inner_products([Profile(*first)], [Profile(*second)])[0, 0]
    assert value == pytest.approx(float(np.sum(p * q)) * 100 / points, rel=1e-4)  # the grid's


def snapshots() -> list[Profile]:
    return [Profile(step, sigma_rel) for step in range(EVERY, STEPS + 1, EVERY) for sigma_rel in SIGMA_RELS]


@pytest.mark.parametrize("sigma_rel", [0.04, 0.07, 0.15, 0.25])
def test_the_combination_is_as_near_as_the_slow_one(slow: ModuleType, sigma_rel: float) -> None:
    stored = snapshots()
    points = 20_000
    moments = (np.arange(points) + 0.5) * STEPS / points
    columns = np.stack([slow.profile(s.step, gamma_of(s.sigma_rel), moments) for s in stored], axis=1)
    wanted = slow.profile(STEPS, gamma_of(sigma_rel), moments)
    best = slow.best_combination(
        [(s.step, gamma_of(s.sigma_rel)) for s in stored], STEPS, gamma_of(sigma_rel)
    )
    ours = combination(stored, Profile(STEPS, sigma_rel))
    distances = [float(np.linalg.norm(columns @ x - wanted) / np.linalg.norm(wanted)) for x in (ours, best)]
    assert (
        distances[0] <= 1.05 * distances[1] + 1e-3
    )  # ours sums to 1, which costs a few percent of the distance
    assert error_of(stored, Profile(STEPS, sigma_rel)) == pytest.approx(distances[0], abs=2e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
@pytest.mark.parametrize("sigma_rel", [0.05, 0.07, 0.10, 0.15, 0.2])
def test_the_reconstruction_is_the_average_that_would_have_been_kept(sigma_rel: float, dtype: type) -> None:
    path, stored = wandering(), snapshots()
    kept = {width: tracked(path, width) for width in SIGMA_RELS}
    values = np.array([kept[s.sigma_rel][s.step - 1] for s in stored]).astype(dtype).astype(np.float64)
    rebuilt = float(combination(stored, Profile(STEPS, sigma_rel)) @ values)
    direct = tracked(path, sigma_rel)[-1]
    # Of a path that wanders by 1.3: 20 snapshots of each width leave a hundredth of it; float16 its 3 digits.
    assert rebuilt == pytest.approx(direct, abs=0.01 if dtype is np.float64 else 0.02)


def test_more_snapshots_come_nearer() -> None:
    target = Profile(STEPS, 0.15)
    few = [s for s in snapshots() if s.step % 100 == 0]
    assert error_of(snapshots(), target) < 0.5 * error_of(few, target)


def test_what_was_kept_is_its_own_reconstruction() -> None:
    stored = snapshots()
    x = combination(stored, Profile(STEPS, 0.10))
    assert x[stored.index(Profile(STEPS, 0.10))] == pytest.approx(1, abs=1e-3)


def test_the_averages_of_a_network_follow_the_scalar_ones() -> None:
    path, model = wandering()[:30], UNet(MODEL)
    averages = PowerAverages(model)
    for step in range(1, len(path)):
        for weight in model.parameters():
            weight.data.fill_(float(path[step]))
        averages.update(model, step)
    for number, sigma_rel in enumerate(SIGMA_RELS):
        expected = tracked(path, sigma_rel)[-1]
        for tensor in averages.tensors(number).values():
            torch.testing.assert_close(tensor, torch.full_like(tensor, expected), rtol=1e-5, atol=1e-5)


def test_averages_go_on_from_what_was_saved() -> None:
    model = UNet(MODEL)
    first, second = PowerAverages(model), PowerAverages(model)
    for step in range(1, 4):
        for weight in model.parameters():
            weight.data.mul_(1.5)
        first.update(model, step)
    second.load_state(first.to_state())
    for number in range(len(SIGMA_RELS)):
        assert all(torch.equal(a, second.tensors(number)[name]) for name, a in first.tensors(number).items())
