import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from xraygen.config import DiffusionConfig, RunConfig, load_config
from xraygen.diffusion.densities import to_grid
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.preconditioning import c_in, c_noise, c_out, c_skip, network_target
from xraygen.diffusion.samplers import ddim_sample, no_noise
from xraygen.diffusion.schedule import NoiseSchedule, linear_betas
from xraygen.errors import ConfigError
from xraygen.models.unet import UNet

PAPER = NoiseSchedule.from_betas(linear_betas(1000, 1e-4, 0.02))
SHAPE = (2, 1, 4, 4)


@pytest.fixture(scope="module")
def solvers(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("solvers")


@pytest.fixture(scope="module")
def slow(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("bound")


def diffusion_of(schedule: NoiseSchedule = PAPER, **settings: object) -> GaussianDiffusion:
    return GaussianDiffusion(schedule, DiffusionConfig.model_validate(settings))


def draw(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def edm_diffusion(**settings: object) -> GaussianDiffusion:
    config = load_config("cxr-64", ["schedule.kind=edm", "schedule.num_timesteps=50"])
    return diffusion_of(NoiseSchedule.from_config(config.schedule), prediction_type="edm", **settings)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 3.0, 80.0])
@pytest.mark.parametrize("sigma_data", [0.5, 0.33])
def test_the_preconditioning_is_that_of_table_1(solvers: ModuleType, sigma: float, sigma_data: float) -> None:
    level = torch.tensor(sigma, dtype=torch.float64)
    ours = [c_skip(level, sigma_data), c_out(level, sigma_data), c_in(level, sigma_data), c_noise(level)]
    np.testing.assert_allclose(
        [float(c) for c in ours], solvers.edm_preconditioning(sigma, sigma_data), rtol=1e-14
    )
    x_start, eps = draw(0), draw(1)
    # 1e-10: the reference subtracts numbers near 1 and divides by c_out = 0.002.
    np.testing.assert_allclose(
        network_target(x_start, eps, level, sigma_data).numpy(),
        solvers.edm_target(x_start.numpy(), eps.numpy(), sigma, sigma_data),
        rtol=0,
        atol=1e-10,
    )


@pytest.mark.parametrize("t", [0, 20, 49])
def test_the_edm_network_is_asked_and_read_as_karras_does(solvers: ModuleType, numerics: Any, t: int) -> None:
    diffusion, seen = edm_diffusion(sigma_data=0.4), []
    sigma = float(diffusion.schedule.sigmas[t])

    def network(x: Tensor, told: Tensor) -> Tensor:
        seen.append((x, told))
        return torch.tanh(2 * x)

    x = draw(3) * (0.4**2 + sigma**2) ** 0.5  # Karras' x = x_0 + sigma eps
    x_t = x / math.sqrt(1 + sigma**2)
    ours = diffusion.denoise(network, x_t, torch.full((2,), t), clip=False)
    theirs = solvers.edm_denoise(lambda inner, noise: np.tanh(2 * inner), x.numpy(), sigma, 0.4)
    numerics.check("edm", ours, theirs)
    assert float(seen[0][0].std()) == pytest.approx(1, abs=0.3)  # 32 numbers of variance 1
    assert seen[0][1].tolist() == pytest.approx([math.log(sigma) / 4] * 2)


@pytest.mark.parametrize("t", [0, 25, 49])
def test_the_edm_loss_is_karras_weight_times_the_error_of_the_image(
    solvers: ModuleType, numerics: Any, t: int
) -> None:
    diffusion, x_start, noise = edm_diffusion(), draw(0).tanh(), draw(1)
    sigma = float(diffusion.schedule.sigmas[t])
    ours = diffusion.training_losses(lambda x, told: torch.sin(x), x_start, torch.full((2,), t), noise)
    denoised = solvers.edm_denoise(lambda x, told: np.sin(x), x_start.numpy() + sigma * noise.numpy(), sigma)
    error = ((denoised - x_start.numpy()) ** 2).mean(axis=(1, 2, 3))
    numerics.check("edm", ours, solvers.edm_loss_weight(sigma) * error)


def test_an_edm_network_with_unit_data_predicts_minus_v() -> None:
    """Independent of the papers' tables: with sigma_data = 1 the preconditioning is v-prediction up to its sign."""
    edm, v = (
        edm_diffusion(sigma_data=1.0),
        diffusion_of(edm_diffusion().schedule, prediction_type="v_prediction"),
    )
    x_start, noise = draw(0), draw(1)
    for t in (torch.tensor([0, 7]), torch.tensor([30, 49])):
        np.testing.assert_allclose(
            edm.target(x_start, t, noise).numpy(), -v.target(x_start, t, noise).numpy(), atol=1e-12
        )


def test_an_edm_model_shares_the_samplers() -> None:
    diffusion = edm_diffusion().with_variance("fixed_small")
    image = draw(5, (1, 1, 4, 4)).tanh().expand(2, 1, 4, 4)
    schedule, sigma_data = diffusion.schedule, diffusion.config.sigma_data

    def perfect(x: Tensor, told: Tensor) -> Tensor:
        sigma = (4 * told).exp().view(-1, 1, 1, 1)
        noisy = x / c_in(sigma, sigma_data)
        return (image - c_skip(sigma, sigma_data) * noisy) / c_out(sigma, sigma_data)

    x = ddim_sample(perfect, diffusion.respace(10), draw(6), no_noise)
    assert len(schedule.timesteps) == 50
    np.testing.assert_allclose(x.numpy(), image.numpy(), atol=1e-10)


def test_lognormal_timesteps_have_the_levels_of_the_paper() -> None:
    config = load_config("cxr-64", ["schedule.kind=edm"])
    schedule = NoiseSchedule.from_config(config.schedule)
    diffusion = diffusion_of(schedule, prediction_type="edm", timestep_sampling="lognormal")
    t = diffusion.draw_timesteps(20_000, torch.Generator().manual_seed(0))
    log_sigmas = schedule.sigmas[t].log()
    # Four standard errors of 20,000 draws: 4 * 1.2 / 141 = 0.034; the grid of levels is 0.02 wide.
    assert float(log_sigmas.mean()) == pytest.approx(-1.2, abs=0.034)
    assert float(log_sigmas.std()) == pytest.approx(1.2, abs=0.034)
    assert 0 <= int(t.min()) <= int(t.max()) < 1000


def test_uniform_timesteps_are_all_drawn() -> None:
    t = diffusion_of().draw_timesteps(20_000, torch.Generator().manual_seed(0))
    counts = torch.bincount(t, minlength=1000)
    assert len(counts) == 1000
    assert 0 < int(counts.min()) < int(counts.max()) < 60  # 20 each; 60 is nine standard deviations


def two_headed(x_t: Tensor, t: Tensor) -> Tensor:
    return torch.cat([torch.tanh(x_t), torch.sin(2 * x_t)], dim=1)


@pytest.mark.parametrize("t", [0, 1, 500, 999])
def test_the_learned_variance_equals_the_reference(slow: ModuleType, numerics: Any, t: int) -> None:
    diffusion, x_t = diffusion_of(variance_type="learned_range"), draw(0)
    step = diffusion.p_mean_variance(two_headed, x_t, torch.full((2,), t))
    expected = slow.learned_range_log_variance(PAPER.betas.numpy(), t, (np.sin(2 * x_t.numpy()) + 1) / 2)
    numerics.check("log-variance", step.log_variance, expected)


@pytest.mark.parametrize("t", [0, 1, 500])
def test_the_hybrid_loss_equals_the_reference(slow: ModuleType, numerics: Any, t: int) -> None:
    """Nichol & Dhariwal: L_simple + 0.001 L_vlb, where T L_t at a uniform t stands for L_vlb."""
    diffusion, noise = diffusion_of(variance_type="learned_range"), draw(1)
    x_start = to_grid(draw(0).tanh(), 8)
    at = torch.full((2,), t)
    ours = diffusion.training_losses(two_headed, x_start, at, noise)
    x_t = diffusion.q_sample(x_start, at, noise).numpy()
    betas = PAPER.betas.numpy()
    for image in range(2):
        eps = np.tanh(x_t[image])
        variance = slow.learned_range_log_variance(betas, t, (np.sin(2 * x_t[image]) + 1) / 2)
        pred_xstart = slow.xstart_of(float(PAPER.alphas_cumprod[t]), x_t[image], eps, "epsilon", clip=False)
        term = slow.term_bits(betas, x_start[image].numpy(), x_t[image], t, (pred_xstart, variance), 8)
        simple = float(((eps - noise[image].numpy()) ** 2).mean())
        numerics.check("training-losses", ours[image], slow.hybrid_loss(simple, term, 1000))


def test_the_bound_teaches_the_variance_and_not_the_mean() -> None:
    diffusion = diffusion_of(variance_type="learned_range", bound_weight=1.0)
    mean, place = (torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True) for _ in range(2))
    noise = draw(1)
    at = torch.tensor([3, 400])
    loss = diffusion.training_losses(lambda x, t: torch.cat([mean, place], dim=1), draw(0).tanh(), at, noise)
    torch.autograd.backward(loss.sum())
    assert mean.grad is not None
    assert place.grad is not None
    np.testing.assert_allclose(
        mean.grad.numpy(), (-2 / 16 * noise).numpy(), rtol=1e-12
    )  # that of L_simple alone
    assert float(place.grad.abs().min()) > 0


