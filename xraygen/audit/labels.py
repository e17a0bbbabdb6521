"""What films are told or known to show, as numbers: the words of one column, and whose film each is."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraygen.config import ConditionsConfig
from xraygen.dataset.conditions import ALWAYS, Condition, Conditions, fit_conditions
from xraygen.dataset.store import Dataset
from xraygen.errors import UsageError

Codes = NDArray[np.int64]


def words_of(dataset: Dataset, column: str, option: str) -> Condition:
    """The words of a column of a DATASET.

    Args:
        dataset: Real films; the words are those of its train split.
        column: A label column, view or sex.
        option: What an error calls it, such as `--utility`.

    Raises:
        UsageError: If there is no such column, it says nothing, holds numbers, or its words could stand for patients.
    """
    allowed = [*dataset.info.label_names, *(name for name in ALWAYS if name != "age")]
    if column not in allowed:
        raise UsageError(
            f"{option} {column}: no column of words in {dataset.folder}; it has {', '.join(allowed)}."
        )
    try:
        (member,) = fit_conditions(dataset, ConditionsConfig(columns=(column,))).members
    except UsageError as error:
        raise UsageError(
            f"{option} {column}: {str(error).removeprefix('conditions.columns: ').removeprefix(f'{column} ')}"
        ) from None
    if len(member.categories) < 2:
        raise UsageError(
            f"{option} {column}: expected two words or more, and all training films of {dataset.folder} are "
            f"{', '.join(member.categories)}."
        )
    return member


def codes_of(member: Condition, column: pd.Series) -> Codes:
    """Which word each film has, -1 where it is not known or another."""
    codes = Conditions((member,)).of_manifest(column.to_frame(member.name))[:, 0]
    return np.where(np.isnan(codes), -1, codes).astype(np.int64)


def patients_of(patients: Sequence[str]) -> Codes:
    """A number per patient; a film of an unknown patient counts as a patient of its own."""
    names = [patient or f"\x00{row}" for row, patient in enumerate(patients)]
    return np.unique(names, return_inverse=True)[1].astype(np.int64)
