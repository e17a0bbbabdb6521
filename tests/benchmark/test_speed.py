import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from click.testing import Result

from xraygen.benchmark import contenders as peers
from xraygen.benchmark.contenders import Contender, contenders
from xraygen.benchmark.generation import OUTSIDE, generation_tasks
from xraygen.benchmark.speed import cases
from xraygen.benchmark.table import speed_table
from xraygen.config import ModelConfig
from xraygen.models.unet import UNet

CPU = torch.device("cpu")


def missing(config: ModelConfig, device: torch.device) -> Contender:
    raise ImportError("No module named 'diffusers'")


def test_all_libraries_build_the_same_network() -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("einops", reason="MONAI's attention needs it")
    for model in {case.name: case.model for case in cases(CPU)}.values():
        counts = set()
        for build in (peers.ours, peers.diffusers_peer, peers.monai_peer):
            contender = build(model, torch.device("meta"))
            counts.add(sum(weight.numel() for weight in contender.network.parameters()))
        assert len(counts) == 1
        assert model.dropout == 0


def test_a_missing_library_is_said_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "diffusers_peer", missing)
    found = list(contenders(cases(CPU, quick=True)[1].model, CPU))
    assert [entry.name for entry in found if isinstance(entry, Contender)] == ["xraygen", "MONAI"]
    (sentence,) = (entry for entry in found if isinstance(entry, str))
    assert "diffusers is not compared" in sentence
    assert "xraygen[bench]" in sentence


def test_a_step_moves_weights_and_average() -> None:
    config = cases(CPU, quick=True)[1].model
    contender = peers.ours(config, CPU)
    assert isinstance(contender.network, UNet)
    before = contender.network.conv_in.weight.detach().clone()
    x_t = torch.randn(1, config.in_channels, 32, 32)
    contender.step(x_t, torch.zeros(1, dtype=torch.int64), x_t, peers.autocast_to("float32", CPU))
    assert not torch.equal(contender.network.conv_in.weight, before)
    assert all(weight.grad is None for weight in contender.network.parameters())


def test_both_pipelines_make_films_of_the_same_shape() -> None:
    pytest.importorskip("diffusers")
    config = cases(CPU, quick=True)[1].model
    present = [peers.ours(config, CPU), peers.diffusers_peer(config, CPU)]
    tasks = generation_tasks(config, 2, "float32", present, CPU)
    assert set(tasks) == {OUTSIDE, "xraygen", "diffusers"}
    ours: Any = tasks["xraygen"]()
    theirs: Any = tasks["diffusers"]()
    assert tuple(ours.shape) == (2, 1, 32, 32)
    assert theirs.images.shape == (2, 32, 32, 1)


@pytest.mark.slow
def test_the_quick_benchmark_prints_figures_and_a_table(xraygen_cli: Callable[..., Result]) -> None:
    result = xraygen_cli("benchmark", "speed", "--quick", "--rounds", 6, "--json")
    assert result.exit_code == 0, result.output
    measured: dict[str, Any] = json.loads(result.stdout)
    for case in measured["cases"]:
        assert case["step"]["xraygen"]["ours_over_this"]["median"] == 1
        assert all(row["seconds"] > 0 for row in case["step"].values())
        assert case["generation"]["xraygen"]["ours_over_this"]["median"] == 1
        assert 0 < case["outside_network"] < 1
    table = speed_table(measured)
    assert table.count("| xraygen |") == 3 * len(measured["cases"])
    assert "outside the network" in table
    assert "--quick" in table
