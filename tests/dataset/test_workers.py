"""Many processes give what one gives, and an item that kills its process costs only itself."""

import signal
import subprocess
import sys
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import closing

import pytest

from xraygen.dataset.workers import default_workers, in_order


@pytest.mark.parametrize("ahead", [1, 3, 100])
def test_results_come_in_the_order_of_the_items(ahead: int) -> None:
    futures = in_order(str, range(20), 0, ahead=ahead)
    assert [future.result() for future in futures] == [str(item) for item in range(20)]


def test_a_failure_stays_with_its_item() -> None:
    futures = list(in_order(int, ["1", "x", "3"], 0, ahead=2))
    assert isinstance(futures[1].exception(), ValueError)
    assert [futures[0].result(), futures[2].result()] == [1, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_item_that_kills_its_process_costs_only_itself(workers: int) -> None:
    items = ["1", "2", "__import__('os')._exit(9)", "4", "__import__('os')._exit(9)", "6"]
    futures = list(in_order(eval, items, workers, ahead=4))
    assert [
        index for index, future in enumerate(futures) if isinstance(future.exception(), BrokenExecutor)
    ] == [2, 4]
    assert [futures[index].result() for index in (0, 1, 3, 5)] == [1, 2, 4, 6]


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


def test_little_work_starts_no_processes() -> None:
    assert default_workers(10) == 0


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
