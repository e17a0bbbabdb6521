"""How the C library treats memory that is given back to it while batch after batch is computed on a CPU."""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Options of glibc's mallopt."""
_Function = Callable[..., int]
_GIGABYTE = 1 << 30
_MEGABYTE = 1 << 20


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within, memory that is freed is kept for what is asked for next, and at the end it is given back to the system.

    Otherwise glibc asks the system for each large tensor and gives it back after use, and the system clears it every
    time, which takes a small network long beside its arithmetic. Other C libraries are left as they are.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallopt: _Function | None = getattr(library, "mallopt", None)
    trim: _Function | None = getattr(library, "malloc_trim", None)
    if mallopt is None or trim is None or not mallopt(_M_MMAP_THRESHOLD, _GIGABYTE):
        yield
        return
    mallopt(_M_TRIM_THRESHOLD, _GIGABYTE)
    try:
        yield
    finally:  # as far as glibc goes by itself, once large pieces have come and gone
        mallopt(_M_MMAP_THRESHOLD, 32 * _MEGABYTE)
        mallopt(_M_TRIM_THRESHOLD, 64 * _MEGABYTE)
        trim(0)
