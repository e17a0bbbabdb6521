"""The frames of a path: ends, noise, symmetry, and what the network is told on the way."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from xraygen.dataset.store import open_dataset
from xraygen.diffusion.samplers import ddim_sample, no_noise
from xraygen.errors import UsageError
from xraygen.films.writers import write_png
from xraygen.models.conditions import DROPPED
from xraygen.synthesis.path_ends import read_end
from xraygen.synthesis.path_frames import MODES, Mode, Way, lambdas
from xraygen.synthesis.sampling import SamplerSettings, sampling_diffusion
from xraygen.training.checkpoint import LoadedRun, load_run
from xraygen.training.conditions import read_conditions

START = 6

each_mode = pytest.mark.parametrize("mode", MODES)


def decoded(way: Way, lam: Tensor | None = None, start: int = START) -> Tensor:
    return way.frames(lambdas(5, 1) if lam is None else lam, start).x


@each_mode
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_swapping_the_films_mirrors_the_path_bit_for_bit(way: Way, mode: Mode, sampler: str) -> None:
    if mode == "inversion" and sampler == "ddpm":
        pytest.skip("inversion has no chance in it")
    settings = SamplerSettings(sampler=sampler, steps=10, compute_batch=3)  # type: ignore[arg-type]
    there = replace(way, mode=mode, sampler=settings)
    back = replace(there, ends=there.ends[::-1])
    assert there.turned != back.turned
    assert torch.equal(decoded(there), decoded(back).flip(0))


@each_mode
def test_lambda_0_and_1_return_the_reconstructions(way: Way, mode: Mode) -> None:
    """A film's own noise (or that which leads back to it), decoded alone, by the sampler itself."""
    way = replace(way, mode=mode)
    path = decoded(way, lambdas(5, 0))
    t = torch.tensor([START])
    for frame, end in ((path[0], way.ends[0]), (path[-1], way.ends[1])):
        alone = replace(way, ends=(end, end))
        noise = {"shared-noise": noise_of(alone, "shared-noise"), "inversion": alone.inverted(START)[0]}.get(
            mode, noise_of(alone, "paper")
        )
        x_t = way.chain.q_sample(end.x[None], t, noise[None])
        expected = ddim_sample(way.network, way.chain, x_t, no_noise, start=START, clip=mode != "inversion")
        # In a batch of another shape torch's kernels round otherwise: 1e-6 a step at most, over 7 steps.
        torch.testing.assert_close(frame[None], expected, rtol=0, atol=2e-5)


def noise_of(alone: Way, mode: Mode) -> Tensor:
    """The noise in x_t of a path from a film to itself, (C, H, W)."""
    x_t = replace(alone, mode=mode).noisy(torch.tensor([0.0]).double(), START)
    t = torch.tensor([START])
    return alone.chain.predict_eps_from_xstart(x_t.double(), t, alone.ends[0].x[None].double()).float()[0]


@pytest.mark.parametrize(
    ("mode", "lam", "variance"),
    [
        ("paper", 0.5, 0.50),
        ("paper", 0.3, 0.58),
        ("paper", 0.1, 0.82),
        *((mode, lam, 1.0) for mode in ("shared-noise", "slerp") for lam in (0.1, 0.3, 0.5, 1.4)),
    ],
)
def test_the_noise_has_the_variance_that_its_mode_says(
    way: Way, mode: Mode, lam: float, variance: float
) -> None:
    wide = [replace(end, x=end.x.repeat(1, 16, 16)) for end in way.ends]  # 256 px
    large = replace(way, mode=mode, ends=(wide[0], wide[1]))
    x_t = large.noisy(torch.tensor([lam]).double(), START)
    first, second = (end.x for end in large.ordered)
    clean = (1 - lam) * first + lam * second
    alpha_bar = float(way.chain.schedule.alphas_cumprod[START])
    noise = (x_t[0] - alpha_bar**0.5 * clean) / (1 - alpha_bar) ** 0.5
    # Five standard errors of a variance from 65,536 pixels, sqrt(2 / 65,536) each: 2.8 %.
    assert float(noise.var()) == pytest.approx(variance, rel=0.028)


def test_the_variance_that_inversion_leaves_is_measured_and_kept_on_the_way(way: Way) -> None:
    frames = replace(way, mode="inversion").frames(lambdas(5, 0), START)
    ends = replace(way, mode="inversion").inverted(START).square().mean(dim=(1, 2, 3)).double()
    ends = ends.flip(0) if way.turned else ends
    assert frames.noise_variance[[0, -1]].tolist() == pytest.approx(ends.tolist(), rel=1e-4)  # float32
    low, high = sorted(ends.tolist())
    # On the arc between two vectors of lengths l and h no point is farther than h, or much nearer than l.
    assert (frames.noise_variance <= high * 1.001).all()
    assert (frames.noise_variance >= low * 0.7).all()


def test_inversion_and_decoding_return_the_film_with_an_error_that_falls_as_steps_grow(
    loaded: LoadedRun, way: Way
) -> None:
    errors = []
    for steps in (5, 10, 20):
        sampler = replace(way.sampler, steps=steps)
        chain = sampling_diffusion(loaded.diffusion, sampler)
        finer = replace(way, mode="inversion", sampler=sampler, chain=chain)
        path = decoded(finer, lambdas(2, 0), start=steps - 1)
        errors.append(max(float((path[i] - end.x).square().mean().sqrt()) for i, end in enumerate(way.ends)))
    assert errors[0] > errors[1] > errors[2]


