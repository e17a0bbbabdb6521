from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from xraygen.config import DataConfig, DiffusionConfig, RunConfig, load_config
from xraygen.dataset.store import open_dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.samplers import ddim_sample, no_noise
from xraygen.diffusion.schedule import NoiseSchedule, linear_betas
from xraygen.errors import UsageError
from xraygen.models.augmentation import AUGMENTATION_WEIGHTS, AUGMENTATIONS
from xraygen.models.unet import UNet
from xraygen.seeds import torch_generator
from xraygen.synthesis.generate import generate
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.training.augmentation import augmented, draw_labels
from xraygen.training.batches import Batches
from xraygen.training.checkpoint import EMA, MODEL, load_run, newest_checkpoint
from xraygen.training.logging import read_log
from xraygen.training.loop import train

TinyConfig = Callable[..., RunConfig]
DIFFUSION = GaussianDiffusion(NoiseSchedule.from_betas(linear_betas(20, 1e-4, 0.02)), DiffusionConfig())
OFTEN = DataConfig(augment_probability=0.4, augment_flip=True)
TRAINED = ("data.augment_probability=0.5", "train.learning_rate=1e-2", "train.warmup_steps=0")
"""Steps so large that six of them make the network listen."""

QUARTERS = np.array([-9, 40, 450, 40, -9]) / 512
"""Half of the bicubic kernel (a = -0.75) a quarter pixel to the left and half of it to the right: what a picture goes
through that is moved by whole pixels. By hand from Keys 1981, eq. 4, at the distances 0.25, 0.75, 1.25 and 1.75."""


def label(**amounts: float) -> Tensor:
    row = torch.zeros(1, len(AUGMENTATIONS))
    for name, amount in amounts.items():
        row[0, AUGMENTATIONS.index(name.replace("_", " "))] = amount
    return row


def pictures(height: int = 12, width: int = 12) -> Tensor:
    """Noise in [-0.4, 0.4], which no overshoot takes out of range."""
    noise = torch.rand(2, 1, height, width, generator=torch_generator(0, "test", "pictures"))
    return 0.8 * noise - 0.4


