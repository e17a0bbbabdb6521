"""The watch over memory sees what is taken while it runs, and nothing else."""

from .memory import memory_taken


def test_what_was_taken_before_hides_nothing() -> None:
    before = b"x" * 200_000_000
    del before
    with memory_taken() as taken:
        assert taken() < 10_000
        _take_a_film()
        # 100 MB are 97,656 kB; a little of them may have lain free in the process already
        assert 87_000 < taken() < 110_000


def test_what_lies_free_in_the_process_hides_nothing() -> None:
    # below what malloc asks the system for one by one, and held in by the last: free, but not given back
    blocks = [b"x" * 100_000 for _ in range(2_000)]
    last = b"x" * 100_000
    del blocks
    with memory_taken() as taken:
        _take_a_film()
        assert 87_000 < taken() < 110_000
    assert last


def _take_a_film() -> None:
    film = b"x" * 100_000_000
    del film
