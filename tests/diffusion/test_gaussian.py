from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xraygen.config import DiffusionConfig, ScheduleConfig
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import ShapeError, UsageError
from xraygen.seeds import torch_generator

PREDICTIONS = ("epsilon", "sample", "v_prediction")
VARIANCES = ("fixed_small", "fixed_large")
SHAPE = (2, 1, 3, 5)

each_t = pytest.mark.parametrize("t", [0, 1, 2, 249, 500, 998, 999])
each_kind = pytest.mark.parametrize("kind", ["linear", "cosine"])
each_dtype = pytest.mark.parametrize(
    ("dtype", "suffix"), [(torch.float64, ""), (torch.float32, "-float32")], ids=["float64", "float32"]
)


@pytest.fixture(scope="module")
def ddpm(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("ddpm")


def diffusion_of(kind: str = "linear", **settings: object) -> GaussianDiffusion:
    schedule = NoiseSchedule.from_config(ScheduleConfig.model_validate({"kind": kind}))
    return GaussianDiffusion(schedule, DiffusionConfig.model_validate(settings))


def slow_betas(ddpm: ModuleType, kind: str = "linear") -> np.ndarray:
    return np.asarray(ddpm.cosine_betas(1000) if kind == "cosine" else ddpm.linear_betas(1000, 1e-4, 0.02))


def draw(purpose: str, dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch_generator(0, "test", purpose), dtype=torch.float64).to(dtype)


def images(purpose: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return draw(purpose, dtype).tanh()


def at(t: int) -> Tensor:
    return torch.full((SHAPE[0],), t)


def assert_close(actual: Tensor, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=0, atol=tolerance)


@each_t
@each_kind
@each_dtype
def test_q_sample_equals_the_reference(
    ddpm: ModuleType, numerics: Any, kind: str, t: int, dtype: torch.dtype, suffix: str
) -> None:
    x, noise = images("x", dtype), draw("noise", dtype)
    x_t = diffusion_of(kind).q_sample(x, at(t), noise)
    assert x_t.dtype == dtype
    expected = ddpm.q_sample(slow_betas(ddpm, kind), x.double().numpy(), t, noise.double().numpy())
    numerics.check(f"q-sample{suffix}", x_t, expected)


@each_t
@each_kind
@each_dtype
def test_the_posterior_equals_the_reference(
    ddpm: ModuleType, numerics: Any, kind: str, t: int, dtype: torch.dtype, suffix: str
) -> None:
    x, x_t, betas = images("x", dtype), draw("x_t", dtype), slow_betas(ddpm, kind)
    mean, variance = diffusion_of(kind).q_posterior_mean_variance(x, x_t, at(t))
    assert mean.dtype == dtype
    expected = ddpm.posterior_mean(betas, x.double().numpy(), x_t.double().numpy(), t)
    numerics.check(f"posterior{suffix}", mean, expected)
    assert variance.shape == (SHAPE[0], 1, 1, 1)
    # Float64 whatever the images are.
    assert_close(variance.flatten()[:1], np.array([ddpm.posterior_variance(betas, t)]), 1e-12)


@pytest.mark.parametrize("t", [1, 2, 249, 500, 998, 999])
@each_kind
def test_the_posterior_is_what_bayes_says_of_one_pixel(ddpm: ModuleType, kind: str, t: int) -> None:
    x_start, x_t = 0.3, -0.8
    expected_mean, expected_variance = ddpm.posterior_by_bayes(slow_betas(ddpm, kind), x_start, x_t, t)
    pixel = torch.full((1, 1, 1, 1), x_start, dtype=torch.float64)
    mean, variance = diffusion_of(kind).q_posterior_mean_variance(
        pixel, torch.full_like(pixel, x_t), torch.tensor([t])
    )
    # 1 - abar cancels up to four digits of sixteen in the precisions.
    assert float(mean) == pytest.approx(expected_mean, abs=1e-11)
    assert float(variance) == pytest.approx(expected_variance, rel=1e-10)


def test_the_posterior_of_the_first_step_is_the_image_itself() -> None:
    x = images("x")
    mean, variance = diffusion_of().q_posterior_mean_variance(x, draw("x_t"), at(0))
    assert_close(mean, x.numpy(), 1e-12)
    assert (variance == 0).all()


def test_noise_in_one_go_is_noise_step_by_step(ddpm: ModuleType) -> None:
    # Eq. 2 applied 400 times to 20,000 pixels of 0.7 must have eq. 4's mean and variance.
    count, t = 20_000, 399
    rng, betas = np.random.default_rng(0), slow_betas(ddpm)
    x_t = ddpm.q_sample_by_steps(betas, np.full(count, 0.7), t, lambda: rng.standard_normal(count))
    one, zero = torch.ones(1, 1, 1, 1).double(), torch.zeros(1, 1, 1, 1).double()
    signal = diffusion_of().q_sample(one, torch.tensor([t]), zero)
    noise = diffusion_of().q_sample(zero, torch.tensor([t]), one)
    # Four standard errors: std / sqrt(n) of a mean, std / sqrt(2 n) of a standard deviation.
    assert x_t.mean() == pytest.approx(0.7 * float(signal), abs=4 * float(noise) / count**0.5)
    assert x_t.std() == pytest.approx(float(noise), abs=4 * float(noise) / (2 * count) ** 0.5)


def test_q_sample_at_the_last_step_is_nearly_noise() -> None:
    noise = draw("noise")
    x_t = diffusion_of().q_sample(torch.ones(SHAPE).double(), at(999), noise)
    # sqrt(4.0358e-05) = 0.00635 of the image is left, and 2e-5 of the noise (below 5) is gone.
    assert float((x_t - noise).abs().max()) < 0.00646


def test_q_sample_takes_another_timestep_for_each_image() -> None:
    diffusion, x, noise = diffusion_of(), images("x"), draw("noise")
    together = diffusion.q_sample(x, torch.tensor([3, 700]), noise)
    assert torch.equal(together[0], diffusion.q_sample(x, at(3), noise)[0])
    assert torch.equal(together[1], diffusion.q_sample(x, at(700), noise)[1])


def test_noise_of_another_shape_is_refused_before_it_broadcasts() -> None:
    with pytest.raises(ShapeError, match=r"noise is .* expected one shape"):
        diffusion_of().q_sample(images("x"), at(0), draw("noise")[:1])


@each_t
@each_kind
def test_conversions_equal_the_reference(ddpm: ModuleType, numerics: Any, kind: str, t: int) -> None:
    diffusion, betas = diffusion_of(kind), slow_betas(ddpm, kind)
    x_t, eps, x = draw("x_t"), draw("eps"), images("x")
    pairs = [
        (
            diffusion.predict_xstart_from_eps(x_t, at(t), eps),
            ddpm.xstart_from_eps(betas, x_t.numpy(), t, eps.numpy()),
        ),
        (
            diffusion.predict_eps_from_xstart(x_t, at(t), x),
            ddpm.eps_from_xstart(betas, x_t.numpy(), t, x.numpy()),
        ),
        (
            diffusion.predict_xstart_from_v(x_t, at(t), eps),
            ddpm.xstart_from_v(betas, x_t.numpy(), t, eps.numpy()),
        ),
        (
            diffusion.v_from_xstart_and_eps(x, at(t), eps),
            ddpm.v_from_xstart_and_eps(betas, t, x.numpy(), eps.numpy()),
        ),
    ]
    for measured, expected in pairs:
        numerics.check("conversions", measured, expected)


@pytest.mark.parametrize("t", list(range(0, 1000, 37)))
@each_kind
def test_eps_to_x_start_to_v_to_eps_is_the_identity(ddpm: ModuleType, kind: str, t: int) -> None:
    diffusion, x_t, eps = diffusion_of(kind), draw("x_t"), draw("eps")
    x_start = diffusion.predict_xstart_from_eps(x_t, at(t), eps)
    v = diffusion.v_from_xstart_and_eps(x_start, at(t), eps)
    scale = float(x_start.abs().max())
    assert_close(diffusion.predict_xstart_from_v(x_t, at(t), v), x_start.numpy(), 1e-12 * scale)
    # The way back divides by sqrt(1 - abar), 0.01 at the clean end and on, so it costs two digits.
    back = diffusion.predict_eps_from_xstart(x_t, at(t), diffusion.predict_xstart_from_v(x_t, at(t), v))
    assert_close(back, eps.numpy(), 1e-10)
    assert_close(
        torch.from_numpy(ddpm.eps_from_v(slow_betas(ddpm, kind), x_t.numpy(), t, v.numpy())),
        eps.numpy(),
        1e-10,
    )


@pytest.mark.parametrize("variance_type", VARIANCES)
@each_kind
def test_model_log_variance_equals_the_reference(
    ddpm: ModuleType, numerics: Any, kind: str, variance_type: str
) -> None:
    slow = getattr(ddpm, f"{variance_type}_log_variance")
    some = [0, 1, 2, *range(3, 999, 83), 998, 999]
    expected = [slow(slow_betas(ddpm, kind), t) for t in some]
    measured = diffusion_of(kind, variance_type=variance_type).model_log_variance()[some]
    numerics.check("log-variance", measured, expected)


@pytest.mark.parametrize("variance_type", VARIANCES)
def test_the_first_log_variance_is_the_second_posteriors(variance_type: str) -> None:
    first = diffusion_of(variance_type=variance_type).model_log_variance()[0]
    assert float(first.exp()) == pytest.approx(5.453e-05, abs=5e-9)


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@each_t
def test_p_mean_variance_is_the_posterior_of_the_clipped_prediction(
    ddpm: ModuleType, numerics: Any, prediction_type: str, t: int
) -> None:
    betas, x_t = slow_betas(ddpm), draw("x_t")
    diffusion = diffusion_of(prediction_type=prediction_type, variance_type="fixed_small")
    output = torch.cos(3 * x_t)
    step = diffusion.p_mean_variance(lambda x, _: torch.cos(3 * x), x_t, at(t))
    from_output = {
        "epsilon": ddpm.xstart_from_eps(betas, x_t.numpy(), t, output.numpy()),
        "sample": output.numpy(),
        "v_prediction": ddpm.xstart_from_v(betas, x_t.numpy(), t, output.numpy()),
    }
    pred_xstart = np.clip(from_output[prediction_type], -1, 1)
    numerics.check("reverse-step", step.pred_xstart, pred_xstart)
    numerics.check("reverse-step", step.mean, ddpm.posterior_mean(betas, pred_xstart, x_t.numpy(), t))
    assert step.log_variance.flatten()[0] == diffusion.model_log_variance()[t]


def test_clipping_can_be_left_out() -> None:
    diffusion, x_t = diffusion_of(prediction_type="sample"), draw("x_t")
    assert (
        float(diffusion.p_mean_variance(lambda x, _: 5 * x, x_t, at(9), clip=False).pred_xstart.abs().max())
        > 1
    )
    assert float(diffusion.p_mean_variance(lambda x, _: 5 * x, x_t, at(9)).pred_xstart.abs().max()) == 1


@pytest.mark.parametrize("weighting", ["simple", "min_snr"])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@each_t
def test_training_losses_equal_the_reference(
    ddpm: ModuleType, numerics: Any, prediction_type: str, weighting: str, t: int
) -> None:
    betas, x, noise = slow_betas(ddpm), images("x"), draw("noise")
    diffusion = diffusion_of(prediction_type=prediction_type, loss_weighting=weighting, min_snr_gamma=5)
    losses = diffusion.training_losses(lambda x_t, _: torch.cos(3 * x_t), x, at(t), noise)
    output = np.cos(3 * ddpm.q_sample(betas, x.numpy(), t, noise.numpy()))
    target = {
        "epsilon": noise.numpy(),
        "sample": x.numpy(),
        "v_prediction": ddpm.v_from_xstart_and_eps(betas, t, x.numpy(), noise.numpy()),
    }[prediction_type]
    weight = 1.0 if weighting == "simple" else ddpm.min_snr_weight(betas, t, prediction_type, 5.0)
    assert losses.shape == (SHAPE[0],)
    numerics.check("training-losses", losses, weight * ddpm.simple_loss(target, output))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@each_t
def test_min_snr_weighs_the_same_error_alike_whatever_is_predicted(prediction_type: str, t: int) -> None:
    # An error d of x_0 is an error of eps or v by the conversions; the weighted squares must agree.
    diffusion = diffusion_of(prediction_type=prediction_type, loss_weighting="min_snr", min_snr_gamma=5)
    x, noise = images("x"), draw("noise")
    wrong = x + 0.01

    def model(x_t: Tensor, told: Tensor) -> Tensor:
        eps = diffusion.predict_eps_from_xstart(x_t, told, wrong)
        return {
            "epsilon": eps,
            "sample": wrong,
            "v_prediction": diffusion.v_from_xstart_and_eps(wrong, told, eps),
        }[prediction_type]

    losses = diffusion.training_losses(model, x, at(t), noise)
    expected = min(float(diffusion.schedule.snr[t]), 5) * 1e-4
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-8)  # the small error cancels digits


def test_a_perfect_network_has_no_loss() -> None:
    x, noise = images("x"), draw("noise")
    losses = diffusion_of().training_losses(lambda x_t, _: noise, x, at(500), noise)
    assert (losses == 0).all()


def test_large_variance_over_fewer_steps_is_refused_with_a_way_out() -> None:
    with pytest.raises(UsageError, match=r"fixed_large .*fixed_small") as caught:
        diffusion_of(variance_type="fixed_large").respace(50)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_large_variance_over_all_steps_is_allowed() -> None:
    assert len(diffusion_of(variance_type="fixed_large").respace(1000).schedule.betas) == 1000


def test_small_variance_can_be_asked_for_and_then_respaced() -> None:
    respaced = diffusion_of(variance_type="fixed_large").with_variance("fixed_small").respace(50)
    assert respaced.config.variance_type == "fixed_small"
    assert len(respaced.schedule.timesteps) == 50


def test_the_network_is_told_the_original_timesteps() -> None:
    told: list[Tensor] = []

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        told.append(t)
        return x_t

    respaced = diffusion_of(variance_type="fixed_small").respace(5)
    respaced.p_mean_variance(model, draw("x_t"), torch.tensor([0, 4]))
    respaced.training_losses(model, images("x"), torch.tensor([1, 3]), draw("noise"))
    assert [t.tolist() for t in told] == [[0, 999], [250, 749]]


@pytest.mark.parametrize("t", [0, 1, 4])
def test_the_respaced_posterior_is_bayes_between_the_kept_timesteps(ddpm: ModuleType, t: int) -> None:
    respaced = diffusion_of(variance_type="fixed_small").respace(5)
    abar = ddpm.alphas_cumprod(slow_betas(ddpm))[respaced.schedule.timesteps.numpy()]
    x, x_t = images("x"), draw("x_t")
    mean, variance = respaced.q_posterior_mean_variance(x, x_t, at(t))
    before = 1.0 if t == 0 else abar[t - 1]
    # Prior N(sqrt(before) x, 1 - before), likelihood x_t ~ N(sqrt(abar / before) ., 1 - abar / before).
    slope, noise_variance = np.sqrt(abar[t] / before), 1 - abar[t] / before
    gain = slope * (1 - before) / (slope**2 * (1 - before) + noise_variance)
    expected = np.sqrt(before) * x.numpy() + gain * (x_t.numpy() - slope * np.sqrt(before) * x.numpy())
    assert_close(mean, expected, 1e-11)
    assert float(variance[0]) == pytest.approx((1 - gain * slope) * (1 - before), abs=1e-12)
