"""flags.csv: what a person should know about images that were accepted all the same, one row per image and flag."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from xraygen.atomic import atomic_file
from xraygen.dataset.journal import Outcome

FLAGS_NAME = "flags.csv"
FLAGS_COLUMNS = ("image_id", "flag")


def write_flags(path: Path, accepted: Sequence[Outcome]) -> None:
    """Write flags.csv atomically, in the order of the manifest.

    Args:
        path: Where to.
        accepted: The outcomes of the images in a DATASET.
    """
    rows = [(end["row"]["image_id"], flag) for end in accepted for flag in end["flags"]]
    with atomic_file(path) as aside:
        table = pd.DataFrame(rows, columns=list(FLAGS_COLUMNS))
        table.to_csv(aside, index=False, lineterminator="\n", encoding="utf-8")


def flag_counts(accepted: Sequence[Outcome]) -> Mapping[str, int]:
    """Number of images by flag, in the order of their names."""
    return dict(sorted(Counter(flag for end in accepted for flag in end["flags"]).items()))


def voi_counts(accepted: Sequence[Outcome]) -> Mapping[str, int]:
    """Number of images by where their window came from, in the order of its names; see `VoiKind`."""
    return dict(sorted(Counter(end["voi"] for end in accepted).items()))
