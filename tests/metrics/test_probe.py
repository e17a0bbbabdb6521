import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from xraygen.metrics.probe import WEIGHT_DECAY, fit_probe, log_odds


def films(count: int, classes: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Five features, the first of which tells the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    features = rng.standard_normal((count, 5)).astype(np.float32) * 3 + 1
    features[:, 0] += labels
    return features, labels


def test_two_classes_are_binary_logistic_regression() -> None:
    """Against scipy's minimum of the textbook's loss, mean log(1 + exp(-±z)) + λ |w|²."""
    x, y = films(80, 2, 0)
    mean, deviation = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    z, sign = (x - mean) / deviation, 2 * y - 1

    def loss(parameters: NDArray[np.float64]) -> float:
        margin = sign * (z @ parameters[:5] + parameters[5])
        penalty = WEIGHT_DECAY * float((parameters[:5] ** 2).sum())
        return float(np.logaddexp(0, -margin).mean()) + penalty

    best = minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-9}).x
    ours = fit_probe(x, y, 2).log_odds(x)
    # 1e-4: scipy's gradient is by finite differences, and a deviation has 1e-6 added.
    np.testing.assert_allclose(ours[:, 1], z @ best[:5] + best[5], atol=1e-4)
    np.testing.assert_allclose(ours[:, 0], -ours[:, 1], atol=1e-12)


def test_a_start_takes_the_place_of_zero_in_the_penalty() -> None:
    """Three classes: the gradient, written out, vanishes at the optimum, with the weights of the start in it."""
    first = fit_probe(*films(60, 3, 1), 3)
    x, y = films(12, 3, 2)
    tuned = fit_probe(x, y, 3, start=first)
    z = (x.astype(np.float64) - first.mean.numpy()) / first.deviation.numpy()
    logits = z @ tuned.weights.numpy() + tuned.offset.numpy()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = z.T @ (p - np.eye(3)[y]) / len(y)
    gradient += 4 * WEIGHT_DECAY * (tuned.weights - first.weights).numpy()
    # 2e-7: the optimiser stops where no component of the gradient is above 1e-7.
    np.testing.assert_allclose(gradient, 0, atol=2e-7)
    assert np.abs((tuned.weights - first.weights).numpy()).max() > 0.01


def test_log_odds_are_those_of_the_softmax_and_do_not_round_away() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [0.0, 800.0, 0.0]], dtype=torch.float64)
    p = logits[0].softmax(0)
    expected = (p / (1 - p)).log().numpy()
    np.testing.assert_allclose(log_odds(logits)[0], expected, rtol=1e-12)
    assert log_odds(logits)[1, 1] == pytest.approx(800 - np.log(2))
