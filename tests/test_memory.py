import resource
import sys

import pytest
import torch

from xraygen.memory import freed_memory_kept


def faults(times: int) -> int:
    """Pages that the system had to hand out, and clear, while so many tensors of 64 MB came and went."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.empty(64 * 2**20, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries are left as they are")
def test_freed_memory_is_asked_of_the_system_once_and_given_back() -> None:
    usual = faults(4)
    with freed_memory_kept():
        faults(8)  # until there is room that no small piece has settled in
        assert faults(4) < usual / 4
    assert faults(4) > usual / 2


def test_an_error_passes_through() -> None:
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        raise ValueError("inside")
