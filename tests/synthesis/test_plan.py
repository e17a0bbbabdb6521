import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from xraygen.dataset.store import open_dataset
from xraygen.errors import UsageError
from xraygen.films.listing import METADATA, read_rows
from xraygen.films.reader import read_film
from xraygen.synthesis.conditions import Guidance, Wish
from xraygen.synthesis.generate import generate
from xraygen.synthesis.plan import balance, read_plan
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.training.checkpoint import run_config
from xraygen.training.conditions import read_conditions

FAST = SamplerSettings(sampler="ddim", steps=4, compute_batch=4)
PLAN = "seed,sex,age,guidance\n3,F,30,\n3,M,30,\n3,F,30,2.5\n4,,,\n\n5,,30.0,\n"


def test_a_plan_is_a_film_a_row_each_as_it_would_be_alone(
    conditional_run: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    (tmp_path / "plan.csv").write_text(PLAN)
    how = ["--sampler", "ddim", "--steps", 4, "--compute-batch", 4, "--guidance", 1.5, "--device", "cpu"]
    out = tmp_path / "out"
    for made in (5, 0):
        result = xraygen_cli(
            "generate", conditional_run, "--out", out, "--plan", tmp_path / "plan.csv", *how, "--json"
        )
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["made"] == made
    rows = read_rows(out / METADATA)
    told = {(row["seed"], row["sex"], row["age"], row["guidance"]): row["file_name"] for row in rows}
    assert set(told) == {
        ("3", "F", "30", "1.5"),
        ("3", "M", "30", "1.5"),
        ("3", "F", "30", "2.5"),
        ("4", "", "", ""),
        ("5", "", "30", "1.5"),
    }
    alone = Guidance({"sex": "F", "age": "30"}, 2.5)
    generate(conditional_run, tmp_path / "alone", [3], FAST, guidance=alone, device="cpu")
    (row,) = read_rows(tmp_path / "alone" / METADATA)
    expected = read_film(tmp_path / "alone" / row["file_name"]).values
    assert np.array_equal(read_film(out / told["3", "F", "30", "2.5"]).values, expected)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("seed,sex\n0,F\n1,X\n", "row 3: --condition sex=X: expected one of F, M"),
        ("seed,sex\nzero,F\n", "row 2: the seed is 'zero'; expected a number"),
        ("seed,sex\n0,F,1\n", "row 2: 3 cells under 2 columns"),
        ("seed,sex,guidance\n0,F,much\n", "row 2: the guidance is 'much'"),
        ("seed,sex,guidance\n0,F,-1\n", "row 2: --guidance -1.0: expected a number from 0 up"),
        ("seed,sex,guidance\n0,,2\n", "row 2: guidance without a condition"),
        ("seed,age\n0,30\n1,30\n0,30.0\n", "row 4: the film of row 2 again"),
        ("seed,colour\n0,red\n", "has a column 'colour'; expected seed and any of sex, age, guidance"),
        ("sex\nF\n", "no column seed"),
        ("seed,sex\n", "orders no film"),
        ("", "no column seed"),
    ],
)
def test_what_a_plan_gets_wrong_is_one_sentence_with_its_row(
    conditional_run: Path, tmp_path: Path, plan: str, said: str
) -> None:
    (tmp_path / "plan.csv").write_text(plan)
    conditions = read_conditions(conditional_run, run_config(conditional_run))
    with pytest.raises(UsageError) as caught:
        read_plan(tmp_path / "plan.csv", conditions)
    assert said in str(caught.value)
    assert "plan.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "exactly one of --seeds 0-999, --plan plan.csv and --like"),
        (["--seeds", "0", "--plan", "p.csv"], "exactly one of"),
        (["--plan", "p.csv", "--condition", "sex=F"], "leave out one of them"),
        (["--plan", "p.csv"], "expected a CSV file"),
        (["--seeds", "0", "--steps", "few"], "expected a number from 1 up, draft, default or paper"),
        (["--seeds", "0", "--steps", "paper", "--sampler", "ddim"], "ddpm over all timesteps, not ddim"),
    ],
)
def test_what_contradicts_itself_is_one_sentence(
    conditional_run: Path, tmp_path: Path, xraygen_cli: Callable[..., Result], words: list[str], said: str
) -> None:
    result = xraygen_cli("generate", conditional_run, "--out", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


def test_a_balanced_plan_makes_every_word_as_frequent_as_the_most_frequent(
    labelled_dataset: Path, tmp_path: Path, xraygen_cli: Callable[..., Result]
) -> None:
    dataset = open_dataset(labelled_dataset)
    train = dataset.manifest.iloc[dataset.indices("train")]
    path = tmp_path / "plan.csv"
    result = xraygen_cli(
        "plan", labelled_dataset, "--balance", "sex", "--out", path, "--first-seed", 100, "--json"
    )
    assert result.exit_code == 0, result.stderr
    with path.open() as file:
        ordered = list(csv.DictReader(file))
    counts = train["sex"].value_counts().to_dict()
    for row in ordered:
        counts[row["sex"]] += 1
    assert len(set(counts.values())) == 1
    assert [int(row["seed"]) for row in ordered] == list(range(100, 100 + len(ordered)))
    assert {entry["after"] for entry in json.loads(result.stdout)["counts"]} == set(counts.values())


def test_several_columns_balance_their_combinations(labelled_dataset: Path) -> None:
    dataset = open_dataset(labelled_dataset)
    finding = np.where(np.arange(len(dataset)) % 8 < 6, "NORMAL", "PNEUMONIA")
    dataset.manifest["finding"] = finding
    train = dataset.manifest.iloc[dataset.indices("train")]
    proposed = balance(dataset, ["finding", "sex"])
    assert proposed.before == train.groupby(["finding", "sex"]).size().to_dict()
    assert len({proposed.before[words] + proposed.ordered[words] for words in proposed.before}) == 1
    assert sum(proposed.ordered.values()) > 0
    assert proposed.to_csv().splitlines()[0] == "seed,finding,sex"


@pytest.mark.parametrize(("column", "said"), [("age", "holds numbers"), ("patient", "no column that")])
def test_what_cannot_be_balanced_is_one_sentence(labelled_dataset: Path, column: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        balance(open_dataset(labelled_dataset), [column])


def test_films_at_another_weight_than_the_sets_have_a_folder_of_their_own() -> None:
    words = {"sex": "F"}
    assert Wish(0, words, 1.5).folder(1.5) == Wish(0, words, 1.0).folder(1.0)
    assert Wish(0, words, 1.5).folder(1.0) != Wish(0, words, 1.0).folder(1.0)
    assert Wish(0, {}, 1.5).folder(1.0) == ""
