"""The two ends of a PATH: films from files or DATASET rows, prepared as the RUN's training films were.

A RUN of three channels takes natural images, which are reduced by area and otherwise left as they are.

C channels, F conditions.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xraygen.dataset.conditions import Conditions
from xraygen.dataset.store import Dataset, open_dataset
from xraygen.errors import FilmError, FolderError, UsageError
from xraygen.films.colour import read_colour, resized
from xraygen.films.dicom import is_lateral
from xraygen.films.transforms import PrepareSettings, prepare_film
from xraygen.models.conditions import DROPPED
from xraygen.ranges import stored_to_model
from xraygen.training.batches import as_model_input

Words = Mapping[str, str]
"""Column -> word or number."""

_DECISIVE = ("size", "fit", "crop_collimation")
"""Settings of ingest that decide what is seen of a film, and where."""


@dataclass(frozen=True, eq=False)
class End:
    """One film of a path.

    Attributes:
        x: The film, `(C, H, W)`, float32, [-1, 1].
        condition: What the network is told of it, `(F,)`; all DROPPED where nothing is.
        words: The same in words.
        view: Its view, as its header or manifest says it.
        prepared: What was done to it, for path.json and for people.
        row: Its row, where it came from a DATASET.
    """

    x: Tensor
    condition: Tensor
    words: Words = field(default_factory=dict)
    view: str = ""
    prepared: Mapping[str, Any] = field(default_factory=dict)
    row: int | None = None

    @property
    def content(self) -> str:
        """SHA-256 of the prepared pixels: what its noise is keyed by."""
        return hashlib.sha256(self.x.numpy().tobytes()).hexdigest()

    @property
    def order(self) -> tuple[str, bytes]:
        """Orders the ends of a path whichever way it is asked for."""
        return self.content, self.condition.numpy().tobytes()

    @property
    def lateral(self) -> bool:
        """Whether it says of itself that it was taken from the side."""
        return is_lateral(self.view.upper())


def read_end(
    run: Path, film: str, shape: tuple[int, int, int], conditions: Conditions, asked: Words, side: str
) -> End:
    """Read one end.

    Args:
        run: RUN folder, whose dataset.json says how films are prepared.
        film: Image file, or a DATASET row such as `dataset#17`.
        shape: (C, H, W) of the RUN's images.
        conditions: What the RUN can be told.
        asked: What shall be said of the film; it goes before what its row says.
        side: "a" or "b", for messages.

    Raises:
        FilmError: If the file is no film.
        UsageError: If there is no such file or row, it was prepared otherwise or for another size, or the RUN does not
            know a word.
    """
    folder, separator, number = film.rpartition("#")
    if separator and number.isdecimal():
        return _from_row(run, Path(folder), int(number), film, shape, conditions, asked, side)
    if not Path(film).is_file():
        raise UsageError(
            f"There is no file {film}; expected an image file or a DATASET row such as folder#17."
        )
    try:
        x, view, done = _natural(film, shape) if shape[0] == 3 else _film(run, film)
    except FilmError as error:
        raise FilmError(error.reason, f"{film}: {error.detail}") from None
    _check_shape(film, x, shape)
    words, condition = _told(conditions, asked, {}, side)
    return End(x, condition, words, view, {**done, "to": list(x.shape[1:])})


def _film(run: Path, film: str) -> tuple[Tensor, str, dict[str, Any]]:
    """A film's file as `(1, H, W)`, its view, and what was done to it."""
    settings = PrepareSettings.from_json(_prepared_as(run))
    prepared = prepare_film(film, settings)
    attributes = prepared.attributes
    x = stored_to_model(prepared.image, settings.bits)[None]  # (1, H, W)
    done = {"rows": attributes.rows, "columns": attributes.columns, "fit": settings.fit}
    return x, attributes.view, done


def _natural(picture: str, shape: tuple[int, int, int]) -> tuple[Tensor, str, dict[str, Any]]:
    """A picture in colour as `(3, H, W)`, no view, and what was done to it."""
    image = read_colour(Path(picture))
    x = stored_to_model(resized(image, shape[1:]), 8).permute(2, 0, 1).contiguous()  # (H, W, 3) to (3, H, W)
    return x, "", {"rows": image.shape[0], "columns": image.shape[1], "fit": "none"}


def _from_row(
    run: Path,
    folder: Path,
    row: int,
    film: str,
    shape: tuple[int, int, int],
    conditions: Conditions,
    asked: Words,
    side: str,
) -> End:
    """An end that ingest has prepared."""
    dataset = open_dataset(folder)
    if row >= len(dataset.images):
        raise UsageError(f"{film}: that DATASET has rows 0 to {len(dataset.images) - 1}.")
    x = as_model_input(dataset, np.array([row]))[0]  # (C, H, W)
    _check_shape(film, x, shape)
    _check_preparation(run, dataset)
    words, condition = _told(conditions, asked, conditions.words_of(dataset.manifest, row), side)
    view = str(dataset.manifest["view"].iloc[row])
    return End(x, condition, words, view, {"dataset_row": row}, row)


def _prepared_as(run: Path) -> dict[str, Any]:
    """The settings by which the RUN's training films were prepared, as `PrepareSettings.from_json` takes them."""
    try:
        ingested = json.loads((run / "dataset.json").read_text(encoding="utf-8"))["settings"]
        names = [part.name for part in fields(PrepareSettings) if part.name in ingested]
        settings = {name: ingested[name] for name in names}
        PrepareSettings.from_json(settings)
    except (OSError, ValueError, KeyError, TypeError, UsageError):
        raise FolderError(f"{run} has no readable dataset.json, which says how films are prepared.") from None
    return settings


def _check_shape(film: str, x: Tensor, shape: tuple[int, int, int]) -> None:
    if tuple(x.shape) != shape:
        raise UsageError(
            f"{film} is {tuple(x.shape)} when prepared, and this RUN makes {shape}; give the film's own file, which is "
            "brought to the RUN's size, or a row of a DATASET of that size."
        )


def _check_preparation(run: Path, dataset: Dataset) -> None:
    """A row was prepared when it was ingested; imported RUNs do not say how it should have been.

    Natural images are only made smaller, so that their shape says it all.
    """
    if dataset.info.channels == 3 or not (run / "dataset.json").is_file():
        return
    wanted = asdict(PrepareSettings.from_json(_prepared_as(run)))
    for name in _DECISIVE:
        have = dataset.info.settings.get(name, wanted[name])
        have = tuple(have) if isinstance(have, list) else have
        if have != wanted[name]:
            raise UsageError(
                f"The films of {dataset.folder} were prepared with {name} {have}, and this RUN's with {wanted[name]}; "
                "ingest them with the RUN's setting, or give their files."
            )


def _told(conditions: Conditions, asked: Words, known: Words, side: str) -> tuple[Words, Tensor]:
    """What the network is told of a film, in words and `(F,)`: what is asked for, then what is known, else nothing.

    Nothing is told too where the row lacks what the network knew of every training film: such a network cannot be told
    that it is not known.
    """
    words = {**known, **asked}
    nothing = torch.full((len(conditions.members),), DROPPED)
    if not words:
        return {}, nothing
    try:
        return words, torch.from_numpy(conditions.of_words(words))
    except UsageError as error:
        if asked:
            raise UsageError(str(error).replace("--condition", f"--condition-{side}")) from None
        return {}, nothing
