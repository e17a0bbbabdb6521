"""A measurement in a process of its own, with as many threads as it may have, and nothing left of it in this one."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import torch

from xraygen.errors import XraygenError
from xraygen.progress import Progress, Report, silent

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def in_own_process(
    threads: int, measure: Callable[..., Any], *arguments: object, report: Report = silent
) -> Any:
    """`measure(*arguments, report=report)`, computed elsewhere.

    Args:
        threads: Of torch, and of the BLAS and OpenMP of every library that the process imports.
        measure: A function of a module; what it takes and gives can be pickled.
        arguments: For it.
        report: Told what the process reports.

    Returns:
        What it returned.

    Raises:
        XraygenError: If the process ended without an answer, as when the system takes its memory back.
        Exception: What `measure` raised.
    """
    context = multiprocessing.get_context("spawn")  # torch and its threads do not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(theirs, threads, measure, arguments), daemon=True)
    with _threads_of_children(threads):
        process.start()
    theirs.close()
    try:
        while isinstance(message := ours.recv(), Progress):
            report(message)
    except EOFError as error:
        raise XraygenError(
            "The process of a measurement ended without an answer, as when memory runs out: let it have more."
        ) from error
    finally:
        process.kill()  # it has answered, or nobody waits for it any more
        process.join()
        ours.close()
    succeeded, answer = message
    if not succeeded:
        raise answer
    return answer


@contextmanager
def _threads_of_children(threads: int) -> Iterator[None]:
    """NumPy's BLAS reads these when it is imported, which may be before any code of ours: so they are set here."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _answer(
    connection: "Connection[Any, Any]",
    threads: int,
    measure: Callable[..., Any],
    arguments: tuple[object, ...],
) -> None:
    """What the process does: reports on the way, and at last whether it succeeded, and with what."""
    torch.set_num_threads(threads)
    answer: tuple[bool, Any]
    try:
        answer = (True, measure(*arguments, report=connection.send))
    except Exception as error:  # noqa: BLE001 - raised again where it was asked for
        answer = (False, error)
    connection.send(answer)
