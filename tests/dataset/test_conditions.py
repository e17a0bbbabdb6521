import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from xraygen.config import ConditionsConfig, load_config
from xraygen.dataset.conditions import Condition, Conditions, fit_conditions
from xraygen.dataset.store import Dataset, open_dataset
from xraygen.errors import ConfigError, UsageError

NAN = math.nan


def with_columns(folder: Path, columns: Mapping[str, Any]) -> Dataset:
    """The 48 films of a DATASET with these columns; labels where they are not the manifest's own."""
    dataset = open_dataset(folder)
    labels = [name for name in columns if name not in dataset.manifest.columns]
    names = (*dataset.info.label_names, *labels)
    return replace(
        dataset, manifest=dataset.manifest.assign(**columns), info=replace(dataset.info, label_names=names)
    )


def fit(dataset: Dataset, *columns: str, **settings: object) -> Conditions:
    return fit_conditions(dataset, ConditionsConfig.model_validate({"columns": columns, **settings}))


def test_kinds_are_inferred_and_can_be_overridden(tiny_dataset: Path) -> None:
    columns = {
        "age": np.linspace(20, 67, 48),
        "sex": ["F", "M", ""] * 16,
        "edema": ["1", "0", "-1", ""] * 12,
        "cause": ["virus", "bacteria"] * 24,
        "grade": ["0", "1", "2", "3"] * 12,
    }
    dataset = with_columns(tiny_dataset, columns)
    found = fit(dataset, *columns)
    assert [member.kind for member in found.members] == [
        "continuous", "categorical", "multi_label", "categorical", "categorical",
    ]  # fmt: skip
    assert found.members[3].categories == ("bacteria", "virus")
    assert found.sizes == (0, 2, 2, 2, 4)
    other = fit(dataset, "edema", "grade", kinds={"edema": "categorical", "grade": "continuous"})
    assert other.members[0].categories == ("-1", "0", "1")  # an uncertain finding is then a word of its own
    assert (other.members[1].low, other.members[1].high) == (0, 3)


def test_a_manifest_becomes_numbers(tiny_dataset: Path) -> None:
    columns = {
        "age": [20.0, NAN, 30.0, 40.0] * 12,
        "sex": ["M", "F", "", "M"] * 12,
        "edema": ["1", "0", "-1", ""] * 12,
    }
    dataset = with_columns(tiny_dataset, columns)
    told = fit(dataset, *columns).of_manifest(dataset.manifest)
    expected = [[0.0, 1, 1], [NAN, 0, 0], [0.5, NAN, NAN], [1.0, 1, NAN]] * 12
    assert told.dtype == np.float32
    np.testing.assert_array_equal(told, np.array(expected, np.float32))


def test_words_and_ranges_are_those_of_the_train_split_alone(tiny_dataset: Path) -> None:
    columns = {
        "sex": ["F", "M"] * 16 + ["O"] * 16,
        "age": [*np.linspace(30, 40, 32), *np.linspace(0, 99, 16)],
    }
    dataset = with_columns(tiny_dataset, columns)  # rows 0 to 31 are the train split
    found = fit(dataset, "sex", "age")
    assert found.members[0].categories == ("F", "M")
    assert (found.members[1].low, found.members[1].high) == (30, 40)
    told = found.of_manifest(dataset.manifest)[32:]
    assert np.isnan(told[:, 0]).all()  # a word that training never saw is not known
    assert told[:, 1].min() == 0
    assert told[:, 1].max() == 1


