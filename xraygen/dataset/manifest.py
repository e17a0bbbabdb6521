"""manifest.csv: one row per image, in the order of images.npy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from xraygen.atomic import atomic_file

BEFORE_LABELS = ("image_id", "source", "patient", "study", "split", "view", "sex", "age")
AFTER_LABELS = ("rows", "columns", "bits_stored", "photometric", "pixel_spacing_mm")
INTEGERS = ("rows", "columns", "bits_stored")
FLOATS = ("age", "pixel_spacing_mm")
REJECTED_COLUMNS = ("source", "reason", "detail")


def manifest_columns(label_names: Sequence[str]) -> list[str]:
    """Names of all columns in their order on disk."""
    return [*BEFORE_LABELS, *label_names, *AFTER_LABELS]


def write_manifest(path: Path, manifest: pd.DataFrame, label_names: Sequence[str]) -> None:
    """Write manifest.csv atomically.

    Args:
        path: Where to.
        manifest: One row per image; what is not known is "" in a text column and NaN in a number.
        label_names: The label columns, in the order in which they shall stand.
    """
    _write_csv(path, manifest[manifest_columns(label_names)])


def read_manifest(path: Path) -> pd.DataFrame:
    """Read manifest.csv.

    Returns:
        One row per image. `age` (years) and `pixel_spacing_mm` are float64, NaN where not known; `rows`,
        `columns` and `bits_stored` are int64; all else, labels included, is text, and empty where not known.

    Raises:
        ValueError: If a column is missing or a number is none.
    """
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    missing = [name for name in manifest_columns([]) if name not in text.columns]
    if missing:
        raise ValueError(f"it lacks the column {missing[0]}")
    numbers = {name: pd.to_numeric(text[name]).astype("int64") for name in INTEGERS}
    decimals = {name: pd.to_numeric(text[name].where(text[name] != "")).astype("float64") for name in FLOATS}
    return text.assign(**numbers, **decimals)


def write_rejected(path: Path, rejected: Mapping[str, Sequence[str]]) -> None:
    """Write rejected.csv atomically: keyed hash of the source, code of the reason, detail."""
    _write_csv(path, pd.DataFrame(rejected, columns=list(REJECTED_COLUMNS)))


def read_rejected(path: Path) -> pd.DataFrame:
    """Read rejected.csv, all text."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    """The same bytes on every system."""
    with atomic_file(path) as aside:
        table.to_csv(aside, index=False, lineterminator="\n", encoding="utf-8")
