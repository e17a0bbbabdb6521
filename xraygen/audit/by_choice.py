"""What an audit measures only where it is asked to: utility, the membership attack, bits per dimension."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraygen.audit.classifiers import CLASSIFIERS, Classifier, ClassifierName, Convnet, LinearProbe
from xraygen.audit.figures import png_of_figure
from xraygen.audit.labels import codes_of, patients_of, words_of
from xraygen.audit.likelihood import bits_table, measure_bits
from xraygen.audit.membership import check_membership, measure_membership, membership_table
from xraygen.audit.sets import ImageSet, read_told, weights_that_made
from xraygen.audit.utility import FEWEST_PATIENTS, Films, measure_utility
from xraygen.audit.utility_report import describe_utility, utility_chart, utility_summary, utility_table
from xraygen.audit.verdicts import Check
from xraygen.dataset.conditions import Condition
from xraygen.dataset.store import Dataset, open_dataset
from xraygen.devices import choose_device
from xraygen.errors import FolderError, UsageError
from xraygen.films.listing import column_of
from xraygen.metrics.features import FeatureExtractor
from xraygen.progress import Report, silent

_TEST_SPLIT = "the test split"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is measured beyond what every audit measures."""

    utility: str | None = None
    """Column whose words a classifier learns, from synthetic and from real films."""
    classifier: ClassifierName = "probe"
    """Which classifier."""
    also_test: tuple[Path, ...] = ()
    """More DATASETs to test it on, with the same column and words."""
    repeats: int = 5
    """Seeds of the classifier and of the choice of patients."""
    run: Path | None = None
    """RUN that made the films: its training films are attacked."""
    bits_per_dim: bool = False
    """Whether bits per dimension under the RUN are estimated too."""

    def to_json(self) -> dict[str, Any]:
        """For report.json, without a path."""
        return {
            "utility": self.utility,
            "classifier": self.classifier,
            "also_test": [folder.name for folder in self.also_test],
            "repeats": self.repeats,
            "run": None if self.run is None else self.run.name,
            "bits_per_dim": self.bits_per_dim,
        }


def check_choices(choices: Choices, dataset: Dataset, synthetic: Path, checks: list[Check]) -> None:
    """Refuse before the work what cannot be measured.

    Raises:
        UsageError: If an option is wrong, or a check asks for what is not measured.
        FolderError: If a folder is not what it should be.
    """
    needs = {"utility": (choices.utility, "--utility LABEL"), "membership": (choices.run, "--run RUN")}
    for check in checks:
        for name, (given, option) in needs.items():
            if check.quantity.startswith(name) and given is None:
                raise UsageError(f"--fail-on {check.text!r}: {name} is measured with {option} only; add it.")
    if choices.run is not None:
        check_membership(choices.run, dataset, weights_that_made(synthetic))
    elif choices.bits_per_dim:
        raise UsageError("--bits-per-dim is under a network: name it with --run RUN.")
    _check_utility(choices)
    if choices.utility is not None:
        _check_labels(choices, dataset, synthetic)


def _check_utility(choices: Choices) -> None:
    """Options of --utility, which nothing else heeds."""
    if choices.utility is None:
        for option in ("also_test", "classifier", "repeats"):
            if getattr(choices, option) != getattr(Choices, option):
                raise UsageError(f"--{option.replace('_', '-')} is of --utility LABEL, and there is none.")
        return
    if choices.classifier not in CLASSIFIERS:
        raise UsageError(f"--classifier {choices.classifier}: expected {' or '.join(CLASSIFIERS)}.")
    if choices.repeats < 2:
        raise UsageError(f"--repeats {choices.repeats}: expected 2 or more, since one seed has no spread.")


def measure_choices(
    choices: Choices,
    dataset: Dataset,
    synthetic: ImageSet,
    load: Callable[[], FeatureExtractor],
    *,
    made_by: str | None,
    seed: int,
    device: str,
    report: Report = silent,
) -> dict[str, Any]:
    """`utility`, `membership` and `bits_per_dim` of report.json; what was not asked for is None.

    Args:
        choices: Checked by `check_choices`.
        dataset: The real films.
        synthetic: The set.
        load: Gives the features of the probe, where they are needed.
        made_by: Hash of the averaged weights that made the set, where it says so.
        seed: Seed of all of it.
        device: Where to compute.
        report: Told how far the work is.
    """
    found: dict[str, Any] = {"utility": None, "membership": None, "bits_per_dim": None}
    if choices.utility is not None:
        found["utility"] = _utility(choices, dataset, synthetic, load, seed, device, report)
    if choices.run is not None:
        of_run: dict[str, Any] = {"made_by": made_by, "seed": seed, "device": device, "report": report}
        found["membership"] = measure_membership(choices.run, dataset, **of_run)
        if choices.bits_per_dim:
            found["bits_per_dim"] = measure_bits(choices.run, dataset, synthetic, **of_run)
    return found


def choice_summary(result: Mapping[str, Any]) -> Iterator[str]:
    """What the summary says of it."""
    if utility := result["utility"]:
        yield from utility_summary(utility)
    if membership := result["membership"]:
        yield membership["sentence"]
        if membership["made_the_films"] is False:
            yield "The checkpoint that was attacked is not the one that made the films."


def choice_table(result: Mapping[str, Any]) -> list[str]:
    """As lines of text."""
    lines: list[str] = []
    if result["utility"]:
        lines += utility_table(result["utility"])
    if result["membership"]:
        lines += membership_table(result["membership"])
    if result["bits_per_dim"]:
        lines += bits_table(result["bits_per_dim"])
    return lines


