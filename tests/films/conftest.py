"""DICOM films written on the spot: nothing downloaded, nothing private."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from xraygen.seeds import numpy_generator


@pytest.fixture
def levels() -> NDArray[np.uint16]:
    """A smooth picture with noise that uses all of 12 bits, [50, 40]."""
    noise = numpy_generator(0, "film").integers(0, 400, (50, 40))
    values = np.add.outer(np.arange(50) * 45, np.arange(40) * 40) + noise
    values[0, 0], values[-1, -1] = 0, 4095
    return np.clip(values, 0, 4095).astype(np.uint16)


@pytest.fixture
def patient() -> str:
    """What identifies the patient in all these films, and may stand in no message."""
    return "Zyxw-4711"


@pytest.fixture
def write_dicom(tmp_path: Path, patient: str) -> Callable[..., Path]:
    """`write_dicom(values, 12, WindowWidth=100)` writes a DX film and returns its path.

    Elements given as None are left out. `data` are pixel data already encoded in `syntax` (empty: none at all),
    `pixel_vr` replaces their VR, `sloppy` holds texts that are written unchecked, and `mark=False` leaves out preamble
    and DICM mark.
    """

    def write(
        values: NDArray[Any],
        bits_stored: int = 12,
        *,
        data: bytes | None = None,
        syntax: str = ExplicitVRLittleEndian,
        pixel_vr: str = "",
        sloppy: dict[str, str] | None = None,
        mark: bool = True,
        **elements: Any,
    ) -> Path:
        dataset = _dataset_of(values, bits_stored, patient, elements)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        path = tmp_path / "film.dcm"
        with pydicom_config.disable_value_validation():
            for keyword, text in (sloppy or {}).items():
                dataset.add_new(keyword, "LO", text)
            _add_pixels(dataset, values.tobytes() if data is None else data, pixel_vr)
            if mark:
                dataset.save_as(path, enforce_file_format=True)
            else:
                del dataset.file_meta
                dataset.save_as(path, implicit_vr=True, little_endian=True)
        return path

    return write


def _dataset_of(values: NDArray[Any], bits_stored: int, patient: str, elements: dict[str, Any]) -> Dataset:
    """A DX film's elements, without pixels."""
    meaning: dict[str, Any] = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": "1.2.3.4711",
        "StudyInstanceUID": "1.2.3",
        "PatientID": patient,
        "PatientName": patient,
        "Modality": "DX",
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": values.shape[0],
        "Columns": values.shape[1],
        "SamplesPerPixel": 1,
        "BitsAllocated": values.dtype.itemsize * 8,
        "BitsStored": bits_stored,
        "HighBit": bits_stored - 1,
        "PixelRepresentation": int(values.dtype.kind == "i"),
        **elements,
    }
    dataset = Dataset()
    for keyword, value in meaning.items():
        if value is not None:
            setattr(dataset, keyword, value)
    return dataset


def _add_pixels(dataset: Dataset, data: bytes, pixel_vr: str) -> None:
    """Pixel Data, encapsulated where the transfer syntax asks for it."""
    if not data:
        return
    compressed = dataset.file_meta.TransferSyntaxUID.is_encapsulated
    dataset.PixelData = encapsulate([data]) if compressed else data
    dataset["PixelData"].VR = pixel_vr or ("OB" if compressed or dataset.BitsAllocated == 8 else "OW")