@pytest.mark.parametrize("t", [0, 1, 500])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_the_bound_as_a_loss_is_its_term(slow: ModuleType, variance: str, t: int) -> None:
    diffusion = diffusion_of(variance_type=variance, loss_weighting="bound")
    x_start, noise, at = draw(0).tanh(), draw(1), torch.full((2,), t)
    network = two_headed if variance == "learned_range" else lambda x, told: torch.tanh(x)
    ours = diffusion.training_losses(network, x_start, at, noise)
    on_grid = to_grid(x_start, 8)
    x_t = diffusion.q_sample(on_grid, at, noise)
    step = diffusion.p_mean_variance(network, x_t, at, clip=False)
    np.testing.assert_allclose(
        ours.numpy(), diffusion.bound_term(step, on_grid, x_t, at, 8).numpy(), rtol=1e-12
    )
    if variance != "learned_range" and t > 0:  # eq. 12: the same as a weighted error of eps, and a constant
        betas = PAPER.betas.numpy()
        chosen = math.exp(slow.model_log_variance(betas, t, variance))
        error = (torch.tanh(x_t) - noise).square().mean(dim=(1, 2, 3)).numpy()
        posterior = float(PAPER.posterior_variance[t])
        constant = 0.5 * (math.log(chosen / posterior) - 1 + posterior / chosen)
        expected = (slow.eps_weight(betas, t, chosen) * error + constant) / math.log(2)
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9)


