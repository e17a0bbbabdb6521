"""The pictures that a person looks at before training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xraygen.dataset.curation import THUMBNAIL_PX, to_thumbnail
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.overview import (
    ACCEPTED_NAME,
    HISTOGRAM_NAME,
    REJECTED_NAME,
    histogram,
    rejected_sheet,
    sample_rows,
    write_overview,
)
from xraygen.dataset.store import content_sha256, open_dataset


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000, 10**6])
def test_rows_are_spread_evenly_over_the_dataset(count: int) -> None:
    rows = sample_rows(count, 64)
    assert len(rows) == min(count, 64)
    assert rows.min() >= 0
    assert rows.max() < count
    assert len(set(rows)) == len(rows)
    assert np.diff([-1, *rows, count]).max() <= 2 * max(1, count / 64) + 1


def test_rows_depend_on_the_seed_alone() -> None:
    np.testing.assert_array_equal(sample_rows(1000, 64), sample_rows(1000, 64))
    assert (sample_rows(1000, 64) != sample_rows(1000, 64, seed=1)).any()


def test_the_contact_sheet_shows_the_films(tmp_path: Path) -> None:
    images = np.stack([np.full((96, 96), 1000 * number, np.uint16) for number in range(1, 11)])
    write_overview(tmp_path, images, 16, [])
    sheet = np.asarray(Image.open(tmp_path / ACCEPTED_NAME))
    assert sheet.shape == (2 * THUMBNAIL_PX + 2, 8 * THUMBNAIL_PX + 7 * 2)
    assert sheet[0, 0] == round(1000 * 255 / 65535)
    assert sheet[-1, THUMBNAIL_PX + 2] == round(10000 * 255 / 65535)
    assert not (tmp_path / REJECTED_NAME).exists()
    with Image.open(tmp_path / HISTOGRAM_NAME) as picture:
        assert picture.width > 500


def test_rejected_films_stand_under_their_reasons() -> None:
    films = [
        {"reason": reason, "thumbnail": to_thumbnail(np.full((8, 8), grey, np.float32))}
        for reason, grey in (("saturated", 1.0), ("blank", 0.5))
    ]
    sheet = np.asarray(rejected_sheet(films))
    assert sheet[-1, 0] in (127, 128)  # blank comes first
    assert sheet[-1, THUMBNAIL_PX + 2] == 255
    assert sheet[:14, :THUMBNAIL_PX].max() > 200  # its caption


def test_the_histogram_is_that_of_the_films() -> None:
    images = np.zeros((4, 10, 10), np.uint8)
    images[:, :3] = 255
    stairs = np.asarray(histogram(images, 8).axes[0].patches[-1].get_path().vertices)
    assert stairs[:, 1].max() == pytest.approx(70)


def test_ingest_writes_the_pictures_and_the_hash_does_not_know_them(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([hospital], tmp_path / "dataset", settings)
    names = (ACCEPTED_NAME, REJECTED_NAME, HISTOGRAM_NAME)
    content = {name: (tmp_path / "dataset" / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / "dataset" / name).unlink()
    dataset = open_dataset(tmp_path / "dataset")
    assert content_sha256(tmp_path / "dataset") == dataset.info.content_sha256
    ingest([hospital], tmp_path / "again", settings)
    assert content == {name: (tmp_path / "again" / name).read_bytes() for name in names}
