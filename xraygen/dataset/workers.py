"""One function over many items, in processes that can be killed, and in order.

An item that crashes its process, hangs it or asks it for too much memory costs only itself: the process is killed,
another takes its place, and the item's future holds a FilmError (crashed, timed_out, out_of_memory).
"""

import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from xraygen.errors import FilmError

if sys.platform != "win32":
    import resource

Item = TypeVar("Item")
Result = TypeVar("Result")
Call = partial[Any]
First = Callable[[Any], None]

_ITEMS_PER_WORKER = 32  # a spawned worker needs seconds to start
_SECONDS_TO_END = 5.0
_LONGEST_WAIT = 2e6  # s; poll counts milliseconds in 31 bits, which are 24.8 days
_STARTED = "started"
_STARTING = threading.Lock()
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Limits:
    """What one item may cost before its process is killed."""

    seconds: float = 60.0
    """Of its task, inf for as long as it takes; what `first` does is not counted."""
    memory_bytes: int = 2 * 10**9
    """Of address space beyond what the process had before the item; watched on Linux only."""

    def timed_out(self) -> FilmError:
        """The refusal of an item that took too long."""
        return FilmError(
            "timed_out",
            f"Reading the file took longer than {self.seconds:g} s and was stopped: it is damaged, or --timeout is too "
            "short for it.",
        )

    def out_of_memory(self) -> FilmError:
        """The refusal of an item that asked for too much."""
        return FilmError(
            "out_of_memory",
            f"Reading the file took more than {self.memory_bytes / 1e9:g} GB of memory: it is damaged.",
        )


def crashed() -> FilmError:
    """The refusal of an item that killed its process."""
    return FilmError("crashed", "Reading the file killed the process that read it: it is damaged.")


def default_workers(items: int) -> int:
    """As many as there are processors, but one where the work is too little to start more."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(processors, items // _ITEMS_PER_WORKER))


def in_order(
    task: Callable[[Item], Result],
    items: Iterable[Item],
    pool: Executor | int,
    *,
    ahead: int,
    first: Callable[[Item], None] | None = None,
    limits: Limits = Limits(),
) -> Generator[Future[Result]]:
    """Run `task` on each item and yield the finished futures in the order of the items.

    Args:
        task: A function that can be pickled.
        items: Its arguments.
        pool: An executor, which is left open; or a number of processes, 0 for this one. Only processes can be killed:
            an executor has its owner's limits unless it is ByChildren, and in this process a hang or a native crash
            ends everything.
        ahead: How many items may be under way or finished before they are asked for.
        first: Done to each item in its process before the clock starts, such as waiting for a disk; can be pickled.
        limits: What one item may cost in a process.

    Raises:
        BrokenExecutor: If an executor that was passed in broke.

    A future holds a ChildProcessError where processes cannot even start, which is no item's fault.
    """
    if isinstance(pool, Executor):
        if isinstance(pool, ByChildren):
            task = partial(_by_child, task, first, limits)
        # Whoever owns it may lose what an error holds, as Dask does: it comes back as a result.
        with closing(_stream(partial(_answer, task), iter(items), pool, ahead)) as answers:
            for answer in answers:
                yield _unwrapped(answer)
        return
    opened = KillablePool(pool, first, limits) if pool else ThreadPoolExecutor(max_workers=1)
    try:
        yield from _stream(task, iter(items), opened, ahead)
    finally:
        opened.shutdown(cancel_futures=True)


def _stream(
    task: Callable[[Item], Result], upcoming: Iterator[Item], pool: Executor, ahead: int
) -> Generator[Future[Result]]:
    """Keep `ahead` items under way until all are done."""
    waiting: deque[Future[Result]] = deque()
    try:
        while True:
            for item in islice(upcoming, ahead - len(waiting)):
                waiting.append(pool.submit(task, item))
            if not waiting:
                return
            error = waiting[0].exception()
            if isinstance(error, BrokenExecutor):
                raise error
            yield waiting.popleft()
    finally:
        for future in waiting:
            future.cancel()


class ByChildren(Executor):
    """An executor each of whose processes has a child do its work, one that can be killed.

    Args:
        executor: Whose processes run one call at a time; it stays open.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """As the executor does."""
        return self._executor.submit(function, *arguments, **options)


def _by_child(task: Callable[[Any], Result], first: First | None, limits: Limits, item: Any) -> Result:
    """The task's result from this process's child."""
    result: Result = _child(first, limits).submit(task, item).result()
    return result


@cache
def _child(first: First | None, limits: Limits) -> "KillablePool":
    """This process's child for such items; it waits for more until this process ends."""
    # Dask's nannies start workers as daemons, which may have no children lest these outlive them; ours do not.
    vars(multiprocessing.current_process())["_config"]["daemon"] = False
    return KillablePool(1, first, limits)