def test_the_bound_as_a_loss_has_gradients_at_the_ends_of_the_range() -> None:
    x_start = torch.tensor([[-1.0, 1.0], [0.0, 0.999]]).view(1, 1, 2, 2)
    output = torch.zeros(1, 1, 2, 2, requires_grad=True)
    diffusion = diffusion_of(loss_weighting="bound", prediction_type="sample")
    noise = draw(0, (1, 1, 2, 2)).float()
    loss = diffusion.training_losses(lambda x, t: output, x_start, torch.tensor([0]), noise)
    torch.autograd.backward(loss)
    assert output.grad is not None
    assert output.grad.isfinite().all()


def test_a_network_that_learns_the_variance_has_twice_the_outputs() -> None:
    config = load_config("cxr-64", ["diffusion.variance_type=learned_range", "model.channels=32"])
    network = UNet(config.model)
    assert network(torch.zeros(1, 1, 64, 64), torch.tensor([0])).shape == (1, 2, 64, 64)
    assert not UNet(load_config("cxr-64").model).config.learns_variance


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("diffusion.prediction_type=epsilon", "from its noise alone none can be predicted"),
        ("diffusion.prediction_type=edm", "expected diffusion.prediction_type v_prediction or sample"),
        ("diffusion.loss_weighting=min_snr", "gives the last step .* a weight of 0"),
        ("diffusion.timestep_sampling=lognormal", "never draws the last step .* expected uniform"),
    ],
)
def test_zero_terminal_snr_refuses_what_cannot_learn_the_last_step(override: str, sentence: str) -> None:
    simple = ["schedule.zero_terminal_snr=true", "diffusion.loss_weighting=simple"]
    assert isinstance(load_config("cxr-64", simple), RunConfig)  # v_prediction
    with pytest.raises(ConfigError, match=sentence):
        load_config("cxr-64", [*simple, override])


@pytest.mark.parametrize(
    "override", ["model.learns_variance=true", "schedule.image_size=32", "model.image_size=32"]
)
def test_what_follows_another_setting_is_not_said_twice(override: str) -> None:
    with pytest.raises(ConfigError, match="follow other settings; leave them out"):
        load_config("cxr-64", [override])
