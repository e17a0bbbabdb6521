"""Which DICOM objects are read: radiographs of the chest, others by choice, and no other object."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from xraygen.errors import FilmError, UsageError
from xraygen.films.dicom import read_radiograph, read_stored
from xraygen.films.objects import ReadOptions, names_chest

WriteDicom = Callable[..., Path]
Values = NDArray[Any]
FLOAT32_STEP = 6e-8  # light is float64 arithmetic, rounded once to float32 in [0, 1]
RAW = {"SOPClassUID": uid.DigitalXRayImageStorageForProcessing, "PresentationIntentType": "FOR PROCESSING"}


def refusal(path: Path, options: ReadOptions | None = None) -> FilmError:
    with pytest.raises(FilmError) as caught:
        read_stored(path, options or ReadOptions())
    return caught.value


@pytest.mark.parametrize(
    ("sop_class", "modality", "name"),
    [
        (uid.CTImageStorage, "CT", "CT Image Storage"),
        (uid.EnhancedCTImageStorage, "CT", "Enhanced CT Image Storage"),
        (uid.MRImageStorage, "MR", "MR Image Storage"),
        (uid.BasicTextSRStorage, "SR", "Basic Text SR Storage"),
        (uid.ComprehensiveSRStorage, "SR", "Comprehensive SR Storage"),
        (
            uid.GrayscaleSoftcopyPresentationStateStorage,
            "PR",
            "Grayscale Softcopy Presentation State Storage",
        ),
        (uid.EncapsulatedPDFStorage, "DOC", "Encapsulated PDF Storage"),
        (uid.XRayRadiofluoroscopicImageStorage, "RF", "X-Ray Radiofluoroscopic Image Storage"),
    ],
)
@pytest.mark.parametrize(
    "options", [ReadOptions(), ReadOptions(True, True, True, "first")], ids=["strict", "lax"]
)
def test_other_objects_are_refused_by_name(
    options: ReadOptions, sop_class: str, modality: str, name: str, levels: Values, write_dicom: WriteDicom
) -> None:
    path = write_dicom(levels, SOPClassUID=sop_class, Modality=modality, NumberOfFrames=40)
    error = refusal(path, options)
    assert error.reason == "not_a_radiograph"
    assert name in error.detail


@pytest.mark.parametrize(
    "part",
    [
        "CHEST",
        "Chest",
        "THORAX",
        "PORT CHEST",
        "CHEST_ABDOMEN",
        "Thorax p.a.",
        "TORAX",
        "LUNG",
        "LUNGS",
        "NECK CHEST",
    ],
)
def test_the_chest_has_many_names(part: str) -> None:
    assert names_chest(part.upper()) is True


@pytest.mark.parametrize(
    "part",
    [
        *(
            "ABDOMEN",
            "ABDOMENPELVIS",
            "PELVIS",
            "HIP",
            "LHIP",
            "KNEE",
            "HAND",
            "FOOT",
            "SKULL",
            "SHOULDER",
            "CLAVICLE",
        ),
        *(
            "CSPINE",
            "TSPINE",
            "LSPINE",
            "THORACIC SPINE",
            "THORACOLUMBAR SPINE",
            "EXTREMITY",
            "LOWER_LEG",
            "UP_EXM ARM",
        ),
        *("WHOLEBODY", "BREAST", "RIB", "STERNUM", "JAW", "FINGERS", "ELBOW", "WRIST", "HEADNECK", "TMJOINT"),
    ],
)
def test_other_parts_have_names_too(part: str) -> None:
    assert names_chest(part) is False


@pytest.mark.parametrize(
    "part",
    ["", "UNKNOWN", "MOBILE", "COMPUTED", "DELIVERY ROOM", "WESTERN", "HEART", "MEDIASTINUM", "XR 2 VIEWS"],
)
def test_a_word_that_names_no_part_known_here_says_nothing(part: str) -> None:
    assert names_chest(part) is None


def region(value: str, scheme: str, meaning: str) -> list[Dataset]:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return [code]


@pytest.mark.parametrize(
    ("elements", "passes"),
    [
        ({}, True),
        ({"BodyPartExamined": "CHEST"}, True),
        ({"BodyPartExamined": "SOMETHING"}, True),
        ({"BodyPartExamined": "HAND"}, False),
        ({"AnatomicRegionSequence": region("816094009", "SCT", "Brustkorb")}, True),
        ({"AnatomicRegionSequence": region("T-D3000", "SRT", "Chest")}, True),
        ({"AnatomicRegionSequence": region("818981001", "SCT", "Bauch")}, False),
        ({"AnatomicRegionSequence": region("T-D4000", "SRT", "Abdomen")}, False),
        ({"AnatomicRegionSequence": region("99", "99LOCAL", "Room 3")}, True),
        ({"AnatomicRegionSequence": []}, True),
        ({"BodyPartExamined": "CHEST", "AnatomicRegionSequence": region("T-D4000", "SRT", "Abdomen")}, True),
        ({"BodyPartExamined": "PORT", "AnatomicRegionSequence": region("T-D4000", "SRT", "Abdomen")}, False),
    ],
)
def test_only_films_that_name_another_part_are_refused(
    elements: dict[str, Any], passes: bool, levels: Values, write_dicom: WriteDicom
) -> None:
    path = write_dicom(levels, **elements)
    np.testing.assert_array_equal(read_stored(path, ReadOptions(any_body_part=True)).values, levels)
    if passes:
        np.testing.assert_array_equal(read_stored(path).values, levels)
    else:
        assert refusal(path).reason == "body_part"


@pytest.mark.parametrize(("said", "passes"), [("YES", False), ("yes", False), ("NO", True), (None, True)])
def test_films_with_text_in_their_pixels_are_refused_by_default(
    said: str | None, passes: bool, levels: Values, write_dicom: WriteDicom
) -> None:
    path = write_dicom(levels, sloppy={"BurnedInAnnotation": said} if said else {})
    assert read_stored(path, ReadOptions(burned_in=True)).values.shape == levels.shape
    if passes:
        assert read_stored(path).values.shape == levels.shape
    else:
        assert refusal(path).reason == "burned_in"


@pytest.mark.parametrize("relationship", ["LIN", "LOG"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_films_for_processing_are_shown_by_the_logarithm_of_their_intensity(
    photometric: str,
    sign: int,
    relationship: str,
    reference: Callable[[str], ModuleType],
    levels: Values,
    write_dicom: WriteDicom,
) -> None:
    voi = reference("voi")
    path = write_dicom(
        levels,
        **RAW,
        PixelIntensityRelationship=relationship,
        PixelIntensityRelationshipSign=sign,
        PhotometricInterpretation=photometric,
        WindowCenter=100,  # of the values as they are stored: of no use for their logarithm
        WindowWidth=10,
    )
    film = read_radiograph(path, ReadOptions(for_processing=True))
    x = voi.each(lambda stored: voi.attenuation(stored, relationship, sign, 12), levels)
    low, high = voi.percentile(x, 0.5), voi.percentile(x, 99.5)
    expected = voi.each(lambda value: voi.linear_exact(value, (low + high) / 2, high - low), x)
    np.testing.assert_allclose(film.pixels, expected, rtol=0, atol=FLOAT32_STEP)
    assert film.attributes.voi == "percentiles"
    assert "for_processing" in film.attributes.flags
    assert refusal(path).reason == "for_processing"


@pytest.mark.parametrize("sign", [1, -1])
def test_what_absorbs_twice_as_much_is_shown_twice_as_bright(sign: int, write_dicom: WriteDicom) -> None:
    thickness = np.linspace(0, 6, 64).reshape(8, 8)  # in units of 1 / mu
    intensity = np.rint(65535 * np.exp(-thickness))  # Beer and Lambert
    values = (intensity if sign == 1 else 65535 - intensity).astype(np.uint16)
    elements = {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": sign}
    film = read_radiograph(write_dicom(values, 16, **RAW, **elements), ReadOptions(for_processing=True))
    # 65535 exp(-6) = 162 is rounded by up to 0.5, which is 0.003 of a logarithm in 6.
    np.testing.assert_allclose(film.pixels, thickness / 6, rtol=0, atol=0.001)


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"PixelIntensityRelationship": "LIN"},
        {"PixelIntensityRelationship": "DISP", "PixelIntensityRelationshipSign": 1},
        {"PixelIntensityRelationship": "LIN", "PixelIntensityRelationshipSign": 0},
    ],
)
def test_films_for_processing_that_do_not_say_what_their_values_mean_stay_out(
    elements: dict[str, Any], levels: Values, write_dicom: WriteDicom
) -> None:
    error = refusal(write_dicom(levels, **RAW, **elements), ReadOptions(for_processing=True))
    assert error.reason == "for_processing"
    assert "Pixel Intensity Relationship" in error.detail


CINE = {"SOPClassUID": uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage, "NumberOfFrames": 3}


@pytest.mark.parametrize("encoding", ["explicit", "jpeg-ls"])
def test_the_first_of_several_frames_is_read_by_choice(
    encoding: str, levels: Values, write_dicom: WriteDicom
) -> None:
    frames = [levels, levels // 2, levels // 3]
    path = write_dicom(levels, data=b"".join(frame.tobytes() for frame in frames), **CINE)
    if encoding == "jpeg-ls":
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = uid.JPEGLSLossless
        dataset.PixelData = encapsulate([bytes(imagecodecs.jpegls_encode(frame)) for frame in frames])
        dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(read_stored(path, ReadOptions(frames="first")).values, levels)
    assert refusal(path).reason == "multi_frame"


def test_first_of_frames_that_are_not_there_is_truncated(levels: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(levels, data=b"\xff\xd8nothing", syntax=uid.JPEGLSLossless, **CINE)
    dataset = dcmread(path)
    dataset.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0"
    dataset.save_as(path, enforce_file_format=True)
    assert refusal(path, ReadOptions(frames="first")).reason == "truncated"


def test_a_film_of_one_frame_is_the_same_by_either_choice(levels: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(levels, NumberOfFrames=1)
    np.testing.assert_array_equal(read_stored(path, ReadOptions(frames="first")).values, levels)


@pytest.mark.parametrize(
    ("photometric", "syntax", "encode"),
    [
        ("RGB", uid.ExplicitVRLittleEndian, np.ndarray.tobytes),
        ("RGB", uid.JPEGLSLossless, lambda colour: bytes(imagecodecs.jpegls_encode(colour))),
        ("YBR_RCT", uid.JPEG2000Lossless, lambda colour: bytes(imagecodecs.jpeg2k_encode(colour, level=0))),
        (
            "YBR_FULL_422",
            uid.JPEGBaseline8Bit,
            lambda colour: bytes(imagecodecs.jpeg8_encode(colour, level=95)),
        ),
    ],
)
@pytest.mark.parametrize("tinted", [False, True])
def test_three_channels_pass_only_where_they_are_grey_in_fact(
    tinted: bool, photometric: str, syntax: str, encode: Callable[[Values], bytes], write_dicom: WriteDicom
) -> None:
    grey = np.add.outer(np.arange(48), np.arange(40)).astype(np.uint8) * 2
    colour = np.stack([grey, grey, grey // 2 if tinted else grey], axis=-1)
    path = write_dicom(
        grey,
        8,
        data=encode(colour),
        syntax=syntax,
        SOPClassUID=uid.SecondaryCaptureImageStorage,
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation=photometric,
    )
    if tinted:
        assert refusal(path).reason == "colour"
    else:
        difference = np.abs(read_stored(path).values.astype(int) - grey)
        assert difference.max() <= (3 if photometric == "YBR_FULL_422" else 0)  # quality 95 rounds a little


def test_options_survive_json() -> None:
    options = ReadOptions(any_body_part=True, frames="first")
    assert ReadOptions.from_json(options.to_json()) == options
    assert ReadOptions.from_json({}) == ReadOptions()


@pytest.mark.parametrize("values", [{"frames": "all"}, {"any_part": True}])
def test_impossible_options_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ReadOptions.from_json(values)
