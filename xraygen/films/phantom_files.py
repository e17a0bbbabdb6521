"""A set of phantom films on disk, with labels, in the variety that a hospital's archive has."""

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import count as from_zero
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from xraygen.atomic import remove_leftovers, sole_writer, write_json, write_text
from xraygen.errors import FolderError, UsageError
from xraygen.films.phantom import BITS, MIN_SIDE, PhantomFilm, images_of, phantom_film, phantom_finding
from xraygen.films.writers import code_item, hashed_uid, save_dicom, write_png
from xraygen.progress import Progress, Report, silent
from xraygen.seeds import numpy_generator

Format = Literal["dicom", "png"]
SUFFIX: Mapping[Format, str] = {"dicom": ".dcm", "png": ".png"}
FORMAT_VERSION = 1
SETTINGS_NAME = ".phantom.json"
"""What the folder was made with; hidden, so that no reader takes it for a film."""
_TOP = 2**BITS - 1
_THREADS = 2


@dataclass(frozen=True)
class PhantomSummary:
    """How many films were made now, and how many were there already."""

    made: int
    present: int


@dataclass(frozen=True)
class FileStyle:
    """How one patient's hospital writes its DICOM files.

    Args:
        inverted: MONOCHROME1 with Presentation LUT Shape INVERSE: low stored values are bright.
        rescale: Slope and intercept. The DX object allows only (1, 0); old archives hold others, so a few do here.
        voi_function: LINEAR (then unsaid, as is usual), LINEAR_EXACT or SIGMOID.
        window: Centre and width in display polarity, as fractions of the range.
        transfer_syntax: UID of the encoding.
    """

    inverted: bool
    rescale: tuple[int, int]
    voi_function: Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
    window: tuple[float, float]
    transfer_syntax: str

    @staticmethod
    def draw(seed: int, patient: int) -> "FileStyle":
        """The style of patient `patient`."""
        random = numpy_generator(seed, "phantom", patient, "file")
        syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEGLSLossless]
        functions: list[Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]] = ["LINEAR", "LINEAR_EXACT", "SIGMOID"]
        voi_function = functions[int(random.choice(3, p=[0.7, 0.2, 0.1]))]
        steep = 0.6 if voi_function == "SIGMOID" else 1.0  # its toe and shoulder lie outside the window
        return FileStyle(
            inverted=bool(random.random() < 1 / 3),
            rescale=(2, -512) if random.random() < 0.15 else (1, 0),
            voi_function=voi_function,
            window=(float(random.uniform(0.48, 0.54)), steep * float(random.uniform(0.92, 1.06))),
            transfer_syntax=str(syntaxes[int(random.choice(4, p=[0.55, 0.15, 0.15, 0.15]))]),
        )


def write_phantoms(
    folder: Path,
    count: int,
    size: int | tuple[int, int],
    file_format: Format = "dicom",
    seed: int = 0,
    report: Report = silent,
) -> PhantomSummary:
    """Write `count` phantom films as patient-0000/image-0.dcm and so on, and labels.csv when all are there.

    Run again after an interruption, it makes only what is missing; with a greater count, it extends the set.

    Args:
        folder: Where to; made if missing.
        count: Films in all, 1 to 3 per patient.
        size: Side in pixels, or (height, width).
        file_format: `dicom` (DX For Presentation, 12 bits) or `png` (16 bits).
        seed: Seed of the set.
        report: Told of each film.

    Raises:
        UsageError: If count or size is too small, or the folder holds phantoms made with other settings.
        FolderError: If the folder is not empty and holds no phantoms, or another process writes to it.
    """
    H, W = (size, size) if isinstance(size, int) else size
    check_phantoms(folder, count, (H, W), file_format, seed)
    with sole_writer(folder):
        _claim(folder, _settings((H, W), file_format, seed), count)
        return _write(folder, count, (H, W), file_format, seed, report)


