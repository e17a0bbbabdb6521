"""docs/measure_cifar10.py: our training and a plain loop over diffusers' network lose alike, step by step."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from xraygen.config import load_config
from xraygen.dataset.natural import prepare_natural

pytest.importorskip("diffusers")


def test_both_curves_are_the_same_from_the_same_weights_and_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs"))
    script = importlib.import_module("measure_cifar10")
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images)
    dataset = prepare_natural(tmp_path / "images.npz", tmp_path / "dataset", (16, 16))
    changes = ["data.image_size=16", "model.channel_mult=[1,1]", "model.num_res_blocks=1"]
    changes += ["model.attention_resolutions=[8]", "train.batch_size=2", "train.max_steps=4"]
    changes += ["train.warmup_steps=2", "train.sample_count=1", "train.sample_steps=1", "train.trackers=[]"]
    config = load_config("cifar10", changes)
    assert config.model.dropout == 0.1  # the masks are shared, too
    short = config.model_copy(update={"train": config.train.model_copy(update={"max_steps": 2})})
    begun = script.curves(short, dataset, tmp_path)
    ours, theirs = script.curves(config, dataset, tmp_path)  # goes on: neither does a step twice
    assert len(ours) == len(theirs) == 4
    assert (ours[:2], theirs[:2]) == begun
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)  # float32 sums in another order
    assert ours == pytest.approx(theirs, rel=1e-3)  # Adam divides rounding errors by gradients near zero
    assert ours[-1] < 0.99 * ours[0]
    script.write(tmp_path, ours, theirs)
    assert (tmp_path / "curve.csv").read_text().startswith("step,xraygen,diffusers\n1,")
    assert (tmp_path / "curve.png").read_bytes()[:4] == b"\x89PNG"
