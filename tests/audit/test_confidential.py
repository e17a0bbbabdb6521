"""The pairs of films that report-confidential.html shows."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xraygen.audit import confidential
from xraygen.audit.confidential import nearest_pairs
from xraygen.audit.privacy import Neighbours, held_against
from xraygen.audit.render import page_templates
from xraygen.audit.sets import ImageSet
from xraygen.dataset.store import open_dataset

Textures = Callable[..., NDArray[np.uint16]]
FILMS = 40


@pytest.fixture
def pairs_of(real: Path, textures: Textures) -> Callable[..., list[dict[str, Any]]]:
    """`pairs_of(a, b)`: pairs of 40 films; those below a are suspects in one space, those from b in another."""
    dataset = open_dataset(real)
    names = tuple(f"images/{row}.png" for row in range(FILMS))
    films = ImageSet("synthetic", textures(FILMS, seed=3), names, 16)

    def space(name: str, suspects: NDArray[np.bool_]) -> Neighbours:
        distance = np.where(suspects, 0.1, 2.0) + 1e-3 * np.arange(FILMS)
        null = np.linspace(1, 3, 20)
        return held_against(name, name, (distance, np.arange(FILMS)), (null, np.arange(20)), spaces=2)

    def make(below: int, start: int = FILMS) -> list[dict[str, Any]]:
        rows = np.arange(FILMS)
        spaces = (space("first", rows < below), space("second", rows >= start))
        return nearest_pairs(films, dataset, dataset.indices("train"), spaces)

    return make


def rows_of(pairs: list[dict[str, Any]], *, suspect: bool) -> list[int]:
    return [int(Path(pair["file_name"]).stem) for pair in pairs if pair["suspect"] is suspect]


def test_every_suspect_is_shown(pairs_of: Callable[..., list[dict[str, Any]]]) -> None:
    pairs = pairs_of(30)
    assert rows_of(pairs, suspect=True) == list(range(30))
    assert rows_of(pairs, suspect=False) == []  # 24 fill the page where there are fewer
    both = pairs_of(26, 36)
    assert rows_of(both, suspect=True) == [*range(26), *range(36, 40)]
    assert [pair["space"] for pair in both] == ["first"] * 26 + ["second"] * 4


def test_few_suspects_are_filled_up_with_the_nearest_films(
    pairs_of: Callable[..., list[dict[str, Any]]],
) -> None:
    pairs = pairs_of(2, 38)
    assert rows_of(pairs, suspect=True) == [0, 1, 38, 39]
    assert rows_of(pairs, suspect=False) == list(range(2, 22))


@pytest.mark.parametrize(
    ("most", "words"),
    [
        (1000, "All suspects are shown: 30."),
        (25, "25 of 30 suspects are shown; <code>report-confidential.json"),
    ],
)
def test_a_page_says_how_many_suspects_it_shows(
    pairs_of: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, most: int, words: str
) -> None:
    monkeypatch.setattr(confidential, "MOST_PAIRS", most)
    report = {
        "synthetic": {"name": "set", "note": ""},
        "privacy": {"definition": "", "gate": {"suspects": 30}},
    }
    page = page_templates().get_template("confidential.html.j2").render(report=report, pairs=pairs_of(30))
    assert words in " ".join(page.split())


def test_further_pairs_are_small(
    pairs_of: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confidential, "LARGE_PAIRS", 2)
    sides = [Image.open(io.BytesIO(pair["train_png"])).width for pair in pairs_of(3)]
    assert sides[:3] == [256, 256, 128]
