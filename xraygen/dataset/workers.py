"""One function over many items, in other processes and in order; an item that kills its process costs only itself."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_ITEMS_PER_WORKER = 32  # a spawned worker needs seconds to


def default_workers(items: int) -> int:
    """As many as there are processors, and none where the work is too little to start any."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = min(processors, items // _ITEMS_PER_WORKER)
    return wanted if wanted > 1 else 0


def in_order(
    task: Callable[[Item], Result], items: Iterable[Item], pool: Executor | int, *, ahead: int
) -> Generator[Future[Result]]:
    """Run `task` on each item and yield the finished futures in the order of the items.

    Args:
        task: A function that can be pickled.
        items: Its arguments.
        pool: An executor, which is left open; or a number of processes, 0 for this one. Processes are started anew
            when an item kills one; that item's future then holds the BrokenExecutor.
        ahead: How many items may be under way or finished before they are asked for.

    Raises:
        BrokenExecutor: If an executor that was passed in broke.
    """
    upcoming = iter(items)
    while True:
        suspects: list[Item] = []
        if isinstance(pool, Executor):
            yield from _until_broken(task, upcoming, pool, ahead, suspects)
            if suspects:
                raise BrokenExecutor("the executor lost its workers; only its owner can start them again")
            return
        with _open_pool(pool) as opened:
            yield from _until_broken(task, upcoming, opened, ahead, suspects)
        if not suspects:
            return
        yield from _one_by_one(task, suspects)


def _open_pool(workers: int) -> Executor:
    """That many spawned processes, or a thread of this one."""
    if workers == 0:
        return ThreadPoolExecutor(max_workers=1)
    return ProcessPoolExecutor(
        max_workers=workers,
        mp_context=multiprocessing.get_context("spawn"),  # torch and its threads do not survive a fork
        initializer=_start_worker,
    )


def _start_worker() -> None:
    """Use one thread, for the workers share the processors already, and end when the parent is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()
    # NumPy reads these when it is imported, which has not happened yet.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def _end_after(parent: BaseProcess) -> None:
    """Without this a worker waits for its killed parent's next task for ever."""
    parent.join()
    os._exit(1)


def _until_broken(
    task: Callable[[Item], Result],
    upcoming: Iterator[Item],
    pool: Executor,
    ahead: int,
    suspects: list[Item],
) -> Generator[Future[Result]]:
    """Work until all is done or the pool breaks; `suspects` then holds the items under way."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        while True:
            for item in islice(upcoming, ahead - len(waiting)):
                waiting.append((item, _submit(pool, task, item)))
            if not waiting:
                return
            item, future = waiting[0]
            if isinstance(future.exception(), BrokenExecutor):
                suspects += [item for item, _ in waiting]
                return
            waiting.popleft()
            yield future
    finally:
        for _, future in waiting:
            future.cancel()


def _one_by_one(task: Callable[[Item], Result], suspects: Iterable[Item]) -> Generator[Future[Result]]:
    """Find out which of the items under way kills its process."""
    remaining = iter(suspects)
    broken = True
    while broken:
        broken = False
        with _open_pool(1) as pool:
            for item in remaining:
                future = _submit(pool, task, item)
                broken = isinstance(future.exception(), BrokenExecutor)
                yield future
                if broken:
                    break


def _submit(pool: Executor, task: Callable[[Item], Result], item: Item) -> Future[Result]:
    """A broken pool's refusal as a future, like its other failures."""
    try:
        return pool.submit(task, item)
    except BrokenExecutor as error:
        refused: Future[Result] = Future()
        refused.set_exception(error)
        return refused
