import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from xraygen.audit.audit import audit, plan
from xraygen.audit.by_choice import Choices, choice_table, measure_choices
from xraygen.audit.compare import compare_reports
from xraygen.audit.likelihood import estimated_bits
from xraygen.audit.sets import read_set
from xraygen.audit.settings import AuditSettings
from xraygen.audit.utility import Films
from xraygen.config import DiffusionConfig, RunConfig, ScheduleConfig
from xraygen.dataset.manifest import write_manifest
from xraygen.dataset.store import content_sha256, open_dataset
from xraygen.diffusion.densities import to_grid
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.likelihood import variational_bound
from xraygen.diffusion.schedule import NoiseSchedule
from xraygen.errors import FolderError, XraygenError
from xraygen.metrics.features import extract, load_extractor
from xraygen.training.checkpoint import checkpoints
from xraygen.training.loop import train

Textures = Callable[..., NDArray[np.uint16]]
Make = Callable[..., Path]

FAST = AuditSettings(features=("pixels",), pairs=30, device="cpu")


def mirrored(dataset: Path, folder: Path, axis: int) -> Path:
    """A DATASET of the same films, seen in a mirror."""
    shutil.copytree(dataset, folder)
    np.save(folder / "images.npy", np.flip(np.load(folder / "images.npy"), axis).copy())
    info = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**info, "content_sha256": content_sha256(folder)}))
    return folder


def relabelled(dataset: Path, folder: Path, **columns: list[str]) -> Path:
    """The same DATASET with another word for its first film, and with other columns where given."""
    shutil.copytree(dataset, folder)
    manifest = open_dataset(folder).manifest.assign(**columns)
    manifest.loc[0, "finding"] = "PNEUMONIA"
    write_manifest(folder / "manifest.csv", manifest, ["finding", "note"])
    info = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**info, "content_sha256": content_sha256(folder)}))
    return folder


