"""Modality and VOI LUT Sequences in DICOM films: which one counts, and what its numbers mean."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from xraygen.films.dicom import read_radiograph
from xraygen.seeds import numpy_generator

FLOAT32_STEP = 6e-8  # light is float64 arithmetic, rounded once to float32 in [0, 1]

WriteDicom = Callable[..., Path]
Values = NDArray[Any]


def table(first: int, entries: NDArray[np.uint16], bits: int = 16, vr: str = "US") -> list[Dataset]:
    """A Modality or VOI LUT Sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", vr, entries.tolist() if vr == "US" else entries.tobytes())
    item.ModalityLUTType = "US"
    return [item]


@pytest.fixture(scope="module")
def voi(reference: Callable[[str], ModuleType]) -> ModuleType:
    return reference("voi")


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_first_voi_lut_wins_over_the_window(
    voi: ModuleType, vr: str, levels: Values, write_dicom: WriteDicom
) -> None:
    entries = numpy_generator(3, "lut").integers(0, 4096, 3000).astype(np.uint16)
    path = write_dicom(
        levels,
        VOILUTSequence=table(500, entries, 12, vr) + table(0, entries[:9], 12),
        WindowCenter=2048,
        WindowWidth=10,
    )
    expected = voi.each(lambda x: voi.look_up(x, 500, entries.tolist()) / 4095, levels)
    film = read_radiograph(path)
    assert film.attributes.voi == "lut"
    np.testing.assert_allclose(film.pixels, expected, rtol=0, atol=FLOAT32_STEP)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_lut_words_follow_the_files_byte_order(
    voi: ModuleType, syntax: str, levels: Values, write_dicom: WriteDicom
) -> None:
    entries = numpy_generator(4, "lut").integers(0, 65536, 4096).astype(np.uint16)
    big = syntax == uid.ExplicitVRBigEndian
    ordered = entries.byteswap() if big else entries
    path = write_dicom(
        levels,
        data=(levels.byteswap() if big else levels).tobytes(),
        syntax=syntax,
        VOILUTSequence=table(0, ordered, 16, "OW"),
    )
    expected = voi.each(lambda x: voi.look_up(x, 0, entries.tolist()) / 65535, levels)
    np.testing.assert_allclose(read_radiograph(path).pixels, expected, rtol=0, atol=FLOAT32_STEP)


def test_a_lut_of_bytes_packed_into_words_is_unpacked(
    voi: ModuleType, levels: Values, write_dicom: WriteDicom
) -> None:
    entries = numpy_generator(5, "lut").integers(0, 256, 256).astype(np.uint8)
    sequence = table(0, np.zeros(256, np.uint16), 8, "OW")
    sequence[0]["LUTData"].value = entries.tobytes()
    values = (levels >> 4).astype(np.uint8)
    path = write_dicom(values, 8, VOILUTSequence=sequence)
    expected = voi.each(lambda x: voi.look_up(x, 0, entries.tolist()) / 255, values)
    np.testing.assert_allclose(read_radiograph(path).pixels, expected, rtol=0, atol=FLOAT32_STEP)


def test_modality_lut_wins_over_rescale(voi: ModuleType, levels: Values, write_dicom: WriteDicom) -> None:
    entries = numpy_generator(6, "lut").integers(0, 65536, 4096).astype(np.uint16)
    path = write_dicom(
        levels,
        ModalityLUTSequence=table(0, entries),
        RescaleSlope=-3,
        RescaleIntercept=7,
        WindowCenter=30000,
        WindowWidth=50000,
    )
    expected = voi.each(lambda x: voi.linear(voi.look_up(x, 0, entries.tolist()), 30000, 50000), levels)
    np.testing.assert_allclose(read_radiograph(path).pixels, expected, rtol=0, atol=FLOAT32_STEP)


def test_signed_lut_starts_below_zero(voi: ModuleType, levels: Values, write_dicom: WriteDicom) -> None:
    values = (levels.astype(np.int32) - 2048).astype(np.int16)
    entries = numpy_generator(7, "lut").integers(0, 65536, 4096).astype(np.uint16)
    path = write_dicom(values, VOILUTSequence=table(-2048, entries))
    expected = voi.each(lambda x: voi.look_up(x, -2048, entries.tolist()) / 65535, values)
    np.testing.assert_allclose(read_radiograph(path).pixels, expected, rtol=0, atol=FLOAT32_STEP)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_first_value_of_a_voi_lut_has_the_sign_of_modality_values(
    voi: ModuleType, syntax: str, levels: Values, write_dicom: WriteDicom
) -> None:
    entries = numpy_generator(8, "lut").integers(0, 65536, 4096).astype(np.uint16)
    below_zero = table(-1024, entries)
    below_zero[0].add_new("LUTDescriptor", "US", [4096, 65536 - 1024, 16])  # what implicit files hold
    path = write_dicom(
        levels, syntax=syntax, RescaleSlope=1, RescaleIntercept=-1024, VOILUTSequence=below_zero
    )
    expected = voi.each(lambda x: voi.look_up(x - 1024, -1024, entries.tolist()) / 65535, levels)
    np.testing.assert_allclose(read_radiograph(path).pixels, expected, rtol=0, atol=FLOAT32_STEP)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_a_voi_lut_after_a_modality_lut_starts_above_zero_though_pixels_are_signed(
    voi: ModuleType, syntax: str, levels: Values, write_dicom: WriteDicom
) -> None:
    values = (levels.astype(np.int32) - 2048).astype(np.int16)
    to_high = np.linspace(30000, 60000, 4096).astype(np.uint16)
    entries = numpy_generator(9, "lut").integers(0, 65536, 4096).astype(np.uint16)
    path = write_dicom(
        values,
        syntax=syntax,
        ModalityLUTSequence=table(-2048, to_high),
        VOILUTSequence=table(40000, entries),
    )
    expected = voi.each(
        lambda x: voi.look_up(voi.look_up(x, -2048, to_high.tolist()), 40000, entries.tolist()) / 65535,
        values,
    )
    np.testing.assert_allclose(read_radiograph(path).pixels, expected, rtol=0, atol=FLOAT32_STEP)


def test_a_table_without_entries_is_none(levels: Values, write_dicom: WriteDicom) -> None:
    """pydicom says None of LUT Data of no length, which stopped the reader."""
    empty = table(0, np.zeros(0, np.uint16))
    empty[0].LUTDescriptor = [4096, 0, 12]
    path = write_dicom(levels, VOILUTSequence=empty, WindowCenter=2048, WindowWidth=4096)
    assert read_radiograph(path).attributes.voi == "linear"
