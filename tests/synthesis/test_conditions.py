import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from xraygen.atomic import sha256_of
from xraygen.audit.sets import read_set
from xraygen.errors import FolderError, UsageError
from xraygen.films.reader import read_film
from xraygen.progress import Progress
from xraygen.synthesis.conditions import Guidance, folder_of
from xraygen.synthesis.generate import generate
from xraygen.synthesis.sampling import SamplerSettings

FAST = SamplerSettings(sampler="ddim", steps=4, compute_batch=4)
FEMALE, MALE = {"sex": "F", "age": "30"}, {"sex": "M", "age": "30"}


def pixels(folder: Path, seed: int, words: dict[str, str]) -> np.ndarray:
    return read_film(folder / "images" / folder_of(words) / f"{seed}.png").values


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_seed_under_two_conditions_is_two_films_in_one_set(conditional_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words in (FEMALE, MALE, {}, FEMALE):
        generate(conditional_run, out, [3, 17], FAST, guidance=Guidance(words), device="cpu")
    told = rows(out)
    assert len(told) == 6
    last = ["sampler", "steps", "guidance", "sha256", "machine", "repeats"]
    assert list(told[0]) == ["file_name", "seed", "sex", "age", *last]
    assert [row["file_name"] for row in told[:2]] == ["images/3.png", "images/17.png"]
    assert [(row["sex"], row["age"], row["guidance"]) for row in told[1::2]] == [
        ("", "", ""), ("F", "30", "1.0"), ("M", "30", "1.0"),
    ]  # fmt: skip
    assert all(row["sha256"] == sha256_of(out / row["file_name"]) for row in told)
    assert len({row["sha256"] for row in told}) == 6
    assert read_set(out, (16, 16)).file_names == tuple(
        row["file_name"] for row in told
    )  # as the audit reads it


def test_an_image_is_the_same_alone_and_among_others_whatever_it_was_told(
    conditional_run: Path, tmp_path: Path
) -> None:
    guidance = Guidance(FEMALE, 2.0, (0.2, 5.0))
    generate(conditional_run, tmp_path / "many", range(6), FAST, guidance=guidance, device="cpu")
    generate(conditional_run, tmp_path / "alone", [5], FAST, guidance=guidance, device="cpu")
    assert np.array_equal(pixels(tmp_path / "many", 5, FEMALE), pixels(tmp_path / "alone", 5, FEMALE))


def test_weight_0_is_the_unconditional_image_to_the_bit(conditional_run: Path, tmp_path: Path) -> None:
    generate(conditional_run, tmp_path / "told", [5], FAST, guidance=Guidance(FEMALE, 0.0), device="cpu")
    generate(conditional_run, tmp_path / "plain", [5], FAST, device="cpu")
    assert np.array_equal(pixels(tmp_path / "told", 5, FEMALE), pixels(tmp_path / "plain", 5, {}))


def test_a_set_has_one_weight(conditional_run: Path, tmp_path: Path) -> None:
    generate(conditional_run, tmp_path / "out", [0], FAST, guidance=Guidance(FEMALE, 2.0), device="cpu")
    told = json.loads((tmp_path / "out" / "provenance.json").read_text())["settings"]
    assert (told["guidance"], told["guidance_interval"]) == (2.0, None)
    assert told["conditions_sha256"] == sha256_of(conditional_run / "conditions.json")
    assert "| guidance | weight 2;" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(UsageError, match=r"made with another .*guidance \(2\.0, now 3\.0\)"):
        generate(conditional_run, tmp_path / "out", [0], FAST, guidance=Guidance(MALE, 3.0), device="cpu")


def test_a_killed_call_is_finished_by_the_same_command(conditional_run: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        if progress.done >= 4:
            raise Killed

    guidance = Guidance(MALE, 1.5)
    with pytest.raises(Killed):
        generate(
            conditional_run, tmp_path / "out", range(6), FAST, guidance=guidance, device="cpu", report=kill
        )
    summary = generate(conditional_run, tmp_path / "out", range(6), FAST, guidance=guidance, device="cpu")
    assert (summary.made, summary.present) == (2, 4)
    generate(conditional_run, tmp_path / "whole", range(6), FAST, guidance=guidance, device="cpu")
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")


def test_numbers_are_one_however_they_are_written(conditional_run: Path, tmp_path: Path) -> None:
    generate(conditional_run, tmp_path / "out", [1], FAST, guidance=Guidance({"age": "30.0"}), device="cpu")
    again = generate(
        conditional_run, tmp_path / "out", [1], FAST, guidance=Guidance({"age": "30"}), device="cpu"
    )
    assert (again.made, again.present) == (0, 1)


def test_dicom_says_what_it_was_told(conditional_run: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    films = []
    for words in (FEMALE, MALE):
        generate(
            conditional_run, tmp_path, [7], FAST, guidance=Guidance(words), file_format="dicom", device="cpu"
        )
        films.append(pydicom.dcmread(tmp_path / "images" / folder_of(words) / "7.dcm"))
    assert films[0].DerivationDescription.endswith("4 steps, sex F, age 30")
    assert films[0].PatientSex == ""  # nobody's
    assert films[0].SOPInstanceUID != films[1].SOPInstanceUID


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--condition", "colour=red"], "this RUN knows sex, age"),
        (["--condition", "sex=X"], "expected one of F, M"),
        (["--condition", "age=120"], "expected a number from 20 to 51"),
        (["--condition", "sex"], "expected column=value"),
        (["--condition", "sex=F", "--condition", "sex=M"], "already said"),
        (["--guidance", "2"], "nothing to guide by"),
        (["--condition", "sex=F", "--guidance-interval", "5,1"], "two rising noise levels"),
        (["--condition", "sex=F", "--guidance", "2", "--guidance-interval", "1e-9,2e-9"], "holds no step"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for_is_one_sentence(
    conditional_run: Path, tmp_path: Path, xraygen_cli: Callable[..., Result], words: list[str], said: str
) -> None:
    result = xraygen_cli("generate", conditional_run, "--out", tmp_path / "out", "--seeds", "0", *words)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()


def test_the_command_line_makes_what_the_library_makes(
    conditional_run: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    words = [
        "--condition",
        "sex=M",
        "--condition",
        "age=30",
        "--guidance",
        "1.5",
        "--guidance-interval",
        "0.1,9",
    ]
    how = ["--seeds", 4, "--sampler", "ddim", "--steps", 4, "--compute-batch", 4, "--device", "cpu"]
    result = xraygen_cli("generate", conditional_run, "--out", tmp_path / "cli", *how, *words)
    assert result.exit_code == 0, result.stderr
    guidance = Guidance(MALE, 1.5, (0.1, 9.0))
    generate(conditional_run, tmp_path / "library", [4], FAST, guidance=guidance, device="cpu")
    assert np.array_equal(pixels(tmp_path / "cli", 4, MALE), pixels(tmp_path / "library", 4, MALE))


def test_a_run_without_conditions_refuses_them(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trained without conditions"):
        generate(tiny_run, tmp_path / "out", [0], FAST, guidance=Guidance(FEMALE), device="cpu")


def test_a_folder_that_nobody_described_is_refused(conditional_run: Path, tmp_path: Path) -> None:
    generate(conditional_run, tmp_path / "out", [0], FAST, guidance=Guidance(FEMALE), device="cpu")
    (tmp_path / "out" / "conditions.json").unlink()
    with pytest.raises(FolderError, match="does not say what"):
        generate(conditional_run, tmp_path / "out", [0], FAST, device="cpu")


@pytest.mark.parametrize(
    "words", [{"a/b": "../c"}, {"a": "."}, {"\u00e9": "\u00e9"}, {"a": "x" * 300}, {"a": "CON:*?"}]
)
def test_folders_have_plain_names_whatever_the_words(words: dict[str, str]) -> None:
    name = folder_of(words)
    assert name.replace("-", "").replace(".", "").isalnum()
    assert name.isascii()
    assert len(name) <= 60
    assert name[0].isalnum()


def test_different_words_never_share_a_folder() -> None:
    asked = [{"a": "b-c"}, {"a-b": "c"}, {"a": "b c"}, {"a": "b", "c": ""}, {"a": "x" * 60}, {"a": "x" * 61}]
    assert len({folder_of(words) for words in asked}) == len(asked)


def test_the_other_verbs_take_a_conditional_run_as_the_unconditional_one(
    conditional_run: Path, labelled_dataset: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    calls = [
        ["progressive", conditional_run, "--seeds", "0", "--sampler", "ddim", "--steps", "4", "--split", "none"],
        ["interpolate", conditional_run, f"{labelled_dataset}#0", f"{labelled_dataset}#1",
         "--timestep", "10", "--frames", "2", "--guidance", "0", "--features", "pixels"],
        ["likelihood", conditional_run, "--data", labelled_dataset, "--count", "1", "--strata", "0"],
    ]  # fmt: skip
    for verb, *words in calls:
        result = xraygen_cli(verb, *words, "--out", tmp_path / str(verb), "--device", "cpu")
        assert result.exit_code == 0, result.stderr
    where = ("--to", "diffusers", "--out", tmp_path / "exported", "--acknowledge-patient-data")
    result = xraygen_cli("export", conditional_run, *where)
    assert result.exit_code == 2
    assert "only networks without conditions can be exported" in " ".join(result.stderr.split())