@pytest.fixture(scope="module")
def elsewhere(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same kind of films from two other sources, whose folders have one name."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return mirrored(labelled, folder / "a" / "other", 2), mirrored(labelled, folder / "b" / "other", 1)


@pytest.fixture(scope="module")
def run(
    labelled: Path, tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Two steps on the labelled films."""
    config = tiny_config("data.image_size=24", "model.attention_resolutions=[]", "train.max_steps=2")
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(config, open_dataset(labelled), folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def audited(
    labelled: Path,
    told: Path,
    elsewhere: tuple[Path, Path],
    run: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any]]:
    """(REPORT, result) with everything that may be chosen."""
    out = tmp_path_factory.mktemp("by-choice") / "report"
    choices = Choices(utility="finding", also_test=elsewhere, repeats=2, run=run, bits_per_dim=True)
    checks = ("utility<-1", "membership_low>0.99")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XRAYGEN_CACHE", str(tmp_path_factory.getbasetemp() / "feature-cache"))
        return out, audit(labelled, told, out, replace(FAST, choices=choices, fail_on=checks))


def test_what_was_chosen_is_measured_judged_and_shown(
    audited: tuple[Path, dict[str, Any]], elsewhere: tuple[Path, Path], run: Path
) -> None:
    out, result = audited
    utility = result["utility"]
    assert [test["name"] for test in utility["tests"]] == ["the test split", "other", "other-2"]
    assert [share["patients"] for share in utility["fractions"]] == [2, 4, 10, 40]
    assert utility["synthetic_films"] == 26
    assert {kind: entry["films"] for kind, entry in result["bits_per_dim"]["kinds"].items()} == {
        "synthetic": 30,
        "test": 20,
        "train": 40,
    }
    assert result["bits_per_dim"]["bits"] == 12
    assert result["membership"]["held_out_films"] == 20
    assert [verdict["passed"] for verdict in result["verdicts"]] == [True, True]
    assert any(
        line.startswith("Adding 26 synthetic films to 100 % of the patients") for line in result["summary"]
    )
    assert any(line.startswith("From the denoising loss") for line in result["summary"])
    page = (out / "report.html").read_text()
    for words in (
        "Utility</h2>",
        "Membership attack</h2>",
        "Bits per dimension</h2>",
        "by share of the real",
    ):
        assert words in page
    assert (out / "figures" / "utility.png").exists()
    assert result["settings"]["choices"]["run"] == "run"
    for text in (page, (out / "report.json").read_text()):
        assert str(elsewhere[0].parents[1]) not in text
        assert str(run.parent) not in text
    lines = choice_table(result)
    assert any(line.startswith("  5 % of patients, real films ") for line in lines)
    assert any(line.startswith("  synthetic films ") for line in lines)


def test_the_page_says_what_was_chosen_and_how(audited: tuple[Path, dict[str, Any]]) -> None:
    page = (audited[0] / "report.html").read_text()
    rows = dict(re.findall(r'<th scope="row">setting: (.*?)</th><td>(.*?)</td>', page))
    assert (rows["utility"], rows["repeats"], rows["also test"]) == ("finding", "2", "other, other")
    assert "choices" not in rows


def test_patients_of_the_train_split_are_no_test_of_another_source(
    audited: tuple[Path, dict[str, Any]],
    labelled: Path,
    told: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the other source the films are mirrored, and the patients those of this DATASET."""
    out, result = audited
    assert [(test["films"], test["left_out"]) for test in result["utility"]["tests"]] == [
        *((20, 0), (24, 40), (24, 40)),
    ]
    assert (out / "report.html").read_text().count("40 of its films are left out") == 2
    assert sum("40 films left out" in line for line in choice_table(result)) == 2
    other = relabelled(labelled, tmp_path / "other")
    tested: list[Films] = []

    def seen(*given: Any, **_: Any) -> dict[str, Any]:
        tested.extend(given[3])
        return {"tests": [{"name": films.name, "mean": []} for films in given[3]]}

    monkeypatch.setattr("xraygen.audit.by_choice.measure_utility", seen)
    dataset = open_dataset(labelled)
    found = measure_choices(
        Choices(utility="finding", also_test=(other,)),
        dataset,
        read_set(told, dataset.info.size),
        lambda: load_extractor("pixels", "cpu"),
        made_by=None,
        seed=0,
        device="cpu",
    )
    unseen = extract(load_extractor("pixels", "cpu"), np.load(other / "images.npy")[40:], 16)
    assert np.array_equal(tested[1].inputs, unseen)  # a patient per film, the first 40 in the train split
    assert [test["left_out"] for test in found["utility"]["tests"]] == [0, 40]


def test_another_source_of_the_same_patients_alone_is_refused(
    labelled: Path, told: Path, tmp_path: Path
) -> None:
    other = relabelled(labelled, tmp_path / "other", patient=[f"patient-{row % 40}" for row in range(64)])
    settings = replace(FAST, choices=Choices(utility="finding", also_test=(other,)))
    with pytest.raises(
        XraygenError, match=r"other, without 64 films of patients of the train split of .* has no 5"
    ):
        plan(labelled, told, tmp_path / "report", settings)


def test_what_was_chosen_is_put_side_by_side(audited: tuple[Path, dict[str, Any]]) -> None:
    out, result = audited
    rows = {row["measure"]: row["cells"][0] for row in compare_reports([out, out])["rows"]}
    for test in result["utility"]["tests"]:  # two of the three are of folders with one name
        mean = {(row["arm"], row["fraction"]): row for row in test["mean"]}
        at = f"AUC of finding on {test['name']}: "
        few = rows[f"{at}real and synthetic films together, 5 % of the patients"]
        assert (few["value"], few["floor"]) == (mean["both", 0.05]["value"], mean["real", 0.05]["value"])
        alone = rows[f"{at}synthetic films alone"]
        assert (alone["value"], alone["floor"]) == (
            mean["synthetic", None]["value"],
            mean["real", 1]["value"],
        )
    assert rows["membership attack, AUC (chance is 0.5)"]["low"] == result["membership"]["low"]
    bits = rows["bits per dimension under the RUN"]
    assert [bits["value"], bits["floor"]] == [
        result["bits_per_dim"]["kinds"][kind]["value"] for kind in ("synthetic", "test")
    ]


@pytest.mark.parametrize(
    ("change", "noted"),
    [
        (lambda utility: utility["classifier"].update(classifier="forest"), True),
        (lambda utility: utility["classes"].append("TUBERCULOSIS"), True),
        (lambda utility: utility["classifier"].update(device="cuda"), False),  # the same but for rounding
    ],
)
def test_utilities_of_another_kind_are_not_compared(
    audited: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    noted: bool,
) -> None:
    out, _ = audited
    told = json.loads((out / "report.json").read_text())
    change(told["utility"])
    (tmp_path / "report.json").write_text(json.dumps(told))
    notes = compare_reports([out, tmp_path])["notes"]
    assert any("its AUC may not be compared" in note for note in notes) is noted


def test_what_was_not_chosen_has_no_lines() -> None:
    nothing = {"utility": None, "membership": None, "bits_per_dim": None}
    assert choice_table(nothing) == []


@pytest.mark.parametrize(
    ("choices", "checks", "words"),
    [
        ({}, ("utility>0",), "utility is measured with --utility LABEL only"),
        ({}, ("membership>0.6",), "membership is measured with --run RUN only"),
        ({"bits_per_dim": True}, (), "name it with --run RUN"),
        ({"also_test": (Path("x"),)}, (), "--also-test is of --utility LABEL"),
        ({"classifier": "convnet"}, (), "--classifier is of --utility LABEL, and there is none"),
        ({"repeats": 9}, (), "--repeats is of --utility LABEL, and there is none"),
        ({"utility": "age"}, (), "no column of words in .*; it has finding, note, view, sex"),
        ({"utility": "note"}, (), "--utility note: .*could stand for one of them"),
        ({"utility": "view"}, (), "expected two words or more, and all training films of .* are PA"),
        ({"utility": "sex"}, (), "were not told any; generate them with --condition sex=WORD"),
        ({"utility": "finding", "repeats": 1}, (), "one seed has no spread"),
        ({"utility": "finding", "classifier": "forest"}, (), "expected probe or convnet"),
        ({"utility": "finding", "also_test": ("labelled",)}, (), "is the DATASET of --real"),
        ({"utility": "finding", "also_test": ("real",)}, (), "has no column finding"),
        ({"run": "told"}, (), "is not a RUN"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_work(
    labelled: Path,
    real: Path,
    told: Path,
    tmp_path: Path,
    choices: dict[str, Any],
    checks: tuple[str, ...],
    words: str,
) -> None:
    folders = {"labelled": labelled, "real": real, "told": told}
    if "run" in choices:
        choices = {"run": folders[choices["run"]]}
    if "also_test" in choices:
        choices = {**choices, "also_test": tuple(folders.get(name, name) for name in choices["also_test"])}
    settings = replace(FAST, choices=Choices(**choices), fail_on=checks)
    with pytest.raises(XraygenError, match=words):
        plan(labelled, told, tmp_path / "report", settings)


def test_a_word_that_no_film_was_told_and_too_few_test_patients_are_refused(
    labelled: Path, told: Path, tmp_path: Path
) -> None:
    half = Path(shutil.copytree(told, tmp_path / "half"))
    metadata = pd.read_csv(half / "metadata.csv", dtype=str, keep_default_na=False)
    metadata["finding"] = "NORMAL"
    metadata.to_csv(half / "metadata.csv", index=False)
    settings = replace(FAST, choices=Choices(utility="finding"))
    with pytest.raises(XraygenError, match="was told PNEUMONIA, and a classifier needs some of each word"):
        plan(labelled, half, tmp_path / "report", settings)
    few = Path(shutil.copytree(labelled, tmp_path / "few"))
    manifest = pd.read_csv(few / "manifest.csv", dtype=str, keep_default_na=False)
    manifest.loc[manifest.index[-10:], "patient"] = "one patient"
    manifest.to_csv(few / "manifest.csv", index=False)
    with pytest.raises(XraygenError, match="has no 5 patients of one word and of another"):
        plan(few, told, tmp_path / "report", settings)


@pytest.mark.parametrize("named", [False, True])
def test_a_run_without_a_whole_checkpoint_is_refused_before_the_work(
    labelled: Path, told: Path, run: Path, tmp_path: Path, named: bool
) -> None:
    """Also where the films name a checkpoint that is there and damaged."""
    damaged, films = shutil.copytree(run, tmp_path / "run"), shutil.copytree(told, tmp_path / "films")
    if named:
        made_by = {"ema_sha256": checkpoints(damaged)[0].ema_sha256}
        (films / "provenance.json").write_text(json.dumps({"checkpoint": made_by}))
    for checkpoint in checkpoints(damaged)[: 1 if named else None]:
        (checkpoint.folder / "ema.safetensors").write_bytes(b"cut off")
    settings = replace(FAST, choices=Choices(run=damaged))
    with pytest.raises(FolderError, match=r"is damaged" if named else r"All checkpoints of .* are damaged"):
        plan(labelled, films, tmp_path / "report", settings)


def test_bits_are_estimated_without_bias() -> None:
    """Of 4 x 4 films under a network that predicts no noise: the mean of 300 estimates is that of 60 whole bounds."""
    schedule = NoiseSchedule.from_config(ScheduleConfig(num_timesteps=20, beta_end=0.3))
    diffusion = GaussianDiffusion(schedule, DiffusionConfig())
    x = to_grid(torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 1, 4, 4), 8)
    films = x.expand(300, -1, -1, -1)
    estimates = estimated_bits(
        lambda x_t, _: torch.zeros_like(x_t), diffusion, films, 8, np.arange(300), 0, "test"
    )
    generator = torch.Generator().manual_seed(1)
    whole = variational_bound(
        lambda x_t, _: torch.zeros_like(x_t),
        diffusion,
        films[:60],
        lambda t: torch.randn(60, 1, 4, 4, generator=generator, dtype=torch.float64),
        bits=8,
    ).total.numpy()
    error = np.hypot(estimates.std() / np.sqrt(300), whole.std() / np.sqrt(60))
    assert abs(estimates.mean() - whole.mean()) < 4 * error
    assert 4 * error < 0.2 * whole.mean()
