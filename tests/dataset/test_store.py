"""A DATASET opened, or refused in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.manifest import manifest_columns
from xraygen.dataset.store import Dataset, content_sha256, open_dataset
from xraygen.errors import FolderError


@pytest.fixture
def dataset(hospital: Path, settings: IngestSettings, tmp_path: Path) -> Dataset:
    ingest([hospital], tmp_path / "dataset", settings)
    return open_dataset(tmp_path / "dataset")


def test_images_are_memory_mapped_and_cannot_be_written(dataset: Dataset) -> None:
    assert isinstance(dataset.images, np.memmap)
    assert (dataset.images.shape, dataset.images.dtype) == ((12, 16, 16), np.uint16)
    with pytest.raises(ValueError, match="read-only"):
        dataset.images[0, 0, 0] = 1


def test_manifest_columns_stand_in_the_order_that_the_design_promises(dataset: Dataset) -> None:
    assert ",".join(dataset.manifest.columns) == (
        "image_id,source,patient,study,split,view,sex,age,rows,columns,bits_stored,photometric,pixel_spacing_mm"
    )
    assert manifest_columns(["finding"])[7:10] == ["age", "finding", "rows"]


def test_manifest_types_do_not_depend_on_what_is_empty(dataset: Dataset) -> None:
    manifest = dataset.manifest
    assert manifest[["rows", "columns", "bits_stored"]].dtypes.eq("int64").all()
    assert manifest[["age", "pixel_spacing_mm"]].dtypes.eq("float64").all()
    assert all(
        isinstance(value, str) for name in ("patient", "study", "view", "sex") for value in manifest[name]
    )
    assert sorted(manifest["age"].dropna().unique()) == [63.0]
    assert manifest["age"].isna().sum() == 3


def test_gather_is_indexing_in_any_order_with_repeats(dataset: Dataset) -> None:
    rows = [7, 0, 7, 11, 3]
    batch = dataset.gather(rows)
    assert batch.dtype == np.uint16
    np.testing.assert_array_equal(batch, np.asarray(dataset.images)[rows])
    batch[0] = 0  # a copy: training may write into it
    assert dataset.images[7].any()


def test_gather_of_nothing_is_empty(dataset: Dataset) -> None:
    assert dataset.gather([]).shape == (0, 16, 16)


def test_the_splits_partition_the_rows(dataset: Dataset) -> None:
    rows = [dataset.indices("train"), dataset.indices("validation"), dataset.indices("test")]
    assert all(part.dtype == np.int64 and len(part) for part in rows)
    assert sorted(np.concatenate(rows)) == list(range(len(dataset)))


def test_an_unknown_split_is_refused(dataset: Dataset) -> None:
    with pytest.raises(FolderError, match=r"train, validation, test.*'val'"):
        dataset.indices("val")  # type: ignore[arg-type]  # what a user may type


def test_the_content_hash_is_that_of_the_files(dataset: Dataset) -> None:
    assert dataset.info.content_sha256 == content_sha256(dataset.folder)


def change_info(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        info = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(info | changes))

    return damage


def drop_last_row(folder: Path) -> None:
    lines = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text("\n".join(lines[:-1]) + "\n")


def cut_images(folder: Path) -> None:
    (folder / "images.npy").write_bytes((folder / "images.npy").read_bytes()[:-100])


def rename_column(folder: Path) -> None:
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace("patient,", "person,", 1))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "dataset.json").unlink(), "is not a DATASET"),
        (lambda folder: (folder / "dataset.json").write_text("{"), "not readable"),
        (change_info(format_version=2), "format version 2 and this xraygen reads 1"),
        (change_info(size=None), "lacks a key or holds a wrong value"),
        (change_info(size=[16, 17]), "holds uint16 images of"),
        (change_info(label_names=["finding"]), "are not those that dataset.json lists"),
        (drop_last_row, "12 images and manifest.csv 11 rows"),
        (rename_column, "lacks the column patient"),
        (cut_images, "is damaged"),
        (lambda folder: (folder / "images.npy").unlink(), "is damaged"),
        (lambda folder: (folder / "images.npy").write_bytes(b""), "is damaged"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_sentence(
    dataset: Dataset, damage: Callable[[Path], object], sentence: str
) -> None:
    damage(dataset.folder)
    with pytest.raises(FolderError, match=sentence) as caught:
        open_dataset(dataset.folder)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"does not exist; give the --out folder"):
        open_dataset(tmp_path / "nowhere")
