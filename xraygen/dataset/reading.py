"""Files -> journal: read what is missing there, in order, with one process or many."""

from collections.abc import Generator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from functools import partial

from xraygen.dataset.journal import Journal, Outcome
from xraygen.dataset.outcomes import Knowledge, accepted, duplicate, refusal
from xraygen.dataset.sources import SourceFile
from xraygen.dataset.workers import default_workers, in_order
from xraygen.films.transforms import PrepareSettings, prepare_film
from xraygen.progress import Progress, Report
from xraygen.ranges import Stored

_FILMS_PER_SHARD = 256
_BYTES_PER_SHARD = 2**26


def read_films(
    files: Sequence[SourceFile],
    prepare: PrepareSettings,
    knowledge: Knowledge,
    journal: Journal,
    pool: Executor | int | None,
    report: Report,
) -> None:
    """Read the files that the journal lacks, and write it shard by shard.

    Args:
        files: All files, in order.
        prepare: Size, fit and bits.
        knowledge: What is needed to write a film's row.
        journal: What earlier runs did; complete afterwards.
        pool: An executor, a number of processes (0: this one), or None for as many as there are processors.
        report: Told after each file.
    """
    per_shard = films_per_shard(prepare)
    finished = len(journal)
    earlier = [outcome for shard in range(finished) for outcome in journal.outcomes(shard)]
    kept = {outcome["content"]: outcome for outcome in earlier if "row" in outcome}
    refused = len(earlier) - len(kept)
    images: list[Stored] = []
    ends: list[Outcome] = []
    with closing(_read(files[len(earlier) :], prepare, knowledge, kept, pool, per_shard)) as stream:
        for done, (outcome, image) in enumerate(stream, len(earlier) + 1):
            ends.append(outcome)
            if image is None:
                refused += 1
            else:
                images.append(image)
            if len(ends) == per_shard or done == len(files):
                journal.write((done - 1) // per_shard, images, ends, prepare.size)
                images, ends = [], []
            report(Progress("ingest", done, len(files), {"rejected": refused}))


def films_per_shard(prepare: PrepareSettings) -> int:
    """Few enough that a shard fits into any memory."""
    height, width = prepare.size
    return max(1, min(_FILMS_PER_SHARD, _BYTES_PER_SHARD // (2 * height * width)))


def _read(
    files: Sequence[SourceFile],
    prepare: PrepareSettings,
    knowledge: Knowledge,
    kept: dict[str, Outcome],
    pool: Executor | int | None,
    per_shard: int,
) -> Generator[tuple[Outcome, Stored | None]]:
    """Each file's outcome, and its image if it is accepted; `kept` grows by the films accepted."""
    readers, ahead = _readers(pool, len(files), per_shard)
    task = partial(prepare_film, settings=prepare)
    with closing(in_order(task, [file.path for file in files], readers, ahead=ahead)) as futures:
        for file, future in zip(files, futures, strict=True):
            refused = refusal(future, file, knowledge.pseudonyms)
            if refused is not None:
                yield refused, None
                continue
            film = future.result()
            outcome = accepted(film, file, knowledge)
            first = kept.setdefault(outcome["content"], outcome)
            yield (outcome, film.image) if first is outcome else (duplicate(outcome, first), None)


def _readers(pool: Executor | int | None, items: int, per_shard: int) -> tuple[Executor | int, int]:
    """Who reads, and how many films may be under way."""
    if isinstance(pool, Executor):
        return pool, per_shard
    count = default_workers(items) if pool is None else min(pool, items)
    # One at a time in this process: reading changes the warning filters, which threads share.
    return count, 4 * count if count else 1
