"""How the C library treats memory that is given back to it while batch after batch is computed on a CPU."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
"""Options of glibc's mallopt."""
_Function = Callable[..., int]
_GIGABYTE = 1 << 30
_MEGABYTE = 1 << 20
_lock = Lock()
_inside = 0
"""Blocks that are under way, of which the first and the last count."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within, memory that is freed is kept for what is asked for next, and at the end it is given back to the system.

    Otherwise glibc asks the system for each large tensor and gives it back after use, and the system clears it every
    time, which takes long beside the arithmetic of a small network, or of one of large pictures. Freed pieces do not
    always fit what is asked for next: the process may take a fifth more memory. Other C libraries are left as they are.
    One such block may lie inside another.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallopt: _Function | None = getattr(library, "mallopt", None)
    trim: _Function | None = getattr(library, "malloc_trim", None)
    if mallopt is None or trim is None:
        yield
        return
    with _entered(+1) as first:
        if first:  # glibc before 2.35 takes no threshold above 32 MB
            if not mallopt(_M_MMAP_THRESHOLD, _GIGABYTE):
                mallopt(_M_MMAP_MAX, 0)
            mallopt(_M_TRIM_THRESHOLD, _GIGABYTE)
    try:
        yield
    finally:
        with _entered(-1) as last:
            if last:  # as far as glibc goes by itself, once large pieces have come and gone
                mallopt(_M_MMAP_MAX, 1 << 16)
                mallopt(_M_MMAP_THRESHOLD, 32 * _MEGABYTE)
                mallopt(_M_TRIM_THRESHOLD, 64 * _MEGABYTE)
                trim(0)


@contextmanager
def _entered(by: int) -> Iterator[bool]:
    """Count a block in or out, alone; whether none is under way but this one."""
    global _inside
    with _lock:
        before, _inside = _inside, _inside + by
        yield 0 in (before, _inside)
