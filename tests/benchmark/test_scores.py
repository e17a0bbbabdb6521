"""FID and Inception Score of a set, by FID's network under weights that are not its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.atomic import sha256_of
from xraygen.benchmark.paper import PaperSettings, benchmark_paper
from xraygen.benchmark.published import CELEBAHQ
from xraygen.benchmark.scores import ruler
from xraygen.dataset.natural import prepare_natural
from xraygen.metrics import inception
from xraygen.metrics.features import FeatureExtractor
from xraygen.metrics.frechet import frechet_distance_of_features
from xraygen.metrics.inception import CLASSES, FEATURES, FID, Inception
from xraygen.metrics.inception_score import inception_score

Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def images() -> Images:
    generator = np.random.default_rng(0)
    flat = generator.integers(0, 256, (24, 1, 1, 3))
    grain = generator.integers(-20, 20, (24, 16, 16, 3))
    return np.asarray(np.clip(flat + grain, 0, 255), dtype=np.uint8)


def stand_in(device: torch.device) -> FeatureExtractor:
    """Of the shape of FID's network: means of four places, and classes by hue."""

    def network(unit: Tensor) -> Tensor:
        means = unit[:, :, ::8, ::8].flatten(1)  # (B, 12)
        features = torch.zeros(len(unit), FEATURES)
        features[:, :12] = means
        classes = torch.full((len(unit), CLASSES), -1e4)
        classes[:, :3] = 20 * unit.mean(dim=(2, 3))
        return torch.cat([features, classes.softmax(dim=1)], dim=1)

    return FeatureExtractor("stand-in", FID, FEATURES + CLASSES, {"of": "a test"}, network, device)


def test_distances_are_of_the_features_and_the_score_of_the_probabilities(
    images: Images, tmp_path: Path
) -> None:
    np.savez(tmp_path / "images.npz", x_train=images[:16], x_test=images[16:])
    dataset = prepare_natural(tmp_path / "images.npz", tmp_path / "dataset", (16, 16))
    extractor = stand_in(torch.device("cpu"))
    made = images[::-1][:12].copy()
    scores = ruler(extractor, dataset, None, tmp_path / "cache").scores(made, "set")

    def features(of: Images) -> NDArray[np.float64]:
        return np.asarray(of[:, ::8, ::8].transpose(0, 3, 1, 2).reshape(len(of), 12) / 255)

    for split, real in {"train": images[:16], "test": images[16:]}.items():
        expected = frechet_distance_of_features(features(real), features(made))
        assert scores[split] == pytest.approx(expected, rel=1e-5)  # float32 features
    hues = np.exp(20 * made.mean(axis=(1, 2)) / 255)
    expected_score = inception_score(hues / hues.sum(axis=1, keepdims=True))
    assert scores["inception_score"]["mean"] == pytest.approx(expected_score.mean, rel=1e-4)


def test_fewer_real_images_are_spread_over_the_set(images: Images, tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", x_train=images[:16], x_test=images[16:])
    dataset = prepare_natural(tmp_path / "images.npz", tmp_path / "dataset", (16, 16))
    one = ruler(stand_in(torch.device("cpu")), dataset, 4, tmp_path / "cache")
    every = ruler(stand_in(torch.device("cpu")), dataset, None, tmp_path / "cache")
    assert np.array_equal(one.real["train"], every.real["train"][[0, 5, 10, 15]])
    assert one.floor(3, seed=0) is not None
    assert every.floor(1, seed=0) is None


@pytest.mark.slow
def test_with_weights_the_tables_have_fid_and_inception_score(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(Inception().state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(inception, "SHA256", sha256_of(tmp_path / "weights.pth"))
    monkeypatch.setattr("xraygen.metrics.features.BATCH_SIZE", 4)
    np.savez(tmp_path / "images.npz", images=images)
    changes: tuple[str, ...] = (
        "data.image_size=16",
        "model.channels=32",
        "model.channel_mult=[1]",
        "model.num_res_blocks=1",
    )
    changes += ("schedule.num_timesteps=10", "train.batch_size=4", "train.sample_count=1")
    settings = PaperSettings(
        1,
        10,
        2,
        likelihood_images=0,
        progressive_samples=0,
        paths=0,
        weights=tmp_path / "weights.pth",
        changes=changes,
    )
    result = benchmark_paper(CELEBAHQ, tmp_path / "images.npz", tmp_path / "out", settings, device="cpu")
    scores = result["ladder"][-1]["scores"]
    assert scores[FID]["train"] > 0
    assert 1 <= scores[FID]["inception_score"]["mean"] <= CLASSES
    table = (tmp_path / "out" / "benchmark.md").read_text()
    assert "FID to train | FID to test | Inception Score |" in table
    assert "needs the FID network's weights" not in table
