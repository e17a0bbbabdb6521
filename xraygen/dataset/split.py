"""Who trains, who validates, who tests: patients are split, never images."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import accumulate

from xraygen.dataset.pseudonyms import Pseudonyms
from xraygen.dataset.store import SPLITS, Split
from xraygen.errors import UsageError

Fractions = tuple[Fraction, Fraction, Fraction]

_NAMES: Mapping[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "validate", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_HASH_BITS = 256


def parse_fractions(text: str) -> Fractions:
    """Read "0.8,0.1,0.1": the shares of train, validation and test.

    Returns:
        Exact fractions in [0, 1] whose sum is 1.

    Raises:
        UsageError: If they are not three, one is no number or negative, or their sum is not 1.
    """
    problem = (
        f"--split {text}: expected three shares that add up to 1 for train,validation,test, as in 0.8,0.1,0.1"
    )
    try:
        shares = [Fraction(part.strip()) for part in text.split(",")]
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"{problem}.") from None
    if len(shares) != len(SPLITS) or min(shares) < 0:
        raise UsageError(f"{problem}.")
    if sum(shares) != 1:
        raise UsageError(f"{problem}; these add up to {float(sum(shares)):g}.")
    train, validation, test = shares
    return train, validation, test


def parse_split(text: str) -> Split | None:
    """The split that a word such as `valid` or `Training` means; None for any other word."""
    return _NAMES.get(text.strip().lower())


def split_of_patient(patient: str, fractions: Fractions, pseudonyms: Pseudonyms) -> Split:
    """Assign one patient to a split, whoever else there is.

    HMAC-SHA-256 of the patient under the key, read as a number u in [0, 1), is uniform and independent from patient to
    patient. The split is train where u < f_train, validation where u < f_train + f_validation, and test above. Shares
    therefore hold in expectation: of N patients, N f +- sqrt(N f (1 - f)) come to a split of share f, and with a small
    N it may be none. A patient stays where he is when others come or go, as long as key and shares are the same.

    Args:
        patient: The pseudonym.
        fractions: Shares of train, validation and test.
        pseudonyms: Holds the key.
    """
    drawn = int(pseudonyms.keyed_hash("split", patient), 16)
    thresholds = (share * 2**_HASH_BITS for share in accumulate(fractions))
    return next(split for split, threshold in zip(SPLITS, thresholds, strict=True) if drawn < threshold)


def split_patients(
    patients: Sequence[str],
    fractions: Fractions,
    pseudonyms: Pseudonyms,
    chosen: Mapping[str, Split] | None = None,
) -> list[Split]:
    """Assign each image to its patient's split: the one chosen for him, or else that of `split_of_patient`.

    Args:
        patients: The patient of each image, [N].
        fractions: Shares of train, validation and test.
        pseudonyms: Holds the key.
        chosen: Patients whose split is known.

    Returns:
        The split of each image, [N].
    """
    splits = dict(chosen or {})
    for patient in patients:
        if patient not in splits:
            splits[patient] = split_of_patient(patient, fractions, pseudonyms)
    return [splits[patient] for patient in patients]


def chosen_splits(patients: Sequence[str], words: Sequence[str], column: str) -> dict[str, Split]:
    """Which split a column names for each patient; one named for some of his images holds for all.

    Args:
        patients: The patient of each image, [N].
        words: What the column says of it, [N]; "" where it says nothing.
        column: Its name, for the sentence.

    Raises:
        UsageError: If a patient is in two splits.
    """
    splits: dict[str, Split] = {}
    for patient, word in zip(patients, words, strict=True):
        split = parse_split(word)
        if split is not None and splits.setdefault(patient, split) != split:
            raise UsageError(
                f"--split-column {column} puts images of patient {patient} (a pseudonym, see the crosswalk) into "
                f"{splits[patient]} and {split}; choose one split for all films of a patient."
            )
    return splits


def empty_splits(patients_in: Mapping[str, int], fractions: Fractions) -> str:
    """One sentence about splits that were asked for and got nobody, or "" if there are none.

    Args:
        patients_in: Number of patients by split.
        fractions: Shares of train, validation and test.
    """
    empty = [
        name for name, share in zip(SPLITS, fractions, strict=True) if share and not patients_in.get(name)
    ]
    if not empty:
        return ""
    return (
        f"no patient came into {' or '.join(empty)}: with {sum(patients_in.values())} patients the key's draw may "
        "leave a share empty; add films, raise its share in --split, name splits with --split-column, or take "
        "another --key."
    )
