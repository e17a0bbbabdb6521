"""What is flagged, and what is not: doubts that a person should know of, for films that are read all the same."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from xraygen.films.dicom import read_stored
from xraygen.films.display import Display, Rescale, window_between
from xraygen.films.phantom import phantom_film
from xraygen.films.polarity import chest_correlation, may_be_negative
from xraygen.films.reader import read_film

WriteDicom = Callable[..., Path]
Values = NDArray[Any]
UPRIGHT = {"PatientOrientation": ["L", "F"]}
CHEST_FILMS = ["966_fixed.dcm", "gdcm-CR-MONO1-10-chest.dcm", "nih_dx_1024.dcm", "siim_sc_mono2_jpeg.dcm"]


def table(count: int) -> list[Dataset]:
    """A LUT Sequence that says it has 4096 entries."""
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 12]
    item.add_new("LUTData", "US", list(range(count)))
    item.ModalityLUTType = "US"
    return [item]


@pytest.mark.parametrize(
    ("elements", "flags"),
    [
        ({}, ()),
        ({"PatientOrientation": None}, ("no_orientation",)),
        ({"PatientOrientation": None, "ViewPosition": "PA"}, ("no_orientation",)),
        ({"PatientOrientation": None, "ViewPosition": "LLD"}, ("no_orientation",)),
        ({"PatientOrientation": None, "ViewPosition": "LL"}, ()),
        ({"PatientOrientation": ["A", "F"]}, ()),
        ({"PresentationLUTShape": "IDENTITY"}, ()),
        ({"PresentationLUTShape": "INVERSE"}, ("presentation_contradicts_photometric",)),
        ({"PresentationLUTShape": "INVERSE", "PhotometricInterpretation": "MONOCHROME1"}, ()),
        (
            {"PresentationLUTShape": "IDENTITY", "PhotometricInterpretation": "MONOCHROME1"},
            ("presentation_contradicts_photometric",),
        ),
        ({"PresentationLUTShape": "LIN OD"}, ()),
        ({"WindowCenter": 2000, "WindowWidth": 0}, ("voi_unusable",)),
        ({"WindowCenter": 2000, "WindowWidth": ""}, ("voi_unusable",)),
        ({"WindowCenter": "", "WindowWidth": ""}, ()),
        ({"WindowCenter": 2000, "WindowWidth": 100}, ()),
        ({"VOILUTSequence": table(9)}, ("voi_unusable",)),
        ({"VOILUTSequence": table(4096)}, ()),
        ({"VOILUTSequence": table(9), "WindowCenter": 2000, "WindowWidth": 100}, ()),
        ({"VOILUTSequence": []}, ()),
        ({"ModalityLUTSequence": table(9)}, ("modality_unusable",)),
        ({"ModalityLUTSequence": table(4096)}, ()),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, ("modality_unusable",)),
        ({"RescaleSlope": 2, "RescaleIntercept": 0}, ()),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, ("padding_everywhere",)),
        ({"PixelPaddingValue": 0}, ()),
        ({"PixelPaddingValue": 65535}, ("padding_out_of_range",)),
    ],
)
def test_each_doubt_has_its_flag(
    elements: dict[str, Any], flags: tuple[str, ...], levels: Values, write_dicom: WriteDicom
) -> None:
    small = levels[:12, :12].copy()  # too small to look like a chest or its negative
    small[0, 0], small[-1, -1] = 0, 4095
    film = read_stored(write_dicom(small, **UPRIGHT | elements))
    assert film.attributes.flags == flags


def test_a_film_of_padding_alone_is_black(levels: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(
        levels, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0, PixelPaddingRangeLimit=4095
    )
    film = read_stored(path)
    assert "padding_everywhere" in film.attributes.flags
    assert not film.display.apply(film.values).any()


@pytest.fixture(scope="module")
def phantoms() -> list[Values]:
    """Twelve phantoms, 12 bits, air dark."""
    return [phantom_film(0, patient, 0, (96, 96)).pixels for patient in range(12)]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_false_photometric_interpretation_is_doubted_and_a_true_one_is_not(
    photometric: str, phantoms: list[Values], write_dicom: WriteDicom
) -> None:
    for dark_air in phantoms:
        stored = dark_air if photometric == "MONOCHROME2" else 4095 - dark_air
        false = {"MONOCHROME1": "MONOCHROME2", "MONOCHROME2": "MONOCHROME1"}[photometric]
        right, wrong = (
            read_stored(write_dicom(stored.astype(np.uint16), PhotometricInterpretation=said, **UPRIGHT))
            for said in (photometric, false)
        )
        assert right.attributes.flags == ()
        assert wrong.attributes.flags == ("polarity_doubtful",)


@pytest.mark.parametrize(
    "elements",
    [
        {"ViewPosition": "LL"},
        {"PatientOrientation": ["P", "F"]},
    ],
)
def test_films_from_the_side_are_not_judged(
    elements: dict[str, Any], phantoms: list[Values], write_dicom: WriteDicom
) -> None:
    negative = (4095 - phantoms[0]).astype(np.uint16)
    assert read_stored(write_dicom(negative, **UPRIGHT | elements)).attributes.flags == ()


@pytest.mark.parametrize(("turned", "flags"), [(False, ()), (True, ("polarity_doubtful",))])
def test_pictures_are_judged_by_their_pixels_too(
    turned: bool, flags: tuple[str, ...], phantoms: list[Values], tmp_path: Path
) -> None:
    grey = (phantoms[0] >> 4).astype(np.uint8)
    Image.fromarray(255 - grey if turned else grey).save(tmp_path / "film.png")
    assert read_film(tmp_path / "film.png").attributes.flags == flags


def test_the_correlation_turns_with_the_film_and_flatness_has_none(phantoms: list[Values]) -> None:
    light = phantoms[0][:56, :56] / 4095
    assert chest_correlation(1 - light) == pytest.approx(-chest_correlation(light))
    assert chest_correlation(np.full((56, 56), 0.5)) == 0


def shown_as(inverted: bool) -> Display:
    """The display of an 8-bit picture."""
    return Display(Rescale(), window_between(0, 255), "full_range", inverted, levels=(0, 255))


@pytest.mark.films
def test_of_real_adult_films_none_is_doubted_and_most_negatives_are(films: Path) -> None:
    folder = films / "hannover-cxr"
    with (folder / "gray1024_metadata.csv").open(newline="") as file:
        names = [row["filename"] for row in csv.DictReader(file)]
    pictures = [np.asarray(Image.open(folder / "gray1024" / name).convert("L")) for name in names[::4]]
    assert not any(may_be_negative(picture, shown_as(False)) for picture in pictures)
    found = sum(may_be_negative(picture, shown_as(True)) for picture in pictures)
    assert found >= 0.9 * len(pictures)  # 88 of all 92


@pytest.mark.films
def test_of_a_thousand_real_films_none_is_doubted_and_nearly_all_negatives_are(films: Path) -> None:
    pictures = np.load(films / "nih-cxr" / "nih1000_64.npz")["images"]
    assert not any(may_be_negative(picture, shown_as(False)) for picture in pictures)
    found = sum(may_be_negative(picture, shown_as(True)) for picture in pictures)
    assert found >= 0.99 * len(pictures)  # 998


@pytest.mark.films
@pytest.mark.parametrize("name", CHEST_FILMS)
def test_real_chest_films_are_doubted_only_where_their_header_is_wrong(films: Path, name: str) -> None:
    film = read_stored(films / "dicom-cxr" / name)
    assert "polarity_doubtful" not in film.attributes.flags
    assert may_be_negative(film.values, replace(film.display, inverted=not film.display.inverted))
