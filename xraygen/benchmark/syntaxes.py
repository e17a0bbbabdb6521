"""Large films as five transfer syntaxes hold them, for ingest to be timed on: made of phantoms, with a film's noise."""

import copy
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from xraygen.films.encoders import pixel_data
from xraygen.films.phantom import phantom_film
from xraygen.films.resizing import resize
from xraygen.films.writers import hashed_uid, save_dicom
from xraygen.seeds import numpy_generator

SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS": JPEGLSLossless,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG 2000": JPEG2000Lossless,
}
_NOISE = 25.0
"""Standard deviation in stored values; files as large as real films' come of it."""


def write_films(folder: Path, count: int, side: int) -> dict[str, list[Path]]:
    """Write `count` films of `side` x `side` pixels, each in every syntax.

    Returns:
        Their paths by the syntax's name, as SYNTAXES has it.
    """
    written: dict[str, list[Path]] = {name: [] for name in SYNTAXES}
    for patient in range(count):
        dataset = film(patient, side)
        stored = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
        for name, syntax in SYNTAXES.items():
            path = folder / f"{name.replace(' ', '-')}-{patient}.dcm"
            copied = copy.deepcopy(dataset)
            copied.PixelData = pixel_data(stored, syntax)
            save_dicom(path, copied, syntax)
            written[name].append(path)
    return written


def film(patient: int, side: int) -> Dataset:
    """A computed radiograph, 12 bits in 16, with the window that an exporter would write."""
    phantom = phantom_film(0, patient, 0, min(side, 512)).pixels
    smooth = resize(phantom, (side, side))  # a phantom of full size would take ten times as long
    noise = numpy_generator(0, "bench", patient).normal(0, _NOISE, smooth.shape)
    stored = np.clip(np.rint(smooth + noise), 0, 4095).astype("<u2")  # [side, side]
    low, high = (round(float(end)) for end in np.percentile(stored, [0.5, 99.5]))
    dataset = Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = hashed_uid("bench", str(patient))
    dataset.Modality, dataset.PatientID, dataset.BodyPartExamined = "CR", f"BENCH-{patient}", "CHEST"
    dataset.ViewPosition, dataset.PatientOrientation = "PA", ["L", "F"]
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.WindowCenter, dataset.WindowWidth = (low + high) / 2, high - low
    dataset.PixelData = stored.tobytes()
    return dataset
