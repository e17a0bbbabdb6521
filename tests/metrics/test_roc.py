from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from xraygen.metrics.roc import area_interval, area_under_curve, clustered_error, influence, wilson

Reference = Callable[[str], ModuleType]


@pytest.mark.parametrize("decimals", [9, 0], ids=["no ties", "many ties"])
def test_area_and_error_are_those_of_the_definition(reference: Reference, decimals: int) -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(60) < 0.3
    scores = np.round(rng.standard_normal(60) + positive, decimals)
    slow = reference("roc")
    lists = (scores.tolist(), positive.tolist())
    # 1e-12: both are sums of the same rationals in float64.
    assert area_under_curve(scores, positive) == pytest.approx(slow.area(*lists), abs=1e-12)
    found = influence(scores, positive, np.arange(60))
    assert found.area == pytest.approx(slow.area(*lists), abs=1e-12)
    error = clustered_error(found.of_film, np.arange(60))
    assert error**2 == pytest.approx(slow.delong_variance(*lists), rel=1e-12)


def test_films_that_repeat_a_patient_say_nothing_more() -> None:
    rng = np.random.default_rng(1)
    positive = np.arange(40) < 15
    scores = rng.standard_normal(40) + positive
    once = influence(scores, positive, np.arange(40))
    thrice = influence(np.repeat(scores, 3), np.repeat(positive, 3), np.repeat(np.arange(40), 3))
    assert thrice.area == pytest.approx(once.area, abs=1e-12)
    assert clustered_error(thrice.of_film, np.repeat(np.arange(40), 3)) == pytest.approx(
        clustered_error(once.of_film, np.arange(40)), rel=1e-12
    )


@pytest.mark.parametrize("truth", [0.5, 0.8, 0.95, 0.99])
def test_intervals_hold_the_truth_where_patients_have_several_films(truth: float) -> None:
    """30 sick and 40 well patients of two films each, half of whose variance is the patient's.

    Over 400 repeats coverage has a standard error of 1.1 % at 95 %: 91 to 99 % is within four of them. Near 1 intervals
    are wider on purpose, as if each patient had one film. Films taken for independent cover less.
    """
    rng = np.random.default_rng(2)
    shift = np.sqrt(2) * norm.ppf(truth)
    sick = np.repeat(np.arange(70) < 30, 2)
    patients = np.repeat(np.arange(70), 2)
    held, naive = 0, 0
    for _ in range(400):
        scores = np.repeat(rng.standard_normal(70), 2) + rng.standard_normal(140)
        scores = scores / np.sqrt(2) + shift * sick
        found = influence(scores, sick, patients)
        interval = area_interval(found.area, clustered_error(found.of_film, patients), 30, 40)
        held += interval.low <= truth <= interval.high
        alone = area_interval(found.area, clustered_error(found.of_film, np.arange(140)), 60, 80)
        naive += alone.low <= truth <= alone.high
    assert 0.91 <= held / 400 <= (0.99 if truth < 0.9 else 1)
    assert naive < held


def test_a_perfect_area_is_not_certain() -> None:
    perfect = area_interval(1.0, 0.0, 20, 20)
    assert perfect.high == 1.0
    # At A = 1 the exponential model leaves 400 / (1 + 19 / 2) = 38.1 films, and Wilson's lower end is 1 / (1 + z² / n).
    assert perfect.low == pytest.approx(1 / (1 + 1.959964**2 / (400 / 10.5)), abs=1e-9)
    nearly = area_interval(0.9975, 0.0035, 20, 20)
    assert perfect.low > nearly.low
    assert area_interval(0.0, 0.0, 20, 20).low == 0.0


def test_wilson_is_scipys() -> None:
    theirs = binomtest(7, 50).proportion_ci(method="wilson")
    ours = wilson(0.14, 50)
    # 1e-6: the quantile of the normal is written with seven digits.
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