def choice_figures(result: Mapping[str, Any]) -> dict[str, bytes]:
    """Figures of the report, as PNG."""
    utility = result["utility"]
    return {"utility": png_of_figure(utility_chart(utility))} if utility else {}


def _utility(
    choices: Choices,
    dataset: Dataset,
    synthetic: ImageSet,
    load: Callable[[], FeatureExtractor],
    seed: int,
    device: str,
    report: Report,
) -> dict[str, Any]:
    """Utility of one column."""
    assert choices.utility is not None
    member = words_of(dataset, choices.utility, "--utility")
    classifier: Classifier = (
        LinearProbe(load()) if choices.classifier == "probe" else Convnet(choose_device(device))
    )
    inputs = classifier.inputs(dataset.images, dataset.info.bits, report, "real films")
    codes, patients = _of_dataset(member, dataset)

    def films(split: str, name: str) -> Films:
        rows = np.flatnonzero((dataset.manifest["split"].to_numpy() == split) & (codes >= 0))
        return Films(name, inputs[rows], codes[rows], patients[rows])

    tests, left_out = [films("test", _TEST_SPLIT)], [0]
    for folder, name in zip(choices.also_test, _test_names(choices.also_test), strict=True):
        other = open_dataset(folder)
        theirs, whose = _of_dataset(member, other)
        unseen = _unseen(dataset, other)
        rows = unseen[theirs[unseen] >= 0]
        left_out.append(len(other) - len(unseen))
        pixels = classifier.inputs(other.images, other.info.bits, report, f"films of {name}")
        tests.append(Films(name, pixels[rows], theirs[rows], whose[rows]))
    told = codes_of(member, synthetic.told[column_of(member.name)])
    rows = np.flatnonzero(told >= 0)
    made = classifier.inputs(synthetic.images, synthetic.bits, report, "all synthetic films")
    measured = measure_utility(
        classifier,
        films("train", "the train split"),
        Films(synthetic.name, made[rows], told[rows], rows),
        tests,
        member.categories,
        seeds=choices.repeats,
        seed=seed,
        report=report,
    )
    counted = [{**test, "left_out": n} for test, n in zip(measured["tests"], left_out, strict=True)]
    return describe_utility({**measured, "tests": counted}, member.name)


def _test_names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with a number where one of that name came before."""
    names = [_TEST_SPLIT]
    for folder in folders:
        numbered = (f"{folder.name}-{number}" for number in itertools.count(2))
        names.append(next(name for name in itertools.chain([folder.name], numbered) if name not in names))
    return names[1:]


def _of_dataset(member: Condition, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Word and patient of each film, int64 `(N,)` each."""
    manifest = dataset.manifest
    return codes_of(member, manifest[member.name]), patients_of(list(manifest["patient"]))


def _unseen(dataset: Dataset, other: Dataset) -> NDArray[np.int64]:
    """Rows of another DATASET that are of no patient of the train split, as far as both are under one key."""
    manifest = dataset.manifest
    seen = set(manifest["patient"][manifest["split"] == "train"]) - {""}
    return np.flatnonzero(~other.manifest["patient"].isin(seen))


def _check_labels(choices: Choices, dataset: Dataset, synthetic: Path) -> None:
    """Enough films of every word, wherever a classifier learns or is tested."""
    assert choices.utility is not None
    member = words_of(dataset, choices.utility, "--utility")
    column = column_of(member.name)
    told = read_told(synthetic)
    if column not in told.columns:
        raise UsageError(
            f"--utility {member.name}: the films of {synthetic} were not told any; generate them with --condition "
            f"{member.name}=WORD."
        )
    counts = np.bincount(codes_of(member, told[column]) + 1, minlength=len(member.categories) + 1)[1:]
    if not counts.all():
        without = member.categories[int(counts.argmin())]
        raise UsageError(
            f"--utility {member.name}: no film of {synthetic} was told {without}, and a classifier needs some of each "
            f"word; generate them with --condition {member.name}={without}."
        )
    _check_test_films(member, dataset, dataset.indices("test"), f"the test split of {dataset.folder}")
    for folder in choices.also_test:
        other = open_dataset(folder)
        if other.info.content_sha256 == dataset.info.content_sha256:
            raise UsageError(f"--also-test {folder} is the DATASET of --real; name another source.")
        if (other.info.channels, other.info.size) != (dataset.info.channels, dataset.info.size):
            raise FolderError(
                f"{folder} holds films of {other.info.size[0]}x{other.info.size[1]} px and {dataset.folder} of "
                f"{dataset.info.size[0]}x{dataset.info.size[1]} px; ingest both at one size."
            )
        if member.name not in other.manifest.columns:
            raise UsageError(
                f"--also-test {folder} has no column {member.name}; ingest it with labels of that name."
            )
        rows = _unseen(dataset, other)
        seen = len(other) - len(rows)
        without = (
            f", without {seen} films of patients of the train split of {dataset.folder}," if seen else ""
        )
        _check_test_films(member, other, rows, f"{folder}{without}")


def _check_test_films(member: Condition, dataset: Dataset, rows: np.ndarray, name: str) -> None:
    """Enough patients of one word and of the others."""
    codes, patients = _of_dataset(member, dataset)
    codes, patients = codes[rows], patients[rows]
    for code in range(len(member.categories)):
        kinds = (codes == code, (codes != code) & (codes >= 0))
        if min(len(np.unique(patients[kind])) for kind in kinds) >= FEWEST_PATIENTS:
            return
    raise UsageError(
        f"--utility {member.name}: {name} has no {FEWEST_PATIENTS} patients of one word and of another "
        f"({', '.join(member.categories)}), and no AUC can be had."
    )
