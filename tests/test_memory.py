import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xraygen.memory import freed_memory_kept


def test_tensors_outlive_it_and_an_error_passes_through() -> None:
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        kept = torch.full((64 * 2**20,), 7, dtype=torch.uint8)
        raise ValueError("inside")
    assert bool((kept == 7).all())  # only what was freed is given back


def test_a_block_inside_another_does_not_end_it() -> None:
    always = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if sys.platform != "linux" or (always.exists() and "[always]" in always.read_text(encoding="utf-8")):
        pytest.skip("the pages that a block takes cannot be counted here")
    printed = subprocess.run(
        [sys.executable, "-c", _COUNT], check=True, capture_output=True, text=True
    ).stdout  # a process of its own: what else has been freed would serve as well
    before, within, after = map(int, printed.split())
    pages = 64 * 2**20 // 4096
    assert before >= 9 * pages  # ten blocks, one after another
    assert within <= 2 * pages  # the first one's
    assert after >= 9 * pages


_COUNT = """
import ctypes, resource
from xraygen.memory import freed_memory_kept

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def faults():
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        block = ctypes.c_void_p(libc.malloc(64 * 2**20))
        libc.memset(block, 7, 64 * 2**20)
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begin

print(faults())
with freed_memory_kept():
    with freed_memory_kept():
        pass
    print(faults())
print(faults())
"""
