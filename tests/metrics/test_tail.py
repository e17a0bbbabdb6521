import math

import numpy as np
import pytest
from scipy.stats import genpareto

from xraygen.metrics.tail import Tail, fit_tail


def powers(count: int, k: float, seed: int) -> np.ndarray:
    """Distances with P(D <= d) = d^k, as those to a nearest neighbour in k dimensions have near 0."""
    return np.asarray(np.random.default_rng(seed).random(count) ** (1 / k))


def test_it_reads_far_beyond_the_films_that_it_has() -> None:
    k, p = 8.0, 2e-5
    found = [fit_tail(powers(600, k, seed), seed) for seed in range(100)]
    ratios = [math.log10(tail.p_value(p ** (1 / k)) / p) for tail in found if tail is not None]
    assert len(ratios) == 100
    # At 60 exceedances the scale is known to 13 %, and log p is 8.5 scales out: a factor of 3 or so.
    assert abs(np.median(ratios)) < 0.4
    assert np.quantile(np.abs(ratios), 0.9) < 1.5


def test_the_form_is_rejected_seldom_where_it_is_right_and_often_where_it_is_wrong() -> None:
    right = [fit_tail(powers(600, 8, seed), seed) for seed in range(60)]
    assert np.mean([tail is not None and tail.fit < 0.05 for tail in right]) <= 0.15
    lumps = [np.repeat(powers(30, 8, seed), 20) for seed in range(20)]  # films that come in twenties
    wrong = [fit_tail(null + 1e-9 * np.arange(600), seed) for seed, null in enumerate(lumps)]
    assert np.mean([tail is not None and tail.fit < 0.05 for tail in wrong]) > 0.7


@pytest.mark.parametrize("shape", [0.0, 0.3])
def test_p_values_are_those_of_the_generalised_pareto_distribution(shape: float) -> None:
    tail = Tail(threshold=2.0, share=0.1, shape=shape, scale=0.2, films=60, fit=0.5)
    for distance in (2.0, 1.5, 0.7):
        expected = 0.1 * genpareto.sf(math.log(2.0 / distance), shape, scale=0.2)
        assert tail.p_value(distance) == pytest.approx(expected, rel=1e-12)
        assert tail.distance_at(expected) == pytest.approx(distance, rel=1e-12)
    assert tail.p_value(0.0) == 0


def test_few_or_equal_distances_have_no_tail() -> None:
    assert fit_tail(powers(299, 8, 0)) is None
    assert fit_tail(powers(300, 8, 0)) is not None
    assert fit_tail(np.ones(400)) is None
