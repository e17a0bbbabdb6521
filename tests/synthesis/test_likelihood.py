import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import Result

from xraygen.dataset.store import Split, open_dataset
from xraygen.diffusion.densities import to_grid
from xraygen.diffusion.likelihood import decoder_floor, strata_edges, variational_bound
from xraygen.errors import UsageError
from xraygen.seeds import torch_generator
from xraygen.synthesis.likelihood import LikelihoodSettings, measure_likelihood, source_bits
from xraygen.synthesis.likelihood_terms import at_one_timestep_per_stratum
from xraygen.training.batches import as_model_input
from xraygen.training.checkpoint import load_run
from xraygen.training.loop import train

SMALL = LikelihoodSettings(count=3, strata=4, bits=8)


@pytest.fixture(scope="module")
def measured(tiny_run: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("likelihood") / "out"
    measure_likelihood(tiny_run, tiny_dataset, out, ["test", "train"], SMALL, device="cpu")
    return out


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "likelihood.json").read_text())
    return found


def test_the_films_bound_is_that_of_the_library(measured: Path, tiny_run: Path, tiny_dataset: Path) -> None:
    images = pd.read_csv(measured / "images.csv")
    whole = images[(images.split == "test") & (images.method == "every_timestep")]
    dataset = open_dataset(tiny_dataset)
    rows = [dataset.manifest["image_id"].tolist().index(name) for name in whole.image_id]
    model, diffusion, _ = load_run(tiny_run)

    def noise(t: int) -> torch.Tensor:
        draws = [
            torch.randn(
                (1, 16, 16), generator=torch_generator(0, "likelihood noise", row, t), dtype=torch.float64
            )
            for row in rows
        ]
        return torch.stack(draws)

    x_start = to_grid(as_model_input(dataset, np.array(rows)), 8)
    bound = variational_bound(lambda x, t: model(x.float(), t), diffusion, x_start, noise, bits=8)
    # 1e-4: the network's float32 kernels round otherwise in a batch of another size.
    np.testing.assert_allclose(whole.bits_per_dim, bound.total.numpy(), rtol=1e-4)
    np.testing.assert_allclose(whole.L_T, bound.prior.numpy(), rtol=1e-9)
    np.testing.assert_allclose(whole.L_0, bound.terms[:, 0].numpy(), rtol=1e-4)


def test_parts_sum_up_and_carry_their_standard_errors(measured: Path, tiny_run: Path) -> None:
    found, images = result(measured), pd.read_csv(measured / "images.csv")
    for split, films in (("test", 8), ("train", 32)):
        for method, count in (("every_timestep", 3), ("stratified", films - 3)):
            sums, rows = (
                found["splits"][split][method],
                images[(images.split == split) & (images.method == method)],
            )
            assert sums["images"] == len(rows) == count
            parts = sum(sums[name]["mean"] for name in ("L_T", "L_between", "L_0"))
            assert sums["bits_per_dim"]["mean"] == pytest.approx(parts)
            assert sums["bits_per_dim"]["mean"] == pytest.approx(rows.bits_per_dim.mean())
            assert sums["bits_per_dim"]["standard_error"] == pytest.approx(rows.bits_per_dim.sem())
    assert found["L_0_floor"] == decoder_floor(load_run(tiny_run).diffusion, 8)._asdict()


def test_tables_hold_every_timestep_and_every_reverse_step(measured: Path) -> None:
    terms, curve = pd.read_csv(measured / "terms.csv"), pd.read_csv(measured / "rate_distortion.csv")
    for split in ("test", "train"):
        assert terms[terms.split == split].t.tolist() == list(range(20))
        assert curve[curve.split == split].reverse_steps.tolist() == list(range(1, 21))
        every = result(measured)["splits"][split]["every_timestep"]
        rate = curve[curve.split == split].rate
        assert rate.is_monotonic_increasing
        assert float(rate.iloc[-1]) == pytest.approx(every["L_T"]["mean"] + every["L_between"]["mean"])
        assert terms[terms.split == split].bits_per_dim.sum() == pytest.approx(
            every["bits_per_dim"]["mean"] - every["L_T"]["mean"]
        )


def test_pictures_can_be_looked_at(measured: Path) -> None:
    with Image.open(measured / "likelihood.png") as chart:
        assert chart.width > 800
    with Image.open(measured / "progressive-confidential.png") as strip:
        assert strip.size == (11 * 18 - 2, 3 * 18 - 2)  # ten timesteps and the film; three films


def test_strata_estimate_what_every_timestep_sums_up() -> None:
    """Over many films the estimate by strata is the sum over all timesteps: no timestep counts twice or never."""
    terms = np.exp(-np.arange(50) / 7)
    for strata in (1, 2, 5, 50, 60):
        edges = strata_edges(50, strata)
        assert edges[0] == 0
        assert edges[-1] == 50
        assert (np.diff(edges) > 0).all()
        pairs = at_one_timestep_per_stratum(np.arange(2000), edges, seed=0)
        sums = (terms[pairs.t].reshape(2000, -1) * np.diff(edges)).sum(axis=1)
        # Five standard errors of 2,000 films; all timesteps have none.
        assert sums.mean() == pytest.approx(terms.sum(), abs=5 * sums.std() / 2000**0.5 + 1e-9)
    assert sums.std() < 1e-9


