"""The timing script has a row for each way to the same number, and says the memory that the large sets took."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from xraygen.benchmark.distances import WAYS


def test_each_way_has_a_row(script: Callable[[str], ModuleType]) -> None:
    pytest.importorskip("torchmetrics")
    rows = list(script("bench_audit").ways(60, 8, 1))
    assert [row.split(" | ")[:2] for row in rows] == [["| 60", name] for name in WAYS]


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
