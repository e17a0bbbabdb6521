"""Which DICOM objects pass as films of the chest, and why the others do not."""

import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, Self, get_args

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sr.codedict import codes
from pydicom.uid import UID

from xraygen.errors import FilmError, UsageError
from xraygen.films.elements import integer_of, raw_text_of, text_of

RADIOGRAPH_CLASSES = {"1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1"}
"""CR, and DX For Presentation."""
FOR_PROCESSING_CLASS = "1.2.840.10008.5.1.4.1.1.1.1.1"
CAPTURE_CLASSES = {"1.2.840.10008.5.1.4.1.1.7"} | {f"1.2.840.10008.5.1.4.1.1.7.{kind}" for kind in (2, 3, 4)}
"""Secondary Capture, and its grey byte, grey word and colour kinds (of which a grey frame passes)."""
RADIOGRAPH_MODALITIES = {"CR", "DX", "RG", "OT", ""}
"""What a Secondary Capture, or an object of a missing or private class, may show."""

_OTHER_MODALITIES = {
    *(
        "CT",
        "MR",
        "US",
        "MG",
        "NM",
        "PT",
        "XA",
        "RF",
        "IO",
        "PX",
        "ES",
        "XC",
        "GM",
        "OP",
        "OPT",
        "DG",
        "BMD",
        "ECG",
    ),
    *("SR", "PR", "KO", "DOC", "SEG", "RTIMAGE", "RTSTRUCT", "RTPLAN", "RTDOSE", "SC"),
}

Frames = Literal["refuse", "first"]

_CHEST_CODES = {"816094009", "51185008", "39607008", "T-D3000", "T-28000"}
"""Chest, thorax and lung in SNOMED CT, and the older SRT codes of the last two."""
_CHEST_WORDS = re.compile(r"CHEST|THORA[XC]|TORA[XC]|LUNG|PULMO|POUMON|RIPPENTHORAX")
_OTHER_PART = re.compile(
    r"SPINE|SPINAL|VERTEBR|ABDOM|PELVI|HIPS?\b|LEGS?\b|CALF\b|FOOT|FEET|TOES?\b|ANKLE|CALCAN|TARS[AU]|KNEE|PATELLA"
    r"|FEMUR|THIGH|TIBIA|FIBULA|LIMB|EXTREMIT|ARMS?\b|HANDS?\b|FINGER|THUMB|WRIST|CARP[AU]|ELBOW|HUMER|RADIUS|ULNA"
    r"|SHOULDER|SCAPULA|CLAVIC|SKULL|CRANI|BRAIN|HEAD|NECK|\bFAC(E\b|IAL)|\bNOSE|NASAL|SINUS|ORBIT|\bEYE|MANDIB"
    r"|MAXILL|JAW\b|ZYGOMA|TEETH|TOOTH|DENTAL|TMJ|BREAST|RIBS?\b|STERN(UM|O)|SACR[UO]|COCCY|ILIUM|ILEUM|COLON|RECTUM"
    r"|STOMACH|ESOPHAG|DUODEN|JEJUN|INTESTIN|BLADDER|KIDNEY|URET|\bURIN|\bUTER|PROSTAT|\bLIVER|\bBIL(E\b|IARY)"
    r"|PANCREA|LARYN|PHARYN|MASTOID|PAROTID|JOINT|WHOLE ?BODY|ENTIRE BODY|PHANTOM"
)
"""The body parts of PS3.16 Annex L that projection radiography shows besides the chest, also inside longer texts."""
_SPINES = re.compile(r"SPINE|SPINAL|VERTEBR")


@dataclass(frozen=True)
class ReadOptions:
    """What is read that is otherwise refused.

    Args:
        for_processing: DX For Processing, shown by the logarithm of its X-ray intensity (reason `for_processing`).
        any_body_part: Films that name another part of the body than the chest (reason `body_part`).
        burned_in: Films whose Burned In Annotation says YES (reason `burned_in`).
        frames: What becomes of several frames: `refuse` (reason `multi_frame`), or `first` to read the first one.
    """

    for_processing: bool = False
    any_body_part: bool = False
    burned_in: bool = False
    frames: Frames = "refuse"

    def __post_init__(self) -> None:
        if self.frames not in get_args(Frames):
            raise UsageError(f"frames {self.frames!r} is unknown; expected one of refuse, first.")

    def to_json(self) -> dict[str, Any]:
        """The options as dataset.json holds them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Read what `to_json` wrote; what is missing keeps its default, and unknown keys are errors."""
        try:
            return cls(**values)
        except TypeError as error:
            raise UsageError(f"read options {values!r} are not those of a DATASET: {error}.") from None


STRICT = ReadOptions()
"""Refuse whatever is no ordinary film of a chest."""