def test_more_iterations_bring_the_film_back_more_exactly(way: Way) -> None:
    errors = [
        float(
            (decoded(replace(way, mode="inversion", iterations=n), lambdas(2, 0))[0] - way.ends[0].x)
            .abs()
            .max()
        )
        for n in (1, 3, 9)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_a_film_and_itself_are_one_film_all_the_way(way: Way) -> None:
    for mode in MODES:
        path = decoded(replace(way, mode=mode, ends=(way.ends[0], way.ends[0])))
        torch.testing.assert_close(
            path, path[:1].expand_as(path), rtol=0, atol=1e-4
        )  # float32 through 7 steps


@pytest.mark.parametrize(("frames", "beyond"), [(2, 0), (3, 1), (5, 2), (11, 5), (101, 0)])
def test_any_number_of_frames_has_both_ends_and_is_symmetric(frames: int, beyond: int) -> None:
    lam = lambdas(frames, beyond)
    assert len(lam) == frames + 2 * beyond
    assert {0.0, 1.0} <= set(lam.tolist())
    torch.testing.assert_close(lam + lam.flip(0), torch.ones_like(lam), rtol=0, atol=1e-15)
    assert float(lam.min()) >= -0.5
    assert float(lam.max()) <= 1.5


@pytest.mark.parametrize(
    ("frames", "beyond", "words"), [(1, 0, "at least 2"), (3, 2, "0 to 1, lambda from -0.5")]
)
def test_lambda_has_a_bound(frames: int, beyond: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        lambdas(frames, beyond)


def test_the_frames_do_not_depend_on_how_many_there_are_beyond_the_last_bits(way: Way) -> None:
    few, many = decoded(way, lambdas(3, 0)), decoded(way, lambdas(5, 0))
    torch.testing.assert_close(few, many[::2], rtol=0, atol=2e-5)


def conditional_way(
    run: Path,
    data: Path,
    mode: Mode,
    sampler: SamplerSettings,
    guidance: float = 1.0,
    **asked: dict[str, str],
) -> Way:
    model, diffusion, config = load_run(run)
    conditions = read_conditions(run, config)
    first, second = (
        read_end(run, f"{data}#{row}", config.data.shape, conditions, asked.get(side, {}), side)
        for row, side in ((0, "a"), (1, "b"))
    )
    chain = sampling_diffusion(diffusion, sampler)
    return Way(model, chain, (first, second), mode, sampler, 0, 1, guidance, torch.device("cpu"))


@pytest.mark.parametrize("mode", ["slerp", "inversion"])
def test_conditions_are_mixed_along_and_mirror_too(
    conditional_run: Path, labelled_dataset: Path, mode: Mode, fast: SamplerSettings
) -> None:
    way = conditional_way(conditional_run, labelled_dataset, mode, fast)
    assert dict(way.ends[0].words) == {"sex": "F", "age": "20"}
    assert dict(way.ends[1].words) == {"sex": "M", "age": "21"}
    told, untold = decoded(way), decoded(replace(way, guidance=0.0))
    assert not torch.allclose(told, untold, atol=1e-3)
    back = replace(way, ends=way.ends[::-1])
    assert torch.equal(told, decoded(back).flip(0))


def test_at_its_ends_the_path_is_told_what_each_film_is_and_half_way_the_mean_embedding(
    conditional_run: Path, labelled_dataset: Path, fast: SamplerSettings
) -> None:
    way = conditional_way(conditional_run, labelled_dataset, "paper", fast, b={"sex": "F", "age": "30"})
    network, (first, second) = way.network, way.ordered
    x_t, t = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([5])
    for lam, end in ((0.0, first), (1.0, second), (-0.5, first), (1.5, second)):
        expected = network(x_t, t, end.condition[None])
        torch.testing.assert_close(way.model(torch.tensor([lam]))(x_t, t), expected, rtol=0, atol=1e-6)
    assert network.conditions is not None
    half = network.conditions(torch.stack([first.condition, second.condition])).mean(dim=0, keepdim=True)
    expected = network(x_t, t, condition_embedding=half)
    torch.testing.assert_close(way.model(torch.tensor([0.5]))(x_t, t), expected, rtol=0, atol=1e-6)


def test_one_film_can_go_from_one_condition_to_another(
    conditional_run: Path, labelled_dataset: Path, fast: SamplerSettings
) -> None:
    way = conditional_way(conditional_run, labelled_dataset, "slerp", fast, b={"sex": "M"})
    first = way.ends[0]
    other = replace(first, condition=way.ends[1].condition)
    path = decoded(replace(way, ends=(first, other)))
    assert not torch.allclose(path[1], path[-2], atol=1e-3)
    back = decoded(replace(way, ends=(other, first)))
    assert torch.equal(path, back.flip(0))


def test_a_film_of_which_nothing_is_known_is_told_nothing(
    conditional_run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    write_png(tmp_path / "film.png", np.asarray(open_dataset(tiny_dataset).images[1]))
    conditions = read_conditions(conditional_run, load_run(conditional_run).config)
    end = read_end(conditional_run, str(tmp_path / "film.png"), (1, 16, 16), conditions, {}, "a")
    assert end.condition.tolist() == [DROPPED, DROPPED]
    with pytest.raises(UsageError, match="--condition-a sex=X: expected one of F, M"):
        read_end(conditional_run, f"{tiny_dataset}#1", (1, 16, 16), conditions, {"sex": "X"}, "a")
