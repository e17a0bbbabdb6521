import builtins
import gc
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result

from xraygen.benchmark import contenders as peers
from xraygen.benchmark import distances, ingest, speed
from xraygen.benchmark.contenders import Contender, contenders
from xraygen.benchmark.generation import OUTSIDE, generation_tasks
from xraygen.benchmark.ingest import IngestCase, measure_syntax, pairs
from xraygen.benchmark.parts import PARTS, Part, read_parts
from xraygen.benchmark.processes import in_own_process
from xraygen.benchmark.speed import benchmark_speed, cases
from xraygen.benchmark.syntaxes import SYNTAXES, write_films
from xraygen.benchmark.table import speed_table
from xraygen.benchmark.turns import Times, figures, take_turns
from xraygen.config import ModelConfig
from xraygen.films.transforms import PrepareSettings, prepare_film
from xraygen.models.unet import UNet
from xraygen.progress import Progress, Report

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


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """A film of 128 px in each transfer syntax."""
    return write_films(tmp_path_factory.mktemp("films"), 1, 128)


def test_a_film_is_the_same_in_every_syntax(films: dict[str, list[Path]]) -> None:
    assert list(films) == list(SYNTAXES)
    plain, *others = (prepare_film(path, PrepareSettings((32, 32))).image for (path,) in films.values())
    for other in others:
        assert np.array_equal(other, plain)


