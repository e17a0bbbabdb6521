from dataclasses import replace

import numpy as np
import pytest

from xraygen.audit.gallery import films_to_show, named_films
from xraygen.audit.privacy import find_neighbours
from xraygen.audit.sets import ImageSet
from xraygen.errors import ShapeError
from xraygen.metrics.manifold import realism


@pytest.fixture
def films() -> ImageSet:
    return ImageSet("set", np.zeros((40, 8, 8), np.uint16), tuple(f"{row}.png" for row in range(40)), 16)


def spaces_of(suspect: int) -> list:
    rng = np.random.default_rng(0)
    train, test, synthetic = (rng.standard_normal((count, 4)) for count in (50, 99, 40))
    synthetic[suspect] = train[3]
    return [find_neighbours("s", "S", synthetic=synthetic, train=train, test=test)]


def test_the_best_and_the_worst_are_shown_and_no_suspect(films: ImageSet) -> None:
    spaces = spaces_of(39)
    suspects = set(spaces[0].suspects.tolist())
    shown = films_to_show(films, np.arange(40.0), spaces, seed=0)
    harmless = [row for row in range(40) if row not in suspects]
    assert 39 in suspects
    assert shown["best"].tolist() == harmless[::-1][:6]
    assert shown["worst"].tolist() == harmless[:6]
    assert len(shown["random"]) == 24
    assert suspects.isdisjoint(shown["random"].tolist())
    assert (
        shown["random"].tolist() != films_to_show(films, np.arange(40.0), spaces, seed=1)["random"].tolist()
    )
    named = named_films(shown, films, np.append(np.arange(39.0), np.inf))
    assert named["best"][0] == {"file_name": f"{harmless[-1]}.png", "realism": float(harmless[-1])}


def test_of_a_dataset_none_is_shown(films: ImageSet) -> None:
    shown = films_to_show(replace(films, of_patients=True), np.arange(40.0), spaces_of(39), seed=0)
    assert {kind: len(rows) for kind, rows in shown.items()} == {"random": 0, "best": 0, "worst": 0}


def test_realism_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((31, 3)), rng.standard_normal((17, 3)) * 2
    y[4] = x[0]
    gaps = np.sort(np.linalg.norm(x[:, None] - x[None], axis=2), axis=1)[:, 3]  # 0 is the film itself
    kept = gaps <= np.median(gaps)
    with np.errstate(divide="ignore"):
        expected = (gaps[kept, None] / np.linalg.norm(x[kept, None] - y[None], axis=2)).max(axis=0)
    found = realism(x, y)
    finite = np.isfinite(expected)
    assert found[finite] == pytest.approx(expected[finite], rel=1e-6)  # differences of squares in float64
    assert (found[~finite] > 1e6).all()
    with pytest.raises(ShapeError, match=r"features \(N, F\) and \(M, F\)"):
        realism(x, y[:, :2])
