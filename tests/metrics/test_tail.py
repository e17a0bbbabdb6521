import math

import numpy as np
import pytest
from scipy.stats import f as f_distribution
from scipy.stats import genpareto

from xraygen.metrics.tail import Tail, anderson_darling, fit_tail, forward_stop


def powers(count: int, k: float, seed: int) -> np.ndarray:
    """Distances with P(D <= d) = d^k, as those to a nearest neighbour in k dimensions have near 0: exponential."""
    return np.asarray(np.random.default_rng(seed).random(count) ** (1 / k))


def pareto(count: int, shape: float, seed: int) -> np.ndarray:
    """Distances whose -log is generalised Pareto."""
    generator = np.random.default_rng(seed)
    return np.asarray(np.exp(-genpareto.rvs(shape, scale=0.125, size=count, random_state=generator)))


def fits(distances: list[np.ndarray]) -> list[Tail]:
    found = [fit_tail(one) for one in distances]
    return [tail for tail in found if tail is not None]


def chance_beyond(tail: Tail, films: int, shape: float) -> float:
    """That one of so many further films lies beyond the distance that 5 % of such sets should reach."""
    x = -math.log(tail.distance_at(0.05 / films))
    return float(-np.expm1(-films * genpareto.sf(x, shape, scale=0.125)))


def test_one_clean_set_in_twenty_reaches_beyond_the_threshold() -> None:
    tails = fits([powers(400, 8, seed) for seed in range(150)])
    # The chance of each is known exactly; its mean over 150 nulls has a standard error of about 0.006. What the choice
    # of the tail costs is below it.
    assert np.mean([chance_beyond(tail, 1000, 0.0) for tail in tails]) == pytest.approx(0.05, abs=0.02)
    assert np.mean([tail.form == "exponential" for tail in tails]) > 0.97


def test_a_lighter_tail_is_bounded() -> None:
    tails = fits([pareto(500, -0.4, seed) for seed in range(40)])
    assert {tail.form for tail in tails} <= {"exponential", "lighter"}
    assert np.mean([tail.tried > 0 for tail in tails]) > 0.5  # the larger tails are seen to be lighter
    assert np.median([tail.shape for tail in tails]) < 0
    assert max(chance_beyond(tail, 1000, -0.4) for tail in tails) < 0.05


def test_a_heavier_tail_is_not_fitted() -> None:
    tails = fits([pareto(600, 0.8, seed) for seed in range(40)])
    assert np.mean([tail.form == "heavier" for tail in tails]) > 0.8


@pytest.mark.parametrize("copies", [4, 8])
def test_copies_among_the_held_out_films_are_seen(copies: int) -> None:
    mixed = [powers(500, 8, seed) for seed in range(20)]
    for seed, null in enumerate(mixed):
        null[:copies] *= np.exp(-np.random.default_rng(seed).uniform(1, 3, copies))
    assert np.mean([tail.form == "heavier" for tail in fits(mixed)]) > 0.8


def test_films_that_come_in_lumps_are_seen() -> None:
    lumps = [np.repeat(powers(30, 8, seed), 20) + 1e-9 * np.arange(600) for seed in range(20)]  # in twenties
    assert np.mean([tail.tried > 0 or tail.fit < 0.05 for tail in fits(lumps)]) > 0.8


def test_the_chance_of_one_further_distance_is_exact() -> None:
    """x / x̄ has an F distribution with 2 and 2 n degrees of freedom, below u of (n + 1) in (m + 1) distances."""
    tail = Tail(
        threshold=2.0, share=61 / 601, scale=0.2, films=60, shape=0.0, fit=0.5, form="exponential", tried=0
    )
    for distance in (2.0, 1.5, 0.7):
        expected = 61 / 601 * f_distribution.sf(math.log(2.0 / distance) / 0.2, 2, 120)
        assert tail.p_value(distance) == pytest.approx(expected, rel=1e-12)
        assert tail.distance_at(expected) == pytest.approx(distance, rel=1e-12)
    assert tail.p_value(0.0) == 0


@pytest.mark.parametrize("n", [30, 100])
def test_the_statistic_has_the_published_distribution(n: int) -> None:
    """Stephens' points of A² (1 + 0.6 / n), scale unknown: D'Agostino & Stephens 1986, table 4.14."""
    drawn = np.sort(np.random.default_rng(0).exponential(size=(20_000, n)), axis=1)
    statistic = anderson_darling(drawn) * (1 + 0.6 / n)
    for point, beyond in ((1.062, 0.10), (1.321, 0.05), (1.591, 0.025), (1.959, 0.01)):
        # Three standard errors of 20,000 draws, and the table's third decimal.
        assert (statistic > point).mean() == pytest.approx(beyond, abs=3 * math.sqrt(beyond / 20_000) + 0.002)


def test_the_statistic_is_that_of_its_definition() -> None:
    x = np.sort(np.random.default_rng(1).exponential(2.0, size=40))
    u = np.array([1 - math.exp(-value / x.mean()) for value in x])
    sums = sum((2 * i + 1) * (math.log(u[i]) + math.log(1 - u[39 - i])) for i in range(40))
    assert anderson_darling(x) == pytest.approx(-40 - sums / 40, rel=1e-12)


@pytest.mark.parametrize(
    ("p_values", "rejected"),
    [
        ([0.5, 0.9], 0),
        ([0.001, 0.002, 0.6], 2),
        ([0.001, 0.12, 0.01, 0.9], 3),  # 0.12 alone would stop; what follows carries it
        ([0.001, 0.001], 2),
        ([1.0, 0.001], 0),
    ],
)
def test_the_first_hypotheses_are_rejected_in_their_order(p_values: list[float], rejected: int) -> None:
    means = [
        sum(-math.log(1 - min(p, 1 - 1e-16)) for p in p_values[: k + 1]) / (k + 1)
        for k in range(len(p_values))
    ]
    assert (
        forward_stop(p_values)
        == rejected
        == max((k + 1 for k, mean in enumerate(means) if mean <= 0.05), default=0)
    )


def test_the_largest_tail_that_fits_is_taken() -> None:
    tail = fit_tail(powers(600, 8, 0))
    assert tail is not None
    assert (tail.tried, tail.films, tail.share) == (0, 120, 121 / 601)
    assert tail.scale == pytest.approx(1 / 8, rel=0.3)  # three standard errors of 120 exceedances


def test_few_or_equal_distances_have_no_tail() -> None:
    assert fit_tail(powers(299, 8, 0)) is None
    assert fit_tail(powers(300, 8, 0)) is not None
    assert fit_tail(np.ones(400)) is None
    assert fit_tail(np.sqrt([1] * 40 + [2] * 100 + [3] * 300)) is None  # 40 below the threshold, all equal
    assert fit_tail(np.append(powers(400, 8, 0), 0.0)) is None


def test_distances_that_equal_the_threshold_are_not_below_it() -> None:
    rounded = np.ceil(100 * powers(400, 8, 3)) / 100
    tail = fit_tail(rounded)
    assert tail is not None
    assert tail.films == (rounded < tail.threshold).sum()
