"""RLE Lossless against pydicom's encoder, and against frames that no encoder should write."""

import struct
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.pixels.encoders import RLELosslessEncoder

from xraygen.errors import FilmError
from xraygen.films.rle import decode_rle

Values = NDArray[Any]


def film(kind: str, samples: int) -> Values:
    """[24, 40] or [24, 40, samples] of runs and noise, over the whole range of a type."""
    generator = np.random.default_rng(0)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    noise = generator.integers(low, high, (24, 40, samples), dtype=np.dtype(kind), endpoint=True)
    noise[:, 10:30] = noise[:, 10:11]
    return noise[..., 0] if samples == 1 else noise


def encoded(values: Values) -> bytes:
    """What pydicom makes of it."""
    bits = 8 * values.dtype.itemsize
    samples = 1 if values.ndim == 2 else values.shape[2]
    colour = {"planar_configuration": 1} if samples > 1 else {}
    return RLELosslessEncoder.encode(  # type: ignore[no-any-return]  # pydicom is not typed here
        values,
        encoding_plugin="pydicom",
        rows=values.shape[0],
        columns=values.shape[1],
        samples_per_pixel=samples,
        number_of_frames=1,
        bits_allocated=bits,
        bits_stored=bits,
        pixel_representation=int(values.dtype.kind == "i"),
        photometric_interpretation="RGB" if samples > 1 else "MONOCHROME2",
        **colour,
    )


def decoded(frame: bytes, values: Values) -> Values:
    samples = 1 if values.ndim == 2 else values.shape[2]
    return decode_rle(frame, (samples, *values.shape[:2]), values.dtype.newbyteorder("<"))


def frame_of(segments: list[bytes]) -> bytes:
    """Segments behind a header that says where they begin."""
    starts = [64 + sum(map(len, segments[:index])) for index in range(len(segments))]
    return struct.pack("<16I", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


def with_segments(frame: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The frame with each of its segments changed."""
    header = struct.unpack_from("<16I", frame)
    ends = [*header[1 : header[0] + 1], len(frame)]
    return frame_of([change(frame[start:stop]) for start, stop in pairwise(ends)])


@pytest.mark.parametrize(
    ("kind", "samples"), [("u1", 1), ("i1", 1), ("u2", 1), ("i2", 1), ("u1", 3), ("u2", 3)]
)
def test_what_pydicom_encodes_comes_back(kind: str, samples: int) -> None:
    values = film(kind, samples)
    back = decoded(encoded(values), values)
    assert back.dtype == values.dtype and back.flags.writeable
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize("kind", ["u4", "i4"])
def test_four_planes_come_back_though_pydicom_writes_none(kind: str) -> None:
    values = film(kind, 1)
    planes = values.astype(f">{kind}").view(np.uint8).reshape(-1, 4).T  # [4, H W], the most significant first
    packed = [bytes(imagecodecs.packbits_encode(plane.tobytes())) for plane in planes]
    np.testing.assert_array_equal(decoded(frame_of(packed), values), values)


@pytest.mark.parametrize("padding", [b"\0", b"\0\0", b"\0" * 64, b"\x80" * 3], ids=repr)
def test_padding_behind_a_segment_is_left_out(padding: bytes) -> None:
    values = film("u2", 1)
    frame = with_segments(encoded(values), lambda segment: segment + padding)
    np.testing.assert_array_equal(decoded(frame, values), values)


def test_a_plane_that_is_too_short_is_truncated() -> None:
    values = film("u2", 1)
    whole = encoded(values)
    few = encoded(values[:20])
    with pytest.raises(FilmError, match="800 bytes of 960") as refusal:
        decoded(few, values)
    assert refusal.value.reason == "truncated"
    for cut in (1, 7, 100):
        with pytest.raises(FilmError) as refusal:
            decoded(whole[:-cut], values)
        assert refusal.value.reason in ("truncated", "decode_failed")


@pytest.mark.parametrize(
    "header",
    [(1, 64), (2, 64, 64), (2, 10, 80), (2, 80, 64), (2, 64, 10**6), (3, 64, 80, 90), (0,)],
    ids=str,
)
def test_a_header_that_lies_is_refused(header: tuple[int, ...]) -> None:
    values = film("u2", 1)
    frame = struct.pack("<16I", *header, *[0] * (16 - len(header))) + encoded(values)[64:]
    for damaged in (frame, frame[:40]):
        with pytest.raises(FilmError) as refusal:
            decoded(damaged, values)
        assert refusal.value.reason == "decode_failed"


def test_a_plane_of_far_too_many_bytes_is_refused() -> None:
    values = film("u2", 1)
    frame = with_segments(encoded(values), lambda segment: segment * 9)
    with pytest.raises(FilmError) as refusal:
        decoded(frame, values)
    assert refusal.value.reason == "decode_failed"
