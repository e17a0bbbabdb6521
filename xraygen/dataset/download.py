"""Films of an archive (PACS), lent to an ingest: in a folder that only their owner can read, and not for longer."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from logging import getLogger
from pathlib import Path
from time import sleep
from typing import IO

from pydicom import dcmread
from pydicom.filebase import DicomBytesIO

from xraygen.atomic import try_to_hold
from xraygen.errors import XraygenError
from xraygen.films.pacs import Archive, Series, Server, ServerError, connect
from xraygen.progress import Progress, Report, silent

_PREFIX = "xraygen-films-"
_LOCK = ".lock"
_PAUSES_SECONDS = (1, 2, 4, 8, 16)


def count_series(server: Server, keys: Mapping[str, str]) -> int:
    """How many series of radiographs an archive has that match."""
    with connect(server) as archive:
        return len(archive.find(keys))


@contextmanager
def downloaded(server: Server, keys: Mapping[str, str], report: Report = silent) -> Iterator[Path]:
    """Fetch all matching films into a private temporary folder, which goes when the block ends.

    A killed process leaves its folder behind; the next call removes it, if nobody holds its lock. A film is named by
    its SOP Instance UID, so that the crosswalk can name it, and so that an ingest that is repeated finds the same films
    under the same names. An archive that is busy or breaks off is asked again. Of a series that it does not give whole,
    what it gave stays, and a warning counts such series.

    Args:
        server: The archive.
        keys: What is asked for: keywords of attributes and values, with the wildcards and ranges of PS3.4 C.2.2.2.
        report: Told how many series are fetched.

    Yields:
        The folder: mode 0700, below the system's folder of temporary files (TMPDIR).

    Raises:
        UsageError: If a keyword is unknown, or a package is missing.
        XraygenError: If nothing matches.
        ServerError: If the archive cannot be reached, or gives no series whole.
    """
    _remove_orphans()
    folder, lock = _make_folder()
    films = folder / "films"
    try:
        films.mkdir(mode=0o700)
        with connect(server) as archive:
            found = sorted(archive.find(keys))
            if not found:
                raise XraygenError(
                    f"{server.name} has no series of radiographs that matches; ask for others with --find."
                )
            _fetch_all(archive, found, films, report)
        yield films
    finally:
        shutil.rmtree(films)
        lock.close()  # a network disk keeps files that are open
        shutil.rmtree(folder, ignore_errors=True)


def _fetch_all(archive: Archive, found: list[Series], films: Path, report: Report) -> None:
    """All series; a warning where some were not given whole, and the last refusal where none was."""
    report(Progress("fetch series", 0, len(found)))
    refusals: list[ServerError] = []
    for done, series in enumerate(found, 1):
        refusal = _fetch(archive, series, films)
        if refusal is not None:
            refusals.append(refusal)
        report(Progress("fetch series", done, len(found)))
    if len(refusals) == len(found):
        raise refusals[-1]
    if refusals:
        getLogger(__name__).warning(
            "%d of %d series were not given whole, and films of them may be missing. The last refusal: %s",
            len(refusals),
            len(found),
            refusals[-1],
        )


def _fetch(archive: Archive, series: Series, films: Path) -> ServerError | None:
    """One series, again and again where that may help; why the archive refuses it, or None."""
    for pause in (*_PAUSES_SECONDS, None):
        try:
            for content in archive.fetch(series):
                _write(films, content)
            break
        except ServerError as error:
            if not error.again:
                return error
            if pause is None:
                raise
            sleep(pause)
    return None


def _write(folder: Path, content: bytes) -> None:
    """One film under its UID."""
    head = dcmread(DicomBytesIO(content), specific_tags=["SOPInstanceUID"], stop_before_pixels=True)
    uid = re.sub(r"[^0-9.]", "", str(head.get("SOPInstanceUID", "")))[:64]
    path = folder / f"{uid}.dcm"
    path.write_bytes(content)
    os.utime(path, (0, 0))  # fetched anew each time, so that its time says nothing; an ingest looks at it


def _make_folder() -> tuple[Path, IO[str]]:
    """A private folder and its lock, held as long as that is open; the folder has its name once the lock is held."""
    unnamed = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}{os.getpid()}-"))
    lock = (unnamed / _LOCK).open("w", encoding="utf-8")
    with suppress(OSError):  # a disk that knows no locks, on which nothing is removed either
        try_to_hold(lock)
    return unnamed.rename(unnamed.with_name(unnamed.name.removeprefix("."))), lock


def _remove_orphans() -> None:
    """Delete folders of ours whose process is gone; its number says so on its own machine, and the lock on all."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        process = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and not _runs(int(process)):
            with suppress(OSError):  # another user's
                with (folder / _LOCK).open("w", encoding="utf-8") as lock:
                    is_nobodys = try_to_hold(lock)
                if is_nobodys:
                    shutil.rmtree(folder)


def _runs(process: int) -> bool:
    """Whether a process of this number is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