def test_what_is_done_is_not_done_again(
    tiny_run: Path, tiny_dataset: Path, measured: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    measure_likelihood(tiny_run, tiny_dataset, out, ["test"], SMALL, device="cpu")
    before = {path.name: path.stat().st_mtime_ns for path in (out / "terms").iterdir()}
    measure_likelihood(tiny_run, tiny_dataset, out, ["test", "train"], SMALL, device="cpu")
    after = {path.name: path.stat().st_mtime_ns for path in (out / "terms").iterdir()}
    assert before.items() < after.items()
    for name in ("images.csv", "terms.csv", "rate_distortion.csv"):
        assert (out / name).read_bytes() == (measured / name).read_bytes()


def test_another_question_in_the_same_folder_is_refused(
    tiny_run: Path, tiny_dataset: Path, measured: Path
) -> None:
    with pytest.raises(
        UsageError, match=r"another .*count \(.*, now 2\).*; repeat the same command, or choose"
    ):
        measure_likelihood(
            tiny_run, tiny_dataset, measured, ["test"], LikelihoodSettings(count=2), device="cpu"
        )


@pytest.mark.parametrize("steps", [5, 20])
def test_fewer_steps_are_measured_too(tiny_run: Path, tiny_dataset: Path, tmp_path: Path, steps: int) -> None:
    settings = LikelihoodSettings(count=2, steps=steps, bits=8)
    found = measure_likelihood(tiny_run, tiny_dataset, tmp_path / "out", ["test"], settings, device="cpu")
    assert found["settings"]["steps"] == steps
    assert "stratified" not in found["splits"]["test"]
    assert len(pd.read_csv(tmp_path / "out" / "terms.csv")) == steps


def test_the_depth_is_that_of_the_films(tiny_dataset: Path) -> None:
    dataset = open_dataset(tiny_dataset)
    assert source_bits(dataset, ["test"]) == 16
    mixed = dataset.manifest.copy()
    mixed.loc[dataset.indices("test")[0], "bits_stored"] = 12
    several = type(dataset)(dataset.folder, dataset.images, mixed, dataset.info)
    with pytest.raises(UsageError, match=r"1 of 12 bits, 7 of 16 bits.*choose one with --bits"):
        source_bits(several, ["test"])
    assert source_bits(several, ["train"]) == 16


@pytest.mark.parametrize(
    ("splits", "bits"),
    [(("test", "validation"), None), (("validation",), 8)],
    ids=["one of two", "the only one"],
)
def test_a_split_without_films_is_refused_before_anything_is_written(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path, splits: tuple[Split, ...], bits: int | None
) -> None:
    data = Path(shutil.copytree(tiny_dataset, tmp_path / "data"))
    manifest = (data / "manifest.csv").read_text().replace(",validation,", ",train,")
    (data / "manifest.csv").write_text(manifest)
    settings = LikelihoodSettings(count=2, steps=2, bits=bits)
    with pytest.raises(UsageError, match=r"data has no film in validation; choose another --split\."):
        measure_likelihood(tiny_run, data, tmp_path / "out", splits, settings, device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_split_that_is_named_twice_is_measured_once(
    tiny_run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = LikelihoodSettings(count=2, steps=2, bits=8)
    measure_likelihood(tiny_run, tiny_dataset, tmp_path / "out", ["test", "test"], settings, device="cpu")
    assert len(pd.read_csv(tmp_path / "out" / "images.csv")) == 2
    assert len(pd.read_csv(tmp_path / "out" / "terms.csv")) == 2


def test_films_of_another_size_are_refused(
    tiny_dataset: Path, tiny_config: Callable[..., Any], tmp_path: Path
) -> None:
    config = tiny_config("train.max_steps=0")
    run = tmp_path / "run"
    train(config, open_dataset(tiny_dataset), run, device="cpu")
    config_of_32 = tiny_config("data.image_size=32", "model.attention_resolutions=[16]")
    (run / "config.yaml").write_text(config_of_32.to_yaml())
    with pytest.raises(UsageError, match=r"are \(1, 16, 16\) and this RUN was trained on \(1, 32, 32\)"):
        measure_likelihood(run, tiny_dataset, tmp_path / "out", device="cpu")


def test_the_command_line_says_the_bits(
    tiny_run: Path, tiny_dataset: Path, measured: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    said = xraygen_cli(
        "likelihood", tiny_run, "--data", tiny_dataset, "--out", tmp_path / "out",
        "--split", "test", "--split", "train", "--count", 3, "--strata", 4, "--bits", 8, "--device", "cpu", "--json",
    )  # fmt: skip
    assert said.exit_code == 0, said.stderr
    assert json.loads(said.stdout)["splits"] == result(measured)["splits"]
    assert "bits/dim over 3 films" in said.stderr


@pytest.mark.slow
def test_a_killed_measurement_ends_as_the_uninterrupted_one(
    program: Path, tiny_run: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    """Twice 8 films at 20 timesteps are too few units for a kill to hit: all 48 films, in units of 1,024."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [str(program), "likelihood", str(tiny_run), "--data", str(tiny_dataset), "--count", "1000"]
    command += ["--split", "train", "--split", "test", "--bits", "8", "--device", "cpu", "--batch-size", "4"]
    subprocess.run([*command, "--out", str(whole)], check=True, capture_output=True)
    deaths = 0
    for delay in (5.0, 6.0, 7.0, 9.0):
        process = subprocess.Popen(
            [*command, "--out", str(killed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        deaths += process.returncode == -signal.SIGKILL
    assert deaths >= 1
    subprocess.run([*command, "--out", str(killed)], check=True, capture_output=True)
    for name in ("images.csv", "terms.csv", "rate_distortion.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
