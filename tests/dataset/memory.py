"""How much memory this process took in the meantime, whatever it had taken before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_ITSELF = Path("/proc/self")


@contextmanager
def memory_taken() -> Iterator[Callable[[], int]]:
    """Begin to watch; what is yielded tells by how many kB the process was larger at most than at the beginning.

    `ru_maxrss` is of no use here: it never falls, so that what costs less than an earlier test had cost seems to cost
    nothing. Linux forgets the peak (VmHWM) when "5" is written to clear_refs (proc(5)).
    """
    try:
        (_ITSELF / "clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pytest.skip("only Linux forgets how much memory a process has had")
    before = _peak_kb()
    yield lambda: _peak_kb() - before


def _peak_kb() -> int:
    """VmHWM: the largest resident set since it was forgotten."""
    status = (_ITSELF / "status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0])
