import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from xraygen.config import ConditionsConfig, DiffusionConfig, RunConfig, load_config
from xraygen.dataset.conditions import fit_conditions
from xraygen.dataset.store import open_dataset
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.guidance import guided, told
from xraygen.diffusion.samplers import ddim_sample, no_noise
from xraygen.diffusion.schedule import NoiseSchedule, linear_betas
from xraygen.errors import FolderError, UsageError
from xraygen.films.reader import read_film
from xraygen.models.unet import UNet
from xraygen.seeds import numpy_generator, torch_generator
from xraygen.training.batches import Batches
from xraygen.training.checkpoint import EMA, MODEL, load_run, newest_checkpoint, run_config
from xraygen.training.conditions import CONDITIONS, TrainingConditions, read_conditions
from xraygen.training.loop import train

TinyConfig = Callable[..., RunConfig]
TOY = [
    "data.image_size=8", "model.patch_size=1", "model.channels=32", "model.channel_mult=[1]",
    "model.attention_resolutions=[4]", "schedule.num_timesteps=50", "diffusion.loss_weighting=min_snr",
]  # fmt: skip
DIFFUSION = GaussianDiffusion(NoiseSchedule.from_betas(linear_betas(20, 1e-4, 0.02)), DiffusionConfig())


def training_conditions(dataset: Path, **settings: object) -> TrainingConditions:
    opened = open_dataset(dataset)
    config = ConditionsConfig.model_validate({"columns": ("sex", "age"), **settings})
    conditions = fit_conditions(opened, config)
    return TrainingConditions(conditions, conditions.of_manifest(opened.manifest), config, seed=0)


def batches(dataset: Path, batch_size: int, **settings: object) -> Batches:
    rows = open_dataset(dataset).indices("train")
    told = training_conditions(dataset, **settings)
    return Batches(open_dataset(dataset), rows, batch_size, DIFFUSION, seed=0, conditions=told)


