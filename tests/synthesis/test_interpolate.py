import json
import logging
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor
from typer.testing import Result

from xraygen.dataset.store import open_dataset
from xraygen.diffusion.samplers import ddim_sample, no_noise
from xraygen.errors import FilmError, UsageError
from xraygen.films.reader import read_film
from xraygen.films.writers import write_png
from xraygen.metrics.features import extract, load_extractor
from xraygen.models.conditions import DROPPED
from xraygen.ranges import stored_to_unit
from xraygen.synthesis.interpolate import InterpolateSettings, interpolate
from xraygen.synthesis.path_ends import End, read_end
from xraygen.synthesis.path_folder import PathOutputs
from xraygen.synthesis.path_frames import MODES, Mode, Way, lambdas
from xraygen.synthesis.sampling import SamplerSettings, sampling_diffusion
from xraygen.training.checkpoint import LoadedRun, load_run
from xraygen.training.conditions import read_conditions

FAST = SamplerSettings(sampler="ddim", steps=10, compute_batch=5)
PLAIN = PathOutputs(features="pixels")
START = 6

each_mode = pytest.mark.parametrize("mode", MODES)


@pytest.fixture(scope="module")
def loaded(tiny_run: Path) -> LoadedRun:
    return load_run(tiny_run)


@pytest.fixture(scope="module")
def way(loaded: LoadedRun, tiny_run: Path, tiny_dataset: Path) -> Way:
    conditions = read_conditions(tiny_run, loaded.config)
    first, second = (
        read_end(tiny_run, f"{tiny_dataset}#{row}", loaded.config.data.shape, conditions, {}, "a")
        for row in (1, 9)
    )
    chain = sampling_diffusion(loaded.diffusion, FAST)
    return Way(loaded.model, chain, (first, second), "paper", FAST, 0, 1, 1.0, torch.device("cpu"))


def decoded(way: Way, lam: Tensor | None = None, start: int = START) -> Tensor:
    return way.frames(lambdas(5, 1) if lam is None else lam, start, lambda count: None).x


def pixels_of(folder: Path) -> np.ndarray:
    return np.stack([read_film(frame).values for frame in sorted((folder / "frames").iterdir())])


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
    frames = replace(way, mode="inversion").frames(lambdas(5, 0), START, lambda count: None)
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
        sampler = replace(FAST, steps=steps)
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


def conditional_way(run: Path, data: Path, mode: Mode, guidance: float = 1.0, **asked: dict[str, str]) -> Way:
    model, diffusion, config = load_run(run)
    conditions = read_conditions(run, config)
    first, second = (
        read_end(run, f"{data}#{row}", config.data.shape, conditions, asked.get(side, {}), side)
        for row, side in ((0, "a"), (1, "b"))
    )
    chain = sampling_diffusion(diffusion, FAST)
    return Way(model, chain, (first, second), mode, FAST, 0, 1, guidance, torch.device("cpu"))


@pytest.mark.parametrize("mode", ["slerp", "inversion"])
def test_conditions_are_mixed_along_and_mirror_too(
    conditional_run: Path, labelled_dataset: Path, mode: Mode
) -> None:
    way = conditional_way(conditional_run, labelled_dataset, mode)
    assert dict(way.ends[0].words) == {"sex": "F", "age": "20"}
    assert dict(way.ends[1].words) == {"sex": "M", "age": "21"}
    told, untold = decoded(way), decoded(replace(way, guidance=0.0))
    assert not torch.allclose(told, untold, atol=1e-3)
    back = replace(way, ends=way.ends[::-1])
    assert torch.equal(told, decoded(back).flip(0))


