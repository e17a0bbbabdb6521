import pytest
import torch

from xraygen.memory import freed_memory_kept


def test_tensors_outlive_it_and_an_error_passes_through() -> None:
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        kept = torch.full((64 * 2**20,), 7, dtype=torch.uint8)
        raise ValueError("inside")
    assert bool((kept == 7).all())  # only what was freed is given back
