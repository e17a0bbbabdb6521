"""The model that ships: small, whole, with its card, and at work without network and data."""

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from typer.testing import Result

from xraygen.films.reader import read_film
from xraygen.presets import run_folder, shipped_models
from xraygen.training.checkpoint import load_run, newest_checkpoint, run_config
from xraygen.training.conditions import read_conditions
from xraygen.training.held_out import held_out_bands

NAME = "kermany-64"
FOLDER = run_folder(NAME)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection can be made."""

    def refused(*_: object) -> NoReturn:
        raise AssertionError("a connection was tried")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused)


def test_it_ships_and_is_small() -> None:
    assert NAME in shipped_models()
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 10e6


def test_its_card_names_the_films_their_licence_and_what_it_is_not_for() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for words in (
        "Kermany, Zhang, Goldbaum",
        "doi:10.17632/rscbjbr9sj",
        "CC BY 4.0",
        "**Not for** diagnosis",
    ):
        assert words in card
    assert f"step {newest_checkpoint(FOLDER).step:,}" in card
    assert set(re.findall(r"xraygen generate (\S+)", card)) == {NAME}


def test_it_holds_what_its_audit_and_fine_tuning_need_and_no_film() -> None:
    files = {file.name for file in FOLDER.rglob("*") if file.is_file()}
    assert files == {
        "README.md",
        "config.yaml",
        "conditions.json",
        "dataset.json",
        "dataset.key",
        "ema.safetensors",
        "hashes.json",
        "held-out.json",
    }
    assert len((FOLDER / "dataset.key").read_bytes()) == 32
    assert held_out_bands(FOLDER, newest_checkpoint(FOLDER).step)


def test_it_knows_two_words() -> None:
    config = run_config(FOLDER)
    (condition,) = read_conditions(FOLDER, config).members
    assert config.data.shape == (1, 64, 64)
    assert (condition.name, condition.categories) == ("finding", ("NORMAL", "PNEUMONIA"))
    assert sum(weight.numel() for weight in load_run(FOLDER).model.parameters()) < 5e6


@pytest.mark.usefixtures("offline")
def test_it_draws_chests_right_after_installation(
    xraygen_cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = xraygen_cli("generate", NAME, "--seeds", "0-3", "--compute-batch", "4", "--out", "films")
    assert result.exit_code == 0, result.output
    films = np.stack([read_film(tmp_path / "films" / "images" / f"{seed}.png").values for seed in range(4)])
    light = films.astype(np.float64) / 65535
    assert light.shape == (4, 64, 64)
    # What holds of any frontal chest film: two dark lungs beside a light spine and above a light abdomen. The bounds
    # are loose: real test films have 0.27 and 0.25 on the average.
    spine = light[:, 24:40, 29:35].mean()
    lungs = (light[:, 24:40, 14:24].mean() + light[:, 24:40, 42:52].mean()) / 2
    abdomen = light[:, 54:62, 14:52].mean()
    assert spine - lungs > 0.05
    assert abdomen - lungs > 0.05


def test_a_folder_of_its_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_folder(NAME) == FOLDER
    (tmp_path / NAME).mkdir()
    assert run_folder(NAME) == Path(NAME)
