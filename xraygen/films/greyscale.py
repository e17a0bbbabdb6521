"""What a DICOM data set says about its display: modality, VOI, inversion, padding; and what about it is doubtful."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from xraygen.errors import FilmError
from xraygen.films.display import (
    Display,
    Intensity,
    LookUpTable,
    Modality,
    Rescale,
    VoiKind,
    Window,
    is_inverted,
    padding_mask,
    robust_window,
    window_between,
)
from xraygen.films.elements import PixelFormat, number_of, text_of, value_of
from xraygen.films.objects import is_for_processing


def display_of(dataset: Dataset, layout: PixelFormat, values: NDArray[Any]) -> Display:
    """Everything between stored values and light that a data set says.

    Args:
        dataset: A parsed data set.
        layout: Its Image Pixel module.
        values: Its stored values `[H, W]`, for padding and, where it names no VOI, the robust percentiles.

    Returns:
        The display. A film For Processing is shown by its X-ray intensity alone: whatever its header says about
        modality, VOI and inversion is meant for other values.

    Raises:
        FilmError: `for_processing` if such a film does not say what its values mean.

    Source:
        DICOM PS3.3 C.11.1 (modality), C.11.2 (VOI), C.11.6 (presentation), C.7.5.1.1.2 (padding).
    """
    padding = _padding(dataset, layout, values)
    raw = is_for_processing(dataset)
    modality: Modality = _intensity(dataset, layout.levels) if raw else _modality(dataset, layout.signed)
    voi: Window | LookUpTable | None
    kind: VoiKind
    voi, kind = (None, "percentiles") if raw else _voi(dataset, modality, layout.levels)
    if voi is None:
        inside = values if padding is None else values[~padding_mask(values, padding)]
        voi = robust_window(inside, modality) if inside.size else window_between(*map(float, layout.levels))
    photometric, shape = _polarity(dataset)
    return Display(
        modality=modality,
        voi=voi,
        voi_kind=kind,
        inverted=not raw and is_inverted(photometric, shape),
        padding=padding,
        levels=layout.levels,
    )


def display_flags(
    dataset: Dataset, layout: PixelFormat, display: Display, values: NDArray[Any]
) -> tuple[str, ...]:
    """What a person should know about a film's display, though it can be read.

    Returns:
        Of `presentation_contradicts_photometric` (Presentation LUT Shape decides, and the film is inverted at most
        once), `modality_unusable` and `voi_unusable` (elements that are there and cannot be used),
        `padding_everywhere`, `padding_out_of_range` and `for_processing`.
    """
    raw = is_for_processing(dataset)
    named, (low, high) = _named_padding(dataset, layout), layout.levels
    photometric, shape = _polarity(dataset)
    contradicts = photometric.startswith("MONOCHROME") and shape in ("IDENTITY", "INVERSE")
    slope = number_of(dataset, "RescaleSlope")
    found = {
        "for_processing": raw,
        "presentation_contradicts_photometric": contradicts
        and (shape == "INVERSE") != (photometric == "MONOCHROME1"),
        "modality_unusable": not raw
        and not isinstance(display.modality, LookUpTable)
        and (_is_there(dataset, "ModalityLUTSequence") or (_is_there(dataset, "RescaleSlope") and not slope)),
        "voi_unusable": not raw
        and display.voi_kind == "percentiles"
        and any(_is_there(dataset, name) for name in ("VOILUTSequence", "WindowCenter", "WindowWidth")),
        "padding_everywhere": display.padding is not None
        and bool(padding_mask(values, display.padding).all()),
        "padding_out_of_range": named is not None and not low <= named[0] <= named[1] <= high,
    }
    return tuple(name for name, holds in found.items() if holds)


def _is_there(dataset: Dataset, keyword: str) -> bool:
    """Whether an element is present and not empty, usable or not."""
    if keyword not in dataset:
        return False
    try:
        value = dataset[keyword].value
    except Exception:  # noqa: BLE001 - pydicom raises many kinds for damaged values, and each means "there"
        return True
    return value is not None and value != "" and (not hasattr(value, "__len__") or len(value) > 0)


def _polarity(dataset: Dataset) -> tuple[str, str]:
    """Photometric Interpretation and Presentation LUT Shape."""
    return text_of(dataset, "PhotometricInterpretation"), text_of(dataset, "PresentationLUTShape")


def _padding(dataset: Dataset, layout: PixelFormat, values: NDArray[Any]) -> tuple[int, int] | None:
    """Smallest and largest padding value; None where no pixel of this film is padding."""
    padding = _named_padding(dataset, layout)
    return padding if padding is not None and padding_mask(values, padding).any() else None


def _named_padding(dataset: Dataset, layout: PixelFormat) -> tuple[int, int] | None:
    """Smallest and largest padding value that a data set names, be there such pixels or not."""
    value = number_of(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = number_of(dataset, "PixelPaddingRangeLimit")
    # Implicit files often say the value with the other sign: take its bits as those of a pixel.
    ends = np.array([value, value if limit is None else limit], np.int64).astype(layout.container)
    return int(ends.min()), int(ends.max())


def _intensity(dataset: Dataset, levels: tuple[int, int]) -> Intensity | Rescale:
    """What turns a detector's values into attenuation (PS3.3 C.8.11.3.1.2)."""
    relationship = text_of(dataset, "PixelIntensityRelationship")
    sign = number_of(dataset, "PixelIntensityRelationshipSign")
    if relationship not in ("LIN", "LOG") or sign not in (-1, 1):
        raise FilmError(
            "for_processing",
            "The film is DX For Processing and its Pixel Intensity Relationship (LIN or LOG) and Sign (1 or -1) do not "
            "say what its values mean; export the one For Presentation.",
        )
    # LOG values are attenuation already, but for their sign.
    return Rescale(-sign) if relationship == "LOG" else Intensity(sign > 0, levels)


