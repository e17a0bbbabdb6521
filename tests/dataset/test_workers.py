"""Many processes give what one gives, and an item that ends its process, in whatever way, costs only itself."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import closing
from pathlib import Path

import pytest

from xraygen.dataset.workers import Limits, default_workers, in_order
from xraygen.errors import FilmError


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_results_come_in_the_order_of_the_items(ahead: int) -> None:
    futures = in_order(str, range(20), 0, ahead=ahead)
    assert [future.result() for future in futures] == [str(item) for item in range(20)]


def test_a_failure_stays_with_its_item() -> None:
    futures = list(in_order(int, ["1", "x", "3"], 0, ahead=2))
    assert isinstance(futures[1].exception(), ValueError)
    assert [futures[0].result(), futures[2].result()] == [1, 3]


def reason_of(future: Future[object]) -> str:
    error = future.exception()
    return error.reason if isinstance(error, FilmError) else ""


QUICK = Limits(seconds=1.5, memory_bytes=500_000_000)
BAD_ITEMS = {
    "__import__('os').kill(__import__('os').getpid(), 11)": "crashed",
    "__import__('ctypes').string_at(0)": "crashed",
    "__import__('os')._exit(0)": "crashed",
    "__import__('sys').exit()": "crashed",
    "__import__('time').sleep(1000)": "timed_out",
    "[__import__('signal').pthread_sigmask(0, [2, 14, 15]), __import__('time').sleep(1000)]": "timed_out",
    "sum(iter(int, 1))": "timed_out",
    "bytes(600_000_000)": "out_of_memory",
    "__import__('numpy').ones(10**9)": "out_of_memory",
}
"""Real segmentation faults, exits, hangs (one inside C that holds the interpreter's lock) and large allocations."""


@pytest.mark.parametrize("workers", [1, 2])
def test_an_item_that_crashes_hangs_or_swells_costs_only_itself(workers: int) -> None:
    items = ["1"]
    for number, bad in enumerate(BAD_ITEMS):
        items += [bad, str(number)]
    futures = list(in_order(eval, items, workers, ahead=4, limits=QUICK))
    assert [reason_of(future) for future in futures[1::2]] == list(BAD_ITEMS.values())
    assert [future.result() for future in futures[::2]] == [1, *range(len(BAD_ITEMS))]


def test_an_error_that_cannot_be_pickled_arrives_as_its_kind() -> None:
    items = ["(_ for _ in ()).throw(type('Local', (Exception,), {})())", "lambda: 1", "3"]
    local, unpicklable, good = in_order(eval, items, 1, ahead=3)
    assert "Local" in str(local.exception())
    assert unpicklable.exception() is not None
    assert good.result() == 3


def test_what_is_allowed_is_counted_anew_for_each_item() -> None:
    # What an earlier item left behind, such as a cache, does not make a later one fail.
    keep = "__import__('builtins').__dict__.setdefault('kept', []).append(bytes(300_000_000))"
    futures = list(in_order(eval, [keep, keep, keep], 1, ahead=1, limits=QUICK))
    assert [future.exception() for future in futures] == [None] * 3


def test_the_clock_starts_after_the_disk_has_answered() -> None:
    slow = in_order(abs, [2], 1, ahead=1, first=time.sleep, limits=Limits(seconds=0.5))
    assert [future.result() for future in slow] == [2]


@pytest.mark.parametrize("seconds", [float("inf"), 3e6, 1e300])
def test_a_limit_beyond_what_the_system_can_wait_is_none(seconds: float) -> None:
    assert [it.result() for it in in_order(abs, [-1], 1, ahead=1, limits=Limits(seconds=seconds))] == [1]


def test_processes_that_cannot_start_are_no_items_fault() -> None:
    broken = in_order(abs, [2], 1, ahead=1, first=eval)  # type: ignore[arg-type]  # eval(2) ends the process
    assert isinstance(next(broken).exception(), ChildProcessError)


def test_work_that_is_given_up_is_ended_at_once() -> None:
    began = time.monotonic()
    with closing(in_order(eval, ["1", "__import__('time').sleep(1000)"], 2, ahead=2)) as futures:
        assert next(futures).result() == 1
    assert time.monotonic() - began < 30


def test_ctrl_c_in_a_worker_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    interrupt = "__import__('os').kill(__import__('os').getpid(), 2)"
    assert [future.result() for future in in_order(eval, [interrupt, "7"], 1, ahead=2)] == [None, 7]
    assert capfd.readouterr() == ("", "")


class Inline(Executor):
    """Somebody else's executor."""

    def __init__(self) -> None:
        self.submitted = 0
        self.closed = False

    def submit(self, function, /, *arguments, **options):  # type: ignore[no-untyped-def]  # as in its base
        future: Future[object] = Future()
        self.submitted += 1
        future.set_result(function(*arguments, **options))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.closed = True


def test_a_passed_executor_is_used_and_left_open() -> None:
    executor = Inline()
    assert [future.result() for future in in_order(str, range(5), executor, ahead=2)] == list("01234")
    assert (executor.submitted, executor.closed) == (5, False)


def test_no_more_items_are_taken_than_allowed_ahead() -> None:
    executor = Inline()
    with closing(in_order(str, iter(range(100)), executor, ahead=3)) as futures:
        next(futures)
    assert executor.submitted == 3


class Broken(Executor):
    """An executor whose workers are gone."""

    def submit(self, function, /, *arguments, **options):  # type: ignore[no-untyped-def]  # as in its base
        raise BrokenExecutor("gone")


def test_a_passed_executor_that_breaks_is_its_owners_to_repair() -> None:
    with pytest.raises(BrokenExecutor):
        list(in_order(str, range(3), Broken(), ahead=2))


def test_little_work_starts_one_process_that_can_be_killed() -> None:
    assert default_workers(1) == default_workers(33) == 1
    assert default_workers(10**6) >= 1


def test_a_worker_has_one_thread_although_the_callers_script_imports_numpy_first(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os\n"
        "import numpy\n"
        "from xraygen.dataset.workers import in_order\n"
        "def threads(item):\n"
        "    numpy.ones((400, 400)) @ numpy.ones((400, 400))  # BLAS starts its threads\n"
        "    return len(os.listdir('/proc/self/task'))\n"
        "if __name__ == '__main__':\n"
        "    print([future.result() for future in in_order(threads, [0], 1, ahead=1)], len(os.environ))\n"
    )
    environment = {name: value for name, value in os.environ.items() if "_NUM_THREADS" not in name}
    ran = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=True
    )
    # The one that computes, and the one that watches the parent; the caller's own environment is as it was.
    assert ran.stdout == f"[2] {len(environment)}\n"


@pytest.mark.parametrize(
    ("items", "workers"), [(0, 1), (63, 1), (64, 2), (191, 5), (192, 6), (224, 6), (10**6, 6)]
)
def test_much_work_starts_a_process_for_each_processor_that_this_one_may_use(
    monkeypatch: pytest.MonkeyPatch, items: int, workers: int
) -> None:
    # The machine has 64, of which a batch system lends six.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3, 9)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert default_workers(items) == workers


def test_workers_do_not_outlive_a_killed_parent() -> None:
    # The workers inherit the parent's stdout, so that reading it ends when the last of them has ended.
    program = (
        "import os, sys, xraygen.dataset.workers as workers\n"
        "if __name__ == '__main__':\n"
        "    stream = workers.in_order(str, range(9), 2, ahead=3)\n"
        "    next(stream); print('up', flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.communicate(timeout=60)[0] == "up\n"
    assert parent.returncode == -signal.SIGKILL
