"""Any film by what it holds, and the same films inside MONAI."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, Resized
from numpy.typing import NDArray
from PIL import Image

from xraygen.errors import FilmError, ShapeError
from xraygen.films.dicom import read_radiograph
from xraygen.films.reader import RadiographReader, read_film

WriteDicom = Callable[..., Path]
Values = NDArray[Any]

# MONAI 1.6 says so whenever a LoadImage is made where NVIDIA's decoder is not installed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:NvImgCodecPydicomReader. nvImageCodec decoder plugin:UserWarning"
)


@pytest.mark.parametrize("name", ["film", "film.png", "film.dcm", "film.nii.gz", "FILM.TXT"])
@pytest.mark.parametrize("kind", ["dicom", "png", "jpeg", "tiff", "nifti"])
def test_films_are_read_by_what_they_hold(
    kind: str, name: str, levels: Values, write_dicom: WriteDicom, tmp_path: Path
) -> None:
    values = (levels >> 4).astype(np.uint8)
    written = tmp_path / "written"
    if kind == "dicom":
        written = write_dicom(values, 8)
    elif kind == "nifti":
        nibabel.Nifti1Image(values.T, None).to_filename(tmp_path / "written.nii")
        written = tmp_path / "written.nii"
    else:
        Image.fromarray(values).save(written, format=kind)
    film = read_film(written.rename(tmp_path / name))
    assert film.attributes.format == kind
    assert film.values.shape == values.shape


@pytest.mark.parametrize(
    ("name", "reason"),
    [("letter.dcm", "not_dicom"), ("letter", "not_dicom"), ("letter.png", "unknown_format")],
)
def test_what_is_no_film_is_refused_by_its_suffix(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("Dear colleague")
    with pytest.raises(FilmError) as caught:
        read_film(tmp_path / name)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (["L", "F"], lambda film: film),
        (["R", "F"], lambda film: film[:, ::-1]),
        (["L", "H"], lambda film: film[::-1]),
        (["R", "H"], lambda film: film[::-1, ::-1]),
        (["F", "L"], lambda film: film.T),
        (["H", "L"], lambda film: film.T[::-1]),
        (["F", "R"], lambda film: film.T[:, ::-1]),
        (["P", "F"], lambda film: film),  # a lateral film stays as it is
        (None, lambda film: film),
    ],
)
def test_frontal_films_are_turned_to_left_and_feet(
    orientation: list[str] | None,
    turn: Callable[[Values], Values],
    levels: Values,
    write_dicom: WriteDicom,
) -> None:
    film = read_film(write_dicom(levels, PatientOrientation=orientation))
    np.testing.assert_array_equal(film.values, turn(levels))
    assert (film.attributes.rows, film.attributes.columns) == film.values.shape


def test_dicom_with_a_tiff_preamble_is_dicom(levels: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(levels)
    content = path.read_bytes()
    path.write_bytes(b"II*\0" + content[4:])
    assert read_film(path).attributes.format == "dicom"


def test_load_image_gives_the_film_as_displayed(levels: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(levels, PhotometricInterpretation="MONOCHROME1", PixelSpacing=[0.2, 0.2])
    image = LoadImage(reader=RadiographReader())(path)
    np.testing.assert_array_equal(image.numpy(), read_radiograph(path).pixels)  # [H, W], not [W, H]
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image.affine.numpy(), np.diag([0.2, 0.2, 1, 1]))
    assert image.meta["spatial_shape"].tolist() == [50, 40]


def test_metadata_identify_nobody(levels: Values, write_dicom: WriteDicom, patient: str) -> None:
    path = write_dicom(levels, PatientSex="F", PatientAge="045Y")
    meta = LoadImage(reader=RadiographReader())(path).meta
    assert patient not in str(meta)
    assert "1.2.3" not in str(meta)


def test_films_collate_into_batches(levels: Values, write_dicom: WriteDicom) -> None:
    chain = Compose(
        [
            LoadImaged("film", reader=RadiographReader()),
            EnsureChannelFirstd("film"),
            Resized("film", (10, 8), mode="area"),
        ]
    )
    data = [{"film": str(write_dicom(levels))}] * 2
    (batch,) = DataLoader(Dataset(data, chain), batch_size=2)
    assert batch["film"].shape == (2, 1, 10, 8)


def test_several_files_become_channels(levels: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(levels)
    image = LoadImage(reader=RadiographReader(), ensure_channel_first=True)([path, path])
    assert image.shape == (2, 50, 40)


@pytest.mark.filterwarnings(
    "ignore:PydicomReader. ImageOrientationPatient:UserWarning"
)  # MONAI's reader, on any film
def test_a_refused_film_does_not_fall_through_to_readers_that_know_no_display(
    levels: Values, write_dicom: WriteDicom
) -> None:
    path = write_dicom(levels, PresentationIntentType="FOR PROCESSING")
    assert LoadImage()(path).shape == (40, 50)  # MONAI's own reader takes it
    with pytest.raises(FilmError) as caught:
        LoadImage(reader=RadiographReader())(path)
    assert caught.value.reason == "for_processing"


def test_films_of_different_sizes_do_not_stack(
    levels: Values, write_dicom: WriteDicom, tmp_path: Path
) -> None:
    first = write_dicom(levels).rename(tmp_path / "first.dcm")
    reader = RadiographReader()
    with pytest.raises(ShapeError):
        reader.get_data(reader.read([first, write_dicom(levels[:-1])]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.dcm", True),
        ("a", True),
        ("a.nii.gz", True),
        (["a.png", "b.JPG"], True),
        (["a.png", "b.csv"], False),
    ],
)
def test_suffixes_of_films_are_known(name: Any, expected: bool) -> None:
    assert RadiographReader().verify_suffix(name) is expected
