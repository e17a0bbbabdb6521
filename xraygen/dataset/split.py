"""Who trains, who validates, who tests: patients are split, never images."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate

from xraygen.dataset.store import SPLITS, Split
from xraygen.errors import UsageError
from xraygen.seeds import derive_seed

Fractions = tuple[Fraction, Fraction, Fraction]


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


def split_patients(patients: Sequence[str], fractions: Fractions, seed: int) -> list[Split]:
    """Assign each image to a split so that no patient is in two.

    Patients are ordered by a hash of the seed and their pseudonym, and the order is cut where the number of images
    comes closest to the shares. The order of the images plays no part. A split whose share is not 0 gets at least
    one patient if there are enough of them, and one whose share is 0 gets none.

    Args:
        patients: The patient of each image, [N].
        fractions: Shares of train, validation and test.
        seed: The user's seed; another one gives another split.

    Returns:
        The split of each image, [N].
    """
    images = Counter(patients)
    order = sorted(images, key=lambda patient: (derive_seed(seed, "split", patient), patient))
    first, second = _cuts([images[patient] for patient in order], fractions)
    place = {patient: index for index, patient in enumerate(order)}
    return [SPLITS[(place[patient] >= first) + (place[patient] >= second)] for patient in patients]


def _cuts(sizes: Sequence[int], fractions: Fractions) -> tuple[int, int]:
    """Where validation and test begin in the list of patients, given their numbers of images."""
    images_before = [0, *accumulate(sizes)]
    at_least = [int(share > 0) for share in fractions]
    if len(sizes) < sum(at_least):
        at_least = [0, 0, 0]

    def closest(share: Fraction, low: int, high: int) -> int:
        target = share * images_before[-1]
        return min(range(low, high + 1), key=lambda cut: abs(images_before[cut] - target))

    first = closest(fractions[0], at_least[0], len(sizes) - at_least[1] - at_least[2])
    second = closest(fractions[0] + fractions[1], first + at_least[1], len(sizes) - at_least[2])
    return first, second
