"""What synthetic films are good for: a classifier that learned from them, tested on patients whom nobody has seen.

It learns from real films of some patients, from synthetic films, from both together, and first from synthetic and then
from real films; at several shares of the patients. N films, P patients, K classes, S seeds, T films of a test set.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from xraygen.atomic import atomic_file
from xraygen.audit.classifiers import Classifier, Fitted, Inputs, Labels
from xraygen.audit.labels import Codes
from xraygen.metrics.features import cache_folder
from xraygen.metrics.roc import NORMAL, Influence, area_interval, clustered_error, influence
from xraygen.progress import Progress, Report, silent
from xraygen.seeds import derive_seed, numpy_generator

FRACTIONS = (0.05, 0.1, 0.25, 1.0)
REAL, SYNTHETIC, BOTH, TUNED = "real", "synthetic", "both", "pretrained"
FEWEST_PATIENTS = 5
"""Of each class, in a test set."""

ESTIMAND = (
    "AUC: the expected area under the ROC curve, over patients like those of the test set, of a classifier trained on "
    "a share of this DATASET's training patients that is drawn at random. Change: the expected difference from the "
    "classifier trained on the real films of the same patients; of synthetic films alone, on those of all patients. "
    "95 % intervals: patients of the test set (DeLong, whole patients) and seeds (Student's t), in quadrature. They do "
    "not cover another training of the generating network."
)

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Films:
    """Films whose word is known."""

    name: str
    inputs: Inputs
    labels: Labels
    """(N,), in [0, K - 1]."""
    patients: Codes
    """(N,); films of the SYNTHETIC have one each."""

    def of(self, rows: Rows) -> tuple[Inputs, Labels]:
        """Some of them."""
        return self.inputs[rows], self.labels[rows]

    @property
    def all(self) -> tuple[Inputs, Labels]:
        """All of them."""
        return self.inputs, self.labels

    def digest(self) -> str:
        """Hash of what a classifier sees of them."""
        digest = hashlib.sha256(str(self.inputs.shape).encode())
        for part in (self.inputs, self.labels):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


class Arm(NamedTuple):
    """One way to mix films, at one share of the patients; of synthetic films alone the share is None."""

    kind: str
    fraction: float | None


def arms(fractions: Sequence[float] = FRACTIONS) -> list[Arm]:
    """All of them; the real films of a share come before what is held against them."""
    return [*(Arm(kind, f) for f in fractions for kind in (REAL, BOTH, TUNED)), Arm(SYNTHETIC, None)]


def nested_patients(films: Films, seed: int) -> Callable[[float], Rows]:
    """Shares of the patients, each within the next larger one, with each class in its proportion.

    Args:
        films: Real training films.
        seed: Seed of the order of the patients.

    Returns:
        A share -> ascending rows of all films of these patients. Patients are ordered within the class of their first
        film, and of each class the first ⌈share · count⌉ are taken.
    """
    generator = numpy_generator(seed, "utility patients")
    patients, first = np.unique(films.patients, return_index=True)  # (P,)
    of_class = films.labels[first]
    orders = [generator.permutation(patients[of_class == code]) for code in np.unique(of_class)]

    def rows(fraction: float) -> Rows:
        taken = np.concatenate([order[: math.ceil(round(fraction * len(order), 9))] for order in orders])
        return np.flatnonzero(np.isin(films.patients, taken)).astype(np.int64)

    return rows


def measure_utility(
    classifier: Classifier,
    real: Films,
    synthetic: Films,
    tests: Sequence[Films],
    words: Sequence[str],
    *,
    seeds: int,
    seed: int,
    fractions: Sequence[float] = FRACTIONS,
    report: Report = silent,
) -> dict[str, Any]:
    """Train and test all arms with all seeds; what was computed once is kept beside the cached features.

    Args:
        classifier: How to learn.
        real: Training films.
        synthetic: All films of the SYNTHETIC that were told a word.
        tests: Test sets, each with FEWEST_PATIENTS of at least one class and of the others.
        words: The K words.
        seeds: S, at least 2.
        seed: The seed from which those follow.
        fractions: Shares of the patients, the largest last.
        report: Told after each fit.

    Returns:
        {classes, classifier, effort, seeds, synthetic_films, fractions, tests, estimand, value, low, high}; the last
        three are the change of the mean AUC of the classes on the first test set by adding the synthetic films to all
        real ones. The films of a share are counted for the first seed.
    """
    scored = _Fits(classifier, real, synthetic, tests, len(words), fractions).scores(seeds, seed, report)
    measured = [
        _of_test_set(
            films, [[of_seed[number] for of_seed in by_seed] for by_seed in scored], words, fractions
        )
        for number, films in enumerate(tests)
    ]
    (last,) = (row for row in measured[0]["mean"] if (row["arm"], row["fraction"]) == (BOTH, fractions[-1]))
    return {
        "classes": list(words),
        "classifier": dict(classifier.provenance),
        "effort": classifier.effort,
        "seeds": seeds,
        "synthetic_films": len(synthetic.labels),
        "fractions": _shares(real, fractions, derive_seed(seed, "utility", 0)),
        "tests": measured,
        "estimand": ESTIMAND,
        **last["change"],
    }


def _shares(real: Films, fractions: Sequence[float], seed: int) -> list[dict[str, Any]]:
    """How many patients and films each share has."""
    shares = [(fraction, nested_patients(real, seed)(fraction)) for fraction in fractions]
    return [
        {"fraction": fraction, "patients": len(np.unique(real.patients[rows])), "films": len(rows)}
        for fraction, rows in shares
    ]


@dataclass(frozen=True, eq=False)
class _Fits:
    """All classifiers that are trained, and where their answers are kept."""

    classifier: Classifier
    real: Films
    synthetic: Films
    tests: Sequence[Films]
    classes: int
    fractions: Sequence[float]

    def scores(self, seeds: int, seed: int, report: Report) -> list[list[list[Scores]]]:
        """Log odds `(T, K)` of each arm, each seed and each test set."""
        wanted, task = arms(self.fractions), f"utility ({self.classifier.provenance['classifier']})"
        about = self._about()
        by_arm: list[list[list[Scores]]] = [[] for _ in wanted]
        for number in range(seeds):
            of_seed = derive_seed(seed, "utility", number)
            nested = nested_patients(self.real, of_seed)
            for place, arm in enumerate(wanted):
                report(Progress(task, number * len(wanted) + place, seeds * len(wanted)))
                rows = None if arm.fraction is None else nested(arm.fraction)
                by_arm[place].append(self._answers(arm, rows, of_seed, about))
        report(Progress(task, seeds * len(wanted), seeds * len(wanted)))
        return by_arm

    def _answers(self, arm: Arm, rows: Rows | None, seed: int, about: str) -> list[Scores]:
        """Of one classifier to every test set: from the cache, else computed and kept."""
        decisive = hashlib.sha256(f"{about}{arm.kind}{seed if self.classifier.has_seeds else ''}".encode())
        decisive.update(b"" if rows is None else rows.tobytes())
        file = cache_folder() / "utility" / f"{decisive.hexdigest()}.npz"
        ends = np.cumsum([len(test.labels) for test in self.tests])
        scores = _read(file, (int(ends[-1]), self.classes))
        if scores is None:
            fitted = self._fit(arm, rows, seed)
            scores = np.concatenate([fitted.log_odds(test.inputs) for test in self.tests]).astype(np.float64)
            _keep(file, scores)
        return np.split(scores, ends[:-1])

    def _fit(self, arm: Arm, rows: Rows | None, seed: int) -> Fitted:
        """Train one classifier."""
        films = self.synthetic.all if rows is None else self.real.of(rows)
        if arm.kind == BOTH:
            inputs, labels = films
            films = (
                np.concatenate([inputs, self.synthetic.inputs]),
                np.concatenate([labels, self.synthetic.labels]),
            )
        before = self.synthetic.all if arm.kind == TUNED else None
        return self.classifier.fit(films, self.classes, seed, before=before)

    def _about(self) -> str:
        """What decides the answers, apart from the arm and the seed."""
        films = [films.digest() for films in (self.real, self.synthetic, *self.tests)]
        return json.dumps({"classifier": dict(self.classifier.provenance), "films": films, "K": self.classes})


def _read(file: Path, shape: tuple[int, int]) -> Scores | None:
    """Answers from the cache, or None; the zip's checksum finds damage."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            scores: Scores = archive["scores"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return scores if scores.shape == shape and scores.dtype == np.float64 else None


