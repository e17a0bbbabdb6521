"""The word SYNTHETIC in a corner of a film's pixels, for viewers that do not show (0008,001C).

The letters are drawn here, dot by dot, and by no font: the same film gets the same bytes wherever it is marked.
"""

import numpy as np
from numpy.typing import NDArray

from xraygen.errors import UsageError
from xraygen.ranges import Stored, largest_level

WORD = "SYNTHETIC"

_LETTERS = {
    "S": (".####", "#....", "#....", ".###.", "....#", "....#", "####."),
    "Y": ("#...#", "#...#", ".#.#.", "..#..", "..#..", "..#..", "..#.."),
    "N": ("#...#", "##..#", "#.#.#", "#.#.#", "#..##", "#...#", "#...#"),
    "T": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "..#.."),
    "H": ("#...#", "#...#", "#...#", "#####", "#...#", "#...#", "#...#"),
    "E": ("#####", "#....", "#....", "####.", "#....", "#....", "#####"),
    "I": ("#####", "..#..", "..#..", "..#..", "..#..", "..#..", "#####"),
    "C": (".####", "#....", "#....", "#....", "#....", "#....", ".####"),
}
_SHORTER = (WORD, "SYN", "S")
"""What stands on films that are too narrow for the whole word."""
_SIDES_PER_SCALE_PX = 256
"""From twice this side on letters are drawn twice as large, and so on, since viewers show the whole film."""


def marked(stored: Stored, bits: int = 16) -> Stored:
    """A copy of a film with the word SYNTHETIC in its upper left corner, white on a black plate.

    Args:
        stored: uint8 or uint16 `[H, W]` or `[..., H, W]`, 0 black.
        bits: White is `2^bits - 1`.

    Returns:
        The same type and shape; nothing outside the plate is changed. Films narrower than 55 px get fewer letters.

    Raises:
        UsageError: If not even one letter fits: the film is under 7 x 9 px.
    """
    H, W = stored.shape[-2:]
    scale = max(1, min(H, W) // _SIDES_PER_SCALE_PX)
    plates = (_plate(word, scale) for word in _SHORTER)
    plate = next((plate for plate in plates if plate.shape[0] <= H and plate.shape[1] <= W), None)
    if plate is None:
        raise UsageError(f"A film of {H}x{W} px is too small for a mark; leave it out with --no-mark.")
    film = stored.copy()
    height, width = plate.shape
    film[..., :height, :width] = plate * np.array(largest_level(bits), stored.dtype)
    return film


def _plate(word: str, scale: int) -> NDArray[np.bool_]:
    """The word with a border of one dot, each dot `scale` px wide; bool `[9 scale, (6 letters + 1) scale]`."""
    dots = np.zeros((9, 6 * len(word) + 1), dtype=np.bool_)
    for place, letter in enumerate(word):
        drawn = np.array([[dot == "#" for dot in row] for row in _LETTERS[letter]])
        dots[1:8, 6 * place + 1 : 6 * place + 6] = drawn
    return dots.repeat(scale, axis=0).repeat(scale, axis=1)