def softened(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Through QUARTERS along both sides, black beyond the border."""
    for axis in (0, 1):
        padded = np.pad(picture, [(2, 2) if side == axis else (0, 0) for side in (0, 1)], constant_values=-1)
        views = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=axis)
        picture = views @ QUARTERS
    return picture


def done_to(x: Tensor, labels: Tensor, **sizes: float) -> NDArray[np.float64]:
    config = DataConfig.model_validate({"augment_probability": 0.5, **sizes})
    return augmented(x, labels.expand(len(x), -1), config).numpy()[:, 0].astype(np.float64)


def test_a_label_of_zeros_is_the_same_film_to_the_bit() -> None:
    x = pictures(6, 10)
    labels = torch.cat([label(), label(rotation=1.0)])
    out = augmented(x, labels, OFTEN)
    assert torch.equal(out[0], x[0])
    assert not torch.equal(out[1], x[1])


def test_a_flip_alone_is_exact() -> None:
    x = pictures()
    assert torch.equal(augmented(x, label(flip=1.0).expand(2, -1), OFTEN), x.flip(-1))


def test_whole_pixels_to_the_right_and_down_with_black_behind() -> None:
    x = pictures(8, 16)
    moved = done_to(x, label(shift_across=1.0, shift_down=1.0), augment_shift=0.25)  # 4 and 2 pixels
    for before, after in zip(x.numpy()[:, 0], moved, strict=True):
        black_around = np.pad(before.astype(np.float64), [(2, 2), (4, 4)], constant_values=-1)
        expected = softened(black_around)[:8, :16].clip(min=-1)
        np.testing.assert_allclose(after, expected, atol=1e-6)  # float32


def test_a_quarter_turn_is_clockwise() -> None:
    x = pictures()
    turned = done_to(x, label(rotation=1.0), augment_rotation=90.0)
    for before, after in zip(x.numpy()[:, 0], turned, strict=True):
        expected = softened(np.rot90(before.astype(np.float64), -1))
        np.testing.assert_allclose(after, expected, atol=1e-6)


def test_shrinking_to_half_averages_four_pixels() -> None:
    x = pictures(8, 12)
    shrunk = done_to(x, label(scale=-1.0), augment_scale=1.0)
    means = x.numpy()[:, 0].reshape(2, 4, 2, 6, 2).mean(axis=(2, 4))
    framed = np.pad(means, [(0, 0), (2, 2), (3, 3)], constant_values=-1)
    np.testing.assert_allclose(shrunk, framed, atol=1e-6)  # float32; the samples lie on the old pixels


def test_stretching_to_double_width_halves_the_height() -> None:
    ramp = torch.linspace(-0.5, 0.5, 12).expand(1, 1, 8, 12)
    stretched = done_to(ramp, label(stretch=1.0), augment_stretch=1.0)[0]
    # Half as steep; a kernel of a = -0.75 is 0.05 pixels off on a ramp at most.
    np.testing.assert_allclose(np.diff(stretched[4, 2:10]), 1 / 22, atol=0.1 / 11)
    np.testing.assert_allclose(stretched[3], stretched[4], atol=1e-6)
    np.testing.assert_allclose(stretched[[0, 7]], -1, atol=1e-6)


def waves(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smooth picture, no wave of it shorter than 10 pixels."""
    return 0.4 * np.cos(0.6 * x + 0.1 * y) + 0.3 * np.sin(0.5 * y - 0.2 * x + 1) + 0.2 * np.cos(0.4 * (x + y))


def test_all_together_are_the_product_of_their_matrices_on_films_that_are_not_square() -> None:
    height, width = 40, 56
    y, x = np.mgrid[:height, :width] - np.array([height - 1, width - 1]).reshape(2, 1, 1) / 2
    before = torch.from_numpy(waves(x, y))[None, None].float()
    told = label(scale=1.0, stretch=-1.0, rotation=2.0, shift_across=0.5, shift_down=-1.0)
    after = done_to(
        before, told, augment_scale=0.2, augment_stretch=0.1, augment_rotation=5.0, augment_shift=0.1
    )[0]
    angle = np.radians(10)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([2**0.1, 2**0.3])
    places = np.stack([x - 0.05 * width, y + 0.1 * height]).reshape(2, -1)
    old_x, old_y = (np.linalg.inv(matrix) @ places).reshape(2, height, width)
    inside = (abs(old_x) < width / 2 - 3) & (abs(old_y) < height / 2 - 3)
    assert inside.mean() > 0.5
    error = after - waves(old_x, old_y)
    # Interpolation alone; measured: 0.0021. Turning before stretching is off by 0.06, a wrong sign by more than 0.5.
    assert np.sqrt((error[inside] ** 2).mean()) < 0.005


def test_bicubic_overshoot_does_not_leave_the_range() -> None:
    x = torch.full((1, 1, 32, 32), -1.0)
    x[:, :, 8:24, 8:24] = 1.0
    told = label(scale=-0.5, rotation=1.0, shift_across=0.5)
    film = done_to(x, told, augment_scale=0.2, augment_rotation=10.0, augment_shift=0.125)[0]
    assert film[:, 0].max() < -1 + 1e-6  # float32's sum of 16 weights
    assert film[0].max() < -1 + 1e-6
    assert film.min() == -1
    assert film.max() == 1


def test_each_augmentation_is_as_frequent_as_asked_for_and_normal() -> None:
    count, p = 20_000, 0.12
    config = DataConfig(augment_probability=p, augment_flip=True)
    labels = draw_labels(config, count, torch_generator(0, "test"))
    done = labels != 0
    five_errors = 5 * (p * (1 - p) / count) ** 0.5
    assert (done.double().mean(dim=0) - p).abs().max() < five_errors
    assert torch.equal(done[:, 3], done[:, 4])  # both shifts or none
    untouched = (1 - p) ** 5
    share = (~done.any(dim=1)).double().mean().item()
    assert abs(share - untouched) < 5 * (untouched * (1 - untouched) / count) ** 0.5
    assert set(labels[:, 5].tolist()) == {0.0, 1.0}
    for column in range(5):
        drawn = labels[done[:, column], column]
        assert abs(drawn.mean()) < 5 / len(drawn) ** 0.5
        assert abs(drawn.std() - 1) < 5 / (2 * len(drawn)) ** 0.5


def test_what_has_no_size_or_is_not_chosen_is_never_told() -> None:
    config = DataConfig(augment_probability=0.9, augment_rotation=0, augment_shift=0)
    labels = draw_labels(config, 500, torch_generator(0, "test"))
    assert (labels != 0).any(dim=0).tolist() == [True, True, False, False, False, False]
    others = draw_labels(DataConfig(augment_probability=0.9), 500, torch_generator(0, "test"))
    assert torch.equal(labels[:, :2], others[:, :2])


def batches(dataset: Path, data: DataConfig) -> Batches:
    opened = open_dataset(dataset)
    return Batches(opened, opened.indices("train"), 24, DIFFUSION, seed=0, data=data)


@pytest.mark.parametrize("processes", [2, 5, 24])
def test_augmented_films_do_not_depend_on_the_number_of_processes(tiny_dataset: Path, processes: int) -> None:
    some = batches(tiny_dataset, OFTEN)
    whole = some.at(7).augmented(OFTEN)
    assert 0 < (whole.augmentation != 0).any(dim=1).sum() < 24
    shares = [some.at(7, process, processes).augmented(OFTEN) for process in range(processes)]
    for part, expected in zip(zip(*shares, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(part), expected)
    again = batches(tiny_dataset, OFTEN).at(7).augmented(OFTEN)
    assert torch.equal(again.x_start, whole.x_start)
    assert not torch.equal(some.at(8).augmentation, whole.augmentation)


def test_augmentation_leaves_order_timesteps_noise_and_dropout_as_they_were(tiny_dataset: Path) -> None:
    ours, plain = batches(tiny_dataset, OFTEN).at(3), batches(tiny_dataset, DataConfig()).at(3)
    for name in ("x_start", "t", "noise", "dropout_keys"):
        assert torch.equal(getattr(ours, name), getattr(plain, name))
    assert plain.augmentation.shape == (24, 0)
    assert plain.augmented(DataConfig()) is plain


@pytest.fixture(scope="module")
def augmented_run(
    tiny_config: TinyConfig, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A RUN of six large steps that was told its augmentations; tests only read it."""
    run = tmp_path_factory.mktemp("runs") / "augmented"
    train(tiny_config(*TRAINED), open_dataset(tiny_dataset), run, device="cpu")
    return run


def test_an_augmented_run_resumes_to_the_bit(
    tiny_config: TinyConfig, tiny_dataset: Path, augmented_run: Path, tmp_path: Path
) -> None:
    dataset, config = open_dataset(tiny_dataset), tiny_config(*TRAINED)
    train(config, dataset, tmp_path / "run", device="cpu", should_stop=lambda: True)
    train(config, dataset, tmp_path / "run", device="cpu")
    for name in (MODEL, EMA):
        resumed, whole = (
            load_file(newest_checkpoint(run).folder / name) for run in (tmp_path / "run", augmented_run)
        )
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    with pytest.raises(UsageError, match=r"data\.augment_probability: 0\.5 -> 0\.1"):
        train(tiny_config(*TRAINED, "data.augment_probability=0.1"), dataset, tmp_path / "run", device="cpu")


def test_whoever_tells_the_network_nothing_gets_films_as_they_are(
    augmented_run: Path, tmp_path: Path
) -> None:
    model, _, config = load_run(augmented_run)
    x, t = torch.zeros(2, 1, 16, 16), torch.zeros(2, dtype=torch.int64)
    zeros = torch.zeros(2, len(AUGMENTATIONS))
    assert torch.equal(model(x, t), model(x, t, augmentation=zeros))
    assert not torch.equal(model(x, t), model(x, t, augmentation=label(rotation=1.0).expand(2, -1)))
    without = UNet(config.model.model_copy(update={"hears_augmentation": False})).eval()
    weights = model.state_dict()
    del weights[AUGMENTATION_WEIGHTS]
    without.load_state_dict(weights)
    with torch.no_grad():
        assert torch.equal(model(x, t), without(x, t))
    assert generate(augmented_run, tmp_path / "out", [1], SamplerSettings(steps=2), device="cpu").made == 1
    assert any("validation_loss" in entry for entry in read_log(augmented_run))


def test_a_network_that_hears_augmentations_starts_from_one_that_does_not_and_back(
    tiny_config: TinyConfig, tiny_dataset: Path, tiny_run: Path, augmented_run: Path, tmp_path: Path
) -> None:
    dataset = open_dataset(tiny_dataset)
    started = {}
    for name, there, settings in (
        ("to hearing", tiny_run, ("data.augment_probability=0.5",)),
        ("to deaf", augmented_run, ()),
        ("to more often", augmented_run, ("data.augment_probability=0.7",)),
    ):
        config = tiny_config(*settings, f"train.init_from={there}", "train.max_steps=0")
        train(config, dataset, tmp_path / name, device="cpu")
        started[name] = load_file(newest_checkpoint(tmp_path / name).folder / MODEL)
    plain, hearing = (load_file(newest_checkpoint(run).folder / EMA) for run in (tiny_run, augmented_run))
    fresh = started["to hearing"].pop(AUGMENTATION_WEIGHTS)
    assert fresh.std() == pytest.approx((2 / (32 + 6)) ** 0.5, rel=0.2)  # as drawn: 192 uniform weights
    assert torch.equal(started["to more often"].pop(AUGMENTATION_WEIGHTS), hearing.pop(AUGMENTATION_WEIGHTS))
    for name, theirs in (("to hearing", plain), ("to deaf", hearing), ("to more often", hearing)):
        assert started[name].keys() == theirs.keys()
        assert all(torch.equal(started[name][key], theirs[key]) for key in theirs)


class Toy:
    """A network of 8-px images that has been fitted to 16 of them with one augmentation.

    Args:
        x_start: The images.
        settings: The augmentation, as settings of the `data` section.
        steps: Steps of training.
        telling: Whether the network was told what was done to an image.
    """

    def __init__(self, x_start: Tensor, settings: list[str], steps: int, *, telling: bool) -> None:
        none = [f"data.augment_{name}=0" for name in ("scale", "stretch", "rotation", "shift")]
        small = ["data.image_size=8", "model.patch_size=1", "model.channels=32", "model.channel_mult=[1]",
                 "model.attention_resolutions=[4]", "schedule.num_timesteps=50"]  # fmt: skip
        config = load_config("cxr-64", [*small, *none, *settings])
        self.diffusion = GaussianDiffusion(NoiseSchedule.from_config(config.schedule), config.diffusion)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = UNet(config.model)
        optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        for step in range(steps):
            draw = torch_generator(0, "toy", step)
            labels = draw_labels(config.data, 16, draw)
            images = augmented(x_start, labels, config.data)
            t, noise = self.diffusion.draw_timesteps(16, draw), torch.randn(x_start.shape, generator=draw)
            network = partial(self.model, augmentation=labels if telling else None)
            torch.autograd.backward(self.diffusion.training_losses(network, images, t, noise).mean())
            optimizer.step()
            optimizer.zero_grad()

    def samples(self, **amounts: float) -> Tensor:
        """32 images from the same noise, asked for as augmented by so much."""
        x_t = torch.randn(32, 1, 8, 8, generator=torch_generator(0, "toy", "samples"))
        network = partial(self.model, augmentation=label(**amounts).expand(32, -1)) if amounts else self.model
        return ddim_sample(network, self.diffusion.respace(10), x_t, no_noise)


def discs() -> Tensor:
    """16 discs of one size with a little noise."""
    place = torch.arange(8) - 3.5
    disc = 1.4 * torch.sigmoid(3 * (2.2 - (place[:, None] ** 2 + place**2).sqrt())) - 0.7
    return disc + 0.1 * torch.randn(16, 1, 8, 8, generator=torch_generator(0, "discs"))


SIZED = ["data.augment_probability=0.5", "data.augment_scale=0.6"]


def brightness(x: Tensor) -> Tensor:
    """Mean of each image: of a disc, its size."""
    return x.mean(dim=(1, 2, 3))


@pytest.mark.slow
def test_samples_of_a_network_that_was_told_do_not_show_the_augmentation() -> None:
    toy, films = Toy(discs(), SIZED, 120, telling=True), brightness(discs())
    asked_plainly = brightness(toy.samples())
    # Training images have the mean -0.340, augmented ones a standard deviation of 0.27; measured: -0.355 and 0.058.
    assert abs(asked_plainly.mean() - films.mean()) < 0.05
    assert asked_plainly.std() < 0.08
    assert brightness(toy.samples(scale=-1.0)).mean() < asked_plainly.mean() - 0.15  # measured: -0.64
    assert brightness(toy.samples(scale=1.0)).mean() > asked_plainly.mean() + 0.25  # measured: 0.06


@pytest.mark.slow
def test_samples_of_a_network_that_was_not_told_show_it() -> None:
    assert brightness(Toy(discs(), SIZED, 120, telling=False).samples()).std() > 0.14  # measured: 0.18


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("telling", [True, False])
def test_a_told_flip_leaves_every_sample_on_its_side(telling: bool) -> None:
    """Images bright on the left, a third of them flipped in training: as if the heart were moved to the other side."""
    x_start = 0.2 * torch.rand(16, 1, 8, 8, generator=torch_generator(0, "one-sided")) - 0.6
    x_start[..., :4] += 1.0

    def sides(x: Tensor) -> Tensor:
        return x[..., :4].mean(dim=(1, 2, 3)) - x[..., 4:].mean(dim=(1, 2, 3))

    flips = ["data.augment_probability=0.35", "data.augment_flip=true"]
    toy = Toy(x_start, flips, 800, telling=telling)
    made = sides(toy.samples())
    if telling:
        assert made.min() > 0.5
        assert sides(toy.samples(flip=1.0)).max() < -0.5
    else:
        assert made.max() > 0.5  # of both kinds
        assert made.min() < -0.5
