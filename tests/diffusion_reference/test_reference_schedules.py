"""tests/reference/schedules.py is right: known points, ratios and ends of every schedule."""

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

Load = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def schedules(reference: Load) -> ModuleType:
    return reference("schedules")


@pytest.fixture(scope="module")
def ddpm(reference: Load) -> ModuleType:
    return reference("ddpm")


def test_sigmoid_starts_clean_is_even_about_the_middle_and_ends_at_its_floor(schedules: ModuleType) -> None:
    assert schedules.sigmoid_gamma(0.0) == 1
    assert schedules.sigmoid_gamma(0.5) == pytest.approx(0.5, abs=1e-15)  # rounding only
    assert schedules.sigmoid_gamma(0.2) + schedules.sigmoid_gamma(0.8) == pytest.approx(1, abs=1e-15)
    assert schedules.sigmoid_gamma(1.0) == 1e-9


def test_only_the_last_beta_of_the_sigmoid_schedule_is_capped(
    schedules: ModuleType, ddpm: ModuleType
) -> None:
    betas = schedules.sigmoid_betas(1000)
    assert betas[-1] == 0.999
    assert betas[:-1].max() < 0.999
    gammas = [schedules.sigmoid_gamma((t + 1) / 1000) for t in range(999)]
    # 1e-12: a thousand roundings of the running product.
    np.testing.assert_allclose(ddpm.alphas_cumprod(betas)[:-1], gammas, rtol=1e-12)


def test_cosine_betas_come_back_from_their_abars(schedules: ModuleType, ddpm: ModuleType) -> None:
    betas = ddpm.cosine_betas(50)
    np.testing.assert_allclose(schedules.betas_from_abars(ddpm.alphas_cumprod(betas)), betas, rtol=1e-10)


def test_resolution_shift_scales_the_snr_by_the_square_of_the_sizes(
    schedules: ModuleType, ddpm: ModuleType
) -> None:
    abars = ddpm.alphas_cumprod(ddpm.linear_betas(1000, 1e-4, 0.02))
    shifted = schedules.resolution_shift(abars, 256, 64)
    # 1e-10: 1 - abar is 1e-4 at the first index, known to twelve digits.
    np.testing.assert_allclose(shifted / (1 - shifted), abars / (1 - abars) / 16, rtol=1e-10)


def test_zero_terminal_snr_keeps_the_first_abar_and_ends_at_none(
    schedules: ModuleType, ddpm: ModuleType
) -> None:
    betas = ddpm.linear_betas(1000, 1e-4, 0.02)
    rescaled = schedules.zero_terminal_snr(betas)
    assert rescaled[0] == pytest.approx(1e-4, rel=1e-10)
    assert rescaled[-1] == 1
    roots, old = np.sqrt(ddpm.alphas_cumprod(rescaled)), np.sqrt(ddpm.alphas_cumprod(betas))
    assert roots[-1] == 0
    # Affine in sqrt(abar): differences keep their proportions; the last roots are small differences, hence 1e-9.
    np.testing.assert_allclose(np.diff(roots) / np.diff(old), roots[0] / (old[0] - old[-1]), rtol=1e-9)


def test_edm_sigmas_rise_evenly_in_their_seventh_root(schedules: ModuleType) -> None:
    sigmas = schedules.edm_sigmas(18)
    assert sigmas[0] == pytest.approx(0.002, rel=1e-13)
    assert sigmas[-1] == pytest.approx(80, rel=1e-13)
    assert np.ptp(np.diff(sigmas ** (1 / 7))) < 1e-14


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_variance_preserving_form_has_the_same_snr(schedules: ModuleType, sigma: float) -> None:
    alpha, scale = schedules.variance_preserving(sigma)
    (abar,) = schedules.edm_abars(np.array([sigma]))
    assert alpha**2 + scale**2 == pytest.approx(1, abs=1e-15)
    assert abar == pytest.approx(alpha**2, rel=1e-14)
    assert schedules.edm_sigma_of(abar) == pytest.approx(sigma, rel=1e-9)  # 1 - abar cancels at 4e-6
    assert schedules.half_log_snr(alpha, scale) == pytest.approx(-np.log(sigma), abs=1e-13)
    assert schedules.log_snr(abar) == pytest.approx(-2 * np.log(sigma), abs=1e-9)
