import numpy as np
import pytest

from xraygen.errors import UsageError
from xraygen.films.mark import marked


def letters(picture: np.ndarray) -> list[str]:
    return ["".join(".#"[int(dot)] for dot in row) for row in picture]


def test_the_first_letters_are_read_as_they_are_drawn() -> None:
    film = marked(np.full((64, 64), 30000, np.uint16))
    assert letters(film[:9, :13] == 65535) == [
        ".............",
        "..####.#...#.",
        ".#.....#...#.",
        ".#......#.#..",
        "..###....#...",
        ".....#...#...",
        ".....#...#...",
        ".####....#...",
        ".............",
    ]


@pytest.mark.parametrize(
    ("side", "scale", "count"),
    [(64, 1, 9), (256, 1, 9), (512, 2, 9), (1024, 4, 9), (32, 1, 3), (16, 1, 1)],
)
def test_the_mark_grows_with_the_film_and_leaves_the_rest_as_it_was(
    side: int, scale: int, count: int
) -> None:
    film = np.full((side, side), 30000, np.uint16)
    after = marked(film)
    plate = (slice(0, 9 * scale), slice(0, (6 * count + 1) * scale))
    assert set(np.unique(after[plate])) == {0, 65535}  # seen on any ground
    after[plate] = 30000
    np.testing.assert_array_equal(after, film)


def test_frames_are_marked_alike_and_8_bits_in_their_own_white() -> None:
    frames = marked(np.full((3, 64, 64), 100, np.uint8), bits=8)
    assert frames.dtype == np.uint8
    assert frames.max() == 255
    np.testing.assert_array_equal(frames[0], frames[2])


def test_a_film_without_room_is_refused() -> None:
    with pytest.raises(UsageError, match="--no-mark"):
        marked(np.zeros((8, 64), np.uint16))
