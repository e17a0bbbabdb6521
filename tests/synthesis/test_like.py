import csv
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import Result

from xraygen.atomic import write_json
from xraygen.config import load_config
from xraygen.errors import UsageError
from xraygen.films.listing import METADATA, read_rows
from xraygen.models.unet import UNet
from xraygen.synthesis.conditions import Guidance
from xraygen.synthesis.generate import generate
from xraygen.synthesis.like import Remade, psnr_db, remake
from xraygen.synthesis.provenance import read_provenance
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.training.checkpoint import save_checkpoint

FAST = SamplerSettings("dpm++", 4, compute_batch=4, spacing="log-snr", threshold="dynamic", percentile=95)


def make(run: Path, out: Path, seeds: list[int], sex: str) -> None:
    generate(
        run,
        out,
        seeds,
        FAST,
        guidance=Guidance({"sex": sex, "age": "30"}, 2.0, (0.1, 9.0)),
        file_format="dicom-dx",
        mark=False,
        device="cpu",
    )


@pytest.fixture(scope="module")
def made(conditional_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "set"
    make(conditional_run, out, [3, 17], "F")
    return out


def test_a_row_is_made_again_to_the_byte(
    conditional_run: Path, made: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    out = tmp_path / "again"
    result = xraygen_cli("generate", conditional_run, "--like", f"{made}/metadata.csv#1", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "identical to the byte" in result.stderr
    (row,) = read_rows(out / METADATA)
    assert (row["seed"], row["repeats"]) == ("17", "identical")
    assert (out / row["file_name"]).read_bytes() == (made / row["file_name"]).read_bytes()


def test_where_the_film_is_already_nothing_is_made_and_it_is_said(
    conditional_run: Path, made: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    words = ("generate", conditional_run, "--like", f"{made}/metadata.csv#0", "--out")
    assert xraygen_cli(*words, tmp_path / "again").exit_code == 0
    for out in (made, tmp_path / "again"):
        result = xraygen_cli(*words, out)
        assert result.exit_code == 2
        assert "nothing was made again" in result.stderr
        assert "identical" not in result.stderr


def test_an_image_in_colour_is_made_again(tmp_path: Path, tiny: tuple[str, ...]) -> None:
    config = load_config("cifar10", tiny)
    network, run, out = UNet(config.model), tmp_path / "run", tmp_path / "set"
    run.mkdir()
    (run / "config.yaml").write_text(config.to_yaml())
    save_checkpoint(run, 1, network, network, {})
    generate(run, out, [5], SamplerSettings("ddim", 2, compute_batch=1), device="cpu")
    remade = remake(run, f"{out}#0", None, device="cpu")
    assert remade.identical
    assert remade.psnr_db == float("inf")


def test_the_threads_are_those_of_the_row(conditional_run: Path, made: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        remade = remake(conditional_run, f"{made}#0", None, device="cpu")
    finally:
        torch.set_num_threads(before)
    assert remade.machine == remade.made_on
    assert remade.identical
    assert remade.same
    assert remade.psnr_db == float("inf")


def test_another_machine_is_said_in_the_rows_it_adds(
    conditional_run: Path, made: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(made, tmp_path / "set"))
    write_json(out / "provenance.json", {**read_provenance(out), "machine": "cpu FOREIGN, 1 thread, torch 0"})
    make(conditional_run, out, [3], "M")
    assert [row["repeats"] for row in read_rows(out / METADATA)] == ["identical", "identical", "equivalent"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "0.0.1"}, r"made by xraygen 0\.0\.1 and this is"),
        (
            {"checkpoint": {"step": 6, "ema_sha256": "0" * 64}},
            "by the checkpoint of step 6 with the hash 0000",
        ),
        ({"config": {}}, "would make these films with another config"),
    ],
)
def test_what_differs_is_refused_by_name(
    conditional_run: Path, made: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    out = Path(shutil.copytree(made, tmp_path / "set"))
    write_json(out / "provenance.json", {**read_provenance(out), **change})
    with pytest.raises(UsageError, match=said):
        remake(conditional_run, f"{out}/metadata.csv#0", None, device="cpu")


def test_a_set_whose_noise_is_of_the_older_generator_is_neither_made_again_nor_gone_on_with(
    conditional_run: Path, made: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(made, tmp_path / "set"))
    origin = read_provenance(out)
    assert origin["settings"].pop("noise") == "pcg64"  # an older set does not say which
    write_json(out / "provenance.json", origin)
    with pytest.raises(UsageError, match=r"with another noise \(mt19937, now pcg64\) than"):
        remake(conditional_run, f"{out}/metadata.csv#0", None, device="cpu")
    with pytest.raises(UsageError, match=r"with another noise \(mt19937, now pcg64\);"):
        make(conditional_run, out, [4], "F")


@pytest.mark.parametrize(
    ("like", "said"),
    [
        ("{made}", "expected a row"),
        ("{made}#9", "has rows 0 to 1"),
        ("{made}/no#0", "no file"),
        ("{made}#²", "expected a row"),
    ],
)
def test_what_is_no_row_is_one_sentence(
    conditional_run: Path, made: Path, xraygen_cli: Callable[..., Result], like: str, said: str
) -> None:
    result = xraygen_cli("generate", conditional_run, "--like", like.format(made=made))
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_a_changed_row_is_answered_with_no(
    conditional_run: Path, made: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    out = Path(shutil.copytree(made, tmp_path / "set"))
    rows = read_rows(out / METADATA)
    with (out / METADATA).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows([{**rows[0], "sha256": "0" * 64}])
    result = xraygen_cli("generate", conditional_run, "--like", f"{out}#0", "--device", "cpu")
    assert result.exit_code == 1
    assert "the pixels are equal, the files are not" in " ".join(result.stderr.split())


def test_psnr_of_one_level_everywhere_is_that_of_the_range() -> None:
    image = np.full((4, 4), 1000, np.uint16)
    assert psnr_db(image, image + 1) == pytest.approx(20 * np.log10(65535))
    assert psnr_db(image, image) == np.inf


def test_only_another_machine_excuses_another_file() -> None:
    there = Remade("images/0.png", False, 70.0, "cpu A, 1 thread, torch 2", "cpu B, 1 thread, torch 2")
    assert there.same
    assert not dataclasses.replace(there, psnr_db=59.0).same
    assert not dataclasses.replace(there, machine=there.made_on).same
