"""Files that are small and ask for much, or lead elsewhere: each costs little, says why it is refused, and nothing is
written outside the output."""

import gzip
import io
import os
import resource
import stat
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import imagecodecs
import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread

from xraygen.dataset.archives import Refusal, list_members
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.manifest import read_rejected
from xraygen.errors import FilmError
from xraygen.films.reader import read_film

from .memory import memory_taken

WriteDicom = Callable[..., Path]
HUGE = 65535
REFUSED = {
    "deflated.dcm": "too_large",
    "nested.dcm": "truncated",
    "closed.dcm": "truncated",
    "text.png": "decode_failed",
    "zeros.nii.gz": "too_large",
    "archive-in-disguise.dcm": "not_an_image",
}
"""Each trap, and why it is refused."""
LIGHT = ("nested.dcm", "text.png", "archive-in-disguise.dcm")
"""Those that are also put into an archive: the others take seconds each."""


def png(rows: int, columns: int, text: bytes = b"") -> bytes:
    """A PNG whose header claims any size; 8 bits, grey."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">2I5B", columns, rows, 8, 0, 0, 0, 0)
    lines = zlib.compress(bytes(24 * 21))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + (chunk(b"zTXt", b"Comment\0\0" + text) if text else b"")
        + chunk(b"IDAT", lines)
        + chunk(b"IEND", b"")
    )


def claiming_picture(name: str) -> bytes:
    """A picture of 24 x 20 pixels whose header says 65535 x 65535."""
    small = np.arange(480, dtype=np.uint8).reshape(24, 20)
    if name == "png":
        return png(HUGE, HUGE)
    if name == "jpeg":
        return bytes(imagecodecs.jpeg8_encode(small)).replace(struct.pack(">2H", 24, 20), b"\xff" * 4, 1)
    if name == "tiff":
        file = io.BytesIO()
        Image.fromarray(small).save(file, "tiff")
        content = file.getvalue()
        for tag, value in (
            (256, 20),
            (257, 24),
        ):  # ImageWidth, ImageLength: SHORT or LONG by the writer's choice
            for kind in (3, 4):
                entry = struct.pack("<2HI", tag, kind, 1)
                content = content.replace(entry + struct.pack("<I", value), entry + struct.pack("<I", HUGE))
        return content
    image = nibabel.Nifti1Image(small.astype(np.int16), np.eye(4)).to_bytes()
    return bytes(image[:42]) + struct.pack("<2h", 32767, 32767) + bytes(image[46:])


@pytest.mark.parametrize(
    ("name", "reason"),
    [("png", "too_large"), ("jpeg", "too_large"), ("tiff", "too_large"), ("nii", "truncated")],
)
def test_a_picture_that_claims_enormous_sides_takes_no_memory(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / f"film.{name}").write_bytes(claiming_picture(name))
    with memory_taken() as taken, pytest.raises(FilmError) as refusal:
        read_film(tmp_path / f"film.{name}")
    assert refusal.value.reason == reason
    assert taken() < 50_000  # kB


def deflated(start: bytes, mebibytes: int) -> bytes:
    """`start` and zeros as a raw deflate stream; a piece of zeros is packed once, and stands on its own."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    head = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH)
    return (
        head + mebibytes * (packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)) + packer.flush()
    )


