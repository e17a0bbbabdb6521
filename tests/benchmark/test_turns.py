import itertools
import math

import numpy as np
import pytest
import torch

from xraygen.benchmark.turns import paired_ratio, take_turns

CPU = torch.device("cpu")


def test_every_task_runs_once_per_round_and_each_begins_in_turn() -> None:
    order: list[str] = []
    tasks = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = take_turns(tasks, 3, CPU)
    assert "".join(order) == "abcbcacab"
    assert all(len(taken.wall) == len(taken.cpu) == 3 for taken in times.values())


def test_times_are_per_run() -> None:
    runs = itertools.count()
    times = take_turns({"sleep": lambda: (next(runs), math.factorial(2000))}, 2, CPU, repeats=5)
    assert next(runs) == 10
    assert (times["sleep"].wall > 0).all()


def test_a_machine_that_slows_down_does_not_change_the_ratio() -> None:
    slowness = np.array([1.0, 3.0, 0.7, 10.0, 2.0, 1.0, 1.0, 5.0, 1.5])
    ratio = paired_ratio(2 * slowness, 4 * slowness)
    assert (ratio.median, ratio.low, ratio.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("rounds", "lowest"), [(6, 1), (8, 1), (9, 2), (15, 4), (25, 8)])
def test_the_interval_is_that_of_the_sign_test(rounds: int, lowest: int) -> None:
    # Conover's table: the ranks that enclose the median with at least 95 %.
    ratio = paired_ratio(np.arange(1.0, rounds + 1), np.ones(rounds))
    assert (ratio.low, ratio.high) == (lowest, rounds + 1 - lowest)


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    draws = generator.exponential(size=(4000, 9))
    covered = [
        ratio.low <= math.log(2) <= ratio.high for ratio in (paired_ratio(draw, np.ones(9)) for draw in draws)
    ]
    assert 0.95 < np.mean(covered) < 0.97  # 96.1 % for nine