def test_at_its_ends_the_path_is_told_what_each_film_is_and_half_way_the_mean_embedding(
    conditional_run: Path, labelled_dataset: Path
) -> None:
    way = conditional_way(conditional_run, labelled_dataset, "paper", b={"sex": "F", "age": "30"})
    network, (first, second) = way.network, way.ordered
    x_t, t = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([5])
    for lam, end in ((0.0, first), (1.0, second), (-0.5, first), (1.5, second)):
        expected = network(x_t, t, end.condition[None])
        torch.testing.assert_close(way.model(torch.tensor([lam]))(x_t, t), expected, rtol=0, atol=1e-6)
    assert network.conditions is not None
    half = network.conditions(torch.stack([first.condition, second.condition])).mean(dim=0, keepdim=True)
    expected = network(x_t, t, condition_embedding=half)
    torch.testing.assert_close(way.model(torch.tensor([0.5]))(x_t, t), expected, rtol=0, atol=1e-6)


def test_one_film_can_go_from_one_condition_to_another(conditional_run: Path, labelled_dataset: Path) -> None:
    way = conditional_way(conditional_run, labelled_dataset, "slerp", b={"sex": "M"})
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


@pytest.fixture(scope="module")
def path(
    tiny_run: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A PATH with all that can be in it."""
    out = tmp_path_factory.mktemp("path") / "out"
    settings = InterpolateSettings(mode="slerp", timestep=10, frames=5, beyond=1)
    outputs = PathOutputs(tiny_dataset, "pixels", grid=True)
    rows = f"{tiny_dataset}#1", f"{tiny_dataset}#9"
    interpolate(tiny_run, *rows, out, settings, FAST, outputs=outputs, file_format="dicom", device="cpu")
    return out, json.loads((out / "path.json").read_text())


def test_a_path_has_its_pictures_and_its_description(path: tuple[Path, dict[str, Any]]) -> None:
    out, told = path
    with Image.open(out / "strip.png") as strip:
        assert strip.size == (9 * 16 + 8 * 2, 16)  # both films and seven frames, two pixels apart
    with Image.open(out / "path.gif") as gif:
        assert len(list(ImageSequence.Iterator(gif))) == 12  # forth and back
    with Image.open(out / "frames" / "frame-000.png") as frame:
        assert frame.mode == "I;16"
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert [frame["lambda"] for frame in told["frames"]] == [-0.25, 0, 0.25, 0.5, 0.75, 1, 1.25]
    assert told["personal_data"] is True
    assert told["settings"]["timestep"] == 11  # the nearest of the ten steps 19, 17, ... that the chain has
    assert told["ends"] == {"a": {"dataset_row": 1}, "b": {"dataset_row": 9}}


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian's package dicom3tools)"
)
def test_the_multi_frame_object_passes_dciodvfy_but_for_synthetic_data(
    path: tuple[Path, dict[str, Any]],
) -> None:
    """dciodvfy does not know (0008,001C), which came with the edition of 2023."""
    told = subprocess.run(["dciodvfy", str(path[0] / "path.dcm")], capture_output=True, text=True, check=True)
    errors = [line for line in told.stderr.splitlines() if line.startswith("Error")]
    assert len(errors) == 1
    assert "(0x0008,0x001c)" in errors[0]


def test_the_curves_are_what_they_say(path: tuple[Path, dict[str, Any]], tiny_dataset: Path) -> None:
    """Against scikit-image and distances taken one by one."""
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - slow to import

    out, told = path
    dataset, frames = open_dataset(tiny_dataset), pixels_of(out)
    features = extract(load_extractor("pixels", "cpu"), np.concatenate([dataset.images, frames]), 16)
    films, way = features[:48].astype(float), features[48:].astype(float)
    steps = [float(np.linalg.norm(b - a)) for a, b in pairwise(way)]
    for index, frame in enumerate(told["frames"]):
        for side, row in (("a", 1), ("b", 9)):
            assert frame[f"distance_{side}"] == pytest.approx(
                np.linalg.norm(way[index] - films[row]), abs=1e-4
            )
            expected = structural_similarity(
                stored_to_unit(frames[index], 16).astype(float), stored_to_unit(dataset.images[row], 16).astype(float),
                data_range=1.0, gaussian_weights=True, use_sample_covariance=False,
            )  # fmt: skip
            assert frame[f"ssim_{side}"] == pytest.approx(expected, abs=1e-4)
        distances = np.linalg.norm(films[:32] - way[index], axis=1)  # the first 32 are the train split
        nearest = frame["nearest_training_film"]
        assert nearest["dataset_row"] == int(distances.argmin())
        assert nearest["image_id"] == f"I{distances.argmin()}"
        assert nearest["distance"] == pytest.approx(distances.min(), abs=1e-4)
        if index < len(steps):
            assert frame["step_to_next"] == pytest.approx(steps[index], abs=1e-4)
    assert told["smoothness"] == pytest.approx(max(steps) / np.mean(steps), abs=1e-3)


def test_the_grid_has_a_row_per_noise_and_ends_with_the_mixed_films(
    path: tuple[Path, dict[str, Any]],
) -> None:
    out, told = path
    # Eighths of 20 steps are 20, 18 (17.5 rounded), 15, 12, 10, 8, 5 and 2; the chain has 20, 18, ..., 2.
    steps = told["grid"]["timesteps_counted_from_1"]
    assert steps[0] == 20
    assert steps[-1] == 0
    assert steps == sorted(set(steps), reverse=True)
    with Image.open(out / "grid.png") as grid:
        assert grid.height > len(steps) * 64  # frames of 16 px are shown four times as large


def test_the_same_command_makes_the_path_anew_and_another_is_refused(
    path: tuple[Path, dict[str, Any]], tiny_run: Path, tiny_dataset: Path
) -> None:
    out, _ = path
    settings = InterpolateSettings(mode="paper", timestep=10, frames=5, beyond=1)
    with pytest.raises(UsageError, match="was made with another settings"):
        interpolate(
            tiny_run,
            f"{tiny_dataset}#1",
            f"{tiny_dataset}#9",
            out,
            settings,
            FAST,
            outputs=PLAIN,
            device="cpu",
        )


def test_a_film_file_and_its_dataset_row_are_prepared_alike(
    tiny_run: Path, tiny_dataset: Path, loaded: LoadedRun, tmp_path: Path
) -> None:
    images, shape = open_dataset(tiny_dataset).images, loaded.config.data.shape
    write_png(tmp_path / "film.png", np.asarray(images[1]))
    conditions = read_conditions(tiny_run, loaded.config)
    file = read_end(tiny_run, str(tmp_path / "film.png"), shape, conditions, {}, "a")
    row = read_end(tiny_run, f"{tiny_dataset}#1", shape, conditions, {}, "a")
    assert torch.equal(file.x, row.x)
    assert file.content == row.content


def test_films_of_two_sizes_are_brought_to_the_runs_and_that_is_said(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    image = np.asarray(open_dataset(tiny_dataset).images[1])
    write_png(tmp_path / "small.png", image)
    write_png(tmp_path / "large.png", image.repeat(4, axis=0).repeat(3, axis=1))
    result = xraygen_cli(
        "interpolate", tiny_run, tmp_path / "small.png", tmp_path / "large.png", "--out", tmp_path / "out",
        "--timestep", 9, "--frames", 2, "--sampler", "ddim", "--features", "pixels", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "film A: 16x16 px brought to 16x16 (pad)" in result.stderr
    assert "film B: 64x48 px brought to 16x16 (pad)" in result.stderr


def test_the_log_snr_means_the_same_at_every_size(loaded: LoadedRun) -> None:
    """A film of 4 n px with 16 times the noise's variance looks, made n px large, like one of n px: by pooling both."""
    from xraygen.synthesis.timesteps import log_snrs, timestep_of_log_snr  # noqa: PLC0415

    small, large = (log_snrs(loaded.diffusion, (1, side, side)) for side in (64, 256))
    snr = loaded.diffusion.schedule.snr
    torch.testing.assert_close(small, snr.log())
    torch.testing.assert_close(large, (16 * snr).log(), rtol=1e-12, atol=1e-12)
    t = timestep_of_log_snr(loaded.diffusion, 0.0, (1, 64, 64))
    assert abs(float(small[t])) == float(small.abs().min())
    with pytest.raises(UsageError, match=r"--log-snr 99: expected .* \(noisiest\) to"):
        timestep_of_log_snr(loaded.diffusion, 99, (1, 64, 64))


def test_a_film_unlike_the_training_films_is_warned_of_with_numbers(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from xraygen.synthesis.path_familiarity import Judge, Reference, likeness  # noqa: PLC0415

    model, diffusion, _ = load_run(tiny_run)
    judge, dataset = Judge(model, diffusion, torch.device("cpu")), open_dataset(tiny_dataset)
    none = read_conditions(tiny_run, load_run(tiny_run).config)
    reference = judge.reference(tiny_run, 6, dataset, none, lambda progress: None)
    assert reference is not None
    assert reference.films == 8
    assert reference.low <= 1 <= reference.high  # the mean of the films' own ratios is 1
    film = End(torch.zeros(1, 16, 16), torch.empty(0))
    strict = Reference(reference.t, reference.losses * 0.1, 0.9, 1.1, 8)
    with caplog.at_level(logging.WARNING):
        found = likeness(judge, strict, (film, film), dataset)
    assert len(found["warnings"]) == len(caplog.messages) == 2
    assert f"denoising loss is {found['ratio_a']:.2f} times that of held-out films" in caplog.messages[0]
    assert "their range is 0.90 to 1.10 (of 8 of them)" in caplog.messages[0]


def test_without_the_dataset_the_runs_log_says_what_held_out_films_lose(tiny_run: Path) -> None:
    from xraygen.synthesis.path_familiarity import ASSUMED, Judge  # noqa: PLC0415

    model, diffusion, config = load_run(tiny_run)
    judge = Judge(model, diffusion, torch.device("cpu"))
    none = read_conditions(tiny_run, config)
    reference = judge.reference(tiny_run, 6, None, none, lambda progress: None)
    entries = [json.loads(line) for line in (tiny_run / "log.jsonl").read_text().splitlines()]
    last = [entry for entry in entries if "bands" in entry][-1]
    assert reference is not None
    assert sorted(reference.losses) == sorted(band["validation_loss"] for band in last["bands"])
    assert (reference.low, reference.high) == ASSUMED


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        ("nowhere.png", "There is no file nowhere.png"),
        ("{data}#48", "rows 0 to 47"),
        ("{data}", "There is no file"),
    ],
)
def test_a_wrong_end_is_one_sentence(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, end: str, sentence: str
) -> None:
    film = end.format(data=tiny_dataset)
    with pytest.raises(UsageError, match=sentence):
        refused(tiny_run, film, f"{tiny_dataset}#1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def refused(run: Path, film_a: str, film_b: str, out: Path, **changes: Any) -> None:
    settings = InterpolateSettings(**{"timestep": 1, **changes})
    interpolate(run, film_a, film_b, out, settings, FAST, outputs=PLAIN, device="cpu")


def test_what_is_no_film_or_a_colour_photograph_is_refused_by_name(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "film.dcm").write_text("not a film")
    write_png(tmp_path / "holiday.png", np.arange(3 * 32 * 32, dtype=np.uint8).reshape(32, 32, 3))
    for name, words in (("film.dcm", "film.dcm: "), ("holiday.png", "holiday.png: The picture is in colour")):
        with pytest.raises(FilmError, match=words):
            refused(tiny_run, str(tmp_path / name), f"{tiny_dataset}#1", tmp_path / "out")


def test_a_row_of_another_size_or_prepared_otherwise_is_refused(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_dataset, tmp_path / "other"))
    info = json.loads((other / "dataset.json").read_text())
    info["settings"]["fit"] = "crop"
    (other / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match="prepared with fit crop, and this RUN's with pad"):
        refused(tiny_run, f"{other}#0", f"{tiny_dataset}#1", tmp_path / "out")
    np.save(other / "images.npy", np.zeros((48, 8, 8), np.uint16))
    info["size"] = info["settings"]["size"] = [8, 8]
    (other / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match=r"\(1, 8, 8\) when prepared, and this RUN makes \(1, 16, 16\)"):
        refused(tiny_run, f"{other}#0", f"{tiny_dataset}#1", tmp_path / "out")


