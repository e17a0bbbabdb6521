"""Patients are split, not images, and each by himself."""

import hmac
import math
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest

from xraygen.dataset.pseudonyms import Pseudonyms
from xraygen.dataset.split import (
    chosen_splits,
    empty_splits,
    parse_fractions,
    parse_split,
    split_of_patient,
    split_patients,
)
from xraygen.dataset.store import SPLITS
from xraygen.errors import UsageError

USUAL = parse_fractions("0.8,0.1,0.1")


def key(number: int) -> Pseudonyms:
    return Pseudonyms(np.random.default_rng(number).bytes(32))


def patients_with_many_films(seed: int, count: int = 200) -> list[str]:
    """One to eleven films per patient, in any order."""
    generator = np.random.default_rng(seed)
    films = [f"P{patient}" for patient in range(count) for _ in range(generator.integers(1, 12))]
    return list(generator.permutation(films))


@pytest.mark.parametrize("number", range(40))
def test_no_patient_is_in_two_splits(number: int) -> None:
    patients = patients_with_many_films(number)
    splits_of = defaultdict(set)
    for patient, split in zip(patients, split_patients(patients, USUAL, key(number)), strict=True):
        splits_of[patient].add(split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert {split for splits in splits_of.values() for split in splits} == set(SPLITS)


@pytest.mark.parametrize("number", range(40))
def test_adding_films_never_moves_a_patient(number: int) -> None:
    generator = np.random.default_rng(number)
    patients = patients_with_many_films(number)
    later = [*patients, *(f"Q{new}" for new in range(generator.integers(1, 300))), *patients[:17]]
    before = dict(zip(patients, split_patients(patients, USUAL, key(number)), strict=True))
    after = dict(zip(later, split_patients(later, USUAL, key(number)), strict=True))
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("patient", "u", "split"), [("P0", 0.6998, "train"), ("P1", 0.9858, "test"), ("P3", 0.8640, "validation")]
)
def test_a_patients_split_is_his_hmac_read_as_a_number(patient: str, u: float, split: str) -> None:
    """As docs/how-to/ingest.md promises: another rule would move patients into training who had been left out."""
    drawn = int(hmac.new(b"k" * 32, f"split\x1f{patient}".encode(), "sha256").hexdigest(), 16) / 2**256
    assert drawn == pytest.approx(u, abs=5e-5)  # the four digits above
    assert split_of_patient(patient, USUAL, Pseudonyms(b"k" * 32)) == split


def test_every_patients_number_is_compared_with_the_shares() -> None:
    patients = [f"P{number}" for number in range(300)]
    numbers = [
        int(hmac.new(b"k" * 32, f"split\x1f{patient}".encode(), "sha256").hexdigest(), 16) / 2**256
        for patient in patients
    ]
    expected = ["train" if u < 0.8 else "validation" if u < 0.9 else "test" for u in numbers]
    assert split_patients(patients, USUAL, Pseudonyms(b"k" * 32)) == expected


def test_another_key_gives_another_split() -> None:
    patients = patients_with_many_films(0)
    assert split_patients(patients, USUAL, key(0)) != split_patients(patients, USUAL, key(1))


@pytest.mark.parametrize("shares", ["0.8,0.1,0.1", "0.34,0.33,0.33", "0.98,0.01,0.01", "0.5,0,0.5"])
def test_shares_hold_within_binomial_bounds_over_many_keys(shares: str) -> None:
    fractions = parse_fractions(shares)
    keys, patients = 200, [f"P{number}" for number in range(200)]
    counts = [split_patients(patients, fractions, key(number)) for number in range(keys)]
    for split, share in zip(SPLITS, map(float, fractions), strict=True):
        got = np.array([splits.count(split) for splits in counts])
        sigma = math.sqrt(share * (1 - share))
        # The keys are fixed, so that this passes always or never; 4 sigma of the mean of 40,000 draws.
        assert abs(got.mean() / 200 - share) <= 4 * sigma / math.sqrt(keys * 200)
        # Independent draws have the binomial's spread: a sample variance of 200 keys is within 40 % of it (4 sigma).
        assert np.var(got) == pytest.approx(200 * sigma**2, rel=0.4)


