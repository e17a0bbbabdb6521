import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from xraygen.errors import ShapeError
from xraygen.metrics.pixels import (
    FilmStatistics,
    film_statistics,
    intensity_distance,
    mean_power,
    spectrum_distance,
)


def stored(unit: NDArray[np.float64]) -> NDArray[np.uint16]:
    return np.asarray(np.rint(unit.clip(0, 1) * 65535), dtype=np.uint16)


def of(unit: NDArray[np.float64]) -> FilmStatistics:
    return film_statistics(stored(unit), 16)


def test_power_of_a_wave_lies_at_its_frequency() -> None:
    x = np.arange(64) / 64
    wave = (0.5 + 0.25 * np.sin(2 * np.pi * 8 * x))[None].repeat(64, 0)
    found = of(wave[None])
    assert found.frequency[found.power[0].argmax()] == pytest.approx(8 / 64, abs=1 / 64)


def test_white_noise_has_a_flat_spectrum() -> None:
    power = mean_power(of(np.random.default_rng(0).random((40, 32, 48))).power)
    assert power[2:].max() / power[2:].min() < 1.5


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_greys_are_those_of_a_histogram_of_light(bits: int) -> None:
    films = np.random.default_rng(bits).integers(0, 2**bits, (40, 9, 11))  # more than are looked at in one go
    films[0].flat[:2] = 0, 2**bits - 1
    found = film_statistics(films.astype(np.uint8) if bits == 8 else films.astype(np.uint16), bits).greys
    expected = [np.histogram(film / (2**bits - 1), 256, (0, 1))[0] / film.size for film in films]
    assert found == pytest.approx(np.array(expected), abs=1e-12)


def test_power_agrees_with_a_loop_over_frequencies() -> None:
    film = stored(np.random.default_rng(1).random((12, 16)))
    unit = film / 65535
    spectrum = np.fft.fft2((unit - unit.mean()) * np.hanning(12)[:, None] * np.hanning(16))
    rings: dict[int, list[float]] = {}
    for i, v in enumerate(np.fft.fftfreq(12)):
        for j, u in enumerate(np.fft.fftfreq(16)[:9]):  # the other half mirrors these
            radius = float(np.hypot(v, -u if j == 8 else u))
            if 0 < radius < 0.5:
                rings.setdefault(int(radius * 12), []).append(abs(spectrum[i, j]) ** 2 / film.size)
    found = film_statistics(film[None], 16)
    expected = [np.mean(rings[ring]) for ring in sorted(rings)]
    assert found.power[0] == pytest.approx(expected, rel=1e-6)  # values of films are float32


def test_the_intensity_distance_is_wasserstein_1() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.random((6, 20, 20)), rng.random((5, 20, 20)) ** 1.6
    found = intensity_distance(of(a).greys, of(b).greys)
    # A bin is 1/256 wide, and half a bin is the most that binning moves a pixel.
    assert found == pytest.approx(wasserstein_distance(a.ravel(), b.ravel()), abs=1 / 512)


def test_brighter_by_a_tenth_is_a_tenth_away() -> None:
    film = np.random.default_rng(3).random((4, 16, 16)) * 0.8
    assert intensity_distance(of(film).greys, of(film + 0.1).greys) == pytest.approx(0.1, abs=1 / 256)


def test_twice_the_contrast_is_6_decibels() -> None:
    film = 0.25 * np.random.default_rng(4).random((4, 24, 24))
    found = spectrum_distance(of(2 * film).power, of(film).power)
    assert found == pytest.approx(10 * np.log10(4), abs=1e-3)  # 16-bit rounding


@pytest.mark.parametrize("distance", ["greys", "power"])
def test_a_set_is_at_distance_0_from_itself(distance: str) -> None:
    films = of(np.random.default_rng(5).random((4, 24, 24)))
    function = intensity_distance if distance == "greys" else spectrum_distance
    assert function(getattr(films, distance), getattr(films, distance)) == 0


def test_flat_films_have_a_spectrum_that_can_be_compared() -> None:
    flat = of(np.full((2, 16, 16), 0.5))
    assert np.isfinite(spectrum_distance(flat.power, of(np.random.default_rng(0).random((2, 16, 16))).power))


def test_what_is_no_set_of_films_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(N, H, W\)"):
        film_statistics(np.zeros((16, 16), np.uint16), 16)
