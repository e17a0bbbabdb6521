"""May this leave the house? A passing audit of the very same films says so, or a person who knows what is in them."""

import json
from pathlib import Path
from typing import Any

from xraygen.atomic import sha256_of
from xraygen.errors import FolderError, UsageError, XraygenError
from xraygen.training.checkpoint import Choice, chosen_checkpoint

METADATA_NAME = "metadata.csv"
_ABOUT_COPIES = ("suspects", "copies")


def permission(synthetic: Path, audit: Path | None, *, acknowledged: bool) -> str:
    """What lets a SYNTHETIC be given away, as the ledger tells it.

    Args:
        synthetic: The set.
        audit: REPORT folder of `xraygen audit`, or its report.json.
        acknowledged: Whether a person has said that the films are to be treated as patients' data.

    Returns:
        "audit" with the report's hash, or "acknowledged".

    Raises:
        UsageError: If there is neither.
        FolderError: If the report cannot be read, or is of other films.
        XraygenError: If a verdict of the report is no, or none asks about copies of patients.
    """
    if audit is None:
        if acknowledged:
            return "acknowledged"
        raise UsageError(
            f"{synthetic} may hold copies of patients' films: give --audit REPORT with a passing audit of it, or "
            "--acknowledge-patient-data if it may be treated as patients' data where it goes."
        )
    file = _file_of(audit)
    report = _read(file)
    _check_same_films(synthetic, file, report)
    _check_verdicts(file, report)
    return f"audit {sha256_of(file)}"


def check_weights(run: Path, choice: Choice, weights: str, audit: Path | None, *, acknowledged: bool) -> None:
    """Let a RUN's weights be given away, or raise.

    Args:
        run: RUN folder.
        choice: The checkpoint that goes.
        weights: "ema", or "model" for the last step's, which no audit speaks of.
        audit: REPORT of an audit of films that this checkpoint made.
        acknowledged: Whether a person has said that the weights are to be treated as patients' data.

    Raises:
        UsageError: If there is neither.
        FolderError: If the report cannot be read, or is of another checkpoint's films.
        XraygenError: If a verdict of the report is no, or none asks about copies of patients.
    """
    if audit is None:
        if acknowledged:
            return
        raise UsageError(
            f"{run} can repeat films that it was trained on: give --audit REPORT with a passing audit of films that it "
            "made, or --acknowledge-patient-data if it may be treated as patients' data where it goes."
        )
    file = _file_of(audit)
    report = _read(file)
    audited = (report.get("synthetic") or {}).get("checkpoint") or {}
    if weights != "ema" or audited.get("ema_sha256") != chosen_checkpoint(run, choice).ema_sha256:
        raise FolderError(f"--audit {file} is not of films that these weights of {run} made; audit such.")
    _check_verdicts(file, report)


def _file_of(audit: Path) -> Path:
    """A REPORT's report.json, which may be given itself."""
    return audit / "report.json" if audit.is_dir() else audit


def _read(file: Path) -> dict[str, Any]:
    """report.json."""
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(report["verdicts"], list):
            raise TypeError
        return dict(report)
    except (OSError, ValueError, KeyError, TypeError):
        raise FolderError(f"--audit {file}: not readable as the report.json of `xraygen audit`.") from None


def _check_same_films(synthetic: Path, file: Path, report: dict[str, Any]) -> None:
    """The audited metadata.csv, which names every image with its hash, is the one that is there."""
    audited = (report.get("synthetic") or {}).get("files_sha256") or {}
    if audited.get(METADATA_NAME) != sha256_of(synthetic / METADATA_NAME):
        raise FolderError(f"--audit {file} is of other films than {synthetic}; audit it as it is now.")


def _check_verdicts(file: Path, report: dict[str, Any]) -> None:
    """All passed, and one was about copies."""
    failed = [
        str(verdict.get("check")) for verdict in report["verdicts"] if verdict.get("passed") is not True
    ]
    if failed:
        raise XraygenError(f"--audit {file} failed: {', '.join(failed)}.")
    if not any(str(verdict.get("check")).startswith(_ABOUT_COPIES) for verdict in report["verdicts"]):
        raise XraygenError(
            f"--audit {file} has no verdict about copies of patients' films; audit with --fail-on "
            "'suspects/expected>3' or the like."
        )
