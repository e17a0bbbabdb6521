"""flags.csv: what a person should know about images that were accepted all the same, one row per image and flag."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from xraygen.atomic import atomic_file

FLAGS_NAME = "flags.csv"
FLAGS_COLUMNS = ("image_id", "flag")


def write_flags(path: Path, flags: Sequence[tuple[str, str]]) -> None:
    """Write flags.csv atomically.

    Args:
        path: Where to.
        flags: `image_id` and flag, in the order of the manifest.
    """
    with atomic_file(path) as aside:
        table = pd.DataFrame(flags, columns=list(FLAGS_COLUMNS))
        table.to_csv(aside, index=False, lineterminator="\n", encoding="utf-8")


def flag_counts(flags: Sequence[tuple[str, str]]) -> Mapping[str, int]:
    """Number of images by flag, in the order of their names."""
    return dict(sorted(Counter(flag for _, flag in flags).items()))
