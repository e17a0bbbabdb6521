from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from xraygen.config import DiffusionConfig, ScheduleConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.interpolation import (
    arc_weights,
    interpolate_paper,
    interpolate_shared_noise,
    interpolate_spherically,
    inverted_noise,
    noise_cosine,
    noise_variance,
)
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.seeds import torch_generator

DIFFUSION = GaussianDiffusion(NoiseSchedule.from_config(ScheduleConfig()), DiffusionConfig())
FRAMES = (0.0, 0.1, 0.3, 0.5, 0.9, 1.0)

each_lam = pytest.mark.parametrize("lam", FRAMES)
each_t = pytest.mark.parametrize("t", [0, 499, 999])


@pytest.fixture(scope="module")
def ddpm(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("ddpm")


def draw(purpose: str, shape: tuple[int, ...] = (1, 1, 4, 6)) -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, "test", purpose), dtype=torch.float64)


X_A, X_B = draw("a").tanh(), draw("b").tanh()
NOISE_A, NOISE_B = draw("noise a"), draw("noise b")


def paper(x_a: Tensor, x_b: Tensor, noise_a: Tensor, noise_b: Tensor, t: int, lam: float) -> Tensor:
    fraction = torch.tensor([lam], dtype=torch.float64)
    return interpolate_paper(DIFFUSION, x_a, x_b, noise_a, noise_b, torch.tensor([t]), fraction)


def shared(x_a: Tensor, x_b: Tensor, noise: Tensor, t: int, lam: float) -> Tensor:
    fraction = torch.tensor([lam], dtype=torch.float64)
    return interpolate_shared_noise(DIFFUSION, x_a, x_b, noise, torch.tensor([t]), fraction)


@each_lam
@each_t
def test_both_mixes_equal_the_reference(ddpm: ModuleType, t: int, lam: float) -> None:
    betas, ends = ddpm.linear_betas(1000, 1e-4, 0.02), (X_A.numpy(), X_B.numpy())
    slow_paper = ddpm.mix_paper(betas, ends, t, lam, (NOISE_A.numpy(), NOISE_B.numpy()))
    slow_shared = ddpm.mix_shared_noise(betas, ends, t, lam, NOISE_A.numpy())
    np.testing.assert_allclose(paper(X_A, X_B, NOISE_A, NOISE_B, t, lam).numpy(), slow_paper, atol=1e-12)
    np.testing.assert_allclose(shared(X_A, X_B, NOISE_A, t, lam).numpy(), slow_shared, atol=1e-12)


@pytest.mark.parametrize(
    ("lam", "paper_variance"), [(0.0, 1.0), (0.1, 0.82), (0.3, 0.58), (0.5, 0.50), (0.9, 0.82), (1.0, 1.0)]
)
def test_the_papers_mix_loses_noise_and_shared_noise_does_not(
    ddpm: ModuleType, lam: float, paper_variance: float
) -> None:
    shape, t = (1, 1, 200, 200), 499
    black, first, second = torch.zeros(shape).double(), draw("first", shape), draw("second", shape)
    unit = 1 - float(DIFFUSION.schedule.alphas_cumprod[t])
    measured_paper = float(paper(black, black, first, second, t, lam).var()) / unit
    measured_shared = float(shared(black, black, first, t, lam).var()) / unit
    # Four standard errors of a variance from 40,000 pixels: sqrt(2 / 40,000) each, 2.8 % together.
    assert measured_paper == pytest.approx(paper_variance, rel=0.028)
    assert measured_shared == pytest.approx(1.0, rel=0.028)
    assert ddpm.mix_noise_variance("paper", lam) == pytest.approx(paper_variance, abs=1e-12)


@pytest.mark.parametrize(
    ("lam", "x", "noise"), [(0.0, X_A, NOISE_A), (1.0, X_B, NOISE_B)], ids=["first", "last"]
)
@each_t
def test_the_ends_are_the_noised_images(t: int, lam: float, x: Tensor, noise: Tensor) -> None:
    expected = DIFFUSION.q_sample(x, torch.tensor([t]), noise)
    assert torch.equal(paper(X_A, X_B, NOISE_A, NOISE_B, t, lam), expected)
    assert torch.equal(shared(X_A, X_B, noise, t, lam), expected)


@each_lam
def test_swapping_the_ends_mirrors_the_path(lam: float) -> None:
    there = paper(X_A, X_B, NOISE_A, NOISE_B, 499, lam)
    back = paper(X_B, X_A, NOISE_B, NOISE_A, 499, 1 - lam)
    # 1 - (1 - lambda) is lambda up to a rounding.
    torch.testing.assert_close(there, back, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        shared(X_A, X_B, NOISE_A, 499, lam), shared(X_B, X_A, NOISE_A, 499, 1 - lam), rtol=0, atol=1e-14
    )


def test_each_frame_of_a_batch_has_its_own_place_and_timestep() -> None:
    lam, t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), torch.tensor([0, 499, 999])
    many = (3, 1, 4, 6)
    x_a, x_b, first, second = (image.expand(many) for image in (X_A, X_B, NOISE_A, NOISE_B))
    batch_paper = interpolate_paper(DIFFUSION, x_a, x_b, first, second, t, lam)
    batch_shared = interpolate_shared_noise(DIFFUSION, x_a, x_b, first, t, lam)
    for i in range(3):
        frame = int(t[i]), float(lam[i])
        torch.testing.assert_close(batch_paper[i : i + 1], paper(X_A, X_B, NOISE_A, NOISE_B, *frame))
        torch.testing.assert_close(batch_shared[i : i + 1], shared(X_A, X_B, NOISE_A, *frame))


