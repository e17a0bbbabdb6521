"""Uncompressed films so large that their pixels are read strip by strip, against the same bytes in NumPy."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from xraygen.errors import FilmError
from xraygen.films.dicom import read_radiograph, read_stored
from xraygen.films.elements import PixelFormat
from xraygen.films.native import left_in_file, stored_bits
from xraygen.films.objects import ReadOptions, refuse_other_objects
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
def test_a_file_that_is_cut_off_is_refused_with_both_numbers(
    bytes_left_out: int, large: Values, write_dicom: WriteDicom
) -> None:
    path = write_dicom(large)
    os.truncate(path, path.stat().st_size - bytes_left_out)
    error = refusal(path)
    assert error.reason == "truncated"
    assert f"{large.nbytes - bytes_left_out} bytes of {large.nbytes}" in error.detail


def test_fewer_pixels_than_rows_and_columns_are_refused_with_both_numbers(
    large: Values, write_dicom: WriteDicom
) -> None:
    error = refusal(write_dicom(large, Rows=ROWS + 1))
    assert error.reason == "truncated"
    assert f"{large.nbytes} bytes of {2 * (ROWS + 1) * COLUMNS}" in error.detail


@pytest.mark.parametrize("more", [1, 2, 1000, 2**31])
@pytest.mark.parametrize("rows", [20, ROWS])
def test_what_the_element_claims_beyond_its_pixels_does_no_harm(
    rows: int, more: int, large: Values, write_dicom: WriteDicom
) -> None:
    values = large[:rows]
    path = write_dicom(values, WindowCenter=100, WindowWidth=1000)
    content, size = path.read_bytes(), values.nbytes
    at = content.index(size.to_bytes(4, "little"), content.index(b"\xe0\x7f\x10\x00OW"))
    path.write_bytes(content[:at] + (size + more).to_bytes(4, "little") + content[at + 4 :])
    np.testing.assert_array_equal(read_stored(path).values, values)


def test_an_odd_number_of_bytes_needs_no_padding(write_dicom: WriteDicom) -> None:
    values = numpy_generator(2, "odd").integers(0, 256, (ROWS, COLUMNS)).astype(np.uint8)
    path = write_dicom(values, 8, WindowCenter=100, WindowWidth=200)
    os.truncate(path, path.stat().st_size - 1)
    np.testing.assert_array_equal(read_stored(path).values, values)


@pytest.mark.parametrize(("frames", "reason"), [("first", ""), ("refuse", "multi_frame")])
def test_a_second_frame_that_is_cut_off_is_not_asked_for(
    frames: Literal["first", "refuse"], reason: str, large: Values, write_dicom: WriteDicom
) -> None:
    path = write_dicom(large, data=2 * large.tobytes(), NumberOfFrames=2, WindowCenter=100, WindowWidth=1000)
    os.truncate(path, path.stat().st_size - 1000)
    if reason:
        assert refusal(path).reason == reason
    else:
        np.testing.assert_array_equal(read_stored(path, ReadOptions(frames=frames)).values, large)


def test_a_file_that_shrinks_while_it_is_read_is_refused(
    large: Values, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_dicom(large, WindowCenter=100, WindowWidth=1000)

    def shrink(values: Values, layout: PixelFormat) -> Values:  # after the first strip
        os.truncate(path, path.stat().st_size - 2)
        return stored_bits(values, layout)

    monkeypatch.setattr("xraygen.films.native.stored_bits", shrink)
    error = refusal(path)
    assert error.reason == "truncated"
    assert f"bytes of {large.nbytes}" in error.detail


@pytest.mark.parametrize("samples", [1, 3])
def test_pixels_are_those_of_the_header_though_another_file_takes_its_place(
    samples: int, large: Values, write_dicom: WriteDicom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eight = (large >> 4).astype(np.uint8)
    grey = np.repeat(eight[..., None], samples, axis=2)
    meaning = {
        "SamplesPerPixel": samples,
        "PhotometricInterpretation": "RGB" if samples == 3 else "MONOCHROME2",
    }
    rest = {"WindowCenter": 100, "WindowWidth": 200, "PlanarConfiguration": 0, **meaning}
    path = write_dicom(eight, 8, data=(255 - grey).tobytes(), PatientID="another", **rest)
    other = path.rename(tmp_path / "other.dcm")
    path = write_dicom(eight, 8, data=grey.tobytes(), **rest)

    def replace(*arguments: Any) -> None:  # as a sync that runs meanwhile
        refuse_other_objects(*arguments)
        other.replace(path)

    monkeypatch.setattr("xraygen.films.dicom.refuse_other_objects", replace)
    film = read_stored(path)
    assert film.attributes.patient_id != "another"
    np.testing.assert_array_equal(film.values, eight)


def test_half_colour_of_one_sample_is_refused(large: Values, write_dicom: WriteDicom) -> None:
    error = refusal(write_dicom(large, PhotometricInterpretation="YBR_FULL_422"))
    assert error.reason == "decode_failed"
    assert "needs three samples" in error.detail


@pytest.mark.parametrize("rows", [20, ROWS])
def test_pixels_that_claim_to_be_text_are_none(rows: int, large: Values, write_dicom: WriteDicom) -> None:
    path = write_dicom(large[:rows])
    content = path.read_bytes()
    assert content.count(b"\xe0\x7f\x10\x00OW") == 1
    path.write_bytes(content.replace(b"\xe0\x7f\x10\x00OW", b"\xe0\x7f\x10\x00UT"))
    assert refusal(path).reason == "no_pixels"


@pytest.mark.parametrize("claimed", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless])
def test_a_transfer_syntax_in_the_preamble_changes_nothing(
    claimed: str, large: Values, write_dicom: WriteDicom
) -> None:
    path = write_dicom(large, WindowCenter=100, WindowWidth=1000)
    false = b"\x02\x00\x10\x00UI" + len(claimed).to_bytes(2, "little") + claimed.encode()
    path.write_bytes(false.ljust(128, b"\0") + path.read_bytes()[128:])
    np.testing.assert_array_equal(read_stored(path).values, large)
    data = bytes(imagecodecs.jpeg2k_encode(large, level=0, codecformat="J2K", bitspersample=12))
    assert len(data) > 2**18  # enough to be left
    path = write_dicom(large, data=data, syntax=uid.JPEG2000Lossless, WindowCenter=100, WindowWidth=1000)
    path.write_bytes(false.ljust(128, b"\0") + path.read_bytes()[128:])
    np.testing.assert_array_equal(read_stored(path).values, large)


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
