"""What a RUN knows of held-out films, from its log or from what was released of it."""

import json
from pathlib import Path

import pytest

from xraygen.training.held_out import Band, held_out_bands, write_held_out


def look(step: int, loss: float) -> str:
    """A line of the log with two bands, the noisier first."""
    bands = [{"t": [10, 19], "validation_loss": loss / 2}, {"t": [0, 9], "validation_loss": loss}]
    return json.dumps({"step": step, "validation_loss": loss, "bands": bands})


def test_the_last_look_up_to_the_checkpoint_counts_band_by_band(tmp_path: Path) -> None:
    lines = [look(2, 0.8), json.dumps({"step": 3, "loss": 0.5}), look(4, 0.6), look(6, 0.4)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert held_out_bands(tmp_path, 5) == [Band(0, 9, 0.6), Band(10, 19, 0.3)]
    assert held_out_bands(tmp_path, 6) == [Band(0, 9, 0.4), Band(10, 19, 0.2)]
    assert held_out_bands(tmp_path, 1) is None


def test_what_is_released_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(look(4, 0.6) + "\n")
    (tmp_path / "released").mkdir()
    write_held_out(tmp_path, 4, tmp_path / "released")
    assert held_out_bands(tmp_path / "released", 4) == held_out_bands(tmp_path, 4)


@pytest.mark.parametrize("log", [None, "", "{", json.dumps({"step": 1, "bands": [{"t": [0]}]})])
def test_a_run_that_does_not_know_says_nothing(tmp_path: Path, log: str | None) -> None:
    if log is not None:
        (tmp_path / "log.jsonl").write_text(log)
    assert held_out_bands(tmp_path, 9) is None
    (tmp_path / "released").mkdir()
    write_held_out(tmp_path, 9, tmp_path / "released")
    assert not list((tmp_path / "released").iterdir())


def test_a_line_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(look(4, 0.6) + "\n" + look(6, 0.4)[:40])
    assert held_out_bands(tmp_path, 9) == [Band(0, 9, 0.6), Band(10, 19, 0.3)]
