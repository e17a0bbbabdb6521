"""Nothing leaves without a passing audit of the very same films, or a person's word."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from xraygen.atomic import sha256_of
from xraygen.errors import XraygenError
from xraygen.synthesis.permission import permission
from xraygen.synthesis.provenance import differences, provenance
from xraygen.training.checkpoint import chosen_checkpoint

PASSED = {"check": "fd/floor>3", "passed": True}
CLEAN = {"verdict": "pass", "sentence": "The set passes."}


def report_on(
    synthetic: Path,
    folder: Path,
    verdicts: list[dict[str, Any]],
    checkpoint: dict[str, Any] | None = None,
    dataset: str | None = None,
    gate: dict[str, Any] | None = CLEAN,
) -> Path:
    """A REPORT; `dataset` None for the one that the set's RUN was trained on."""
    origin = json.loads((synthetic / "provenance.json").read_text())
    real = {"content_sha256": dataset or origin["dataset_sha256"]}
    files = {"metadata.csv": sha256_of(synthetic / "metadata.csv")}
    folder.mkdir()
    told = {
        "verdicts": verdicts,
        "real": real,
        "synthetic": {"files_sha256": files, "checkpoint": checkpoint},
        "privacy": {"gate": gate},
    }
    (folder / "report.json").write_text(json.dumps(told))
    return folder


def test_a_passing_audit_of_the_same_set_is_enough(synthetic: Path, tmp_path: Path) -> None:
    report = report_on(synthetic, tmp_path / "report", [PASSED])
    told = permission(synthetic, report, acknowledged=False)
    assert told == f"audit {sha256_of(report / 'report.json')}"
    assert permission(synthetic, report / "report.json", acknowledged=False) == told


@pytest.mark.parametrize("gate", [None, {}, {"verdict": "fail"}, {"verdict": "undecided"}])
def test_copies_forbid_it_whatever_was_asked_to_fail_on(
    gate: dict[str, Any] | None, synthetic: Path, tmp_path: Path
) -> None:
    verdicts = [
        PASSED,
        {"check": "suspects/expected>3", "passed": True},
    ]  # passes up to 15 copies among 500 films
    report = report_on(synthetic, tmp_path / "report", verdicts, gate=gate)
    with pytest.raises(XraygenError, match="does not pass: It says nothing about copies"):
        permission(synthetic, report, acknowledged=False)


def test_the_audits_own_sentence_says_why(synthetic: Path, tmp_path: Path) -> None:
    gate = {"verdict": "fail", "sentence": "The set does not pass: 10 films lie beyond the copy threshold."}
    report = report_on(synthetic, tmp_path / "report", [], gate=gate)
    with pytest.raises(XraygenError, match="10 films lie beyond the copy threshold"):
        permission(synthetic, report, acknowledged=False)


def test_a_person_may_say_that_it_is_patients_data(synthetic: Path) -> None:
    assert permission(synthetic, None, acknowledged=True) == "acknowledged"
    with pytest.raises(XraygenError, match="--acknowledge-patient-data"):
        permission(synthetic, None, acknowledged=False)


@pytest.mark.parametrize(
    ("verdicts", "sentence"),
    [
        ([PASSED, {"check": "fd/floor>3", "passed": False}], "failed: fd/floor>3"),
        ([{"check": "suspects>0", "passed": "yes"}], "failed: suspects>0"),
    ],
)
def test_an_audit_that_does_not_pass_or_did_not_ask_is_refused(
    synthetic: Path, tmp_path: Path, verdicts: list[dict[str, Any]], sentence: str
) -> None:
    report = report_on(synthetic, tmp_path / "report", verdicts)
    with pytest.raises(XraygenError, match=sentence):
        permission(synthetic, report, acknowledged=True)  # a person does not overrule an audit that is given


def test_an_audit_of_other_films_is_refused(synthetic: Path, tmp_path: Path) -> None:
    report = report_on(synthetic, tmp_path / "report", [PASSED])
    metadata = synthetic / "metadata.csv"
    metadata.write_text(metadata.read_text().replace("images/3.png", "images/4.png"))
    with pytest.raises(XraygenError, match="of other films"):
        permission(synthetic, report, acknowledged=False)


def test_an_audit_that_looked_for_copies_in_another_dataset_is_refused(
    tiny_dataset: Path, synthetic: Path, tmp_path: Path
) -> None:
    path = synthetic / "provenance.json"
    origin = json.loads(path.read_text())
    assert (
        origin["dataset_sha256"] == json.loads((tiny_dataset / "dataset.json").read_text())["content_sha256"]
    )
    report = report_on(synthetic, tmp_path / "report", [PASSED], dataset="00")
    with pytest.raises(XraygenError, match="another DATASET"):
        permission(synthetic, report, acknowledged=False)
    del origin["dataset_sha256"]  # as in a set that was made before
    path.write_text(json.dumps(origin))
    assert permission(synthetic, report, acknowledged=False).startswith("audit ")


def test_the_dataset_is_no_part_of_what_a_set_is_named_after(tiny_run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    (other / "dataset.json").write_text("{}")
    checkpoint = chosen_checkpoint(tiny_run)
    known, unknown = (provenance(run, checkpoint, {}, torch.device("cpu")) for run in (tiny_run, other))
    assert known["dataset_sha256"] != unknown["dataset_sha256"] is None
    assert known["id"] == unknown["id"]
    assert differences(known, unknown) == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"verdicts": 3}', '{"verdicts": [], "synthetic": null}'])
def test_a_damaged_report_is_one_sentence(synthetic: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(XraygenError, match=r"report\.json"):
        permission(synthetic, tmp_path, acknowledged=False)


def test_weights_need_an_audit_of_films_that_they_made_or_a_persons_word(
    tiny_run: Path, synthetic: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    made_by = json.loads((synthetic / "provenance.json").read_text())["checkpoint"]
    own = report_on(synthetic, tmp_path / "own", [PASSED], made_by)
    elsewhere = report_on(synthetic, tmp_path / "elsewhere", [PASSED], made_by, dataset="00")
    other = report_on(synthetic, tmp_path / "other", [PASSED], {"ema_sha256": "00", "step": 4})
    words = ("export", tiny_run, "--to", "release", "--checkpoint", "newest", "--out", tmp_path / "release")
    assert "--acknowledge-patient-data" in xraygen_cli(*words).stderr
    refusal = " ".join(xraygen_cli(*words, "--audit", other).stderr.split())
    assert "not of films that these weights" in refusal
    assert "step 6, made, but those of step 4; audit such, or choose by --checkpoint" in refusal
    last_step = ("export", tiny_run, "--to", "diffusers", "--weights", "model", "--out", tmp_path / "release")
    assert "not of films" in xraygen_cli(*last_step, "--audit", own).stderr
    assert "another DATASET" in xraygen_cli(*words, "--audit", elsewhere).stderr
    assert not (tmp_path / "release").exists()
    assert xraygen_cli(*words, "--audit", own).exit_code == 0
