"""May this leave the house? A passing audit of the very same films says so, or a person who knows what is in them."""

import json
from pathlib import Path
from typing import Any

from xraygen.atomic import sha256_of
from xraygen.errors import FolderError, UsageError, XraygenError
from xraygen.synthesis.provenance import read_provenance
from xraygen.training.checkpoint import Checkpoint, Choice, chosen_checkpoint, run_config, trained_on

METADATA_NAME = "metadata.csv"


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
        FolderError: If the report cannot be read, is of other films, or compares them with another DATASET than that of
            their RUN.
        XraygenError: If a check of the report failed, or its verdict about copies of patients' films is not a pass.
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
    # sets of an older xraygen do not say what their RUN was trained on
    _check_same_data(
        f"the RUN of {synthetic}", read_provenance(synthetic).get("dataset_sha256"), file, report
    )
    _check_verdicts(file, report)
    return f"audit {sha256_of(file)}"


def check_weights(
    run: Path, choice: Choice, weights: str, audit: Path | None, *, acknowledged: bool
) -> Checkpoint:
    """Let a RUN's weights be given away, or raise.

    Args:
        run: RUN folder.
        choice: The checkpoint that goes.
        weights: "ema", or "model" for the last step's, which no audit speaks of.
        audit: REPORT of an audit of films that this checkpoint made.
        acknowledged: Whether a person has said that the weights are to be treated as patients' data.

    Returns:
        The checkpoint that may go.

    Raises:
        UsageError: If there is neither.
        FolderError: If the RUN has no such checkpoint, or the report cannot be read, is of another checkpoint's films,
            or compares them with another DATASET than the RUN's.
        XraygenError: If a check of the report failed, or its verdict about copies of patients' films is not a pass.
    """
    if audit is None and not acknowledged:
        raise UsageError(
            f"{run} can repeat films that it was trained on: give --audit REPORT with a passing audit of films that it "
            "made, or --acknowledge-patient-data if it may be treated as patients' data where it goes."
        )
    run_config(run)  # says what is wrong with the folder before its checkpoints are looked at
    checkpoint = chosen_checkpoint(run, choice)
    if audit is None:
        return checkpoint
    file = _file_of(audit)
    report = _read(file)
    audited = (report.get("synthetic") or {}).get("checkpoint") or {}
    if weights != "ema":
        raise FolderError(
            f"--audit {file} is not of films that these weights of {run} made: those are the last step's, and films "
            f"are made with the averaged ones; leave out --weights {weights}."
        )
    if audited.get("ema_sha256") != checkpoint.ema_sha256:
        theirs = f", but those of step {audited['step']}" if "step" in audited else ""
        raise FolderError(
            f"--audit {file} is not of films that these weights of {run}, step {checkpoint.step}, made{theirs}; audit "
            "such, or choose by --checkpoint the ones that made them."
        )
    _check_same_data(str(run), trained_on(run), file, report)
    _check_verdicts(file, report)
    return checkpoint


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


def _check_same_data(trained: str, known: str | None, file: Path, report: dict[str, Any]) -> None:
    """Copies were looked for among the films that the RUN was trained on, where it is known which they are."""
    audited = (report.get("real") or {}).get("content_sha256")
    if known is not None and audited != known:
        raise FolderError(
            f"--audit {file} looked for copies in another DATASET than {trained} was trained on; audit with its own."
        )


def _check_verdicts(file: Path, report: dict[str, Any]) -> None:
    """All checks passed, and so did what the audit itself says about copies of patients' films."""
    failed = [
        str(verdict.get("check")) for verdict in report["verdicts"] if verdict.get("passed") is not True
    ]
    if failed:
        raise XraygenError(f"--audit {file} failed: {', '.join(failed)}.")
    gate = (report.get("privacy") or {}).get("gate") or {}
    if gate.get("verdict") != "pass":
        told = gate.get("sentence") or "It says nothing about copies of patients' films."
        raise XraygenError(f"--audit {file} does not pass: {told}")