def check_phantoms(
    folder: Path, count: int, size: int | tuple[int, int], file_format: Format = "dicom", seed: int = 0
) -> None:
    """Whether `write_phantoms` would make them; nothing is written.

    Raises:
        UsageError: As `write_phantoms`.
        FolderError: As `write_phantoms`.
    """
    H, W = (size, size) if isinstance(size, int) else size
    if count < 1 or min(H, W) < MIN_SIDE:
        raise UsageError(
            f"{count} films of {H}x{W} pixels cannot be; ask for 1 or more of {MIN_SIDE} px or more."
        )
    if folder.exists() and not (folder / SETTINGS_NAME).exists() and not _is_free(folder):
        raise FolderError(
            f"{folder} exists and holds something else than phantoms; choose an empty or new folder."
        )
    _agreed_count(folder, _settings((H, W), file_format, seed), count)


def _settings(size: tuple[int, int], file_format: Format, seed: int) -> dict[str, object]:
    """What a folder's films have in common, as it notes it."""
    return {"format_version": FORMAT_VERSION, "seed": seed, "size": list(size), "format": file_format}


def _write(
    folder: Path, count: int, size: tuple[int, int], file_format: Format, seed: int, report: Report
) -> PhantomSummary:
    """What is missing of a set."""
    films = list(islice(schedule(seed), count))
    todo = [film for film in films if not (folder / film_name(*film, file_format)).exists()]
    present = count - len(todo)
    report(Progress("phantoms", present, count))

    def make(film: tuple[int, int]) -> None:
        path = folder / film_name(*film, file_format)
        if file_format == "dicom":
            write_phantom_dicom(path, phantom_film(seed, *film, size), seed, *film)
        else:
            pixels = phantom_film(seed, *film, size).pixels
            scaled = (pixels << (16 - BITS)) | (pixels >> (2 * BITS - 16))  # 4095 becomes 65535
            write_png(path, scaled.astype(np.uint16))

    # NumPy lets go of the interpreter's lock, and a thread starts at once where a process would load everything anew
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for done, _ in enumerate(pool.map(make, todo), start=present + 1):
                report(Progress("phantoms", done, count))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    write_text(folder / "labels.csv", _labels(seed, films, file_format))
    return PhantomSummary(made=len(todo), present=present)


def schedule(seed: int) -> Iterator[tuple[int, int]]:
    """(patient, image) of every film of a set, without end: whole patients in order."""
    for patient in from_zero():
        for image in range(images_of(seed, patient)):
            yield patient, image


def film_name(patient: int, image: int, file_format: Format) -> str:
    """A film's path in its set."""
    return f"patient-{patient:04d}/image-{image}{SUFFIX[file_format]}"


def write_phantom_dicom(path: Path, film: PhantomFilm, seed: int, patient: int, image: int) -> None:
    """Write one phantom as a DX image for presentation, in the style of its patient's made-up hospital; atomic.

    Source:
        DICOM PS3.3 A.26 (Digital X-Ray Image IOD) and C.8.11 (its modules).
    """
    style = FileStyle.draw(seed, patient)
    dataset = Dataset()
    _add_patient(dataset, film, seed, patient, image)
    _add_series(dataset, film, seed, patient, image)
    _add_image(dataset, film, style)
    stored = (_TOP - film.pixels if style.inverted else film.pixels).astype("<u2")
    if style.transfer_syntax in (RLELossless, JPEGLSLossless):
        dataset.compress(style.transfer_syntax, stored, generate_instance_uid=False)
    else:
        pixels = stored.tobytes()
        dataset.PixelData = pixels
        dataset["PixelData"].VR = "OW"
    save_dicom(path, dataset, style.transfer_syntax)


def _agreed_count(folder: Path, settings: Mapping[str, object], count: int) -> int:
    """How many films a folder was made for, 0 where it is new; raises if it is another set's or a greater one."""
    note = folder / SETTINGS_NAME
    if not note.exists():
        return 0
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        before = int(found.pop("count"))
        (H, W), old_format, old_seed = found["size"], found["format"], found["seed"]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise FolderError(f"{note} is damaged; delete {folder} and make the phantoms anew.") from None
    if found != settings or count < before:
        version = found.get("format_version")
        other = "" if version == FORMAT_VERSION else " by another version of xraygen"
        raise UsageError(
            f"{folder} holds {before} phantoms of {H}x{W} px as {old_format} with seed {old_seed}{other}; "
            "repeat its settings with no smaller count, or choose another folder."
        )
    return before