def test_both_chains_shrink_the_same_film(films: dict[str, list[Path]]) -> None:
    (path,) = films["uncompressed"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MONAI's, that there is no decoder for a GPU
        theirs: Any = ingest.monai_chain((32, 32))(path)
    ours: Any = ingest.our_chain((32, 32))(path)
    assert tuple(theirs["film"].shape) == (1, 32, 32)
    assert ours.image.shape == (32, 32)
    # MONAI knows no window, and has its axes the other way round: the same picture, not the same values.
    seen = np.corrcoef(np.asarray(theirs["film"][0]).T.ravel(), ours.image.ravel())[0, 1]
    assert seen > 0.95


def test_jpeg_2000_is_timed_at_each_detail(films: dict[str, list[Path]]) -> None:
    told: list[Progress] = []
    sides = measure_syntax("JPEG 2000", films["JPEG 2000"], (32, 32), 2, report=told.append)
    assert {"full", "half", "quarter", "MONAI"} == set(sides)
    assert [(report.done, report.total) for report in told] == [(1, 2), (2, 2)]
    found = pairs("JPEG 2000", sides)
    assert list(found) == ["JPEG 2000", "JPEG 2000, decoded at a half", "JPEG 2000, decoded at a quarter"]
    assert all(pair["xraygen"] is sides[detail] for pair, detail in zip(found.values(), sides, strict=False))


def test_times_of_several_films_are_per_film(
    films: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def three_seconds(*arguments: object, **named: object) -> dict[str, Times]:
        return {name: Times(np.full(6, 3.0), np.full(6, 6.0)) for name in ("full", "MONAI")}

    monkeypatch.setattr(ingest, "take_turns", three_seconds)
    ours = measure_syntax("RLE", 3 * films["RLE"], (32, 32), 6)["full"]
    assert isinstance(ours, Times)
    assert ours.wall.tolist() == [1.0] * 6
    assert ours.cpu.tolist() == [2.0] * 6


def test_films_that_monai_cannot_read_are_a_row(
    films: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_decoder(size: tuple[int, int]) -> ingest.Chain:
        def read(path: Path) -> object:
            try:
                raise ImportError("no plugin | of pylibjpeg\nand more")
            except ImportError as error:
                raise RuntimeError("applying transform") from error

        return read

    monkeypatch.setattr(ingest, "monai_chain", without_decoder)
    sides = measure_syntax("JPEG lossless", films["JPEG lossless"], (32, 32), 2)
    assert isinstance(sides["full"], Times)
    measured = {"ingest": ingest_result(pairs("JPEG lossless", sides))}
    table = speed_table(about(("ingest",)) | measured)
    assert "a GPU, a processor, 2 processors" in table
    (row,) = (line for line in table.splitlines() if line.startswith("| JPEG lossless | MONAI |"))
    assert "(no plugin / of pylibjpeg)" in row
    assert "pip install pylibjpeg" in row
    assert row.count("|") == 10


def ingest_result(found: dict[str, ingest.Sides]) -> dict[str, Any]:
    rows = {name: figures(pair, 1) for name, pair in found.items()}
    return {"films": 1, "side": 128, "size": [32, 32], "threads": 1, "cases": rows}


def about(parts: tuple[Part, ...]) -> dict[str, Any]:
    return {
        "machine": {
            "device": "a GPU",
            "processor": "a processor",
            "cpu_count": 2,
            "threads": 1,
            "packages": {"torch": "2"},
        },
        "rounds": 6,
        "quick": True,
        "parts": list(parts),
        "peak": None,
        "missing": [],
        "cases": [],
    }


def test_all_ways_give_one_distance() -> None:
    pytest.importorskip("torchmetrics")
    for count in (24, 60):  # fewer samples than features, and more
        values = distances.measure_distances(count, 32, 2).values
        # The peers' roots of eigenvalues that are zero but for rounding: sqrt(1e-16) each.
        assert list(values.values()) == pytest.approx([values["xraygen"]] * 3, rel=1e-5)


def test_a_way_that_is_not_installed_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def without_torchmetrics(name: str, *arguments: Any, **named: Any) -> ModuleType:
        if name.startswith("torchmetrics"):
            raise ModuleNotFoundError("No module named 'torchmetrics'")
        return imported(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_torchmetrics)
    in_here(monkeypatch)
    measured = distances.benchmark_audit(distances.AuditCase((20,), 8), 6)
    assert list(measured["cases"]["20"]) == list(distances.WAYS)
    table = speed_table(about(("audit",)) | {"audit": measured})
    assert "| 20 | torchmetrics (eigvals) | not compared: No module named 'torchmetrics'; " in table
    assert "xraygen[bench]" in table
    assert table.count("| 20 |") == 3


def in_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process: another would need seconds to start."""

    def measure(threads: int, function: Callable[..., Any], *arguments: object, report: Report) -> Any:
        return function(*arguments, report=report)

    monkeypatch.setattr(ingest, "in_own_process", measure)
    monkeypatch.setattr(distances, "in_own_process", measure)


def test_a_process_of_its_own_reports_and_answers_and_this_one_stays_as_it_was() -> None:
    before, told = dict(os.environ), list[Progress]()
    times = in_own_process(1, take_turns, {"pause": gc.collect}, 2, CPU, report=told.append)
    assert (times["pause"].wall > 0).all()
    assert [report.done for report in told] == [1, 2]
    assert dict(os.environ) == before
    with pytest.raises(TypeError, match="unexpected keyword argument 'report'"):
        in_own_process(1, read_parts, "audit")


def test_ingest_and_audit_alone_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    in_here(monkeypatch)
    monkeypatch.setattr(ingest, "QUICK", IngestCase(1, 128, (32, 32)))
    monkeypatch.setattr(distances, "QUICK", distances.AuditCase((20,), 8))
    monkeypatch.setattr(speed, "contenders", missing)  # no network is built
    measured = benchmark_speed(CPU, quick=True, rounds=6, parts=("ingest", "audit"))
    json.dumps(measured, allow_nan=False)
    assert measured["cases"] == []
    assert len(measured["ingest"]["cases"]) == len(SYNTAXES) + 2
    for sides in (*measured["ingest"]["cases"].values(), *measured["audit"]["cases"].values()):
        assert sides["xraygen"]["ours_over_this"]["median"] == 1
        for row in sides.values():
            if "missing" in row:  # a package of `xraygen[bench]`, or a decoder, that is not installed here
                assert row["missing"].startswith("not compared: ")
                continue
            ratio = row["ours_over_this_cpu"]
            assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
    table = speed_table(measured)
    assert "Train step" not in table
    assert "Generation" not in table
    assert table.count("| xraygen |") == len(SYNTAXES) + 2 + 1
    assert "one thread" in table


@pytest.mark.parametrize(
    ("asked", "parts"), [(None, PARTS), ("audit, train", ("train", "audit")), ("ingest", ("ingest",))]
)
def test_parts_are_chosen_by_name(
    asked: str | None, parts: tuple[str, ...], xraygen_cli: Callable[..., Result]
) -> None:
    option = [] if asked is None else ["--parts", asked]
    result = xraygen_cli("benchmark", "speed", *option, "--dry-run", "--json")
    assert json.loads(result.stdout)["parts"] == list(parts)


def test_an_unknown_part_is_one_sentence(xraygen_cli: Callable[..., Result]) -> None:
    result = xraygen_cli("benchmark", "speed", "--parts", "train,speed", "--dry-run")
    assert result.exit_code == 2
    assert result.stderr == (
        "xraygen: --parts train,speed: expected some of train,generation,ingest,audit, with commas between.\n"
    )


@pytest.mark.slow
def test_training_alone_makes_no_films(xraygen_cli: Callable[..., Result]) -> None:
    result = xraygen_cli("benchmark", "speed", "--quick", "--rounds", 6, "--parts", "train")
    assert result.exit_code == 0, result.output
    assert "Train step" in result.stdout
    assert "Generation" not in result.stdout


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
    rows = 3 * len(measured["cases"]) + len(measured["ingest"]["cases"]) + len(measured["audit"]["cases"])
    assert table.count("| xraygen |") == rows
    assert "outside the network" in table
    assert "--quick" in table
