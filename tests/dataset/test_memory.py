"""The watch over memory sees what is taken while it runs, and nothing else."""

from .memory import memory_taken


def test_what_was_taken_before_hides_nothing() -> None:
    before = b"x" * 200_000_000
    del before
    with memory_taken() as taken:
        assert taken() < 10_000
        film = b"x" * 100_000_000
        del film
        # 100 MB are 97,656 kB; up to 10 MB of them may have lain free in the process already
        assert 87_000 < taken() < 110_000
