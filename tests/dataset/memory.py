"""How much memory this process took in the meantime, whatever it had taken before."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ITSELF = Path("/proc/self")


@contextmanager
def memory_taken() -> Iterator[Callable[[], int]]:
    """Begin to watch; what is yielded tells by how many kB the process was larger at most than at the beginning.

    `ru_maxrss` is of no use here: it never falls, so that what costs less than an earlier test had cost seems to cost
    nothing. Linux forgets the peak (VmHWM) when "5" is written to clear_refs (proc(5)). What earlier tests freed is
    given back first: malloc keeps it resident, and what is made of it would cost nothing, too.
    """
    _give_back_what_lies_free()
    try:
        (_ITSELF / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pytest.skip("only Linux forgets how much memory a process has had")
    before = _peak_kb()
    yield lambda: _peak_kb() - before


def _give_back_what_lies_free() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other C libraries keep less
    if trim is not None:
        trim(0)


def _peak_kb() -> int:
    """VmHWM: the largest resident set since it was forgotten."""
    status = (_ITSELF / "status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0])