@each_lam
def test_two_equal_images_under_one_noise_stay_the_same_all_the_way(lam: float) -> None:
    expected = DIFFUSION.q_sample(X_A, torch.tensor([499]), NOISE_A)
    torch.testing.assert_close(shared(X_A, X_A, NOISE_A, 499, lam), expected, rtol=0, atol=1e-14)


def arc(
    x_a: Tensor, x_b: Tensor, noise_a: Tensor, noise_b: Tensor, t: int, lam: float, cosine: float = 0
) -> Tensor:
    fraction = torch.tensor([lam], dtype=torch.float64)
    return interpolate_spherically(DIFFUSION, x_a, x_b, noise_a, noise_b, torch.tensor([t]), fraction, cosine)


@pytest.mark.parametrize("lam", [-0.5, *FRAMES, 1.5])
@each_t
def test_the_arc_mixes_images_linearly_and_noise_by_cosine_and_sine(t: int, lam: float) -> None:
    alpha_bar = float(DIFFUSION.schedule.alphas_cumprod[t])
    clean = (1 - lam) * X_A.numpy() + lam * X_B.numpy()
    noise = np.cos(np.pi * lam / 2) * NOISE_A.numpy() + np.sin(np.pi * lam / 2) * NOISE_B.numpy()
    expected = np.sqrt(alpha_bar) * clean + np.sqrt(1 - alpha_bar) * noise
    measured = arc(X_A, X_B, NOISE_A, NOISE_B, t, lam)
    np.testing.assert_allclose(measured.numpy(), expected, rtol=0, atol=1e-12)  # roundings of the schedule
    torch.testing.assert_close(
        arc(X_B, X_A, NOISE_B, NOISE_A, t, 1 - lam), measured, rtol=0, atol=1e-14
    )  # 1 - (1 - lambda) is lambda up to a rounding


@pytest.mark.parametrize("lam", [-0.5, 0.1, 0.3, 0.5, 1.5])
@pytest.mark.parametrize("cosine", [-0.6, 0.0, 0.3, 0.95])
def test_on_the_arc_the_noise_keeps_its_length_whatever_the_angle(lam: float, cosine: float) -> None:
    """Two vectors of length 1 at this angle, mixed: |w_a a + w_b b|^2 = w_a^2 + w_b^2 + 2 w_a w_b cosine."""
    first, second = (float(weight) for weight in arc_weights(torch.tensor(lam), cosine))
    # lambda comes as float32 here, and both weights from the same number
    assert first**2 + second**2 + 2 * first * second * cosine == pytest.approx(1, abs=1e-12)


@each_lam
def test_equal_noises_stay_as_they_are(lam: float) -> None:
    expected = DIFFUSION.q_sample(X_A, torch.tensor([499]), NOISE_A)
    same = arc(X_A, X_A, NOISE_A, NOISE_A, 499, lam, cosine=1.0)
    torch.testing.assert_close(same, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("lam", [0.1, 0.3, 0.5])
def test_slerping_the_whole_x_t_would_weigh_the_images_by_more_than_one(lam: float) -> None:
    """Why only the noise goes along the arc: on equal images the whole arc raises contrast by cos + sin."""
    x = torch.full((1, 1, 200, 200), 0.5, dtype=torch.float64)
    first, second = draw("first", x.shape), draw("second", x.shape)
    t = 125
    alpha = float(DIFFUSION.schedule.alphas_cumprod[t]) ** 0.5
    ends = [DIFFUSION.q_sample(x, torch.tensor([t]), noise) for noise in (first, second)]
    cosine = float(noise_cosine(*ends)[0])
    whole_a, whole_b = (
        float(weight) for weight in arc_weights(torch.tensor(lam, dtype=torch.float64), cosine)
    )
    ours = arc(x, x, first, second, t, lam)
    # Four standard errors of a mean and of a variance from 40,000 pixels.
    assert float(ours.mean()) / alpha == pytest.approx(0.5, abs=4 / 200 / alpha)
    assert float(ours.var()) / (1 - alpha**2) == pytest.approx(1, rel=0.028)
    whole = whole_a * ends[0] + whole_b * ends[1]
    assert whole_a + whole_b > 1.02
    assert float(whole.var()) / (1 - alpha**2) < 0.95


def test_the_variance_of_the_noise_is_measured_about_the_clean_image() -> None:
    t = torch.tensor([499, 125])
    x, noise = X_A.expand(2, -1, -1, -1), torch.cat([NOISE_A, 2 * NOISE_B])
    x_t = DIFFUSION.q_sample(x, t, noise)
    expected = noise.square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(noise_variance(DIFFUSION, x_t, x, t), expected, rtol=1e-12, atol=0)


def test_the_cosine_of_two_noises_is_numpys() -> None:
    a, b = NOISE_A.numpy().ravel(), NOISE_B.numpy().ravel()
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert float(noise_cosine(NOISE_A, NOISE_B)[0]) == pytest.approx(expected, abs=1e-15)
    assert float(noise_cosine(NOISE_A, 3 * NOISE_A)[0]) == pytest.approx(1, abs=1e-15)


def test_inverted_noise_leads_back_to_its_image() -> None:
    """By hand for one step and a network that always says the same noise: x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps."""
    always = draw("said")
    short = GaussianDiffusion(DIFFUSION.schedule.respace(4), DiffusionConfig(variance_type="fixed_small"))
    noise = inverted_noise(lambda x_t, t: always, short, X_A, stop=3)
    torch.testing.assert_close(noise, always, rtol=0, atol=1e-12)
