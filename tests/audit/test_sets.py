from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from xraygen.audit.sets import count_films, read_real, read_set
from xraygen.errors import FolderError
from xraygen.films.synthetic import SyntheticAttributes, write_synthetic_dicom

Textures = Callable[..., NDArray[np.uint16]]
MakeDataset = Callable[..., Path]
MakeSynthetic = Callable[..., Path]

SIZE = (24, 24)


def test_a_synthetic_of_16_bit_png_is_read_to_the_level(
    tmp_path: Path, textures: Textures, make_synthetic: MakeSynthetic
) -> None:
    images = textures(5)
    found = read_set(make_synthetic(tmp_path / "synthetic", images), SIZE)
    assert np.array_equal(found.images, images)
    assert found.file_names == tuple(f"images/{seed}.png" for seed in range(5))
    assert (found.bits, found.name, len(found), found.of_patients) == (16, "synthetic", 5, False)


def test_8_bit_png_is_read_at_16_bits(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    levels = np.arange(24 * 24).reshape(SIZE) % 256
    Image.fromarray(levels.astype(np.uint8)).save(tmp_path / "images" / "0.png")
    pd.DataFrame({"file_name": ["images/0.png"]}).to_csv(tmp_path / "metadata.csv", index=False)
    assert np.array_equal(read_set(tmp_path, SIZE).images[0], levels * 257)


def test_a_synthetic_of_dicom_is_read_to_the_level(tmp_path: Path, textures: Textures) -> None:
    image = textures(1)[0]
    (tmp_path / "images").mkdir()
    attributes = SyntheticAttributes(
        set_id="ab" * 16,
        derivation="Made for a test",
        created=datetime(2026, 1, 1, tzinfo=UTC),
        instance_number=1,
    )
    write_synthetic_dicom(tmp_path / "images" / "0.dcm", image, attributes)
    pd.DataFrame({"file_name": ["images/0.dcm"]}).to_csv(tmp_path / "metadata.csv", index=False)
    assert np.array_equal(read_set(tmp_path, SIZE).images[0], image)


def test_a_dataset_is_read_with_all_its_rows(real: Path) -> None:
    found = read_set(real, SIZE)
    assert len(found) == count_films(real) == 64
    assert found.file_names[63] == "#63"
    assert found.of_patients


def break_nothing_but_delete(folder: Path) -> None:
    (folder / "images" / "1.png").unlink()


def cut_off(folder: Path) -> None:
    path = folder / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:60])


def exchange(folder: Path) -> None:
    (folder / "images" / "1.png").write_bytes((folder / "images" / "0.png").read_bytes())


def empty_the_table(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,seed\n")


def lead_outside(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name\n../other.png\n")


def forget_the_table(folder: Path) -> None:
    (folder / "metadata.csv").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_nothing_but_delete, r"1\.png, listed in metadata\.csv, cannot be read"),
        (cut_off, r"1\.png, listed in metadata\.csv, cannot be read"),
        (exchange, r"1\.png is not the file whose SHA-256"),
        (empty_the_table, "lists no film"),
        (lead_outside, "outside the folder"),
        (forget_the_table, "neither a SYNTHETIC nor a DATASET"),
    ],
)
def test_a_damaged_synthetic_is_refused(
    tmp_path: Path,
    textures: Textures,
    make_synthetic: MakeSynthetic,
    damage: Callable[[Path], None],
    words: str,
) -> None:
    folder = make_synthetic(tmp_path / "synthetic", textures(3))
    damage(folder)
    with pytest.raises(FolderError, match=words):
        read_set(folder, SIZE)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="does not exist"):
        read_set(tmp_path / "none", SIZE)


def test_films_of_another_size_are_refused_with_both_sizes(
    tmp_path: Path, textures: Textures, make_synthetic: MakeSynthetic
) -> None:
    folder = make_synthetic(tmp_path / "synthetic", textures(2, size=(24, 20)))
    with pytest.raises(FolderError, match="24x20 px and the real films are 24x24"):
        read_set(folder, SIZE)


def test_a_dataset_of_another_size_is_refused(real: Path) -> None:
    with pytest.raises(FolderError, match="24x24 px and the real films are 32x32"):
        read_set(real, (32, 32))


def test_a_patient_in_both_splits_is_refused(
    tmp_path: Path, textures: Textures, make_dataset: MakeDataset
) -> None:
    folder = make_dataset(
        tmp_path / "d", textures(4), ["train", "train", "test", "test"], ["a", "b", "c", "b"]
    )
    with pytest.raises(FolderError, match="1 patients in both"):
        read_real(folder)


def test_a_dataset_without_test_films_is_refused(
    tmp_path: Path, textures: Textures, make_dataset: MakeDataset
) -> None:
    folder = make_dataset(tmp_path / "d", textures(4), ["train"] * 4)
    with pytest.raises(FolderError, match="no film in its test split"):
        read_real(folder)


def test_colour_images_are_refused(tmp_path: Path, make_dataset: MakeDataset) -> None:
    folder = make_dataset(
        tmp_path / "d", np.zeros((4, 8, 8, 3), np.uint8), ["train", "train", "test", "test"]
    )
    with pytest.raises(FolderError, match="colour"):
        read_real(folder)
