"""What a set of images in colour scores: distances to a training and a test set, and the Inception Score.

N images, F features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.dataset.store import Dataset, Split
from xraygen.metrics.features import FeatureExtractor, extract
from xraygen.metrics.frechet import frechet_distance_of_features
from xraygen.metrics.inception import FEATURES, FID
from xraygen.metrics.inception_score import SPLITS, inception_score
from xraygen.progress import Progress, Report, silent
from xraygen.seeds import numpy_generator

Images = NDArray[np.uint8]
_BITS = 8
_ROWS = 1024


@dataclass(frozen=True)
class Ruler:
    """An extractor with the features of the real images, taken once.

    Attributes:
        extractor: The network.
        real: Of each split that there is, `(N, F)`.
        cache: Folder of the features' cache.
        report: Told how far extraction is.
    """

    extractor: FeatureExtractor
    real: Mapping[Split, NDArray[np.float32]]
    cache: Path
    report: Report = silent

    def features(self, images: Images, task: str) -> NDArray[np.float32]:
        """Features of images `[N, H, W, 3]`, `(N, F)`."""
        return extract(self.extractor, images, _BITS, cache=self.cache, report=self.report, task=task)

    def scores(self, images: Images, task: str) -> dict[str, Any]:
        """Fréchet distance to each split and, of FID's network, the Inception Score."""
        features = self.features(images, task)
        scores: dict[str, Any] = {
            split: frechet_distance_of_features(
                measured(self.extractor, real), measured(self.extractor, features)
            )
            for split, real in self.real.items()
        }
        if self.extractor.label == FID and len(features) >= SPLITS:
            score = inception_score(features[:, FEATURES:])
            scores["inception_score"] = {"mean": score.mean, "deviation": score.deviation}
        return scores

    def floor(self, count: int, seed: int) -> dict[str, float] | None:
        """Distance of up to `count` real test images to the training images: what a perfect set could score."""
        if "test" not in self.real:
            return None
        test = self.real["test"]
        rows = numpy_generator(seed, "benchmark-floor").permutation(len(test))[:count]
        if len(rows) < 2:
            return None
        train, chosen = (measured(self.extractor, features) for features in (self.real["train"], test[rows]))
        return {"images": len(rows), "distance": frechet_distance_of_features(train, chosen)}


def ruler(
    extractor: FeatureExtractor, dataset: Dataset, most: int | None, cache: Path, report: Report = silent
) -> Ruler:
    """Take the features of the real images.

    Args:
        extractor: The network.
        dataset: DATASET in colour.
        most: Images of each split at most, spread over it; None takes all.
        cache: Folder of the features' cache.
        report: Told how far extraction is.
    """
    real: dict[Split, NDArray[np.float32]] = {}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        rows = dataset.indices(split)
        if most is not None and len(rows) > most:
            rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
        if len(rows) > 1:
            real[split] = _features_of_rows(extractor, dataset, rows, cache, report, f"features of {split}")
    return Ruler(extractor, real, cache, report)


def measured(extractor: FeatureExtractor, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a distance is taken of: of FID's network the features without the probabilities behind them."""
    return features[:, :FEATURES] if extractor.label == FID else features


def _features_of_rows(
    extractor: FeatureExtractor,
    dataset: Dataset,
    rows: NDArray[np.int64],
    cache: Path,
    report: Report,
    task: str,
) -> NDArray[np.float32]:
    """Features of rows of a DATASET, gathered part by part: a whole training set need not fit into memory."""
    parts = []
    for start in range(0, len(rows), _ROWS):
        report(Progress(task, start, len(rows)))
        images = dataset.gather(rows[start : start + _ROWS])
        parts.append(extract(extractor, images, _BITS, cache=cache))
    report(Progress(task, len(rows), len(rows)))
    return np.concatenate(parts)
