"""SYNTHETIC -> an archive: each film as DICOM, once, with a ledger of what the archive has taken."""

import io
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pydicom

from xraygen.atomic import sole_writer
from xraygen.errors import FilmError
from xraygen.films.pacs import Archive, Series, Server, ServerError, connect
from xraygen.films.synthetic import Kind
from xraygen.progress import Progress, Report, silent
from xraygen.synthesis.ledger import FOLDER, Ledger, Sent
from xraygen.synthesis.outgoing import outgoing, pixel_sha256
from xraygen.synthesis.permission import permission

_LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class SendSettings:
    """How films are sent.

    Attributes:
        kind: As Secondary Capture or as DX; None for what the set is, Secondary Capture where it is no DICOM.
        mark: Whether the word SYNTHETIC stands in the pixels; None for yes.
        attempts: How often a film is tried before the command gives up.
        wait_seconds: Before the second attempt; twice as long before each other, up to a minute.
        verify: Whether all films are read back in the end, and their pixels compared.
    """

    kind: Kind | None = None
    mark: bool | None = None
    attempts: int = 6
    wait_seconds: float = 1.0
    verify: bool = False


@dataclass(frozen=True, kw_only=True)
class SendSummary:
    """What a call to `send` did."""

    server: str
    accepted: int
    """Films that the archive took now."""
    present: int
    """Films that it had already, by the ledger and, where it can be asked, by its own word."""
    lost: int
    """Films of the ledger that it no longer had; they were sent again, and count as accepted, too."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Sentence -> number of films."""
    differing: tuple[str, ...] = ()
    """SOP Instance UIDs that it lacks or holds with other pixels, if `verified`."""
    verified: bool = False


def send(
    synthetic: Path,
    server: Server,
    settings: SendSettings,
    *,
    audit: Path | None = None,
    acknowledged: bool = False,
    report: Report = silent,
    wait: Callable[[float], None] = time.sleep,
) -> SendSummary:
    """Send the films of a SYNTHETIC; what a killed call did not send, the same call sends.

    Args:
        synthetic: The set, of any format.
        server: The archive.
        settings: How.
        audit: REPORT with a passing audit of the set.
        acknowledged: Whether a person takes the films for patients' data.
        report: Told how many films are done.
        wait: Waits some seconds.

    Returns:
        How many films the archive took, had, and refused.

    Raises:
        UsageError: If nothing permits it, or the set cannot be sent as the settings ask.
        FolderError: If the set, its ledger or the report is damaged, or the report is of another set.
        ServerError: If the archive cannot be reached, or the connection broke too often.
    """
    going = outgoing(synthetic, settings.kind, settings.mark)
    permitted = permission(synthetic, audit, acknowledged=acknowledged)
    with sole_writer(synthetic / FOLDER), connect(server) as archive:
        ledger = Ledger(synthetic)
        taken = ledger.taken_by(server.name)
        held: set[str] | None = None
        counts: Counter[str] = Counter()
        refused: Counter[str] = Counter()
        sent: dict[str, str] = {}
        for done, film in enumerate(going.films()):
            if done == 0:
                held = _held(archive, film.series) if taken else None
            report(Progress("send", done, len(going)))
            sent[film.uid] = film.pixel_sha256
            if film.uid in taken and (held is None or film.uid in held):
                counts["present"] += 1
                continue
            counts["lost"] += film.uid in taken
            refusal = _store(archive, film.content, settings, wait)
            if refusal is not None:
                refused[refusal] += 1
                continue
            now = datetime.now(UTC).isoformat(timespec="seconds")
            ledger.add(Sent(server.name, film.file_name, film.uid, film.pixel_sha256, permitted, now))
            counts["accepted"] += 1
        report(Progress("send", len(going), len(going)))
        differing = _differing(archive, film.series, sent, report) if settings.verify else ()
    return SendSummary(
        server=server.name,
        accepted=counts["accepted"],
        present=counts["present"],
        lost=counts["lost"],
        refused=dict(refused),
        differing=differing,
        verified=settings.verify,
    )


def _held(archive: Archive, series: Series) -> set[str] | None:
    """What the archive says that it holds of the series; None where it answers no queries."""
    try:
        return archive.instances(series)
    except ServerError as error:
        if error.again:
            raise
        return None


def _store(
    archive: Archive, content: bytes, settings: SendSettings, wait: Callable[[float], None]
) -> str | None:
    """Send one film, again and again where that may help; the refusal's sentence, or None."""
    pause = settings.wait_seconds
    for attempt in range(1, settings.attempts + 1):
        try:
            archive.store(content)
            break
        except ServerError as error:
            if not error.again:
                return str(error)
            if attempt == settings.attempts:
                raise
            wait(pause)
            pause = min(2 * pause, _LONGEST_WAIT_SECONDS)
    return None


def _differing(archive: Archive, series: Series, sent: Mapping[str, str], report: Report) -> tuple[str, ...]:
    """UIDs of films that the archive lacks, or holds with other pixels: some keep the first that came under a UID."""
    found: dict[str, str] = {}
    for content in archive.fetch(series):
        dataset = pydicom.dcmread(io.BytesIO(content))
        try:
            found[str(dataset.SOPInstanceUID)] = pixel_sha256(dataset)
        except FilmError:
            found[str(dataset.SOPInstanceUID)] = "not decoded"
        report(Progress("verify", len(found), max(len(sent), len(found))))
    return tuple(uid for uid, digest in sent.items() if found.get(uid) != digest)