def test_a_lateral_film_is_warned_of_where_no_training_film_is_one(way: Way, tiny_dataset: Path) -> None:
    from xraygen.synthesis.path_familiarity import Judge, likeness  # noqa: PLC0415

    judge = Judge(way.network, way.chain, way.device)
    side = replace(way.ends[1], view="LL")
    found = likeness(judge, None, (way.ends[0], side), open_dataset(tiny_dataset))
    (warning,) = found["warnings"]
    assert warning.startswith(
        "Film B is a lateral view (LL), and no film that this RUN was trained on is one"
    )
    assert likeness(judge, None, way.ends, None)["warnings"] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timestep": 20}, "--timestep 20: expected 0 to 19"),
        ({"frames": 1}, "at least 2 frames"),
        ({"beyond": 6}, "lambda from -0.5 to 1.5"),
        ({"mode": "cubic"}, "--mode cubic: expected one of paper, shared-noise, slerp, inversion"),
        ({"iterations": 0}, "--iterations 0"),
        ({"guidance": 2.0}, "trained without conditions"),
        ({"log_snr": -99.0}, "--log-snr -99: expected"),
    ],
)
def test_settings_out_of_range_name_it(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        refused(tiny_run, f"{tiny_dataset}#1", f"{tiny_dataset}#9", tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_inversion_takes_no_other_sampler(tiny_run: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    for sampler in (SamplerSettings("ddpm"), SamplerSettings("ddim", eta=0.5), SamplerSettings("dpm++")):
        with pytest.raises(UsageError, match="leave out --sampler, or say ddim"):
            interpolate(
                tiny_run, f"{tiny_dataset}#1", f"{tiny_dataset}#9", tmp_path / "out",
                InterpolateSettings(mode="inversion", timestep=9), sampler, outputs=PLAIN, device="cpu",
            )  # fmt: skip


def test_another_dataset_than_the_runs_says_nothing_of_its_training_films(
    tiny_run: Path, labelled_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="this RUN was trained on another DATASET"):
        interpolate(
            tiny_run, f"{labelled_dataset}#1", f"{labelled_dataset}#9", tmp_path / "out",
            InterpolateSettings(timestep=9), FAST, outputs=PathOutputs(labelled_dataset, "pixels"), device="cpu",
        )  # fmt: skip


def test_the_command_line_takes_a_negative_log_snr_decodes_inversion_by_ddim_and_makes_a_video(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    pytest.importorskip("imageio_ffmpeg")
    both = ("interpolate", tiny_run, f"{tiny_dataset}#1", f"{tiny_dataset}#9", "--out", tmp_path / "out",
            "--frames", 2, "--mode", "inversion", "--features", "pixels", "--device", "cpu", "--mp4")  # fmt: skip
    result = xraygen_cli(*both, "--log-snr", "-3", "--steps", 10)
    assert result.exit_code == 0, result.stderr
    told = json.loads((tmp_path / "out" / "path.json").read_text())
    assert told["settings"]["sampler"] == "ddim"
    assert told["log_snr_at_64_px"] == pytest.approx(-3, abs=1.5)  # the chain has ten steps
    assert b"personal data" in (tmp_path / "out" / "path.mp4").read_bytes()
    result = xraygen_cli(*both, "--log-snr", "-3", "--timestep", 5)
    assert result.exit_code == 2
    assert "say the same thing; leave one out" in result.stderr
