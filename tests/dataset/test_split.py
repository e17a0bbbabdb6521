"""Patients are split, not images."""

from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest

from xraygen.dataset.split import parse_fractions, split_patients
from xraygen.errors import UsageError

USUAL = parse_fractions("0.8,0.1,0.1")


def patients_with_many_films(seed: int, count: int = 200) -> list[str]:
    """One to eleven films per patient, in any order."""
    generator = np.random.default_rng(seed)
    films = [f"P{patient}" for patient in range(count) for _ in range(generator.integers(1, 12))]
    return list(generator.permutation(films))


@pytest.mark.parametrize("seed", range(60))
def test_no_patient_is_in_two_splits(seed: int) -> None:
    patients = patients_with_many_films(seed)
    splits_of = defaultdict(set)
    for patient, split in zip(patients, split_patients(patients, USUAL, seed), strict=True):
        splits_of[patient].add(split)
    assert all(len(splits) == 1 for splits in splits_of.values())
    assert {split for splits in splits_of.values() for split in splits} == {"train", "validation", "test"}


@pytest.mark.parametrize("seed", range(10))
def test_shares_are_met_to_half_a_patient_at_each_cut(seed: int) -> None:
    patients = patients_with_many_films(seed)
    splits = split_patients(patients, USUAL, seed)
    # A patient has at most 11 films, so a cut is at most 5.5 images off.
    assert abs(splits.count("train") - 0.8 * len(patients)) <= 5.5
    assert abs(splits.count("test") - 0.1 * len(patients)) <= 5.5


def test_the_order_of_the_images_plays_no_part() -> None:
    patients = patients_with_many_films(0)
    forwards = dict(zip(patients, split_patients(patients, USUAL, 7), strict=True))
    backwards = dict(zip(patients[::-1], split_patients(patients[::-1], USUAL, 7), strict=True))
    assert forwards == backwards


def test_another_seed_gives_another_split() -> None:
    patients = patients_with_many_films(0)
    assert split_patients(patients, USUAL, 0) != split_patients(patients, USUAL, 1)


@pytest.mark.parametrize(
    ("shares", "present"),
    [
        ("1,0,0", {"train"}),
        ("0,1,0", {"validation"}),
        ("0,0,1", {"test"}),
        ("0.9,0,0.1", {"train", "test"}),
        ("0.5,0.5,0", {"train", "validation"}),
        ("0,0.5,0.5", {"validation", "test"}),
        ("0.99,0,0.01", {"train", "test"}),
    ],
)
@pytest.mark.parametrize("count", [3, 4, 50])
def test_a_share_of_0_gives_an_empty_split_and_no_other_does(
    shares: str, present: set[str], count: int
) -> None:
    patients = [f"P{number}" for number in range(count)]
    assert set(split_patients(patients, parse_fractions(shares), 0)) == present


def test_three_patients_fill_three_splits() -> None:
    assert set(split_patients(["a", "b", "b", "c"], USUAL, 0)) == {"train", "validation", "test"}


def test_a_single_patient_trains() -> None:
    assert split_patients(["a"] * 5, USUAL, 0) == ["train"] * 5


def test_shares_are_exact_where_floats_are_not() -> None:
    assert parse_fractions("0.7, 0.2, 0.1") == (Fraction(7, 10), Fraction(1, 5), Fraction(1, 10))


@pytest.mark.parametrize("text", ["0.8,0.1", "0.8,0.1,0.2", "1.1,-0.1,0", "a,b,c", "", "1/0,0,1"])
def test_shares_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"add up to 1 .* as in 0\.8,0\.1,0\.1"):
        parse_fractions(text)
