"""The table of docs/concepts/interpolation.md: which timestep a log-SNR is."""

import re
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pytest

from xraygen.config import DiffusionConfig, ScheduleConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.synthesis.timesteps import timestep_of_log_snr

PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "interpolation.md"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def table() -> tuple[list[tuple[str, int]], list[list[int]]]:
    """Schedule and side of each column, and the rows of numbers."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    top = next(index for index, line in enumerate(lines) if line.startswith("| `--log-snr` |"))
    found = [re.search(r"(linear|cosine)\D*(\d+) px", cell) for cell in cells(lines[top])[1:]]
    columns = [(match[1], int(match[2])) for match in found if match is not None]
    rows: list[list[int]] = []
    for line in lines[top + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([int(cell) for cell in cells(line)])
    return columns, rows


def log_snrs_by_hand(kind: str, side: int) -> np.ndarray:
    """Ho et al. 2020, sec. 4, and Nichol & Dhariwal 2021, eq. 17, at T = 1000, as they are at 64 px."""
    if kind == "linear":
        abar = np.cumprod(1 - (1e-4 + (0.02 - 1e-4) * np.arange(1000) / 999))
    else:
        f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        abar = (f / f[0])[1:-1]  # the last step's beta is clipped, and no number of the table is there
    found: np.ndarray = np.log(abar / (1 - abar)) + 2 * np.log(side / 64)
    return found


def test_the_page_has_the_table() -> None:
    columns, rows = table()
    assert columns == [("linear", 64), ("cosine", 64), ("cosine", 256)]
    assert [row[0] for row in rows] == [4, 2, 0, -2, -4]


@pytest.mark.parametrize("column", [0, 1, 2])
def test_each_number_of_the_table_is_the_nearest_timestep(column: int) -> None:
    columns, rows = table()
    kind, side = columns[column]
    schedule = ScheduleConfig(kind=cast(Literal["linear", "cosine"], kind))
    diffusion = GaussianDiffusion(NoiseSchedule.from_config(schedule), DiffusionConfig())
    by_hand = log_snrs_by_hand(kind, side)
    for log_snr, *timesteps in rows:
        assert timestep_of_log_snr(diffusion, log_snr, (1, side, side)) == timesteps[column]
        assert int(np.abs(by_hand - log_snr).argmin()) == timesteps[column]
