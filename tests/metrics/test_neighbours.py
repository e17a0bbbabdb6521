import numpy as np
import pytest

from xraygen.errors import ShapeError
from xraygen.metrics import neighbours
from xraygen.metrics.neighbours import nearest


@pytest.mark.parametrize("rows_at_once", [7, 10_000])
def test_it_agrees_with_one_loop_per_pair(monkeypatch: pytest.MonkeyPatch, rows_at_once: int) -> None:
    monkeypatch.setattr(neighbours, "_ROWS_AT_ONCE", rows_at_once)
    rng = np.random.default_rng(0)
    query, reference = (rng.standard_normal((count, 5)).astype(np.float32) + 30 for count in (20, 33))
    all_distances = np.array([[np.linalg.norm(q.astype(float) - r) for r in reference] for q in query])
    distance, index = nearest(query, reference)
    assert np.array_equal(index, all_distances.argmin(axis=1))
    assert np.allclose(distance, all_distances.min(axis=1), rtol=1e-12)


def test_a_copy_is_at_distance_0_exactly() -> None:
    reference = np.random.default_rng(0).standard_normal((50, 400)).astype(np.float32) + 100
    distance, index = nearest(reference[[17, 3]], reference)
    assert distance.tolist() == [0, 0]
    assert index.tolist() == [17, 3]


@pytest.mark.parametrize(("query", "reference"), [((2, 3), (4, 5)), ((2, 3), (0, 3)), ((3,), (2, 3))])
def test_features_that_do_not_fit_are_refused(query: tuple[int, ...], reference: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError):
        nearest(np.zeros(query), np.zeros(reference))
