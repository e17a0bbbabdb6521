"""The Inception Score beside closed forms, a loop in plain Python, and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from xraygen.errors import ShapeError
from xraygen.metrics.inception_score import inception_score


def probabilities(count: int, classes: int, seed: int = 0) -> NDArray[np.float64]:
    logits = 3 * np.random.default_rng(seed).standard_normal((count, classes))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def by_entropies(p: NDArray[np.float64], splits: int) -> tuple[float, float]:
    """exp(H(y) - H(y|x)), one number after the other: E KL as a difference of entropies, which the code never forms."""
    scores = []
    size = len(p) // splits
    for split in range(splits):
        rows = [list(map(float, row)) for row in p[split * size : (split + 1) * size]]
        marginal = [math.fsum(row[k] for row in rows) / size for k in range(p.shape[1])]
        whole = -math.fsum(q * math.log(q) for q in marginal if q)
        each = -math.fsum(q * math.log(q) for row in rows for q in row if q) / size
        scores.append(math.exp(whole - each))
    mean = math.fsum(scores) / splits
    return mean, math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / splits)


def test_sure_and_even_images_score_the_number_of_classes() -> None:
    assert inception_score(np.tile(np.eye(5), (20, 1))).mean == pytest.approx(5, rel=1e-14)  # roundings


def test_images_that_are_all_alike_score_one() -> None:
    score = inception_score(np.tile(probabilities(1, 7), (50, 1)))
    assert score.mean == pytest.approx(1, abs=1e-14)
    assert score.deviation == pytest.approx(0, abs=1e-14)


def test_classes_of_unequal_share_score_the_exponential_of_their_entropy() -> None:
    p = np.eye(2)[[0, 0, 0, 1]]
    assert inception_score(p, splits=1).mean == pytest.approx(4 / 3**0.75, rel=1e-14)


@pytest.mark.parametrize("splits", [1, 4, 10])
def test_it_agrees_with_entropies_summed_exactly(splits: int) -> None:
    p = probabilities(200, 30)
    p[::7] = np.eye(30)[np.arange(len(p[::7])) % 30]  # with zeros
    mean, deviation = by_entropies(p, splits)
    score = inception_score(p, splits)
    assert score.mean == pytest.approx(mean, rel=1e-12)  # both in float64; entropies lose a few digits
    assert score.deviation == pytest.approx(deviation, abs=1e-10)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save all extracted features")
@pytest.mark.parametrize("splits", [2, 10])
def test_it_agrees_with_torchmetrics(splits: int) -> None:
    inception = pytest.importorskip("torchmetrics.image.inception")
    logits = torch.from_numpy(3 * np.random.default_rng(1).standard_normal((200, 30)))
    metric = inception.InceptionScore(feature=torch.nn.Identity(), splits=splits)
    metric.features.append(logits)
    metric._update_count = 1  # features are given; no image passed a network
    torch.manual_seed(0)
    mean, deviation = metric.compute()
    torch.manual_seed(0)
    shuffled = logits[torch.randperm(len(logits))]  # torchmetrics draws its order first
    score = inception_score(shuffled.softmax(dim=1).numpy(), splits)
    assert score.mean == pytest.approx(mean.item(), rel=1e-12)  # float64 in both
    as_population = math.sqrt((splits - 1) / splits)  # torchmetrics takes the splits for a sample: N - 1
    assert score.deviation == pytest.approx(deviation.item() * as_population, rel=1e-9)


def test_the_order_decides_the_splits_and_not_the_score_of_the_whole() -> None:
    p = probabilities(100, 6)
    turned = p[np.random.default_rng(2).permutation(100)]
    assert inception_score(turned, 1).mean == pytest.approx(inception_score(p, 1).mean, rel=1e-12)
    assert inception_score(turned, 10) != inception_score(p, 10)


@pytest.mark.parametrize(
    "p",
    [
        np.eye(4),
        np.full((20, 4), 0.5),
        np.full(20, 0.5),
        np.full((20, 2), np.nan),
        np.tile([2.0, -1.0], (20, 1)),
    ],
    ids=["too-few", "no-distribution", "one-axis", "nan", "negative"],
)
def test_what_are_no_probabilities_are_refused(p: NDArray[np.float64]) -> None:
    with pytest.raises(ShapeError):
        inception_score(p)
