"""The data set card that lies beside every SYNTHETIC: Markdown under the front matter of Hugging Face's hub."""

from collections.abc import Mapping
from typing import Any

from xraygen.synthesis.images import is_marked

_CARD = """---
pretty_name: Synthetic {kind}, set {short_id}
license: unknown
annotations_creators:
- machine-generated
task_categories:
- unconditional-image-generation
size_categories:
- {size_category}
tags:
{tags}
---

# Synthetic {title}

{count} synthetic images made by xraygen {version} on {created}. {people}

**Audit: not audited** when this card was written. **License: unknown**: it is that of the films the network was trained
on, which this set does not know; ask who trained it before you share it.

![Contact sheet](preview.png)

## How it was made

| | |
|---|---|
| set | {id} |
| checkpoint | step {step}, sha256 of the averaged weights {ema_sha256} |
| sampler | {sampler}, {steps} steps{arithmetic} |
{conditions}| size | {size}, {channels} channel(s) |
| pixel spacing | {spacing} |
| format | {format} |
| compute batch | {batch_size} (part of what makes an image repeat to the bit) |

`metadata.csv` has a row per image with its seed and hash; `provenance.json` the whole configuration.

## How it is marked

{marks}

## How to read it

{reading}"""

_FILMS = {
    "kind": "chest films",
    "title": "chest films: not for diagnosis",
    "tags": "- chest-x-ray\n- diffusion\n- medical\n- not-for-diagnosis\n- radiology\n- synthetic\n- xraygen",
    "people": "No image shows a patient, but a network can repeat\n"
    "what it was trained on: what this set reveals is what its audit says (`xraygen audit`), and no more.",
}
_NATURAL = {
    "kind": "natural images",
    "title": "natural images",
    "tags": "- diffusion\n- synthetic\n- xraygen",
    "people": "A network can repeat what it was trained on:\nan image may be close to one of the training set.",
}
"""Colour: the setups of a paper, and no film."""
_MARKS = {
    "png": "Nothing in a PNG file says that it is synthetic: keep this card and `metadata.csv` with the images.",
    "nifti": "Nothing in a NIfTI file says that it is synthetic: keep this card and `metadata.csv` with the images.",
    "dicom": "Every file says so: Synthetic Data (0008,001C) YES, Image Type DERIVED, Content Qualification RESEARCH, "
    "a Patient ID that begins with SYNTHETIC-, and the descriptions of its study and series.",
}
_PIXEL_MARK = " The word SYNTHETIC stands in the upper left corner of the pixels."
_FORMATS = {
    "png": "PNG",
    "nifti": "NIfTI-1; first axis to the patient's left, second to the feet, third to the back (LIP)",
    "dicom": "DICOM, Secondary Capture",
    "dicom-dx": "DICOM, Digital X-Ray Image For Presentation",
}
_READ_PICTURES = """    from datasets import load_dataset
    images = load_dataset("imagefolder", data_dir=".")

"""
_READ_ROWS = """    from monai.data import CSVDataset
    rows = CSVDataset("metadata.csv")              # file_name is relative to this folder

    from xraygen.films.reader import RadiographReader  # MONAI: LoadImage(reader=RadiographReader())
"""
_SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def data_set_card(origin: Mapping[str, Any], count: int) -> str:
    """The card of a set of `count` images with this provenance, in Markdown."""
    settings, data = origin["settings"], origin["config"]["data"]
    file_format: str = settings["format"]
    return _CARD.format(
        **(_FILMS if data["channels"] == 1 else _NATURAL),
        short_id=origin["id"][:8],
        size_category=next((name for limit, name in _SIZE_CATEGORIES if count < limit), "n>1M"),
        count=count,
        version=origin["environment"]["xraygen"],
        created=origin["created"],
        id=origin["id"],
        step=origin["checkpoint"]["step"],
        ema_sha256=origin["checkpoint"]["ema_sha256"],
        sampler=settings["sampler"],
        steps=settings["steps"],
        arithmetic=""
        if settings.get("precision", "float32") == "float32"
        else f", in {settings['precision']}",
        conditions=_conditions(settings),
        batch_size=settings["compute_batch"],
        size=data["image_size"],
        channels=data["channels"],
        spacing=_spacing(settings),
        format=_FORMATS[file_format] + (f", {16 if data['channels'] == 1 else 8} bits"),
        marks=_MARKS[file_format.removesuffix("-dx")] + (_PIXEL_MARK if is_marked(origin) else ""),
        reading=(_READ_PICTURES if file_format == "png" else "")
        + (_READ_ROWS if data["channels"] == 1 else ""),
    )


def _spacing(settings: Mapping[str, Any]) -> str:
    """What is known of the scale."""
    if "pixel_spacing_mm" not in settings:
        return "unknown"
    row, column = settings["pixel_spacing_mm"]
    return f"nominal {row:g} x {column:g} mm: the median of the training films as resized"


def _conditions(settings: Mapping[str, Any]) -> str:
    """A row for a set whose network takes conditions; what each image was told stands in metadata.csv."""
    if "guidance" not in settings:
        return ""
    low_high = settings["guidance_interval"]
    where = "" if low_high is None else f" at noise levels {low_high[0]:g} to {low_high[1]:g}, 1 elsewhere"
    return (
        f"| guidance | weight {settings['guidance']:g}{where}; conditions of each image in `metadata.csv` |\n"
    )
