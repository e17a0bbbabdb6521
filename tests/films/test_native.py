"""Uncompressed films so large that their pixels are read strip by strip, against the same bytes in NumPy."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from xraygen.errors import FilmError
from xraygen.films.dicom import read_radiograph, read_stored
from xraygen.films.native import left_in_file
from xraygen.films.objects import ReadOptions
from xraygen.seeds import numpy_generator

WriteDicom = Callable[..., Path]
Values = NDArray[Any]

ROWS, COLUMNS = 701, 397
"""Half a megabyte of 16 bits, whose strips are of no round number of rows, and the last one shorter."""


@pytest.fixture(scope="module")
def large() -> Values:
    return numpy_generator(0, "large").integers(0, 4096, (ROWS, COLUMNS)).astype(np.uint16)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("kind", "bits"), [("u1", 8), ("u2", 12), ("u2", 16), ("i2", 12), ("i2", 16), ("i4", 20)]
)
def test_every_pixel_comes_as_it_was_written(
    syntax: str, kind: str, bits: int, write_dicom: WriteDicom
) -> None:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if kind[0] == "i" else (0, 2**bits)
    values = numpy_generator(1, "written").integers(low, high, (ROWS, COLUMNS)).astype(kind)
    path = write_dicom(values, bits, syntax=syntax, WindowCenter=100, WindowWidth=1000)
    read = read_stored(path).values
    np.testing.assert_array_equal(read, values)
    assert read.dtype == values.dtype


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("where", [slice(0, 3), slice(400, 402), slice(0, ROWS)])
def test_bits_above_those_stored_are_left_out_wherever_they_are(
    signed: bool, where: slice, large: Values, write_dicom: WriteDicom
) -> None:
    words = large.copy()
    words[where] |= 0xA000  # an overlay of old
    path = write_dicom(words.view("i2") if signed else words, 12, WindowCenter=100, WindowWidth=1000)
    expected = large.astype(np.int64)
    if signed:  # bit 11 is the sign
        expected[expected >= 2048] -= 4096
    np.testing.assert_array_equal(read_stored(path).values, expected)


def test_bits_below_the_stored_ones_are_shifted_away(large: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(large << 4 | 7, 12, HighBit=15, WindowCenter=100, WindowWidth=1000)
    np.testing.assert_array_equal(read_stored(path).values, large)


def test_the_first_of_several_frames_is_read_alone(large: Values, write_dicom: WriteDicom) -> None:
    frames = large.tobytes() + large[::-1].tobytes()
    path = write_dicom(large, data=frames, NumberOfFrames=2, WindowCenter=100, WindowWidth=1000)
    np.testing.assert_array_equal(read_stored(path, ReadOptions(frames="first")).values, large)


def test_a_palette_is_refused(large: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(large, PhotometricInterpretation="PALETTE COLOR")
    assert refusal(path).reason == "colour"


@pytest.mark.parametrize("bytes_left_out", [1, 2, 100_000, 500_000])
def test_a_file_that_is_cut_off_is_refused(
    bytes_left_out: int, large: Values, write_dicom: WriteDicom
) -> None:
    path = write_dicom(large)
    os.truncate(path, path.stat().st_size - bytes_left_out)
    assert refusal(path).reason == "truncated"


def test_an_element_that_claims_more_than_the_file_holds_is_refused(
    large: Values, write_dicom: WriteDicom
) -> None:
    path = write_dicom(large)
    content, size = path.read_bytes(), large.nbytes
    at = content.index(size.to_bytes(4, "little"), content.index(b"\xe0\x7f\x10\x00OW"))
    path.write_bytes(content[:at] + (size + 2).to_bytes(4, "little") + content[at + 4 :])
    assert refusal(path).reason == "truncated"


def test_fewer_pixels_than_rows_and_columns_are_refused_with_both_numbers(
    large: Values, write_dicom: WriteDicom
) -> None:
    path = write_dicom(large, Rows=ROWS + 1)
    error = refusal(path)
    assert error.reason == "truncated"
    assert f"{2 * ROWS * COLUMNS} bytes of {2 * (ROWS + 1) * COLUMNS}" in error.detail


def test_a_file_that_shrinks_while_it_is_read_is_refused(
    large: Values, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_dicom(large, WindowCenter=100, WindowWidth=1000)

    def parse_and_shrink(*arguments: Any, **options: Any) -> Any:
        dataset = parse(*arguments, **options)
        os.truncate(path, path.stat().st_size - 2)
        return dataset

    parse = pydicom.dcmread
    monkeypatch.setattr(
        "xraygen.films.dicom.left_in_file", lambda dataset: None
    )  # the check of the file's size
    monkeypatch.setattr(pydicom, "dcmread", parse_and_shrink)
    assert refusal(path).reason == "truncated"


def test_another_large_element_is_read_when_it_is_asked_for(large: Values, write_dicom: WriteDicom) -> None:
    tables = []
    for number in range(3):  # 131 kB each: the sequence is left in the file
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [0, 0, 16])
        item.add_new("LUTData", "OW", np.full(2**16, 65535 // (number + 1), np.uint16).tobytes())
        tables.append(item)
    path = write_dicom(large, VOILUTSequence=tables)
    film = read_radiograph(path)
    assert film.attributes.voi == "lut"
    np.testing.assert_array_equal(film.pixels, 1)  # by the first one


def test_only_pixels_that_wait_in_a_plain_file_are_left_there(large: Values, write_dicom: WriteDicom) -> None:
    def waits(path: Path) -> bool:
        return left_in_file(pydicom.dcmread(path, defer_size=2**18)) is not None

    assert waits(write_dicom(large))
    assert not waits(write_dicom(large[:100, :100]))
    assert not waits(write_dicom(large, data=b""))
    assert left_in_file(Dataset()) is None


def refusal(path: Path) -> FilmError:
    with pytest.raises(FilmError) as caught:
        read_stored(path)
    return caught.value