def _keep(file: Path, scores: Scores) -> None:
    """Patients' data, like the features: for their owner only; a cache that cannot be written is done without."""
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_file(file) as aside, aside.open("wb") as stream:
            np.savez(stream, scores=scores)


def _of_test_set(
    films: Films,
    scores: list[list[Scores]],
    words: Sequence[str],
    fractions: Sequence[float],
) -> dict[str, Any]:
    """AUC of every arm on one test set, per class and their mean.

    Args:
        films: T of them.
        scores: Of each arm and each seed, `(T, K)`.
        words: K.
        fractions: Shares of the patients.
    """
    told = []
    for code, word in enumerate(words):
        positive = films.labels == code
        patients = [len(np.unique(films.patients[kind])) for kind in (positive, ~positive)]
        if min(patients) >= FEWEST_PATIENTS and not (
            len(words) == 2 and code == 0
        ):  # the same area from the other side
            found = [
                [influence(of_seed[:, code], positive, films.patients) for of_seed in arm] for arm in scores
            ]
            told.append((word, positive, patients, found))
    mean = [
        [
            Influence(
                float(np.mean([of[arm][s].area for *_, of in told])),
                np.mean([of[arm][s].of_film for *_, of in told], axis=0),
            )
            for s in range(len(scores[arm]))
        ]
        for arm in range(len(scores))
    ]
    fewest = np.min([patients for _, _, patients, _ in told], axis=0).tolist()
    return {
        "name": films.name,
        "films": len(films.labels),
        "patients": len(np.unique(films.patients)),
        "mean": _rows(films, mean, fewest, fractions),
        "classes": [
            {"class": word, "films": int(positive.sum()), "rows": _rows(films, found, patients, fractions)}
            for word, positive, patients, found in told
        ],
    }


