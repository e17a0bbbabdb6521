"""A disk that fails at any touch of a film is no fault of the film's."""

import builtins
import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from xraygen.errors import FilmError
from xraygen.films.colour import read_colour
from xraygen.films.disk import pass_on_failure
from xraygen.films.reader import read_film

Values = NDArray[Any]
_OPEN = builtins.open


class Disk:
    """Counts each opening of a file and each reading from it, and fails at one of them."""

    def __init__(self, path: Path, fails_at: int, number: int) -> None:
        self.path, self.fails_at, self.number, self.touches = path, fails_at, number, 0

    def touch(self) -> None:
        self.touches += 1
        if self.touches == self.fails_at:
            raise OSError(self.number, "The disk says so", str(self.path))

    def open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if str(file) != str(self.path):
            return _OPEN(file, mode, *arguments, **options)
        self.touch()
        return io.BufferedReader(Raw(self))


class Raw(io.FileIO):
    def __init__(self, disk: Disk) -> None:
        super().__init__(disk.path)
        self.disk = disk

    def readinto(self, buffer: Any) -> int:
        self.disk.touch()
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self.disk.touch()
        return super().readall()


def write_dicom_film(folder: Path, values: Values, write_dicom: Callable[..., Path]) -> Path:
    return write_dicom(values)


def write_large_film(folder: Path, values: Values, write_dicom: Callable[..., Path]) -> Path:
    return write_dicom(np.resize(values, (701, 397)))  # of which strip after strip is read


def write_film_with_large_tables(folder: Path, values: Values, write_dicom: Callable[..., Path]) -> Path:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [0, 0, 16])
    table.add_new("LUTData", "OW", np.arange(2**16, dtype=np.uint16).tobytes())
    return write_dicom(values, VOILUTSequence=[table] * 3)  # 400 kB


def write_png(folder: Path, values: Values, write_dicom: Callable[..., Path]) -> Path:
    (folder / "film").write_bytes(imagecodecs.png_encode(values))
    return folder / "film"


def write_tiff(folder: Path, values: Values, write_dicom: Callable[..., Path]) -> Path:
    (folder / "film").write_bytes(imagecodecs.tiff_encode(values))
    return folder / "film"


def write_jpeg(folder: Path, values: Values, write_dicom: Callable[..., Path]) -> Path:
    Image.fromarray((values >> 4).astype(np.uint8)).save(folder / "film.jpg")
    return folder / "film.jpg"


def write_nifti(folder: Path, values: Values, write_dicom: Callable[..., Path]) -> Path:
    nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)).to_filename(folder / "film.nii.gz")
    return folder / "film.nii.gz"


@pytest.mark.parametrize(
    "write",
    [
        write_dicom_film,
        write_large_film,
        write_film_with_large_tables,
        write_png,
        write_tiff,
        write_jpeg,
        write_nifti,
    ],
)
def test_a_disk_that_fails_at_any_touch_of_a_film_raises_its_own_error(
    write: Callable[..., Path],
    levels: Values,
    write_dicom: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path, levels, write_dicom)
    expected = read_film(path).values
    raised = 0
    for fails_at in range(1, 100):
        disk = Disk(path, fails_at, errno.EIO)
        with monkeypatch.context() as patch:
            patch.setattr(io, "open", disk.open)  # pathlib's
            patch.setattr(builtins, "open", disk.open)  # Pillow's and gzip's
            try:
                values = read_film(path).values
            except OSError as error:
                assert error.errno == errno.EIO
                assert str(path) not in str(error)
                raised += 1
                continue
        np.testing.assert_array_equal(
            values, expected
        )  # Pillow may do without what it could not read of a TIFF
        if disk.touches < fails_at:
            break
    assert raised >= 2
    assert disk.touches == fails_at - 1  # it failed at each


@pytest.mark.parametrize(
    "number",
    [errno.ESTALE, errno.EIO, errno.ENOTCONN, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOSPC],
)
def test_what_the_machine_does_is_passed_on_with_its_number(number: int) -> None:
    with pytest.raises(OSError, match="disk or the machine") as raised:
        pass_on_failure(OSError(number, "It failed", "/films/Mustermann.dcm"))
    assert raised.value.errno == number
    assert "Mustermann" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file"),
        PermissionError(errno.EACCES, "Permission denied"),
        IsADirectoryError(errno.EISDIR, "Is a directory"),
        OSError(errno.ELOOP, "Too many links"),
        OSError(errno.EINVAL, "A place before the file"),
        OSError("image file is truncated"),
        FilmError("truncated", "It is cut off."),
        ValueError("a bad header"),
    ],
)
def test_what_a_file_causes_is_not(error: Exception) -> None:
    pass_on_failure(error)


def test_a_colour_picture_on_a_failing_disk_is_not_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(path)
    monkeypatch.setattr(io, "open", Disk(path, 2, errno.EIO).open)  # it opens, and is not read
    with pytest.raises(OSError, match="the disk or the machine failed") as caught:
        read_colour(path)
    assert caught.value.errno == errno.EIO
    assert str(path) not in str(caught.value)
    with pytest.raises(FilmError, match="cannot be read"):
        read_colour(tmp_path / "none.png")