def _claim(folder: Path, settings: Mapping[str, object], count: int) -> None:
    """Make the folder this set's, or raise if it is another's."""
    note = folder / SETTINGS_NAME
    before = _agreed_count(folder, settings, count)
    remove_leftovers(folder)
    for patient in folder.glob("patient-*"):
        remove_leftovers(patient)
    if count > before:
        (folder / "labels.csv").unlink(missing_ok=True)  # a list must not be shorter than what it lists
        write_json(note, {**settings, "count": count})


def _is_free(folder: Path) -> bool:
    """Whether a folder is empty but for what a run killed at its very start left."""
    own = (".lock", f".{SETTINGS_NAME}.")
    return folder.is_dir() and all(entry.name.startswith(own) for entry in folder.iterdir())


def _labels(seed: int, films: Iterable[tuple[int, int]], file_format: Format) -> str:
    """labels.csv: path within the set, finding, number of nodules."""
    lines = ["path,finding,nodule_count"]
    for patient, image in films:
        finding, nodules = phantom_finding(seed, patient)
        lines.append(f"{film_name(patient, image, file_format)},{finding},{nodules}")
    return "\n".join(lines) + "\n"


def _add_patient(dataset: Dataset, film: PhantomFilm, seed: int, patient: int, image: int) -> None:
    """Patient and study: obviously artificial, on fixed dates."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SyntheticData = "YES"
    dataset.PatientName = f"PHANTOM^{patient:04d}"
    dataset.PatientID = f"PHANTOM-{patient:04d}"
    dataset.IssuerOfPatientID = "xraygen"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = film.sex
    dataset.PatientAge = f"{film.age:03d}Y"
    dataset.StudyInstanceUID = _uid(seed, "study", patient, image)
    dataset.StudyDate = dataset.AcquisitionDate = dataset.ContentDate = f"2020010{image + 1}"
    dataset.StudyTime = dataset.AcquisitionTime = dataset.ContentTime = "120000"
    dataset.StudyID = f"{patient:04d}-{image}"
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""


def _add_series(dataset: Dataset, film: PhantomFilm, seed: int, patient: int, image: int) -> None:
    """Series, equipment and how the patient stood."""
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = _uid(seed, "image", patient, image, sha256(film.pixels.tobytes()).hexdigest())
    dataset.SeriesInstanceUID = _uid(seed, "series", patient, image)
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = "PHANTOM, NOT FOR DIAGNOSIS"
    dataset.InstanceNumber = 1
    dataset.Modality = "DX"
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.Manufacturer = "xraygen"
    dataset.ManufacturerModelName = "procedural phantom"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = film.view
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageLaterality = "U"
    dataset.AnatomicRegionSequence = [code_item(Code("816094009", "SCT", "Chest"))]
    projection = (
        Code("272479007", "SCT", "postero-anterior")
        if film.view == "PA"
        else Code("399348003", "SCT", "antero-posterior")
    )
    dataset.ViewCodeSequence = [code_item(projection)]
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = []
    dataset.AcquisitionContextSequence = []
    dataset.DetectorType = ""


def _add_image(dataset: Dataset, film: PhantomFilm, style: FileStyle) -> None:
    """Pixel description, and how stored values become light."""
    H, W = film.pixels.shape
    dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.ImagerPixelSpacing = [f"{film.pixel_spacing_mm:.8g}"] * 2
    dataset.PixelIntensityRelationship = "LOG"
    # 1: a low stored value means few X-rays (PS3.3 C.8.11.3.1.2), as in an inverted film, where bone is low
    dataset.PixelIntensityRelationshipSign = 1 if style.inverted else -1
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME1" if style.inverted else "MONOCHROME2"
    dataset.PresentationLUTShape = "INVERSE" if style.inverted else "IDENTITY"
    dataset.Rows, dataset.Columns = H, W
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, BITS, BITS - 1
    dataset.PixelRepresentation = 0
    slope, intercept = style.rescale
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = str(slope), str(intercept), "US"
    centre = 1 - style.window[0] if style.inverted else style.window[0]
    dataset.WindowCenter = f"{centre * _TOP * slope + intercept:.1f}"
    dataset.WindowWidth = f"{style.window[1] * _TOP * slope:.1f}"
    if style.voi_function != "LINEAR":
        dataset.VOILUTFunction = style.voi_function


def _uid(seed: int, *parts: str | int) -> str:
    """A UID of this set."""
    return hashed_uid("phantom", str(seed), *map(str, parts))