def _rows(
    films: Films, found: list[list[Influence]], patients: Sequence[int], fractions: Sequence[float]
) -> list[dict[str, Any]]:
    """AUC and change of every arm: {arm, fraction, value, low, high, change}."""
    wanted = arms(fractions)
    rows = []
    for arm, of_arm in zip(wanted, found, strict=True):
        value, error = _mean_and_error([one.area for one in of_arm], [one.of_film for one in of_arm], films)
        against = found[wanted.index(Arm(REAL, fractions[-1] if arm.fraction is None else arm.fraction))]
        pairs = list(zip(of_arm, against, strict=True))
        change = None
        if arm.kind != REAL:
            by, spread = _mean_and_error(
                [one.area - other.area for one, other in pairs],
                [one.of_film - other.of_film for one, other in pairs],
                films,
            )
            half = NORMAL * spread
            change = {"value": by, "low": max(-1.0, by - half), "high": min(1.0, by + half)}
        area = area_interval(value, error, *patients)
        rows.append({"arm": arm.kind, "fraction": arm.fraction, **area._asdict(), "change": change})
    return rows


def _mean_and_error(
    values: Sequence[float], of_film: Sequence[NDArray[np.float64]], films: Films
) -> tuple[float, float]:
    """Mean over seeds, and the standard error of which NORMAL times is half the interval.

    half² = (z · error of the test patients)² + (t · error of the seeds)²
    """
    S = len(values)
    of_patients = clustered_error(np.mean(of_film, axis=0), films.patients)
    of_seeds = float(np.std(values, ddof=1)) / math.sqrt(S) * float(student_t.ppf(0.975, S - 1)) / NORMAL
    return float(np.mean(values)), math.hypot(of_patients, of_seeds)