def test_one_patients_split_tells_nothing_of_anothers() -> None:
    even = parse_fractions("0.5,0,0.5")
    both = [
        (split_of_patient("a", even, key(number)), split_of_patient("b", even, key(number)))
        for number in range(400)
    ]
    # 4 sigma of 400 draws with a chance of a quarter
    assert all(
        abs(both.count((one, other)) - 100) <= 35 for one in ("train", "test") for other in ("train", "test")
    )


def test_a_larger_training_share_takes_patients_and_gives_none_away() -> None:
    patients = [f"P{number}" for number in range(500)]
    small, large = (
        split_patients(patients, parse_fractions(text), key(3)) for text in ("0.6,0.2,0.2", "0.7,0.2,0.1")
    )
    assert all(large[index] == "train" for index, split in enumerate(small) if split == "train")


@pytest.mark.parametrize(
    ("shares", "present"),
    [
        ("1,0,0", {"train"}),
        ("0,1,0", {"validation"}),
        ("0,0,1", {"test"}),
        ("0.9,0,0.1", {"train", "test"}),
        ("0.5,0.5,0", {"train", "validation"}),
        ("0,0.5,0.5", {"validation", "test"}),
    ],
)
def test_a_share_of_0_gives_an_empty_split(shares: str, present: set[str]) -> None:
    patients = [f"P{number}" for number in range(300)]
    assert set(split_patients(patients, parse_fractions(shares), key(0))) == present


def test_a_chosen_split_counts_and_the_key_divides_the_others() -> None:
    patients = [f"P{number}" for number in range(100)]
    by_key = split_patients(patients, USUAL, key(0))
    splits = split_patients(patients, USUAL, key(0), {"P0": "test", "P1": "validation"})
    assert splits[:2] == ["test", "validation"]
    assert splits[2:] == by_key[2:]


@pytest.mark.parametrize(
    ("word", "split"),
    [
        *(("train", "train"), ("Training", "train"), (" TEST ", "test"), ("validate", "validation")),
        *(
            ("valid", "validation"),
            ("val", "validation"),
            ("dev", "validation"),
            ("holdout", None),
            ("", None),
        ),
    ],
)
def test_the_words_of_other_peoples_splits_are_known(word: str, split: str | None) -> None:
    assert parse_split(word) == split


def test_a_column_names_a_patients_split_by_any_of_his_images() -> None:
    chosen = chosen_splits(["a", "a", "b", "c"], ["", "valid", "test", ""], "fold")
    assert chosen == {"a": "validation", "b": "test"}


def test_a_patient_in_two_splits_is_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"--split-column fold puts images of patient a .* train and test"):
        chosen_splits(["a", "b", "a"], ["train", "train", "test"], "fold")


def test_an_empty_split_is_said_only_where_it_was_asked_for() -> None:
    assert empty_splits({"train": 16, "validation": 4, "test": 0}, parse_fractions("0.8,0.2,0")) == ""
    sentence = empty_splits({"train": 18, "validation": 2, "test": 0}, USUAL)
    assert sentence.startswith("no patient came into test: with 20 patients")
    assert "--key" in sentence


def test_shares_are_exact_where_floats_are_not() -> None:
    assert parse_fractions("0.7, 0.2, 0.1") == (Fraction(7, 10), Fraction(1, 5), Fraction(1, 10))


@pytest.mark.parametrize("text", ["0.8,0.1", "0.8,0.1,0.2", "1.1,-0.1,0", "a,b,c", "", "1/0,0,1"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"add up to 1 .* as in 0\.8,0\.1,0\.1"):
        parse_fractions(text)