def deflated_bomb(film: bytes, size: int) -> bytes:
    """A deflated DICOM film behind a private element of `size` zeros."""
    start = (
        132 + 12 + dcmread(io.BytesIO(film), stop_before_pixels=True).file_meta.FileMetaInformationGroupLength
    )
    element = struct.pack("<2H", 0x0009, 0x1010) + b"OB\0\0" + struct.pack("<I", size)
    meta = film[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    # The group's length and that of the syntax's UID grow by two.
    at = meta.index(b"1.2.840.10008.1.2.1.99") - 2
    meta = meta[:at] + struct.pack("<H", 22) + meta[at + 2 :]
    group = struct.unpack("<I", meta[140:144])[0]
    return meta[:140] + struct.pack("<I", group + 2) + meta[144:] + deflated(element, size // 2**20)


def nested(film: bytes, depth: int, *, closed: bool) -> bytes:
    """A film with so many sequences inside one another before its pixels."""
    start = struct.pack("<2H", 0x0040, 0xA730) + b"SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    at = film.index(b"\xe0\x7f\x10\x00")
    return film[:at] + depth * start + (depth * end if closed else b"") + film[at:]


def traps(film: bytes) -> dict[str, bytes]:
    """Small files that would become large or deep."""
    nifti = nibabel.Nifti1Image(np.zeros((24, 20), np.int16), np.eye(4)).to_bytes()
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.dcm", bytes(10**7))
    return {
        "deflated.dcm": deflated_bomb(film, 3 * 2**30),
        "nested.dcm": nested(film, 200_000, closed=False),
        "closed.dcm": nested(film, 100_000, closed=True),
        "text.png": png(24, 20, b"\x78\xda" + deflated(b"", 2048)),
        "zeros.nii.gz": gzip.compress(b"")[:10] + deflated(nifti, 2048),
        "archive-in-disguise.dcm": inner.getvalue(),
    }


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_traps_are_refused_in_little_time_and_memory(
    settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    films = tmp_path / "in"
    good = write_dicom(films / "good.dcm", 1, "PAT-1", "1.2.1")
    made = traps(good.read_bytes())
    assert max(map(len, made.values())) <= 2**23
    with zipfile.ZipFile(films / "films.zip", "w", zipfile.ZIP_STORED) as archive:
        for name, content in made.items():
            (films / name).write_bytes(content)
            if name in LIGHT:
                archive.writestr(name, content)
    began = time.monotonic()
    summary = ingest([films], tmp_path / "out", replace(settings, workers=1, seconds_per_file=10))
    assert time.monotonic() - began < 60
    assert summary.seen == 1 + len(made) + len(LIGHT) == summary.accepted + sum(summary.rejected.values())
    told = read_rejected(tmp_path / "out/rejected.csv")
    assert not set(told["reason"]) & {"reader_failed", "timed_out"}
    assert (
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 3_000_000
    )  # kB: 2 GB beyond the process's own
    crosswalk = dict(
        line.split(",")[0::4] for line in (tmp_path / "fixed.key.crosswalk.csv").read_text().splitlines()[1:]
    )
    reasons = {
        crosswalk[source].removeprefix(f"{films}/"): reason
        for source, reason in zip(told["source"], told["reason"], strict=True)
    }
    assert reasons == REFUSED | {f"films.zip/{name}": REFUSED[name] for name in LIGHT}


def test_traps_are_refused_without_taking_memory(tmp_path: Path, write_dicom: WriteDicom) -> None:
    made = traps(write_dicom(tmp_path / "film", 1).read_bytes())
    for name in LIGHT:
        (tmp_path / name).write_bytes(made[name])
        with memory_taken() as taken, pytest.raises(FilmError) as refusal:
            read_film(tmp_path / name)
        # An ingest calls "not_an_image" what is no DICOM file, though it is named so.
        assert refusal.value.reason == REFUSED[name].replace("not_an_image", "not_dicom")
        assert taken() < 100_000, name  # kB


def test_a_deflated_film_that_becomes_gigabytes_is_not_unpacked(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    """pydicom unpacked 3 MB to 3 GB, and took 10 GB of memory for it."""
    film = write_dicom(tmp_path / "film", 1).read_bytes()
    (tmp_path / "film").write_bytes(deflated_bomb(film, 3 * 2**30))
    with memory_taken() as taken, pytest.raises(FilmError, match="unpacks to more than 512 MiB") as refusal:
        read_film(tmp_path / "film")
    assert refusal.value.reason == REFUSED["deflated.dcm"]
    assert taken() < 50_000  # kB


@pytest.mark.slow
def test_an_archive_of_more_members_than_sixteen_bits_count_is_listed_whole(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(66_000):
            archive.writestr(f"{number}", b"")
    members = list_members(tmp_path / "a.zip")
    assert not isinstance(members, Refusal)
    assert len(members) == 66_000


written: list[str] | None = None


def note(event: str, arguments: tuple) -> None:
    """An audit hook: what is opened to write, made, renamed or removed."""
    if written is None:
        return
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        written.append(arguments[0])
    elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir"):
        written.extend(str(path) for path in arguments[:2] if isinstance(path, (str, Path)))


@pytest.fixture
def writes() -> Iterator[list[str]]:
    """Every path that this process writes to from now on."""
    global written  # noqa: PLW0603 - an audit hook stays for the life of the process
    if written is None:
        sys.addaudithook(note)
    written = []
    yield written
    written = None


def test_nothing_is_written_outside_the_output(
    writes: list[str], settings: IngestSettings, tmp_path: Path, write_dicom: WriteDicom
) -> None:
    films = tmp_path / "in"
    good = write_dicom(films / "good.dcm", 1, "PAT-1", "1.2.1")
    (films / "circle").symlink_to(films)
    (films / "up").symlink_to(tmp_path / "in")
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(films / "films.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(link, str(tmp_path))
        for name in (
            "../up.dcm",
            "../../../up.dcm",
            str(tmp_path / "absolute.dcm"),
            "link/inside.dcm",
            "good.dcm",
        ):
            archive.writestr(name, write_dicom(tmp_path / "film", len(name)).read_bytes())
    (tmp_path / "film").unlink()
    before = {path: path.read_bytes() for path in films.rglob("*") if path.is_file()}
    writes.clear()
    summary = ingest([films], tmp_path / "out", settings)
    assert summary.rejected == {"unsafe_path": 3, "link": 1}
    assert summary.accepted == 3
    assert good in before
    assert {path: path.read_bytes() for path in films.rglob("*") if path.is_file()} == before
    allowed = tuple(
        str(tmp_path / name) for name in ("out", ".out.", "fixed.key.crosswalk.csv", ".fixed.key.")
    )
    outside = [path for path in writes if Path(path).is_absolute() and not path.startswith(allowed)]
    assert [path for path in outside if path not in ("/dev/null", str(tmp_path))] == []
    assert any(path.startswith(str(tmp_path / ".out.ingest")) for path in writes)
