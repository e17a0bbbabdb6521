"""The ends of a path: films and rows that are prepared alike, and those that are refused or warned of."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import Result

from xraygen.dataset.store import open_dataset
from xraygen.errors import FilmError, UsageError
from xraygen.films.writers import write_png
from xraygen.synthesis.path_ends import End, read_end
from xraygen.synthesis.path_familiarity import ASSUMED, Judge, Reference, likeness
from xraygen.synthesis.path_frames import Way
from xraygen.training.checkpoint import LoadedRun, load_run
from xraygen.training.conditions import read_conditions


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


def test_a_nifti_film_is_turned_upright_and_is_its_dataset_row(
    tiny_run: Path, tiny_dataset: Path, loaded: LoadedRun, tmp_path: Path
) -> None:
    """Written by nibabel with another orientation than ours: the columns to the right, the rows to the head."""
    image, shape = np.asarray(open_dataset(tiny_dataset).images[1]), loaded.config.data.shape
    upside_down = image.T[::-1, None, ::-1]  # [W, 1, H]: to the right, one plane, to the head
    nibabel.Nifti1Image(upside_down, np.eye(4)).to_filename(tmp_path / "film.nii.gz")
    conditions = read_conditions(tiny_run, loaded.config)
    file = read_end(tiny_run, str(tmp_path / "film.nii.gz"), shape, conditions, {}, "a")
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


def test_a_film_unlike_the_training_films_is_warned_of_with_numbers(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
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
    try_path: Callable[..., None], tiny_dataset: Path, tmp_path: Path, end: str, sentence: str
) -> None:
    film = end.format(data=tiny_dataset)
    with pytest.raises(UsageError, match=sentence):
        try_path(film, f"{tiny_dataset}#1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_film_or_a_colour_photograph_is_refused_by_name(
    try_path: Callable[..., None], tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "film.dcm").write_text("not a film")
    write_png(tmp_path / "holiday.png", np.arange(3 * 32 * 32, dtype=np.uint8).reshape(32, 32, 3))
    for name, words in (("film.dcm", "film.dcm: "), ("holiday.png", "holiday.png: The picture is in colour")):
        with pytest.raises(FilmError, match=words):
            try_path(str(tmp_path / name), f"{tiny_dataset}#1", tmp_path / "out")


def test_a_row_of_another_size_or_prepared_otherwise_is_refused(
    try_path: Callable[..., None], tiny_dataset: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_dataset, tmp_path / "other"))
    info = json.loads((other / "dataset.json").read_text())
    info["settings"]["fit"] = "crop"
    (other / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match="prepared with fit crop, and this RUN's with pad"):
        try_path(f"{other}#0", f"{tiny_dataset}#1", tmp_path / "out")
    np.save(other / "images.npy", np.zeros((48, 8, 8), np.uint16))
    info["size"] = info["settings"]["size"] = [8, 8]
    (other / "dataset.json").write_text(json.dumps(info))
    with pytest.raises(UsageError, match=r"\(1, 8, 8\) when prepared, and this RUN makes \(1, 16, 16\)"):
        try_path(f"{other}#0", f"{tiny_dataset}#1", tmp_path / "out")


def test_a_lateral_film_is_warned_of_where_no_training_film_is_one(way: Way, tiny_dataset: Path) -> None:
    judge = Judge(way.network, way.chain, way.device)
    side = replace(way.ends[1], view="LL")
    found = likeness(judge, None, (way.ends[0], side), open_dataset(tiny_dataset))
    (warning,) = found["warnings"]
    assert warning.startswith(
        "Film B is a lateral view (LL), and no film that this RUN was trained on is one"
    )
    assert likeness(judge, None, way.ends, None)["warnings"] == []
