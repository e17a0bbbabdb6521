"""What an ingest refuses whatever its films are: found out before they are listed, fetched or read."""

from pathlib import Path

from xraygen.dataset.exclusion import check_folders
from xraygen.dataset.exclusion_list import read_exclusions
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.labels import read_labels
from xraygen.dataset.pseudonyms import check_key, check_key_path, default_key_path
from xraygen.dataset.store import INFO_NAME
from xraygen.errors import UsageError


def check(out: Path, settings: IngestSettings, *, labels: bool = False) -> None:
    """Refuse what `ingest` would refuse whatever the films are; writes nothing.

    Args:
        out: The DATASET folder to write.
        settings: What is to become of the films.
        labels: Whether the CSV of labels is read too, which takes seconds.

    Raises:
        UsageError: If `out` or the key names no file, or holds something else; if the key would lie inside the DATASET;
            if a list, a folder to search or the CSV cannot be used.
    """
    for option, path in (("--out", out), ("--key", settings.key)):
        if path is not None and not path.name:
            raise UsageError(f"{option} {path} has no name of its own; give one, such as dataset.")
    key = settings.key or default_key_path(out)
    check_key_path(key, out)
    check_key(key)
    if _holds_something(out) and not key.exists():
        raise UsageError(f"{out} exists and its key {key} does not; choose another --out.")
    is_dataset(out)
    if settings.exclude is not None:
        read_exclusions(settings.exclude)
    check_folders(settings.also_search)
    if labels and settings.labels is not None:
        read_labels(settings.labels, settings.label_columns, settings.label_preset, settings.split_column)


def is_dataset(out: Path) -> bool:
    """Whether there is a DATASET; False for nothing or an empty folder.

    Raises:
        UsageError: If there is something else.
    """
    if not _holds_something(out):
        return False
    if not (out / INFO_NAME).is_file():
        raise UsageError(f"{out} exists and is no DATASET; choose another --out.")
    return True


def _holds_something(out: Path) -> bool:
    """Whether there is more than an empty folder."""
    return out.exists() and (not out.is_dir() or any(out.iterdir()))
