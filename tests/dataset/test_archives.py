"""Films in zip archives, and archives that mean harm."""

import io
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from xraygen.dataset.archives import Member, Refusal, clean_name, is_archive, list_members, unpacked
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.manifest import read_rejected
from xraygen.dataset.store import open_dataset
from xraygen.errors import FilmError


def archive_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def members_of(path: Path) -> dict[str, Member | Refusal]:
    members = list_members(path)
    assert not isinstance(members, Refusal)
    return {str(name): member for name, member in members}


def reasons(path: Path) -> dict[str, str]:
    return {name: it.reason if isinstance(it, Refusal) else "read" for name, it in members_of(path).items()}


def content_of(member: Member | Refusal) -> bytes:
    assert isinstance(member, Member)
    with unpacked(member) as path:
        return path.read_bytes()


@pytest.fixture(params=[True, False], ids=["memory", "folder"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without Linux's files in memory."""
    if not request.param:
        monkeypatch.delattr(os, "memfd_create", raising=False)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
@pytest.mark.parametrize("size", [0, 1, 2**18, 2**18 + 1, 1_000_000])
def test_a_member_is_read_byte_by_byte(tmp_path: Path, method: int, size: int) -> None:
    content = np.random.default_rng(size).integers(0, 9, size, dtype=np.uint8).tobytes()
    path = archive_of(tmp_path / "a.zip", {"first": b"x" * 77, "films/1.dcm": content}, method)
    assert content_of(members_of(path)["films/1.dcm"]) == content


@pytest.mark.usefixtures("either_way")
def test_nothing_unpacked_outlives_its_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    member = members_of(archive_of(tmp_path / "a.zip", {"1.dcm": b"a film"}))["1.dcm"]
    assert isinstance(member, Member)
    with unpacked(member) as path:
        assert path.read_bytes() == b"a film"
        assert (
            path.stat().st_mode & 0o077 == 0 or path.parent.stat().st_mode & 0o077 == 0 or "/fd/" in str(path)
        )
    assert not path.exists()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_member_of_an_archive_behind_other_bytes_is_found(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", {"1.dcm": b"a film" * 99})
    archive.write_bytes(b"PK\x03\x04 a program that unpacks itself" + archive.read_bytes())
    assert content_of(members_of(archive)["1.dcm"]) == b"a film" * 99


def test_an_archive_written_to_a_pipe_is_read(tmp_path: Path) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise OSError("a pipe")

        def tell(self) -> int:
            raise OSError("a pipe")

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # its local headers know no sizes
        archive.writestr("1.dcm", b"a film" * 99)
    (tmp_path / "a.zip").write_bytes(pipe.getvalue())
    assert content_of(members_of(tmp_path / "a.zip")["1.dcm"]) == b"a film" * 99


def test_folders_and_what_is_hidden_are_no_members(tmp_path: Path) -> None:
    names = ("films/", "films/1", ".DS_Store", "films/.hidden/2", "__MACOSX/films/._1", "old\\", "old\\3")
    assert list(members_of(archive_of(tmp_path / "a.zip", dict.fromkeys(names, b"")))) == ["films/1", "old/3"]


@pytest.mark.parametrize(
    ("name", "clean", "safe"),
    [
        ("a/b.dcm", "a/b.dcm", True),
        ("./a//b", "a/b", True),
        ("a\\b", "a/b", True),
        ("a..b/..c", "a..b/..c", True),
        ("../a", "__/a", False),
        ("a/../../b", "a/__/__/b", False),
        ("..\\..\\a", "__/__/a", False),
        ("/etc/passwd", "etc/passwd", False),
        ("\\\\host\\a", "host/a", False),
        ("C:\\a", "C:/a", False),
        ("..", "__", False),
        ("", "__", False),
        ("a\0b\n", "a_b_", False),
        ("x" * 300, "x" * 200, False),
        ("d/" * 600 + "1", "d/" * 15 + "d", False),
    ],
)
def test_a_name_cannot_lead_out_of_its_archive(name: str, clean: str, safe: bool) -> None:
    assert clean_name(name) == (PurePosixPath(clean), safe)


def test_members_that_mean_harm_are_seen_and_refused(tmp_path: Path) -> None:
    link, device = zipfile.ZipInfo("link"), zipfile.ZipInfo("device")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    device.external_attr = (stat.S_IFCHR | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr(device, "")
        for name in ("../../key", "/etc/cron.d/x", "inner.zip", "inner.TAR.xz", "good"):
            archive.writestr(name, b"bytes")
        archive.writestr("bomb", bytes(2**24 + 1))
        archive.writestr("small", bytes(10**6))  # 1000 : 1, and harmless
        archive.writestr("bz2", b"bytes", zipfile.ZIP_BZIP2)
    assert reasons(tmp_path / "a.zip") == {
        "link": "link",
        "device": "link",
        "__/__/key": "unsafe_path",
        "etc/cron.d/x": "unsafe_path",
        "inner.zip": "nested_archive",
        "inner.TAR.xz": "nested_archive",
        "good": "read",
        "bomb": "zip_bomb",
        "small": "read",
        "bz2": "unsupported_archive",
    }


def test_two_members_of_one_name_stay_two_files(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", {"d/1": b"a", "d//1": b"b", "./d/1": b"c"})
    assert reasons(path) == {"d/1": "read", "d/1#2": "duplicate_name", "d/1#3": "duplicate_name"}
    assert content_of(members_of(path)["d/1"]) == b"a"


def patched(path: Path, at: Callable[[bytes], int], value: bytes) -> Path:
    """Write bytes over others; the directory's entry starts at PK 1 2, the local header at PK 3 4."""
    content = bytearray(path.read_bytes())
    place = at(bytes(content))
    content[place : place + len(value)] = value
    path.write_bytes(content)
    return path


def directory(content: bytes) -> int:
    return content.index(b"PK\x01\x02")


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", {"1.dcm": b"secret"})
    assert reasons(patched(path, lambda c: directory(c) + 8, b"\x01")) == {"1.dcm": "encrypted"}


def test_a_size_beyond_any_film_is_refused_unread(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", {"1.dcm": b"x"})
    size = struct.pack("<I", 2**28 + 1)
    assert reasons(patched(path, lambda c: directory(c) + 24, size)) == {"1.dcm": "zip_bomb"}


@pytest.mark.parametrize(
    ("content_bytes", "most"),
    [(1_000, lambda _: 2**24), (100_000, lambda packed: 200 * packed), (1_400_000, lambda _: 2**28)],
    ids=["16 MiB however packed", "200 times", "256 MiB at most"],
)
def test_a_member_may_become_as_large_as_the_page_says(
    tmp_path: Path, content_bytes: int, most: Callable[[int], int]
) -> None:
    """The limits of docs/how-to/ingest.md, by what the archive's directory says of a member."""
    path = archive_of(tmp_path / "a.zip", {"1.dcm": np.random.default_rng(0).bytes(content_bytes)})
    member = members_of(path)["1.dcm"]
    assert isinstance(member, Member)
    limit = most(member.packed_bytes)
    for size, reason in ((limit, "read"), (limit + 1, "zip_bomb")):
        patched(path, lambda c: directory(c) + 24, struct.pack("<I", size))
        assert reasons(path) == {"1.dcm": reason}


def test_a_member_that_unpacks_to_more_than_it_says_is_stopped(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", {"1.dcm": bytes(10**7)})
    patched(path, lambda c: directory(c) + 24, struct.pack("<I", 1000))
    with pytest.raises(FilmError) as caught:
        content_of(members_of(path)["1.dcm"])
    assert caught.value.reason == "zip_bomb"


def test_members_that_share_their_bytes_are_refused_together(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "a.zip", {name: os.urandom(2000) for name in "abc"})
    content = path.read_bytes()
    (path).write_bytes(content[4000:])  # three members of 2,000 bytes and 2,500 bytes to hold them
    members = list_members(path)
    assert isinstance(members, Refusal)


@pytest.mark.parametrize("field", [16, 20, 42], ids=["crc", "packed size", "offset"])
def test_a_directory_that_lies_is_found_out(tmp_path: Path, field: int) -> None:
    path = archive_of(tmp_path / "a.zip", {"0": b"y" * 500, "1.dcm": os.urandom(500)})
    second = path.read_bytes().rindex(b"PK\x01\x02")
    patched(path, lambda _: second + field, b"\x07\x00")
    with pytest.raises(FilmError) as caught:
        content_of(members_of(path)["1.dcm"])
    assert caught.value.reason == "damaged_archive"


@pytest.mark.parametrize("cut", [30, 60, 400])
def test_an_archive_that_is_cut_off_is_one_refused_file(tmp_path: Path, cut: int) -> None:
    path = archive_of(tmp_path / "a.zip", {"1.dcm": os.urandom(500)})
    path.write_bytes(path.read_bytes()[:-cut])
    assert is_archive(path)
    refusal = list_members(path)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "damaged_archive"


@pytest.mark.parametrize("seed", range(100))
def test_a_damaged_archive_ends_in_films_or_reasons(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    path = archive_of(tmp_path / "a.zip", {"a/1.dcm": generator.bytes(300), "2.dcm": b"z" * 3000})
    content = bytearray(path.read_bytes())
    for _ in range(generator.integers(1, 6)):
        content[generator.integers(4, len(content))] = generator.integers(256)
    path.write_bytes(content)
    members = list_members(path)
    if isinstance(members, Refusal):
        assert members.reason in ("damaged_archive", "zip_bomb")
        return
    for name, member in members:
        assert ".." not in name.parts
        assert not name.is_absolute()
        if isinstance(member, Member):
            try:
                assert len(content_of(member)) == member.size
            except FilmError as refusal:
                assert refusal.reason in ("damaged_archive", "zip_bomb")


def test_a_document_that_is_a_zip_inside_is_no_archive(tmp_path: Path) -> None:
    assert not is_archive(archive_of(tmp_path / "report.docx", {"word/media/image1.png": b"x"}))
    assert is_archive(archive_of(tmp_path / "films.ZIP", {"1": b"x"}))
    (tmp_path / "text.zip").write_text("no archive, whatever its name says")
    assert not is_archive(tmp_path / "text.zip")


def test_films_in_an_archive_are_ingested_as_those_in_a_folder(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    (tmp_path / "packed").mkdir()
    with zipfile.ZipFile(tmp_path / "packed/hospital.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(hospital.rglob("*")):
            archive.write(path, path.relative_to(hospital))
        archive.writestr("../../evil.dcm", (hospital / "ward/PAT-0-4711/film0.dcm").read_bytes())
    loose = ingest([hospital], tmp_path / "loose", settings)
    packed = ingest([tmp_path / "packed"], tmp_path / "dataset", settings)
    assert (packed.seen, packed.accepted) == (loose.seen + 1, loose.accepted)
    assert packed.rejected["unsafe_path"] == 1
    assert packed.rejected["nested_archive"] == 1
    one, other = open_dataset(tmp_path / "loose"), open_dataset(tmp_path / "dataset")
    assert sorted(one.manifest["image_id"]) == sorted(other.manifest["image_id"])
    assert dict(zip(one.manifest["image_id"], one.manifest["split"], strict=True)) == dict(
        zip(other.manifest["image_id"], other.manifest["split"], strict=True)
    )
    assert len(read_rejected(tmp_path / "dataset/rejected.csv")) == sum(packed.rejected.values())
    crosswalk = (tmp_path / "fixed.key.crosswalk.csv").read_text()
    assert "hospital.zip/ward/PAT-0-4711/film0.dcm" in crosswalk
    assert not (tmp_path / "evil.dcm").exists()
    assert ingest([tmp_path / "packed"], tmp_path / "dataset", settings).already_done


def test_workers_take_films_out_of_archives(hospital: Path, settings: IngestSettings, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    with zipfile.ZipFile(tmp_path / "packed/hospital.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(hospital.rglob("*.dcm")):
            archive.write(path, path.relative_to(hospital))
    here = ingest([tmp_path / "packed"], tmp_path / "here", settings)
    there = ingest([tmp_path / "packed"], tmp_path / "there", replace(settings, workers=1))
    assert here.accepted == there.accepted == 9
    assert (tmp_path / "here/images.npy").read_bytes() == (tmp_path / "there/images.npy").read_bytes()
