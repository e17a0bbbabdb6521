"""One DICOM film in: every rule of display applied, once; every refusal with its reason."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom import uid
from pydicom.dataset import Dataset

from xraygen.errors import FilmError
from xraygen.films.dicom import FilmAttributes, read_radiograph, read_stored
from xraygen.films.objects import ReadOptions

FLOAT32_STEP = 6e-8  # light is float64 arithmetic, rounded once to float32 in [0, 1]
SECONDARY_CAPTURE = uid.SecondaryCaptureImageStorage

WriteDicom = Callable[..., Path]
Values = NDArray[Any]
Refusal = Callable[[Path], FilmError]


@pytest.fixture(scope="module")
def voi(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("voi")


@pytest.mark.parametrize(
    ("function", "kind"),
    [(None, "linear"), ("LINEAR", "linear"), ("LINEAR_EXACT", "linear_exact"), ("SIGMOID", "sigmoid")],
)
def test_first_window_is_applied_with_its_function(
    voi: ModuleType, function: str | None, kind: str, levels: Values, write_dicom: WriteDicom
) -> None:
    elements: dict[str, Any] = {
        "WindowCenter": [1500.5, 10],
        "WindowWidth": [900, 10],
        "VOILUTFunction": function,
    }
    film = read_radiograph(write_dicom(levels, **elements))
    expected = voi.each(lambda x: getattr(voi, kind)(x, 1500.5, 900), levels)
    np.testing.assert_allclose(film.pixels, expected, rtol=0, atol=FLOAT32_STEP)
    assert film.attributes.voi == kind
    assert film.pixels.dtype == np.float32


def test_rescale_is_applied_before_the_window(
    voi: ModuleType, levels: Values, write_dicom: WriteDicom
) -> None:
    elements = {"RescaleSlope": 0.5, "RescaleIntercept": -300, "WindowCenter": 400, "WindowWidth": 1200}
    path = write_dicom(levels, **elements)
    expected = voi.each(lambda x: voi.linear(voi.rescale(x, 0.5, -300), 400, 1200), levels)
    np.testing.assert_allclose(read_radiograph(path).pixels, expected, rtol=0, atol=FLOAT32_STEP)


@pytest.mark.parametrize(
    "window", [{}, {"WindowCenter": 500, "WindowWidth": 0}, {"WindowCenter": "", "WindowWidth": ""}]
)
def test_without_a_usable_window_robust_percentiles_of_unpadded_pixels_decide(
    voi: ModuleType, window: dict[str, Any], levels: Values, write_dicom: WriteDicom
) -> None:
    values = levels.copy()
    values[:10] = 4000
    path = write_dicom(values, PixelPaddingValue=4000, **window)
    inside = values[values != 4000]
    low, high = voi.percentile(inside, 0.5), voi.percentile(inside, 99.5)
    expected = voi.each(
        lambda x: 0.0 if x == 4000 else voi.linear_exact(x, (low + high) / 2, high - low), values
    )
    film = read_radiograph(path)
    np.testing.assert_allclose(film.pixels, expected, rtol=0, atol=FLOAT32_STEP)
    assert film.attributes.voi == "percentiles"


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
    ],
)
def test_a_film_is_inverted_exactly_once(
    photometric: str, shape: str | None, inverted: bool, levels: Values, write_dicom: WriteDicom
) -> None:
    elements = {"PresentationLUTShape": shape, "WindowCenter": 2048, "WindowWidth": 4096}
    pixels = read_radiograph(write_dicom(levels, PhotometricInterpretation=photometric, **elements)).pixels
    upright = read_radiograph(write_dicom(levels, WindowCenter=2048, WindowWidth=4096)).pixels
    np.testing.assert_allclose(pixels, 1 - upright if inverted else upright, rtol=0, atol=2 * FLOAT32_STEP)


def test_padding_range_is_black_after_the_inversion(levels: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(
        levels,
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=0,
        PixelPaddingRangeLimit=300,
        WindowCenter=2048,
        WindowWidth=4096,
    )
    pixels = read_radiograph(path).pixels
    assert not pixels[levels <= 300].any()
    assert (pixels[(levels > 300) & (levels < 4000)] > 0).all()


def test_padding_of_a_signed_film_may_be_written_unsigned(levels: Values, write_dicom: WriteDicom) -> None:
    values = (levels.astype(np.int32) - 2048).astype(np.int16)
    path = write_dicom(values, PixelPaddingValue=-2048, WindowCenter=0, WindowWidth=4096, RescaleSlope=-1)
    path.write_bytes(path.read_bytes().replace(b"\x28\0\x20\x01SS", b"\x28\0\x20\x01US"))
    assert (values == -2048).any()
    assert not read_radiograph(path).pixels[values == -2048].any()


def test_padding_that_no_pixel_has_leaves_the_display_linear(levels: Values, write_dicom: WriteDicom) -> None:
    values = np.maximum(levels, 5)
    path = write_dicom(values, PixelPaddingValue=3, WindowCenter=2048, WindowWidth=4096)
    assert read_stored(path).display.commutes


def test_attributes_are_those_of_the_file(patient: str, levels: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(
        levels,
        AccessionNumber=f"A-{patient}",
        PatientSex="F",
        PatientAge="018M",
        ViewPosition="PA",
        BodyPartExamined="CHEST",
        ImagerPixelSpacing=[0.2, 0.2],
        PixelSpacing=[0.15, 0.15],
    )
    attributes = read_radiograph(path).attributes
    assert patient not in repr(attributes)
    assert attributes == FilmAttributes(
        format="dicom",
        rows=50,
        columns=40,
        bits_stored=12,
        photometric="MONOCHROME2",
        voi="percentiles",
        view="PA",
        sex="F",
        age=1.5,
        pixel_spacing_mm=0.15,
        modality="DX",
        body_part="CHEST",
        flags=("no_orientation",),
        patient_id=patient,
        study_uid="1.2.3",
        sop_instance_uid="1.2.3.4711",
        accession_number=f"A-{patient}",
    )


def test_view_code_stands_in_for_a_missing_view_position(levels: Values, write_dicom: WriteDicom) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "R-10206", "SRT", "antero-posterior"
    assert read_stored(write_dicom(levels, ViewCodeSequence=[code])).attributes.view == "AP"


@pytest.mark.parametrize(
    ("position", "code", "view"),
    [
        *(
            ("THORAX PA", "272479007", "PA"),
            ("LATERAL LEFT", "399173006", "LL"),
            ("AP SUPINE", "399348003", "AP SUPINE"),
        ),
        *(("LATERAL", "399173006", "LATERAL"), ("PA", "399348003", "PA"), ("THORAX PA", "1", "THORAX PA")),
        ("THORAX PA", None, "THORAX PA"),
    ],
)
def test_a_view_position_that_is_no_view_does_not_hide_the_view_code(
    levels: Values, write_dicom: WriteDicom, position: str, code: str | None, view: str
) -> None:
    item = Dataset()
    item.CodeValue = code
    elements = {} if code is None else {"ViewCodeSequence": [item]}
    assert read_stored(write_dicom(levels, ViewPosition=position, **elements)).attributes.view == view


@pytest.mark.parametrize(
    ("keyword", "bad", "attribute", "expected"),
    [
        ("PatientAge", "45", "age", 45.0),  # so two of the four real chest DICOMs have it
        ("PatientAge", "148", "age", None),
        ("PatientAge", "forty", "age", None),
        ("PatientSex", "female", "sex", ""),
        ("PixelSpacing", "a bit\\0.1", "pixel_spacing_mm", None),
        ("PixelSpacing", "0\\0", "pixel_spacing_mm", None),
        ("WindowCenter", "1,5", "voi", "percentiles"),
        ("WindowCenter", "NaN", "voi", "percentiles"),
        ("PatientID", "x" * 200, "patient_id", "x" * 200),
        ("Modality", "dx ", "modality", "DX"),
    ],
)
def test_sloppy_values_are_left_out_in_silence(
    keyword: str,
    bad: str,
    attribute: str,
    expected: Any,
    levels: Values,
    write_dicom: WriteDicom,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = write_dicom(levels, syntax=uid.ImplicitVRLittleEndian, sloppy={"WindowWidth": "100", keyword: bad})
    with caplog.at_level(logging.WARNING):
        film = read_radiograph(path)
    assert getattr(film.attributes, attribute) == expected
    assert not caplog.records
    assert pydicom_config.settings.reading_validation_mode == pydicom_config.WARN


@pytest.fixture
def refusal(patient: str) -> Callable[[Path], FilmError]:
    """The refusal of a file: one sentence that does not name the patient."""

    def read(path: Path) -> FilmError:
        with pytest.raises(FilmError) as caught:
            read_radiograph(path)
        assert patient not in str(caught.value)
        assert str(caught.value).endswith(".")
        return caught.value

    return read


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"SOPClassUID": uid.CTImageStorage, "Modality": "CT"}, "not_a_radiograph"),
        ({"SOPClassUID": uid.MRImageStorage, "Modality": "MR"}, "not_a_radiograph"),
        ({"SOPClassUID": uid.EncapsulatedPDFStorage, "Modality": "DOC"}, "not_a_radiograph"),
        ({"SOPClassUID": uid.BasicTextSRStorage, "Modality": "SR", "Rows": None}, "not_a_radiograph"),
        ({"SOPClassUID": uid.ColorSoftcopyPresentationStateStorage, "Modality": "PR"}, "not_a_radiograph"),
        ({"SOPClassUID": SECONDARY_CAPTURE, "Modality": "CT"}, "not_a_radiograph"),
        ({"SOPClassUID": "1.2.3.4.5", "Modality": "US"}, "not_a_radiograph"),
        ({"SOPClassUID": uid.DigitalXRayImageStorageForProcessing}, "for_processing"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
        ({"Rows": None}, "no_pixels"),
        ({"Columns": 0}, "no_pixels"),
        ({"NumberOfFrames": 3}, "multi_frame"),
        ({"Rows": 500}, "truncated"),
        ({"BitsAllocated": 12}, "decode_failed"),
        ({"HighBit": 40}, "decode_failed"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
    ],
)
def test_what_is_no_film_is_refused_with_its_reason(
    elements: dict[str, Any], reason: str, levels: Values, write_dicom: WriteDicom, refusal: Refusal
) -> None:
    assert refusal(write_dicom(levels, **elements)).reason == reason


@pytest.mark.parametrize(
    "elements",
    [
        {"SOPClassUID": uid.ComputedRadiographyImageStorage, "Modality": "CR"},
        {"SOPClassUID": SECONDARY_CAPTURE, "Modality": "OT"},
        {"SOPClassUID": "1.2.3.4.5", "Modality": "RG"},
        {"SOPClassUID": uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage, "NumberOfFrames": 1},
    ],
)
def test_other_projection_radiographs_are_read(
    elements: dict[str, Any], levels: Values, write_dicom: WriteDicom
) -> None:
    film = read_stored(write_dicom(levels, **elements))
    np.testing.assert_array_equal(film.values, levels)


def test_an_object_without_pixel_data_is_refused(
    levels: Values, write_dicom: WriteDicom, refusal: Refusal
) -> None:
    assert refusal(write_dicom(levels, data=b"")).reason == "no_pixels"


@pytest.mark.parametrize("content", [b"Dear colleague, here is the film.\n" * 20, b"", b"\0" * 500])
def test_other_files_named_dcm_are_not_dicom(content: bytes, tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "letter.dcm").write_bytes(content)
    assert refusal(tmp_path / "letter.dcm").reason == "not_dicom"


def test_an_old_file_without_preamble_is_read(levels: Values, write_dicom: WriteDicom) -> None:
    np.testing.assert_array_equal(read_stored(write_dicom(levels, mark=False)).values, levels)


@pytest.mark.parametrize("name", ["", "nowhere.dcm"], ids=["folder", "missing"])
def test_what_cannot_be_opened_is_unreadable(name: str, tmp_path: Path, refusal: Refusal) -> None:
    assert refusal(tmp_path / name).reason == "unreadable"


CHEST_FILMS = ["966_fixed.dcm", "gdcm-CR-MONO1-10-chest.dcm", "nih_dx_1024.dcm", "siim_sc_mono2_jpeg.dcm"]
RG3_FILMS = [f"RG3_{encoding}.dcm" for encoding in ("J2KR", "JLSL", "JPLL", "RLE")]
OTHER_FILMS = [*RG3_FILMS, "vlut_04.dcm", "CR-ModalitySequenceLUT.dcm"]


@pytest.mark.films
@pytest.mark.parametrize(
    "name", [f"dicom-cxr/{name}" for name in CHEST_FILMS] + [f"dicom-other/{name}" for name in OTHER_FILMS]
)
def test_real_films_are_read(films: Path, name: str) -> None:
    film = read_radiograph(films / name, ReadOptions(any_body_part=True))
    assert film.pixels.dtype == np.float32
    assert film.pixels.shape == (film.attributes.rows, film.attributes.columns)
    assert 0 <= film.pixels.min() < 0.1
    assert 0.95 < film.pixels.max() <= 1


@pytest.mark.films
@pytest.mark.parametrize("name", CHEST_FILMS)
def test_real_chest_films_show_lungs_darker_than_the_spine(films: Path, name: str) -> None:
    pixels = read_radiograph(films / "dicom-cxr" / name).pixels
    height, width = pixels.shape
    right_lung = pixels[height // 4 : height // 2, width // 5 : width // 3].mean()
    spine = pixels[height // 2 : 3 * height // 4, int(0.45 * width) : int(0.52 * width)].mean()
    assert right_lung < spine - 0.1


@pytest.mark.films
def test_a_real_film_that_asks_for_inversion_twice_is_inverted_once(films: Path) -> None:
    film = read_stored(films / "dicom-cxr" / "966_fixed.dcm")
    assert film.attributes.photometric == "MONOCHROME1"
    assert film.display.inverted
    light = film.display.apply(film.values)
    assert np.corrcoef(light.ravel()[::97], film.values.ravel()[::97])[0, 1] < -0.99
