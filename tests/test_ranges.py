import numpy as np
import pytest
import torch

from xraygen.ranges import (
    largest_level,
    model_to_stored,
    model_to_unit,
    stored_to_model,
    stored_to_unit,
    unit_to_stored,
)

each_depth = pytest.mark.parametrize(
    ("bits", "dtype"), [(8, np.uint8), (10, np.uint16), (12, np.uint16), (16, np.uint16)]
)


def levels(bits: int, dtype: type) -> np.ndarray:
    return np.arange(2**bits, dtype=np.int64).astype(dtype)


@each_depth
def test_every_level_comes_back_from_the_unit_range(bits: int, dtype: type) -> None:
    stored = levels(bits, dtype)
    back = unit_to_stored(stored_to_unit(stored, bits), bits)
    assert back.dtype == dtype
    assert np.array_equal(back, stored)


@each_depth
def test_every_level_comes_back_from_the_model_range(bits: int, dtype: type) -> None:
    stored = levels(bits, dtype)
    back = model_to_stored(stored_to_model(stored, bits), bits)
    assert back.dtype == dtype
    assert np.array_equal(back, stored)


@each_depth
def test_black_and_white_are_the_ends_of_every_range(bits: int, dtype: type) -> None:
    ends: np.ndarray = np.array([0, 2**bits - 1], dtype=dtype)
    assert largest_level(bits) == 2**bits - 1
    assert stored_to_unit(ends, bits).tolist() == [0.0, 1.0]
    assert stored_to_model(ends, bits).tolist() == [-1.0, 1.0]
    assert model_to_unit(torch.tensor([-1.0, 1.0])).tolist() == [0.0, 1.0]


def test_the_model_range_is_the_papers() -> None:
    stored = levels(8, np.uint8)
    # Ho et al. 2020, sec. 3.3: x / 127.5 - 1; float32 below 2.
    expected = stored.astype(np.float64) / 127.5 - 1
    np.testing.assert_allclose(stored_to_model(stored, 8).numpy(), expected, rtol=0, atol=1.2e-7)


@each_depth
def test_levels_stay_evenly_spaced_in_the_model_range(bits: int, dtype: type) -> None:
    steps = np.diff(stored_to_model(levels(bits, dtype), bits).double().numpy())
    # Two roundings of numbers below 1 (6e-8), doubled.
    np.testing.assert_allclose(steps, 2 / (2**bits - 1), rtol=0, atol=2.5e-7)


def test_what_lies_outside_is_clipped() -> None:
    assert unit_to_stored(np.array([-0.1, 1.1, np.inf, -np.inf]), 12).tolist() == [0, 4095, 4095, 0]
    assert model_to_stored(torch.tensor([-7.0, 7.0]), 16).tolist() == [0, 65535]
    assert model_to_unit(torch.tensor([-7.0, 7.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("unit", "level"), [(0.4 / 255, 0), (0.6 / 255, 1), (127.4 / 255, 127), (127.6 / 255, 128)]
)
def test_the_nearest_level_is_taken(unit: float, level: int) -> None:
    assert int(unit_to_stored(np.array([unit]), 8)[0]) == level


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 1, 4, 5)])
def test_shapes_and_float32_are_kept(shape: tuple[int, ...]) -> None:
    stored = np.zeros(shape, dtype=np.uint16)
    assert stored_to_unit(stored, 16).dtype == np.float32
    assert stored_to_model(stored, 16).dtype == torch.float32
    assert stored_to_model(stored, 16).shape == shape


def test_a_read_only_memory_map_is_left_alone() -> None:
    stored = levels(8, np.uint8)
    stored.setflags(write=False)
    stored_to_model(stored, 8).add_(1)
    assert np.array_equal(stored, np.arange(256))


def test_a_prediction_with_gradient_and_half_precision_can_be_stored() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.bfloat16, requires_grad=True)
    assert model_to_stored(x, 16).tolist() == [0, 32768, 65535]
