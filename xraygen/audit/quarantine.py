"""The suspects of a report leave their SYNTHETIC."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xraygen.atomic import sole_writer
from xraygen.dataset.store import INFO_NAME
from xraygen.errors import FolderError, UsageError
from xraygen.films.listing import METADATA, Row, read_table
from xraygen.films.quarantine import set_aside


def check_quarantine(synthetic: Path, *, dry_run: bool = False) -> None:
    """Refuse before the work what has no suspects to move.

    Args:
        synthetic: SYNTHETIC.
        dry_run: Whether nothing may be written, which taking the folder's lock does.

    Raises:
        UsageError: If it is a DATASET.
        FolderError: If its metadata.csv is not that of `xraygen generate`, or another process is writing to it.
    """
    if (synthetic / INFO_NAME).is_file():
        raise UsageError(f"--quarantine moves films of a SYNTHETIC, and {synthetic} is a DATASET.")
    if (synthetic / METADATA).is_file():  # the reader says what is wrong where there is none
        _, rows = read_table(synthetic / METADATA)
        if not all(row["seed"].isdecimal() for row in rows):
            raise FolderError(
                f"{synthetic / METADATA} has a seed that is no number, and --quarantine orders films with other seeds; "
                "leave it out."
            )
        if not dry_run:
            with sole_writer(synthetic):
                pass  # it is free now; the move takes it again


def quarantine_suspects(synthetic: Path, result: Mapping[str, Any]) -> list[Row]:
    """Move the suspects of a report; no training film is named in what is written.

    Returns:
        What quarantined.csv says of them.
    """
    reasons = {
        suspect["file_name"]: {
            "suspect_in": suspect["features"],
            "distance": f"{suspect['distance']:.6g}",
            "p_value": f"{suspect['p_value']:.3g}",
        }
        for suspect in result["privacy"]["suspects"]
    }
    return set_aside(synthetic, reasons)