@pytest.mark.parametrize(
    ("columns", "asked", "settings", "said"),
    [
        ({}, "patient", {}, "patient is no column that a network may be told.*view, sex, age, finding"),
        ({}, "image_id", {}, "no column that a network may be told"),
        ({}, "rows", {}, "no column that a network may be told"),
        ({}, "no_such", {}, "no column that a network may be told"),
        ({}, "sex", {}, "sex is empty"),
        ({"code": [f"w{row}" for row in range(48)]}, "code", {}, "32 different values among 32 training"),
        ({"code": [f"w{row // 1.6:.0f}" for row in range(48)]}, "code", {}, "could stand for one of them"),
        ({"age": [40.0] * 48}, "age", {}, "age is 40 in all training films"),
        ({}, "finding", {"kinds": {"finding": "continuous"}}, "no number"),
        ({"size": ["1", "inf"] * 24}, "size", {"kinds": {"size": "continuous"}}, "no number"),
        ({}, "finding", {"kinds": {"finding": "multi_label"}}, "more than 1, 0 and -1"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused_in_a_sentence(
    tiny_dataset: Path, columns: dict[str, list], asked: str, settings: dict, said: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        fit(with_columns(tiny_dataset, columns), asked, **settings)
    assert not any(f"P{row}" in str(caught.value) for row in range(48))


def test_more_than_64_words_are_refused_however_many_patients_there_are(tiny_dataset: Path) -> None:
    dataset = open_dataset(tiny_dataset)
    many = pd.concat([dataset.manifest.iloc[:32]] * 10, ignore_index=True)
    many = many.assign(
        patient=[f"P{row}" for row in range(320)], finding=[f"w{row % 65}" for row in range(320)]
    )
    with pytest.raises(UsageError, match="65 different values"):
        fit(replace(dataset, manifest=many), "finding")
    fit(replace(dataset, manifest=many.assign(finding=[f"w{row % 64}" for row in range(320)])), "finding")


FOUND = Conditions((
    Condition("finding", "categorical", ("NORMAL", "PNEUMONIA"), may_be_missing=False),
    Condition("edema", "multi_label", ("0", "1")),
    Condition("age", "continuous", (), 1.0, 91.0),
))  # fmt: skip


def test_what_is_asked_for_becomes_one_row() -> None:
    row = FOUND.of_words({"age": "46", "finding": "PNEUMONIA"})
    np.testing.assert_array_equal(row, np.array([1, NAN, 0.5], np.float32))
    np.testing.assert_array_equal(FOUND.of_words({"finding": "NORMAL", "edema": "1"})[:2], [0, 1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"colour": "red"}, "this RUN knows finding, edema, age, and nothing called colour"),
        ({"finding": "COVID"}, "finding=COVID: expected one of NORMAL, PNEUMONIA"),
        ({"finding": "NORMAL", "edema": "-1"}, "expected one of 0, 1"),
        ({"finding": "NORMAL", "age": "120"}, "expected a number from 1 to 91"),
        ({"finding": "NORMAL", "age": "nan"}, "expected a number from 1 to 91"),
        ({"finding": "NORMAL", "age": "old"}, "expected a number from 1 to 91"),
        ({"finding": "NORMAL", "age": "inf"}, "expected a number from 1 to 91"),
        ({"edema": "1"}, "finding=... is missing.*NORMAL, PNEUMONIA"),
    ],
)
def test_what_the_run_does_not_know_is_refused_with_what_it_does(words: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        FOUND.of_words(words)


def test_a_run_without_conditions_refuses_all() -> None:
    with pytest.raises(UsageError, match="trained without conditions"):
        Conditions().of_words({"finding": "NORMAL"})


@pytest.mark.parametrize("member", FOUND.members, ids=FOUND.names)
def test_a_condition_survives_json(member: Condition) -> None:
    assert Condition.from_json(member.to_json()) == member


def test_whether_one_may_be_left_out_follows_from_training(tiny_dataset: Path) -> None:
    dataset = with_columns(tiny_dataset, {"sex": ["F", "M"] * 24, "cause": ["a", "b", ""] * 16})
    assert [fit(dataset, name).members[0].may_be_missing for name in ("sex", "cause")] == [False, True]
    assert fit(dataset, "sex", "cause").members[0].may_be_missing  # hidden now and then
    assert not fit(dataset, "sex", "cause", hide_probability=0).members[0].may_be_missing


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["conditions.columns=[a,a]"], "names a column twice"),
        (["conditions.kinds.a=categorical"], "kinds speaks of a"),
        (["conditions.columns=[a]", "conditions.kinds.a=ordinal"], "conditions.kinds"),
        (
            ["conditions.drop_probability=0"],
            "drop_probability",
        ),  # the unconditional network would be untaught
        (["conditions.drop_probability=1"], "drop_probability"),  # and here the words
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("cxr-64", settings)


def test_the_command_line_sets_columns_and_kinds() -> None:
    config = load_config(
        "cxr-64", ["conditions.columns=[finding,No Finding]", "conditions.kinds.finding=categorical"]
    )
    assert config.conditions.columns == ("finding", "No Finding")
    assert config.conditions.kinds == {"finding": "categorical"}
    assert load_config("cxr-64").conditions == ConditionsConfig()
