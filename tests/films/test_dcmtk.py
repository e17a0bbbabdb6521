"""The same grey levels as DCMTK's dcm2pnm (Debian's package dcmtk), on films that carry a window or a VOI LUT."""

import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset

from xraygen.films.dicom import read_stored
from xraygen.films.objects import ReadOptions

Values = NDArray[Any]
ONE_LEVEL = 1.0  # of 256: dcm2pnm writes 8 bits, and rounds where we do not

pytestmark = pytest.mark.skipif(
    shutil.which("dcm2pnm") is None, reason="dcm2pnm is not installed (Debian's package dcmtk)"
)


def dcm2pnm(path: Path, *options: str) -> Values:
    """What dcm2pnm shows, uint8 [H, W]."""
    output = path.with_suffix(".pgm")
    subprocess.run(["dcm2pnm", *options, str(path), str(output)], check=True, capture_output=True)
    return np.asarray(Image.open(io.BytesIO(output.read_bytes())).convert("L"))


def table() -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor = [2048, 1000, 12]
    item.add_new("LUTData", "US", (4095 * (np.arange(2048) / 2047) ** 0.6).astype(int).tolist())
    return [item]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 2, "RescaleIntercept": -500}])
@pytest.mark.parametrize(
    ("option", "voi"),
    [
        (["+Wi", "1"], {"WindowCenter": [1700, 50], "WindowWidth": [1500, 10]}),
        (["+Wi", "1"], {"WindowCenter": 1700, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"}),
        (["+Wl", "1"], {"VOILUTSequence": table()}),
    ],
    ids=["linear", "sigmoid", "lut"],
)
def test_generated_films_look_as_in_dcmtk(
    option: list[str],
    voi: dict[str, Any],
    rescale: dict[str, Any],
    photometric: str,
    levels: Values,
    write_dicom: Callable[..., Path],
) -> None:
    path = write_dicom(levels, PhotometricInterpretation=photometric, **voi, **rescale)
    film = read_stored(path)
    theirs = dcm2pnm(path, *option)
    ours = np.rint(255 * film.display.apply(film.values))  # both in grey levels of 256, as they are seen
    assert np.abs(ours - theirs).max() <= ONE_LEVEL


@pytest.mark.films
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("dicom-cxr/966_fixed.dcm", ["+Wi", "1"]),
        ("dicom-cxr/gdcm-CR-MONO1-10-chest.dcm", ["+Wi", "1"]),
        ("dicom-other/RG3_J2KR.dcm", ["+Wi", "1"]),
        ("dicom-other/vlut_04.dcm", ["+Wl", "1"]),
    ],
)
def test_real_films_look_as_in_dcmtk(name: str, option: list[str], films: Path, tmp_path: Path) -> None:
    film = read_stored(films / name, ReadOptions(any_body_part=True))
    theirs = dcm2pnm(uncompressed(films / name, film.values, tmp_path / "film.dcm"), *option)
    ours = np.rint(255 * film.display.apply(film.values))  # both in grey levels of 256, as they are seen
    assert np.abs(ours - theirs).max() <= ONE_LEVEL


def uncompressed(source: Path, values: Values, path: Path) -> Path:
    """A copy with upright, uncompressed pixels: dcm2pnm neither turns films nor knows every syntax."""
    dataset = dcmread(source)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns = values.shape
    dataset.PixelData = values.tobytes()
    dataset["PixelData"].VR = "OW" if values.dtype.itemsize == 2 else "OB"
    dataset.save_as(path, enforce_file_format=True)
    return path