class KillablePool(Executor):
    """Spawned processes, each with a thread here that feeds it, watches the clock and starts it anew.

    Args:
        workers: Number of processes; each starts with its first item.
        first: Called in the process with each item before its clock starts.
        limits: What one item may cost.
    """

    def __init__(self, workers: int, first: First | None = None, limits: Limits = Limits()) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Call] | None] = queue.SimpleQueue()
        self._killed = threading.Event()
        self._keepers = [_Keeper(self._calls, self._killed, first, limits) for _ in range(workers)]
        for keeper in self._keepers:
            keeper.start()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> Future[Any]:
        """As every executor; function, arguments and result are pickled."""
        future: Future[Any] = Future()
        self._calls.put((future, partial(function, *arguments, **options)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, once they have done what was submitted, or with `cancel_futures` at once."""
        if cancel_futures:
            self._killed.set()
        for _ in self._keepers:
            self._calls.put(None)
        for keeper in self._keepers if wait or cancel_futures else ():
            while keeper.is_alive():
                if cancel_futures:
                    keeper.kill()
                keeper.join(0.1)


class _Keeper(threading.Thread):
    """Feeds one process."""

    def __init__(
        self,
        calls: "queue.SimpleQueue[tuple[Future[Any], Call] | None]",
        killed: threading.Event,
        first: First | None,
        limits: Limits,
    ) -> None:
        super().__init__(daemon=True)
        self._calls, self._killed, self._first, self._limits = calls, killed, first, limits
        self._process: BaseProcess | None = None
        self._connection: Connection[Any, Any] | None = None

    def run(self) -> None:
        """Serve calls until there are no more."""
        while (work := self._calls.get()) is not None:
            future, call = work
            if self._killed.is_set():
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._run(call))
            except BaseException as error:  # noqa: BLE001 - it belongs to the future, whatever it is
                future.set_exception(error)
        self._end()

    def kill(self) -> None:
        """End the process at once, from any thread; this one notices."""
        process = self._process
        if process is not None:
            process.kill()

    def _run(self, call: Call) -> Any:
        """The call's result from the process; what the call raised, or a FilmError where it cost too much."""
        content = pickle.dumps(call)
        # One that died while it was idle, say for other processes' memory, was no item's fault.
        connection = self._begin(content) or self._begin(content)
        if connection is None:
            raise ChildProcessError(
                "a process that reads films ends before it begins; is the installation whole?"
            )
        try:
            if not connection.poll(min(self._limits.seconds, _LONGEST_WAIT)):
                raise self._limits.timed_out()
            succeeded, result = connection.recv()
        except (EOFError, OSError):
            self._end(kill=True)
            raise crashed() from None
        except FilmError:
            self._end(kill=True)
            raise
        if succeeded:
            return result
        if isinstance(result, MemoryError):
            self._end(kill=True)  # what it was doing may have stopped half-way, such as an import
            raise self._limits.out_of_memory()
        raise result

    def _begin(self, content: bytes) -> "Connection[Any, Any] | None":
        """Have the process begin a pickled call; None if it ended instead."""
        connection = self._connection or self._start()
        try:
            connection.send_bytes(content)
            connection.recv()  # _STARTED
        except (EOFError, OSError):
            self._end(kill=True)
            return None
        return connection

    def _start(self) -> "Connection[Any, Any]":
        """A new process, and the way to it."""
        context = multiprocessing.get_context("spawn")  # torch and its threads do not survive a fork
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, pickle.dumps(self._first), self._limits.memory_bytes), daemon=True
        )
        with _one_thread():
            self._process.start()
        theirs.close()
        return self._connection

    def _end(self, *, kill: bool = False) -> None:
        """Let the process end, or kill it."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        if process is None or connection is None:
            return
        connection.close()
        if not kill:
            process.join(_SECONDS_TO_END)
        process.kill()
        process.join(_SECONDS_TO_END)  # one that waits for a lost disk cannot be killed, and is left behind


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let a process that is started here compute by one thread, for the workers share the processors already.

    NumPy reads these variables when it is imported. In a spawned process the first to import it may be the caller's own
    script, before any of our code: so they are set here, and only while the process starts.
    """
    with _STARTING:
        added = [name for name in _THREADS if name not in os.environ]
        os.environ.update(dict.fromkeys(added, "1"))
        try:
            yield
        finally:
            for name in added:
                del os.environ[name]


def _work(connection: "Connection[Any, Any]", pickled_first: bytes, memory_bytes: int) -> None:
    """What a process does: answer calls until its parent hangs up."""
    _start_worker()
    first: First | None = pickle.loads(pickled_first)
    while True:
        try:
            call = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        if first is not None:
            first(*call.args)
        connection.send(_STARTED)
        _limit_memory(memory_bytes)
        connection.send(_answer(call))


def _start_worker() -> None:
    """End when the parent is killed, and not by Ctrl-C."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group, and the parent kills its workers
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    """Without this a worker that is busy outlives its killed parent."""
    parent.join()
    os._exit(1)


def _limit_memory(extra_bytes: int) -> None:
    """Let allocations fail beyond so much more address space than there is now: an item's own, not what leaked."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return  # only Linux says how much a process has
    if sys.platform != "win32":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = pages * resource.getpagesize() + extra_bytes
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _answer(task: Callable[..., Any], *arguments: Any) -> tuple[bool, Any]:
    """Whether the task succeeded, and its result or error."""
    try:
        return True, task(*arguments)
    except Exception as error:  # noqa: BLE001 - it belongs to the caller
        return False, _portable(error)


def _unwrapped(answered: Future[tuple[bool, Any]]) -> Future[Any]:
    """A finished future of an answer as one of its result or error."""
    future: Future[Any] = Future()
    error = answered.exception()
    succeeded, result = (False, error) if error is not None else answered.result()
    if succeeded:
        future.set_result(result)
    else:
        future.set_exception(result)
    return future


def _portable(error: Exception) -> Exception:
    """An error that survives pickling, else its kind; without its traceback, which is this process's."""
    if isinstance(error, MemoryError):
        return MemoryError()
    # What caused it may be a codec's own error that survives nothing; Dask's tblib pickles causes and tracebacks too.
    error.__cause__ = error.__context__ = None
    try:
        copy = pickle.loads(pickle.dumps(error.with_traceback(None)))
    except Exception:  # noqa: BLE001 - any failure means that it does not survive
        return RuntimeError(type(error).__name__)
    return copy if isinstance(copy, Exception) else RuntimeError(type(error).__name__)
