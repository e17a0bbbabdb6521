"""What Ho et al. 2020 and a reproduction of it published: figures to stand beside, never to be mixed with ours."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

PAPER = "Ho et al. 2020, arXiv 2006.11239"
REPRODUCTION = "an independent PyTorch reproduction"
SAMPLES = 50_000
"""Images that every published FID and Inception Score is of."""

Figure = Literal["fid_train", "fid_test", "inception_score", "nll_test", "nll_train"]
NAMES: Mapping[Figure, str] = MappingProxyType(
    {
        "inception_score": "Inception Score",
        "fid_train": "FID, to the training set",
        "fid_test": "FID, to the test set",
        "nll_test": "NLL of the test set, bits/dim",
        "nll_train": "NLL of the training set, bits/dim",
    }
)


@dataclass(frozen=True)
class Setup:
    """One of the paper's setups.

    Attributes:
        name: As the paper calls it.
        preset: Its configuration.
        steps: Training steps after which the paper measured.
        figures: The paper's results with L_simple, as printed.
        ladder: FID that the reproduction had after so many steps.
        rate_distortion: Table 4: reverse steps done, rate in bits/dim, RMSE in grey levels of [0, 255].
        images: Training images of the published set.
        has_original: Whether files of the published set can be told by their hashes.
    """

    name: str
    preset: str
    steps: int
    figures: Mapping[Figure, str]
    ladder: Mapping[int, float]
    rate_distortion: tuple[tuple[int, float, float], ...]
    images: int
    has_original: bool


CIFAR10 = Setup(
    name="CIFAR10",
    preset="cifar10",
    steps=800_000,
    figures={
        "inception_score": "9.46 ± 0.11",
        "fid_train": "3.17",
        "fid_test": "5.24",
        "nll_test": "≤ 3.75",
        "nll_train": "≤ 3.72",
    },
    ladder={46_800: 9.16, 93_600: 5.78, 187_000: 4.08, 421_000: 3.31, 796_000: 3.19},
    rate_distortion=(
        (1000, 1.77581, 0.95136),
        (900, 0.11994, 12.02277),
        (800, 0.05415, 18.47482),
        (700, 0.02866, 24.43656),
        (600, 0.01507, 30.80948),
        (500, 0.00716, 38.03236),
        (400, 0.00282, 46.12765),
        (300, 0.00081, 54.18826),
        (200, 0.00013, 60.97170),
        (100, 0.00000, 67.60125),
    ),
    images=50_000,
    has_original=True,
)

CELEBAHQ = Setup(
    name="CelebA-HQ 256",
    preset="celebahq-256",
    steps=500_000,
    figures={},  # the paper prints none
    ladder={56_000: 19.7, 225_000: 12.0, 393_000: 8.85},
    rate_distortion=(),
    images=30_000,
    has_original=False,
)

SETUPS: Mapping[str, Setup] = MappingProxyType({"cifar10": CIFAR10, "celebahq": CELEBAHQ})