def refuse_other_objects(dataset: Dataset, options: ReadOptions = STRICT) -> None:
    """Let projection radiographs of the chest pass.

    Args:
        dataset: A parsed data set.
        options: What passes by choice.

    Raises:
        FilmError: `for_processing`, `not_a_radiograph`, `body_part` or `burned_in`.
    """
    sop_class, modality = UID(raw_text_of(dataset, "SOPClassUID")), text_of(dataset, "Modality")
    raw = is_for_processing(dataset)
    if raw and not options.for_processing:
        raise FilmError(
            "for_processing",
            "The film is DX For Processing: raw detector values that nobody reads; export the one For Presentation, or "
            "allow it with --for-processing.",
        )
    unknown = sop_class.name == str(sop_class)  # missing or private
    if not unknown and sop_class not in RADIOGRAPH_CLASSES | CAPTURE_CLASSES | {FOR_PROCESSING_CLASS}:
        raise FilmError(
            "not_a_radiograph",
            f"The object is {sop_class.name}; expected a CR, DX or Secondary Capture image.",
        )
    if sop_class not in RADIOGRAPH_CLASSES | {FOR_PROCESSING_CLASS} and modality not in RADIOGRAPH_MODALITIES:
        named = (
            modality if modality in _OTHER_MODALITIES else "none of them"
        )  # any other text may name a patient
        raise FilmError("not_a_radiograph", f"The object's modality is {named}; expected CR, DX, RG or OT.")
    if not options.any_body_part and shows_another_part(dataset):
        raise FilmError(
            "body_part",
            "The film names another part of the body than the chest; leave it out, or allow it with --any-body-part.",
        )
    if not options.burned_in and text_of(dataset, "BurnedInAnnotation") == "YES":
        raise FilmError(
            "burned_in",
            "The film says that text is burned into its pixels, which may name the patient; export it without, or "
            "allow it with --burned-in.",
        )


def is_for_processing(dataset: Dataset) -> bool:
    """Whether a film holds a detector's values, by its class or its Presentation Intent Type (PS3.3 C.8.11.3)."""
    sop_class = raw_text_of(dataset, "SOPClassUID")
    return sop_class == FOR_PROCESSING_CLASS or text_of(dataset, "PresentationIntentType") == "FOR PROCESSING"


def shows_another_part(dataset: Dataset) -> bool:
    """Whether a film names a body part, and not the chest; an unknown word or code names none.

    Body Part Examined decides where it names a part that is known here, else the Anatomic Region Sequence.

    Source:
        DICOM PS3.16 Annex L (Body Part Examined) and CID 4009 (DX Anatomy Imaged).
    """
    by_text = names_chest(text_of(dataset, "BodyPartExamined"))
    if by_text is None:
        by_text = _region_names_chest(dataset)
    return by_text is False


@lru_cache(maxsize=256)
def names_chest(part: str) -> bool | None:
    """Whether a body part's name is the chest's (also among others): None for one that is not known.

    Args:
        part: Upper-case text, such as CHEST, THORAX PA, LSPINE or AbdomenAndPelvis in capitals.
    """
    part = re.sub(r"[^A-Z]+", " ", part)
    # The thoracic spine has the chest's word in its name.
    if _CHEST_WORDS.search(part) and not _SPINES.search(part):
        return True
    return False if _OTHER_PART.search(part) else None


def _region_names_chest(dataset: Dataset) -> bool | None:
    """What the first code of the Anatomic Region Sequence says."""
    try:
        item = dataset.AnatomicRegionSequence[0]
        value, meaning = str(item.CodeValue).strip(), str(item.get("CodeMeaning", ""))
    except Exception:  # noqa: BLE001 - absent, empty and damaged sequences all mean "not known"
        return None
    if value in _CHEST_CODES:
        return True
    return names_chest(_region_meanings().get(value, meaning).upper())


@lru_cache(maxsize=1)
def _region_meanings() -> dict[str, str]:
    """SNOMED CT code -> meaning of the body parts of DX (PS3.16 CID 4009)."""
    region = codes.cid4009
    return {getattr(region, name).value: getattr(region, name).meaning for name in region.dir()}


def keep_first_frame(dataset: Dataset, *, compressed: bool) -> None:
    """Make a film of several frames one of its first frame, in place; one of a single frame stays as it is.

    Args:
        dataset: A parsed data set with its Pixel Data.
        compressed: Whether the Pixel Data are encapsulated.

    Raises:
        FilmError: `truncated` if no frame can be found in compressed Pixel Data.

    Source:
        DICOM PS3.3 C.7.6.6 (Number of Frames), PS3.5 A.4 (fragments of frames).
    """
    frames = integer_of(dataset, "NumberOfFrames", 1)
    if frames <= 1:
        return
    dataset.NumberOfFrames = (
        1  # uncompressed frames follow one another, and only the first one's bytes are read
    )
    if not compressed:
        return
    try:
        first = next(generate_frames(dataset.PixelData, number_of_frames=frames))
    except Exception as error:
        raise FilmError(
            "truncated",
            "The compressed Pixel Data ends before its first frame's end: the file is cut off; copy it again.",
        ) from error
    dataset.PixelData = encapsulate([first])
