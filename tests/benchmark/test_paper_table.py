"""What may stand beside a published figure."""

from typing import Any

import pytest

from xraygen.benchmark.paper_table import NO_WEIGHTS, obstacles, paper_table
from xraygen.benchmark.published import CELEBAHQ, CIFAR10
from xraygen.metrics.inception import FID


def comparable(**changes: Any) -> dict[str, Any]:
    """The result of a run that is the paper's in everything, with FID's network."""
    sums = {
        "images": 64,
        **{part: {"mean": 1.0, "standard_error": 0.1} for part in ("L_T", "L_between", "L_0")},
    }
    sums["bits_per_dim"] = {"mean": 3.7412, "standard_error": 0.0212}
    curve = [{"reverse_steps": 1000, "rate": 1.7, "rmse": 0.95}]
    entry = {"samples": 50_000, "training_seconds": 7200.0, "generated": {"images": 50_000, "seconds": 90.0}}
    scores = {"train": 3.2149, "test": 5.3, "inception_score": {"mean": 9.4321, "deviation": 0.1234}}
    measured = {"every_timestep": sums, "rate_distortion": curve}
    result: dict[str, Any] = {
        "data": {"source": "cifar-10", "original": True, "images": {"train": 50_000, "test": 10_000}},
        "settings": {
            **{"steps": 800_000, "samples": 50_000, "chain_steps": 1000, "timesteps": 1000},
            "sampler": "ddpm",
            **{"reference_images": None, "fid_weights": True},
        },
        "other_settings": [],
        "machine": "gpu",
        "environment": {"xraygen": "0", "cpu_count": 1},
        "finished": "now",
        "ladder": [{**entry, "step": step, "scores": {FID: scores}} for step in (46_800, 800_000)],
        "floor": {FID: {"images": 10_000, "distance": 2.0}},
        "likelihood": {"step": 800_000, "seconds": 1.0, "splits": {"test": measured}},
        "progressive": None,
        "interpolation": None,
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            result[section] = {**result[section], name: value}
        else:
            result[section] = value
    return result


def test_a_run_that_is_the_papers_stands_beside_it() -> None:
    table = paper_table(CIFAR10, comparable())
    assert "| FID, to the training set | 3.17 | 3.21 |" in table
    assert "| Inception Score | 9.46 ± 0.11 | 9.43 ± 0.12 |" in table
    assert "| NLL of the test set, bits/dim | ≤ 3.75 | ≤ 3.741 ± 0.021 (n = 64) |" in table
    assert "| 46,800 | 9.16 | 3.21 |" in table
    assert "| 93,600 | 5.78 | not run: 800,000 steps were run |" in table
    assert "| 1000 | 1.70000 | 0.95000 | 1.77581 | 0.95136 |" in table


@pytest.mark.parametrize(
    ("changes", "word", "of_likelihood"),
    [
        ({"data__original": False}, "not the published files", True),
        ({"other_settings": ["model.dropout=0.0"]}, "model.dropout=0.0", True),
        ({"settings__sampler": "ddim"}, "ddim over 1000 of 1000 timesteps", False),
        ({"settings__samples": 5_000}, "5,000 of 50,000 samples", False),
        ({"settings__reference_images": 10}, "compared with 10 real images", False),
        ({"settings__fid_weights": False}, NO_WEIGHTS, False),
    ],
)
def test_each_difference_keeps_a_figure_out_and_is_named(
    changes: dict[str, Any], word: str, of_likelihood: bool
) -> None:
    result = comparable(**changes)
    assert [word in reason for reason in obstacles(CIFAR10, result, 800_000, of_samples=True)] == [True]
    assert any(word in why for why in obstacles(CIFAR10, result, None, of_samples=False)) == of_likelihood
    lines = paper_table(CIFAR10, result).splitlines()
    of_samples = [line for line in lines if line.startswith(("| FID, to", "| Inception", "| 46,800 | 9.16"))]
    assert len(of_samples) == 4
    assert all("not run" in line and word in line for line in of_samples)
    of_likelihood_too = [line for line in lines if line.startswith("| NLL of the test set")]
    assert [word in line for line in of_likelihood_too] == [of_likelihood]
    assert any("published rate" in line for line in lines) != of_likelihood


def test_a_run_of_other_length_is_not_the_papers_but_on_its_ladder() -> None:
    result = comparable()
    assert obstacles(CIFAR10, result, 46_800, of_samples=True) == ["46,800 of 800,000 steps"]
    assert obstacles(CIFAR10, result, None, of_samples=True) == []


def test_images_that_no_hash_tells_never_stand_beside_published_ones() -> None:
    assert not CELEBAHQ.has_original
    assert "cannot be told" in obstacles(CELEBAHQ, comparable(data__original=False), None, of_samples=True)[0]
