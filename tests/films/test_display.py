"""Stored values become light as the standard says."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from xraygen.errors import ShapeError
from xraygen.films.display import (
    CLIP_TOLERANCE,
    Display,
    Intensity,
    LookUpTable,
    Rescale,
    Window,
    is_inverted,
    padding_mask,
    robust_window,
    window_between,
)
from xraygen.seeds import numpy_generator

FLOAT32_STEP = 6e-8  # light is float64 arithmetic, rounded once to float32 in [0, 1]
RAMP_12_BIT = np.arange(4096, dtype=np.uint16).reshape(64, 64)
SIGNED_RAMP = np.arange(-2048, 2048, dtype=np.int16).reshape(64, 64)


@pytest.fixture(scope="module")
def voi(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("voi")


def display(voi: Window | LookUpTable, **changes: object) -> Display:
    settings: dict[str, Any] = {
        "modality": Rescale(),
        "levels": (0, 4095),
        **changes,
    }
    return Display(voi=voi, voi_kind="linear", **settings)


WINDOWS = [(2048, 4096), (2047.5, 4095), (1000, 1), (300.25, 2), (-50, 700), (5000, 300), (40.5, 100000)]


@pytest.mark.parametrize(("center", "width"), WINDOWS)
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_each_window_function_is_the_standards(
    voi: ModuleType, function: str, center: float, width: float
) -> None:
    shown = display(Window(center, width, function)).apply(RAMP_12_BIT)  # type: ignore[arg-type]  # parametrized
    expected = voi.each(lambda x: getattr(voi, function.lower())(x, center, width), RAMP_12_BIT)
    np.testing.assert_allclose(shown, expected, rtol=0, atol=FLOAT32_STEP)
    assert shown.dtype == np.float32


@pytest.mark.parametrize("slope, intercept", [(1.0, 0.0), (2.5, -1000.0), (-0.1, 300.0)])
def test_rescale_comes_before_the_window(voi: ModuleType, slope: float, intercept: float) -> None:
    shown = display(Window(120, 350.5), modality=Rescale(slope, intercept)).apply(RAMP_12_BIT)
    expected = voi.each(lambda x: voi.linear(voi.rescale(x, slope, intercept), 120, 350.5), RAMP_12_BIT)
    np.testing.assert_allclose(shown, expected, rtol=0, atol=FLOAT32_STEP)


@pytest.mark.parametrize("first", [0, 1000, -7])
def test_voi_lut_holds_its_ends_and_divides_by_its_bits(voi: ModuleType, first: int) -> None:
    entries = numpy_generator(0, "lut").integers(0, 1024, 500)
    table = LookUpTable(first, entries.astype(np.float64), 10)
    expected = voi.each(lambda x: voi.look_up(x, first, entries.tolist()) / 1023, RAMP_12_BIT)
    np.testing.assert_allclose(display(table).apply(RAMP_12_BIT), expected, rtol=0, atol=FLOAT32_STEP)


def test_modality_lut_feeds_the_window(voi: ModuleType) -> None:
    entries = numpy_generator(1, "lut").integers(0, 65536, 4096)
    chain = display(Window(30000, 20000), modality=LookUpTable(0, entries.astype(np.float64), 16))
    expected = voi.each(lambda x: voi.linear(voi.look_up(x, 0, entries.tolist()), 30000, 20000), RAMP_12_BIT)
    np.testing.assert_allclose(chain.apply(RAMP_12_BIT), expected, rtol=0, atol=FLOAT32_STEP)


def test_signed_values_are_shown_below_zero(voi: ModuleType) -> None:
    shown = display(Window(-100, 1500), levels=(-2048, 2047)).apply(SIGNED_RAMP)
    expected = voi.each(lambda x: voi.linear(x, -100, 1500), SIGNED_RAMP)
    np.testing.assert_allclose(shown, expected, rtol=0, atol=FLOAT32_STEP)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("ramp", [RAMP_12_BIT, SIGNED_RAMP], ids=["unsigned", "signed"])
def test_table_and_direct_arithmetic_agree_to_the_bit(ramp: np.ndarray, inverted: bool) -> None:
    levels = (int(ramp.min()), int(ramp.max()))
    chain = display(Window(300, 2000, "SIGMOID"), levels=levels, inverted=inverted, padding=(5, 9))
    np.testing.assert_array_equal(chain.apply(ramp), chain.apply(ramp.astype(np.float64)))


@pytest.mark.parametrize(
    ("photometric", "shape", "expected"),
    [
        ("MONOCHROME1", "", True),
        ("MONOCHROME2", "", False),
        ("MONOCHROME1", "INVERSE", True),  # both ask for it: once, not twice
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "IDENTITY", False),
    ],
)
def test_a_film_is_inverted_at_most_once(photometric: str, shape: str, expected: bool) -> None:
    assert is_inverted(photometric, shape) is expected


def test_inversion_turns_light_over() -> None:
    upright, inverted = (
        display(Window(2000, 1000), inverted=turn).apply(RAMP_12_BIT) for turn in (False, True)
    )
    np.testing.assert_allclose(inverted, 1 - upright, atol=FLOAT32_STEP)


@pytest.mark.parametrize("rising", [True, False])
def test_intensity_becomes_its_logarithm_and_no_intensity_that_of_one_level(
    voi: ModuleType, rising: bool
) -> None:
    shown = Intensity(rising, (0, 4095))(RAMP_12_BIT.astype(np.float64))
    expected = voi.each(lambda x: voi.attenuation(x, "LIN", 1 if rising else -1, 12), RAMP_12_BIT)
    np.testing.assert_allclose(shown, expected, rtol=0, atol=1e-14)  # a rounding of numbers up to 8.3
    order = shown.ravel() if rising else shown.ravel()[::-1]
    assert order[0] == order[1] == order.max()
    assert order[-1] == 0


@pytest.mark.parametrize("inverted", [False, True])
def test_padding_is_black_even_where_the_film_is_inverted(inverted: bool) -> None:
    shown = display(Window(2000, 1000), inverted=inverted, padding=(4000, 4095)).apply(RAMP_12_BIT)
    unpadded = display(Window(2000, 1000), inverted=inverted).apply(RAMP_12_BIT)
    mask = padding_mask(RAMP_12_BIT, (4000, 4095))
    assert mask.sum() == 96
    assert not shown[mask].any()
    np.testing.assert_array_equal(shown[~mask], unpadded[~mask])


@pytest.mark.parametrize("shape", [(50, 40), (7, 3), (1, 1)])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_robust_window_lies_between_the_percentiles(
    voi: ModuleType, shape: tuple[int, int], dtype: type
) -> None:
    values = numpy_generator(2, "percentiles").normal(0, 300, shape).clip(-3000, 3000)
    values = (values + (3000 if dtype is np.uint16 else 0)).astype(dtype)
    modality = Rescale(-2.0, 5.0)
    window = robust_window(values, modality)
    modified = voi.each(lambda x: voi.rescale(x, -2.0, 5.0), values)
    low, high = voi.percentile(modified, 0.5), voi.percentile(modified, 99.5)
    assert window.center == pytest.approx((low + high) / 2)
    assert window.width == pytest.approx(high - low if high > low else 1)


def test_robust_window_of_a_nearly_flat_film_spans_all_of_it() -> None:
    values = np.zeros((100, 100), dtype=np.uint16)
    values[0, 0] = 9
    assert robust_window(values, Rescale()) == window_between(0, 9)


def test_a_flat_film_is_shown_without_a_warning() -> None:
    values = np.full((4, 4), 77, dtype=np.uint16)
    assert np.isfinite(display(robust_window(values, Rescale())).apply(values)).all()


LUT = LookUpTable(0, np.arange(4096.0), 12)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (display(Window(2048, 4096)), True),
        (display(Window(2048, 4096), inverted=True, modality=Rescale(-1, 4095)), True),
        (display(window_between(0, 4095)), True),
        (display(window_between(10, 4090)), True),
        (display(Window(300, 256)), True),
        (
            display(Window(300, 255)),
            False,
        ),  # 254 levels from black to white: an end rounded is too much light
        (display(Window(300, 100, "LINEAR_EXACT"), modality=Rescale(0.1)), True),
        (display(Window(0.5, 1, "LINEAR_EXACT"), levels=None), True),
        (display(Window(2048, 4096), padding=(0, 0)), True),
        (display(Window(2048, 4096), padding=(0, 0), inverted=True), True),
        (display(window_between(-10, 4095), padding=(0, 0)), False),  # no stored value is black
        (display(window_between(0, 5000), padding=(0, 0), inverted=True), False),
        (display(Window(2048, 4096, "SIGMOID")), False),
        (display(Window(2048, 1)), False),
        (display(LUT), False),
        (display(Window(2048, 4096), modality=LUT), False),
        (display(Window(4, 9), modality=Intensity(True, (0, 4095))), False),
    ],
)
def test_only_a_straight_line_commutes_with_an_area_mean(chain: Display, expected: bool) -> None:
    assert chain.commutes is expected


COMMUTING: dict[str, tuple[Display, Any, float]] = {
    "all": (display(Window(2048, 4096)), RAMP_12_BIT, 0.0),
    "whole ends": (display(window_between(1000, 2000)), RAMP_12_BIT, 0.0),
    "ends between levels": (display(Window(1000.3, 300.5, "LINEAR_EXACT")), RAMP_12_BIT, CLIP_TOLERANCE),
    "outside": (display(Window(-900, 800)), RAMP_12_BIT, 0.0),
    "beyond": (display(Window(9000, 800), inverted=True), RAMP_12_BIT, 0.0),
    "falling": (display(Window(0, 500.7), modality=Rescale(-0.7, 1200)), RAMP_12_BIT, CLIP_TOLERANCE),
    "signed": (display(Window(-300, 902), levels=(-2048, 2047), inverted=True), SIGNED_RAMP, 0.0),
    "padded": (display(Window(1000, 802), padding=(3000, 3100)), RAMP_12_BIT, 0.0),
    "padded, inverted": (display(Window(1000, 802), padding=(0, 20), inverted=True), RAMP_12_BIT, 0.0),
    "floats": (display(Window(1000.3, 7, "LINEAR_EXACT"), levels=None), RAMP_12_BIT / 2 + 0.1, 0.0),
}


@pytest.mark.parametrize("name", list(COMMUTING))
def test_a_mean_of_bounded_values_is_shown_as_the_mean_of_the_light(name: str) -> None:
    chain, ramp, tolerance = COMMUTING[name]
    assert chain.commutes
    values = numpy_generator(0, "blocks", name).permutation(ramp.ravel()).reshape(64, 64)
    before = values.copy()
    means = chain.bounded(values).mean(axis=1, keepdims=True)  # in float64
    error = np.abs(chain.without_padding().apply(means)[:, 0] - chain.apply(values).mean(axis=1, dtype=float))
    assert error.max() <= tolerance + FLOAT32_STEP
    np.testing.assert_array_equal(values, before)
    assert chain.bounded(values).dtype == values.dtype


def test_the_mean_of_what_no_window_has_cut_would_be_wrong() -> None:
    chain = display(window_between(1000, 2000))
    values = np.array([[0, 1500]], dtype=np.uint16)  # their light is 0 and 0.5, their mean's is 0
    assert chain.apply(values.mean(axis=1, keepdims=True))[0, 0] == 0
    assert chain.apply(chain.bounded(values).mean(axis=1, keepdims=True))[0, 0] == pytest.approx(0.25)


def test_values_outside_the_films_bits_are_the_callers_mistake() -> None:
    with pytest.raises(ShapeError, match="range of the film's bits"):
        display(Window(2048, 4096)).apply(np.full((2, 2), 5000, dtype=np.uint16))
