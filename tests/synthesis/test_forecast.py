"""What an order of films is said to take, by a clock that goes on by a tenth of a second each time it is read."""

from itertools import count
from pathlib import Path

import pytest

from xraygen.errors import UsageError
from xraygen.synthesis.conditions import Guidance, Wish
from xraygen.synthesis.forecast import forecast
from xraygen.synthesis.generate import Order, generate
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.synthesis.share import Share

FOURS = SamplerSettings("ddim", steps=5, compute_batch=4)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count()
    monkeypatch.setattr("xraygen.synthesis.forecast.time.perf_counter", lambda: next(ticks) / 10)


@pytest.mark.parametrize(("films", "batches"), [(1, 1), (4, 1), (5, 2), (13, 4)])
def test_it_takes_whole_batches_of_steps(films: int, batches: int, tiny_run: Path, tmp_path: Path) -> None:
    needed = forecast(tiny_run, tmp_path / "out", range(films), Order(FOURS), "cpu")
    assert (needed.missing, needed.steps) == (films, 5)
    assert needed.seconds == pytest.approx(batches * 5 * 0.1)
    assert not (tmp_path / "out").exists()


def test_a_step_that_takes_long_is_timed_of_one_image(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()
    monkeypatch.setattr("xraygen.synthesis.forecast.time.perf_counter", lambda: next(ticks))  # a second
    needed = forecast(tiny_run, tmp_path / "out", range(4), Order(FOURS), "cpu")
    assert needed.seconds == pytest.approx(4 * 5 * 1)


def test_a_chain_of_one_step_is_timed(tiny_run: Path, tmp_path: Path) -> None:
    one = Order(SamplerSettings("ddim", steps=1, compute_batch=4))
    assert forecast(tiny_run, tmp_path / "out", [7], one, "cpu").seconds == pytest.approx(0.1)


def test_films_that_are_there_take_no_time(tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate(tiny_run, out, range(3), FOURS, device="cpu")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    needed = forecast(tiny_run, out, range(8), Order(FOURS), "cpu")
    assert needed.missing == 5
    assert needed.seconds == pytest.approx(2 * 5 * 0.1)
    assert forecast(tiny_run, out, range(3), Order(FOURS), "cpu").seconds == 0
    (out / "images" / "1.png").write_bytes(b"damaged")  # generate makes it again
    assert forecast(tiny_run, out, range(3), Order(FOURS), "cpu").missing == 1
    (out / "images" / "1.png").write_bytes(before[out / "images" / "1.png"])
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_films_of_another_network_are_batches_of_their_own(conditional_run: Path, tmp_path: Path) -> None:
    plan = [Wish(seed, {"sex": "F"}, weight) for seed, weight in enumerate((1.0, 1.0, 3.0, 1.0, 3.0))]
    needed = forecast(conditional_run, tmp_path / "out", plan, Order(FOURS, Guidance()), "cpu")
    assert needed.seconds == pytest.approx(2 * 5 * 0.1)


def test_each_process_speaks_of_its_share(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    generate(tiny_run, tmp_path / "out", range(16), FOURS, share=Share(0, 2), device="cpu")
    needed = forecast(tiny_run, tmp_path / "out", range(20), Order(FOURS), "cpu")
    assert needed.missing == 12  # 1, 3, ... 15 and 16 to 19
    assert needed.seconds == pytest.approx(3 * 5 * 0.1)  # 1, 3, ... 19
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert forecast(tiny_run, tmp_path / "out", range(16), Order(FOURS), "cpu").seconds == 0


def test_what_generate_refuses_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    generate(tiny_run, tmp_path / "out", [0], FOURS, device="cpu")
    with pytest.raises(UsageError, match="another steps"):
        forecast(tiny_run, tmp_path / "out", [1], Order(SamplerSettings("ddim", 4, compute_batch=4)), "cpu")
