"""From a file to a small stored image: means kept, borders black, display correct whichever way a film went."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xraygen.errors import FilmError, UsageError
from xraygen.films.dicom import read_radiograph, read_stored
from xraygen.films.display import CLIP_TOLERANCE
from xraygen.films.resizing import crop_to_aspect, resize, size_inside
from xraygen.films.transforms import (
    PrepareSettings,
    content_hash,
    film_pipeline,
    prepare_film,
)
from xraygen.ranges import stored_to_unit
from xraygen.seeds import numpy_generator

WriteDicom = Callable[..., Path]
Values = NDArray[Any]
HALF_LEVEL = 0.5 / 65535


def area_mean(image: Values, size: tuple[int, int]) -> NDArray[np.float64]:
    """Slow and obvious: repeat every pixel until both grids share it, and take block means."""
    height, width = image.shape
    fine = np.repeat(np.repeat(image.astype(np.float64), size[0], axis=0), size[1], axis=1)
    mean: NDArray[np.float64] = fine.reshape(size[0], height, size[1], width).mean(axis=(1, 3))
    return mean


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (12, 3), (1, 1), (48, 36), (47, 35), (6, 36)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_shrinking_takes_exact_area_means(size: tuple[int, int], dtype: type) -> None:
    image: Values = numpy_generator(0, "resize").integers(0, 200, (48, 36)).astype(dtype)
    small = resize(image, size)
    np.testing.assert_allclose(small, area_mean(image, size), rtol=1e-6)  # float32 sums of up to 1,728 pixels
    assert small.mean() == pytest.approx(image.mean(), rel=1e-6)
    assert small.dtype == np.float32


def test_growing_is_linear_between_pixel_centres() -> None:
    grown = resize(np.array([[0.0, 2.0, 6.0, 8.0]]), (1, 8))
    np.testing.assert_allclose(grown[0], [0, 0.5, 1.5, 3, 5, 6.5, 7.5, 8])


@pytest.mark.parametrize("size", [(3, 80), (80, 3), (80, 80), (50, 41)])
def test_growing_stays_in_range_and_keeps_a_flat_film_flat(size: tuple[int, int]) -> None:
    image = numpy_generator(1, "resize").random((50, 40))
    grown = resize(image, size)
    assert image.min() <= grown.min() <= grown.max() <= image.max()
    np.testing.assert_allclose(resize(np.full((50, 40), 7.0), size), 7, rtol=1e-6)


def test_a_film_of_one_pixel_can_grow() -> None:
    np.testing.assert_array_equal(resize(np.array([[5]], dtype=np.uint8), (2, 3)), np.full((2, 3), 5))


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((100, 50), (20, 20), (20, 10)),
        ((50, 100), (20, 20), (10, 20)),
        ((2128, 2000), (256, 256), (256, 241)),
        ((7, 7), (5, 9), (5, 5)),
        ((1000, 1), (16, 16), (16, 1)),
    ],
)
def test_size_inside_keeps_the_aspect_ratio(
    shape: tuple[int, int], size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert size_inside(shape, size) == expected


def test_crop_is_central() -> None:
    image = np.arange(60).reshape(6, 10)
    np.testing.assert_array_equal(crop_to_aspect(image, (4, 4)), image[:, 2:8])
    np.testing.assert_array_equal(crop_to_aspect(image.T, (4, 4)), image.T[2:8])


LINEAR: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
WAYS: dict[str, dict[str, Any]] = {
    "linear": LINEAR,
    "inverted": {**LINEAR, "PhotometricInterpretation": "MONOCHROME1"},
    "clipped": {"WindowCenter": 2000, "WindowWidth": 500},
    "sigmoid": {"WindowCenter": 2000, "WindowWidth": 500, "VOILUTFunction": "SIGMOID"},
    "padded": {**LINEAR, "PixelPaddingValue": 0, "PhotometricInterpretation": "MONOCHROME1"},
    "percentiles": {},
}


@pytest.mark.parametrize("way", list(WAYS))
def test_a_prepared_film_is_the_mean_of_the_displayed_one(
    way: str, levels: Values, write_dicom: WriteDicom
) -> None:
    path = write_dicom(levels, **WAYS[way])
    prepared = prepare_film(path, PrepareSettings((10, 8)))
    expected = area_mean(read_radiograph(path).pixels, (10, 8))
    assert read_stored(path).display.commutes is (way != "sigmoid")
    np.testing.assert_allclose(stored_to_unit(prepared.image, 16), expected, rtol=0, atol=HALF_LEVEL + 1e-6)


@pytest.mark.parametrize("way", ["clipped", "sigmoid", "padded"])
def test_resizing_before_all_else_would_be_wrong(way: str, levels: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(levels, **WAYS[way])
    film = read_stored(path)
    resized_first = film.display.apply(resize(film.values, (10, 8)))
    assert np.abs(resized_first - area_mean(read_radiograph(path).pixels, (10, 8))).max() > 0.02


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_borders_are_black_and_only_there_when_padding(
    fit: Any, inverted: bool, levels: Values, write_dicom: WriteDicom
) -> None:
    bright = np.clip(levels, 1000, 3000)
    photometric = "MONOCHROME1" if inverted else "MONOCHROME2"
    path = write_dicom(bright, PhotometricInterpretation=photometric, **LINEAR)  # [50, 40]
    image = prepare_film(path, PrepareSettings((20, 20), fit)).image
    assert image.shape == (20, 20)
    border = np.ones((20, 20), bool)
    border[:, 2:18] = False
    assert (image[border] == 0).all() if fit == "pad" else (image > 0).all()
    assert (image[~border] > 0).all()


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (10, np.uint16), (16, np.uint16)])
def test_bits_decide_the_levels(bits: int, dtype: type, levels: Values, write_dicom: WriteDicom) -> None:
    image = prepare_film(write_dicom(levels, **LINEAR), PrepareSettings((50, 40), bits=bits)).image
    assert image.dtype == dtype
    np.testing.assert_array_equal(image, np.rint(levels / 4095 * (2**bits - 1)))


def test_a_small_film_grows(levels: Values, write_dicom: WriteDicom) -> None:
    assert prepare_film(write_dicom(levels, **LINEAR), PrepareSettings((100, 90))).image.shape == (100, 90)


def test_preparing_twice_gives_the_same_bytes(levels: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(levels, **LINEAR)
    first, second = (prepare_film(path, PrepareSettings((9, 7))) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.content_hash == second.content_hash


def test_the_same_film_in_two_files_has_the_same_hash(
    levels: Values, write_dicom: WriteDicom, tmp_path: Path
) -> None:
    values = (levels >> 4).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "film.png")
    settings = PrepareSettings((8, 8))
    picture = prepare_film(tmp_path / "film.png", settings)
    assert picture.content_hash == prepare_film(write_dicom(values, 8), settings).content_hash
    assert (
        picture.content_hash == prepare_film(write_dicom(values.astype(np.uint16), 8), settings).content_hash
    )


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (np.arange(12, dtype=np.int32).reshape(3, 4), True),
        (np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4)), True),
        (np.arange(12, dtype=">u2").reshape(3, 4), True),
        (np.arange(12, dtype=np.uint16).reshape(4, 3), False),
        (np.arange(1, 13, dtype=np.uint16).reshape(3, 4), False),
        (np.arange(-1, 11, dtype=np.int16).reshape(3, 4), False),
    ],
)
def test_content_hash_is_of_shape_and_values(other: Values, same: bool) -> None:
    film = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert (content_hash(other) == content_hash(film)) is same


def test_a_refusal_comes_out_as_itself(tmp_path: Path) -> None:
    (tmp_path / "letter.dcm").write_text("Dear colleague")
    with pytest.raises(FilmError) as caught:
        prepare_film(tmp_path / "letter.dcm", PrepareSettings((8, 8)))
    assert caught.value.reason == "not_dicom"
    assert caught.value.__cause__ is None


def test_settings_survive_json() -> None:
    settings = PrepareSettings((64, 48), "crop", 12)
    read = {"for_processing": False, "any_body_part": False, "burned_in": False, "frames": "refuse"}
    choices = {"read": read, "crop_collimation": False, "refuse_text": False, "jpeg_2000": "full"}
    choices |= {"text": {"contrast": 0.12, "characters": 4}}
    assert settings.to_json() == {"size": [64, 48], "fit": "crop", "bits": 12, **choices}
    assert PrepareSettings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    "values",
    [
        {"size": [0, 8], "fit": "pad", "bits": 16},
        {"size": [8], "fit": "pad", "bits": 16},
        {"size": [8, 8], "fit": "squeeze", "bits": 16},
        {"size": [8, 8], "fit": "pad", "bits": 17},
        {"size": [8, 8], "fit": "pad", "bits": 16, "flip": True},
        {"size": [8, 8], "fit": "pad", "bits": 16, "jpeg_2000": "eighth"},
        {"fit": "pad"},
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PrepareSettings.from_json(values)


def test_the_pipeline_is_made_of_monai_transforms(levels: Values, write_dicom: WriteDicom) -> None:
    item = film_pipeline(PrepareSettings((10, 8)))({"film": str(write_dicom(levels, **LINEAR)), "label": 3})
    assert item["label"] == 3
    assert item["film"].shape == (10, 8)
    assert item["film_attributes"].modality == "DX"


REAL_FILMS = [
    "dicom-cxr/966_fixed.dcm",
    "dicom-cxr/gdcm-CR-MONO1-10-chest.dcm",
    "dicom-cxr/siim_sc_mono2_jpeg.dcm",
    "dicom-other/CR-ModalitySequenceLUT.dcm",
    "dicom-other/vlut_04.dcm",
]


@pytest.mark.films
@pytest.mark.parametrize("name", REAL_FILMS)
def test_real_films_are_prepared_within_the_published_error(films: Path, name: str) -> None:
    prepared = prepare_film(films / name, PrepareSettings((64, 64), "stretch"))
    expected = resize(read_radiograph(films / name).pixels, (64, 64))
    commutes = read_stored(films / name).display.commutes
    assert commutes is (name in ("dicom-cxr/966_fixed.dcm", "dicom-cxr/gdcm-CR-MONO1-10-chest.dcm"))
    tolerance = CLIP_TOLERANCE if commutes else 1e-6
    assert np.abs(stored_to_unit(prepared.image, 16) - expected).max() <= tolerance + HALF_LEVEL


@pytest.mark.films
def test_a_real_film_as_dicom_and_as_png_has_the_same_hash(films: Path) -> None:
    settings = PrepareSettings((64, 64))
    dicom = prepare_film(films / "dicom-cxr" / "nih_dx_1024.dcm", settings)
    (picture,) = (films / "nih-cxr" / "orig1024").glob("00000002_000-*.png")
    assert prepare_film(picture, settings).content_hash == dicom.content_hash