def test_the_conditions_are_those_of_the_films_of_the_batch(labelled_dataset: Path) -> None:
    manifest = open_dataset(labelled_dataset).manifest
    some = batches(labelled_dataset, 16, drop_probability=1e-9, hide_probability=0.0)
    films = manifest.iloc[some.rows_at(3)]
    sex, age = some.at(3).condition.T.numpy()
    assert sex.tolist() == [{"F": 0.0, "M": 1.0}[word] for word in films["sex"]]
    train_ages = manifest.loc[manifest["split"] == "train", "age"]
    low, high = train_ages.min(), train_ages.max()
    np.testing.assert_allclose(age, (films["age"] - low) / (high - low), rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_what_is_withheld_does_not_depend_on_the_number_of_processes(
    labelled_dataset: Path, processes: int
) -> None:
    some = batches(labelled_dataset, 24, drop_probability=0.3, hide_probability=0.3)
    shares = [some.at(5, process, processes).condition for process in range(processes)]
    torch.testing.assert_close(torch.cat(shares), some.at(5).condition, rtol=0, atol=0, equal_nan=True)
    again = batches(labelled_dataset, 24, drop_probability=0.3, hide_probability=0.3)
    torch.testing.assert_close(again.at(5).condition, some.at(5).condition, rtol=0, atol=0, equal_nan=True)


def test_conditions_leave_the_films_their_timesteps_and_noise_as_they_were(labelled_dataset: Path) -> None:
    some = batches(labelled_dataset, 16)
    plain = Batches(some.dataset, some.rows, 16, DIFFUSION, seed=0)
    for name in ("x_start", "t", "noise"):
        assert torch.equal(getattr(some.at(2), name), getattr(plain.at(2), name))
    assert plain.at(2).condition.shape == (16, 0)


def test_withholding_has_the_rates_asked_for(labelled_dataset: Path) -> None:
    told = training_conditions(labelled_dataset, drop_probability=0.2, hide_probability=0.1)
    rows = np.zeros(1000, dtype=np.int64)  # a film of which both are known
    shown = torch.cat([told.at(step, rows) for step in range(20)])
    dropped = shown.isinf()
    assert torch.equal(dropped.all(dim=1), dropped.any(dim=1))  # all conditions of a film together
    # Five standard errors of a share of 20,000.
    assert abs(dropped.all(dim=1).double().mean().item() - 0.2) < 5 * (0.16 / 20_000) ** 0.5
    hidden = shown[~dropped.all(dim=1)].isnan().double().mean(dim=0)
    assert (hidden - 0.1).abs().max() < 5 * (0.09 / 15_500) ** 0.5


def test_a_single_condition_is_never_hidden(labelled_dataset: Path) -> None:
    told = training_conditions(labelled_dataset, columns=("sex",), hide_probability=0.5)
    assert not told.at(0, np.zeros(500, dtype=np.int64)).isnan().any()


@pytest.mark.parametrize("name", [MODEL, EMA])
def test_a_conditional_run_resumes_to_the_bit(
    conditional_config: RunConfig, labelled_dataset: Path, conditional_run: Path, tmp_path: Path, name: str
) -> None:
    dataset, config = open_dataset(labelled_dataset), conditional_config
    train(config, dataset, tmp_path / "run", device="cpu", should_stop=lambda: True)
    train(config, dataset, tmp_path / "run", device="cpu")
    resumed, whole = (
        load_file(newest_checkpoint(run).folder / name) for run in (tmp_path / "run", conditional_run)
    )
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert whole["conditions.out.weight"].abs().max() > 0  # it has begun to listen


def test_a_run_says_which_words_it_knows(conditional_run: Path) -> None:
    told = json.loads((conditional_run / CONDITIONS).read_text())["conditions"]
    assert told[0] == {
        "name": "sex",
        "kind": "categorical",
        "categories": ["F", "M"],
        "may_be_missing": True,
    }
    assert (told[1]["name"], told[1]["kind"]) == ("age", "continuous")
    assert read_conditions(conditional_run, run_config(conditional_run)).sizes == (2, 0)


def test_a_loaded_run_called_without_conditions_is_the_unconditional_network(conditional_run: Path) -> None:
    model, _, _ = load_run(conditional_run)
    x, t = torch.zeros(2, 1, 16, 16), torch.zeros(2, dtype=torch.int64)
    assert torch.equal(model(x, t), model(x, t, torch.full((2, 2), torch.inf)))
    assert not torch.equal(model(x, t), model(x, t, torch.tensor([[0, 0.5], [1, 0.5]])))


def test_resuming_with_other_categories_is_refused(
    tiny_config: TinyConfig,
    conditional_config: RunConfig,
    labelled_dataset: Path,
    conditional_run: Path,
    tmp_path: Path,
) -> None:
    run = Path(shutil.copytree(conditional_run, tmp_path / "run"))
    told = json.loads((run / CONDITIONS).read_text())
    told["conditions"][0]["categories"] = ["F", "M", "O"]
    (run / CONDITIONS).write_text(json.dumps(told))
    with pytest.raises(UsageError, match=r"sex is categorical \(one of F, M, O\).*\(one of F, M\)"):
        train(conditional_config, open_dataset(labelled_dataset), run, device="cpu")
    with pytest.raises(UsageError, match=r"conditions\.columns"):
        train(tiny_config("conditions.columns=[age]"), open_dataset(labelled_dataset), run, device="cpu")


@pytest.mark.parametrize("damage", ["missing", "{", '{"conditions": [{"name": "sex"}]}', "of others"])
def test_a_run_whose_conditions_are_damaged_is_refused(
    conditional_run: Path, tmp_path: Path, damage: str
) -> None:
    run = Path(shutil.copytree(conditional_run, tmp_path / "run"))
    if damage == "missing":
        (run / CONDITIONS).unlink()
    elif damage == "of others":
        told = json.loads((run / CONDITIONS).read_text())
        (run / CONDITIONS).write_text(json.dumps({**told, "conditions": told["conditions"][:1]}))
    else:
        (run / CONDITIONS).write_text(damage)
    with pytest.raises(FolderError, match=CONDITIONS):
        load_run(run)


def test_a_column_that_cannot_be_told_leaves_no_run(
    tiny_config: TinyConfig, labelled_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="patient is no column"):
        train(
            tiny_config("conditions.columns=[patient]"),
            open_dataset(labelled_dataset),
            tmp_path / "run",
            device="cpu",
        )
    assert not [path for path in (tmp_path / "run").glob("*") if path.name[0] != "."]


def test_the_grid_has_a_row_per_category_of_the_first_condition(labelled_dataset: Path) -> None:
    grid = training_conditions(labelled_dataset).for_grid(16)
    assert grid[:, 0].tolist() == [0, 1]
    assert grid[:, 1].isnan().all()
    ages = training_conditions(labelled_dataset, columns=("age", "sex")).for_grid(16)
    assert ages[:, 0].tolist() == [0, 0.5, 1]
    assert len(ages) == 3


def test_the_picture_of_samples_has_a_line_per_category(conditional_run: Path) -> None:
    picture = read_film(conditional_run / "samples" / "step-00000006.png").values
    assert picture.shape == (2 * 16 + 2, 16)  # two samples, F and M, one from each


def test_unknown_values_reach_the_network_as_nan(labelled_dataset: Path) -> None:
    dataset = open_dataset(labelled_dataset)
    told = training_conditions(labelled_dataset)
    unknown = dataset.manifest["age"].isna().to_numpy()
    assert unknown.any()
    assert np.array_equal(np.isnan(told.values[:, 1]), unknown)


def test_a_network_learns_to_make_what_it_is_told(tmp_path: Path) -> None:
    """Dark and bright images of 8 px: each image asked for as bright is brighter than each asked for as dark."""
    generator = numpy_generator(0, "bright and dark")
    bright = np.arange(16) % 2
    images = 2 * (0.15 + 0.5 * bright[:, None, None] + 0.1 * generator.random((16, 8, 8))) - 1
    x_start = torch.from_numpy(images[:, None]).float()
    config = load_config("cxr-64", TOY)
    diffusion = GaussianDiffusion(NoiseSchedule.from_config(config.schedule), config.diffusion)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNet(config.model, (2,))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    known = torch.from_numpy(bright[:, None]).float()
    for step in range(80):
        draw = torch_generator(0, "toy", step)
        dropped = torch.rand(16, 1, generator=draw) < 0.2
        t, noise = diffusion.draw_timesteps(16, draw), torch.randn(x_start.shape, generator=draw)
        network = told(model, known.masked_fill(dropped, torch.inf))
        torch.autograd.backward(diffusion.training_losses(network, x_start, t, noise).mean())
        optimizer.step()
        optimizer.zero_grad()
    chain = diffusion.respace(10)
    x_t = torch.randn(16, 1, 8, 8, generator=torch_generator(0, "toy", "samples"))

    def means(condition: float, weight: float) -> torch.Tensor:
        asked = torch.full((16, 1), condition)
        return ddim_sample(guided(model, asked, weight), chain, x_t, no_noise).mean(dim=(1, 2, 3))

    dark, light = means(0, 1), means(1, 1)
    # Training images have the means -0.6 and 0.4; measured: -0.66 and 0.37.
    assert abs(dark.mean() + 0.6) < 0.2
    assert abs(light.mean() - 0.4) < 0.2
    assert dark.max() < light.min() - 0.5
    untold = means(0, 0)
    assert untold.min() < -0.2  # of either kind, where nothing is told
    assert untold.max() > 0.1
    assert torch.equal(untold, means(1, 0))
    assert means(1, 3).mean() > light.mean()  # guidance goes beyond