def _modality(dataset: Dataset, signed: bool) -> Modality:
    """The Modality LUT, or else Rescale Slope and Intercept, or else the identity."""
    table = _look_up_table(dataset, "ModalityLUTSequence", signed)
    if table is not None:
        return table
    slope, intercept = number_of(dataset, "RescaleSlope"), number_of(dataset, "RescaleIntercept")
    return Rescale(slope or 1.0, intercept or 0.0)


def _voi(
    dataset: Dataset, modality: Modality, levels: tuple[int, int]
) -> tuple[Window | LookUpTable | None, VoiKind]:
    """The first VOI LUT, or else the first window, or else None for robust percentiles."""
    # The table's first value has the sign of what goes in: of modality values, not of stored ones (C.11.2.1.1).
    signed = bool(modality(np.array(levels, dtype=np.float64)).min() < 0)
    table = _look_up_table(dataset, "VOILUTSequence", signed)
    if table is not None and isinstance(modality, LookUpTable):
        table = replace(table, first=table.first & 0xFFFF)
    if table is not None:
        return table, "lut"
    center, width = number_of(dataset, "WindowCenter"), number_of(dataset, "WindowWidth")
    if center is None or width is None:
        return None, "percentiles"
    function = text_of(dataset, "VOILUTFunction")
    if function == "SIGMOID" and width > 0:
        return Window(center, width, "SIGMOID"), "sigmoid"
    if function == "LINEAR_EXACT" and width > 0:
        return Window(center, width, "LINEAR_EXACT"), "linear_exact"
    if function not in ("SIGMOID", "LINEAR_EXACT") and width >= 1:
        return Window(center, width, "LINEAR"), "linear"
    return None, "percentiles"


def _look_up_table(dataset: Dataset, sequence: str, signed: bool) -> LookUpTable | None:
    """The first table of a LUT sequence; None where there is none that can be used (PS3.3 C.11.1.1.1)."""
    try:
        item = value_of(dataset, sequence)[0]
        count, first, bits = (int(part) for part in item.LUTDescriptor)
        data = item.LUTData
    except Exception:  # noqa: BLE001 - absent, empty and damaged sequences all mean "no table"
        return None
    count = (count & 0xFFFF) or 2**16
    if first >= 2**15 and signed:
        first -= 2**16
    entries = _lut_entries(data, count, "<" if dataset.original_encoding[1] is not False else ">")
    if not 1 <= bits <= 16 or entries is None:
        return None
    return LookUpTable(first, entries.astype(np.float64), bits)


def _lut_entries(data: Any, count: int, order: str) -> NDArray[Any] | None:
    """LUT Data as `count` integers, whether it came as words (US, OW) or as bytes packed two by two."""
    if isinstance(data, bytes):
        if len(data) >= 2 * count:
            return np.frombuffer(data, f"{order}u2", count=count)
        words = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2")
    elif data is None:  # pydicom's word for an element of no length
        return None
    else:
        words = np.atleast_1d(np.asarray(data, dtype=np.int64)).astype(np.uint16)
    if len(words) >= count:
        return words[:count]
    packed = words.astype("<u2").view(np.uint8)
    return packed[:count] if len(packed) >= count else None
