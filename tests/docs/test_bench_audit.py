"""The timing script times the same number, three ways, and says the memory that the large sets took."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def test_all_ways_give_one_number(script: Callable[[str], ModuleType]) -> None:
    module = script("bench_audit")
    a, b = (module.samples(60, 8, name) for name in ("real", "synthetic"))
    ours, *others = (way(a, b) for way in module.WAYS.values())
    assert others == pytest.approx([ours, ours], rel=1e-9)
    (row, *_) = module.ways(60, 8, 1)
    assert row.startswith("| 60 | xraygen |")


def test_large_sets_are_read_from_disk(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    module = script("bench_audit")
    module.write_large(tmp_path, 2000, 8)
    *measured, (last, peak) = module.measure_large(tmp_path, 100)
    assert [name for name, _ in measured] == [
        "FD of 2,000 and 2,000",
        "KID, 2 subsets of 1,000",
        "precision, recall, density, coverage of 100 and 100",
    ]
    assert last == "peak"
    assert peak > 0.01
