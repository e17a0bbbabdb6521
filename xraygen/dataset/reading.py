"""Files -> journal: read what is missing there, in order, with one process or many."""

from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from time import perf_counter

from xraygen.dataset.curation import CurationSettings, Curator
from xraygen.dataset.exclusion import withdrawn
from xraygen.dataset.journal import Journal, Outcome
from xraygen.dataset.outcomes import Knowledge, accepted, refusal
from xraygen.dataset.sources import SourceFile, opened
from xraygen.dataset.views import of_another_view
from xraygen.dataset.workers import Limits, default_workers, in_order
from xraygen.errors import FilmError
from xraygen.films.transforms import PreparedFilm, PrepareSettings, prepare_film
from xraygen.progress import Progress, Report
from xraygen.ranges import Stored

_FILMS_PER_SHARD = 256
_BYTES_PER_SHARD = 2**26
_BYTES_PER_FETCH = 2**20
MAX_FILE_BYTES = 2**30
"""No radiograph is larger: 8192 x 8192 pixels of 32 bits, uncompressed, are a quarter of it."""


def read_films(
    files: Sequence[SourceFile],
    prepare: PrepareSettings,
    knowledge: Knowledge,
    journal: Journal,
    pool: Executor | int | None,
    report: Report,
    limits: Limits | None = None,
    curation: CurationSettings | None = None,
    views: Sequence[str] | None = None,
) -> None:
    """Read the files that the journal lacks, and write it shard by shard.

    Args:
        files: All files, in order.
        prepare: Size, fit and bits.
        knowledge: What is needed to write a film's row.
        journal: What earlier runs did; complete afterwards.
        pool: An executor, a number of processes (0: this one), or None for as many as there are processors.
        report: Told after each file, with how many are refused and how many were read in a second.
        limits: What one file may cost, None for the usual; an executor may have its owner's, and this process none.
        curation: Which readable films stay out, None for the usual.
        views: Which views are taken, None for all; see `parse_views`.
    """
    per_shard = films_per_shard(prepare)
    finished = len(journal)
    curator = Curator(curation or CurationSettings(), prepare)
    earlier = refused = 0
    for outcome in journal.all_outcomes():
        curator.remember(outcome)
        earlier, refused = earlier + 1, refused + ("reason" in outcome)
    images: list[Stored] = []
    ends: list[Outcome] = []
    begun = perf_counter()
    with closing(
        _read(files[earlier:], prepare, knowledge, curator, pool, limits or Limits(), views)
    ) as stream:
        for done, (outcome, image) in enumerate(stream, earlier + 1):
            ends.append(outcome)
            if image is None:
                refused += 1
            else:
                images.append(image)
            if len(ends) == per_shard or done == len(files):
                journal.write(finished, images, ends, prepare.size)  # whatever size the earlier shards had
                finished, images, ends = finished + 1, [], []
            speed = (done - earlier) / (perf_counter() - begun)
            report(Progress("ingest", done, len(files), {"rejected": refused, "files/s": speed}))


def films_per_shard(prepare: PrepareSettings) -> int:
    """Few enough that a shard fits into any memory."""
    height, width = prepare.size
    return max(1, min(_FILMS_PER_SHARD, _BYTES_PER_SHARD // (2 * height * width)))


def _read(
    files: Sequence[SourceFile],
    prepare: PrepareSettings,
    knowledge: Knowledge,
    curator: Curator,
    pool: Executor | int | None,
    limits: Limits,
    views: Sequence[str] | None,
) -> Generator[tuple[Outcome, Stored | None]]:
    """Each file's outcome, and its image if it is accepted; the curator remembers the films accepted."""
    readers, ahead = _readers(pool, len(files), films_per_shard(prepare))
    task = partial(read_source, settings=prepare)
    with closing(in_order(task, files, readers, ahead=ahead, first=fetch_source, limits=limits)) as futures:
        for file, future in zip(files, futures, strict=True):
            refused = refusal(future, file, knowledge.pseudonyms)
            if refused is not None:
                yield refused, None
                continue
            film = future.result()
            outcome = (
                withdrawn(film, file, knowledge)
                or of_another_view(film, file, knowledge, views)
                or curator.judge(film, accepted(film, file, knowledge))
            )
            yield outcome, film.image if "row" in outcome else None


def _readers(pool: Executor | int | None, items: int, per_shard: int) -> tuple[Executor | int, int]:
    """Who reads, and how many films may be under way."""
    if isinstance(pool, Executor):
        return pool, per_shard
    count = default_workers(items) if pool is None else min(pool, items)
    # One at a time in this process: reading changes the warning filters, which threads share.
    return count, 4 * count if count else 1


def fetch_source(file: SourceFile) -> None:
    """`fetch` for a file that lies on the disk itself; a member of an archive is small."""
    if file.member is None and file.refusal is None:
        fetch(file.path)


def fetch(path: Path) -> None:
    """Wait until the disk has handed over a file, which is not the file's fault; what fails here fails again later."""
    buffer = bytearray(_BYTES_PER_FETCH)
    with suppress(OSError):
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            return
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def read_source(file: SourceFile, settings: PrepareSettings) -> PreparedFilm:
    """`read_one` for a file that may lie in an archive; raises FilmError also where it cannot be taken out."""
    with opened(file) as path:
        return read_one(path, settings)


def read_one(path: Path, settings: PrepareSettings) -> PreparedFilm:
    """Read one file and bring it to the DATASET's size and bits.

    Raises:
        FilmError: As `prepare_film`; `unreadable` for what is no file, and `too_large` beyond MAX_FILE_BYTES.
    """
    with suppress(OSError):
        if path.exists() and not path.is_file():  # a link to a pipe or a device, which may have no end
            raise FilmError("unreadable", "The file cannot be read (it is no regular file).")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FilmError(
                "too_large", f"The file is larger than {MAX_FILE_BYTES // 2**20} MiB; no radiograph is."
            )
    return prepare_film(path, settings)
