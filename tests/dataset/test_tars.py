"""Films in tar archives, and tar archives that mean harm; what zip archives promise holds here, too."""

import bz2
import errno
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from xraygen.dataset import tars
from xraygen.dataset.archives import Member, Refusal, unpacked
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.manifest import read_rejected
from xraygen.dataset.sources import list_sources
from xraygen.dataset.store import open_dataset
from xraygen.dataset.tars import forget_unpacked, is_tar, list_tar_members
from xraygen.errors import FilmError, UsageError
from xraygen.progress import Progress

from .memory import memory_taken

PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.xz": lzma.compress,
    "tar.bz2": bz2.compress,
}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
BLOCK, END = tarfile.BLOCKSIZE, bytes(2 * tarfile.BLOCKSIZE)


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(content), kind) + content + bytes(-len(content) % BLOCK)


def written(path: Path, content: bytes) -> Path:
    """A tar archive of these bytes, packed as its suffix says."""
    path.write_bytes(PACKINGS[path.name.partition(".")[2]](content))
    return path


def tar_of(members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def members_of(path: Path) -> dict[str, Member | Refusal]:
    assert is_tar(path)
    members = list_tar_members(path)
    assert not isinstance(members, Refusal)
    return {str(name): member for name, member in members}


def reasons(path: Path) -> dict[str, str]:
    return {name: it.reason if isinstance(it, Refusal) else "read" for name, it in members_of(path).items()}


def reason(path: Path) -> str:
    """Why the archive as a whole is refused."""
    refusal = list_tar_members(path)
    assert isinstance(refusal, Refusal)
    return refusal.reason


def content_of(member: Member | Refusal) -> bytes:
    assert isinstance(member, Member)
    with unpacked(member) as path:
        return path.read_bytes()


@pytest.fixture(autouse=True)
def nothing_stays_unpacked() -> Iterator[None]:
    yield
    forget_unpacked()


@pytest.fixture(params=[True, False], ids=["linux", "elsewhere"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without Linux's files that have no name."""
    if not request.param:
        monkeypatch.delattr(os, "memfd_create", raising=False)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("form", list(FORMATS))
@pytest.mark.parametrize("packing", list(PACKINGS))
def test_members_are_read_byte_by_byte(tmp_path: Path, packing: str, form: str) -> None:
    content = {
        f"films/{size}.dcm": np.random.default_rng(size).bytes(size) for size in (0, 1, 512, 513, 2**18 + 1)
    }
    path = written(tmp_path / f"a.{packing}", tar_of(content, FORMATS[form]))
    assert {name: content_of(member) for name, member in members_of(path).items()} == content


def test_an_xz_file_of_several_streams_with_padding_is_read(tmp_path: Path) -> None:
    content = tar_of({"1.dcm": os.urandom(700_000), "2.dcm": bytes(2_000_000)})
    parts = [lzma.compress(content[at : at + 300_000]) for at in range(0, len(content), 300_000)]
    (tmp_path / "a.txz").write_bytes(bytes(8).join(parts) + bytes(4))
    assert [len(content_of(member)) for member in members_of(tmp_path / "a.txz").values()] == [
        700_000,
        2_000_000,
    ]


@pytest.mark.usefixtures("either_way")
def test_what_is_unpacked_has_no_name_or_only_its_owner_can_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    path = written(tmp_path / "a.tar.gz", tar_of({"1.dcm": b"a film"}))
    member = members_of(path)["1.dcm"]
    assert members_of(path)["1.dcm"] == member  # unpacked once
    assert content_of(member) == b"a film"
    files = list((tmp_path / "temporary").iterdir())
    assert not hasattr(os, "memfd_create") or not files
    assert all(file.stat().st_mode & 0o077 == 0 for file in files)
    forget_unpacked()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_temporary_file_of_another_machine_is_not_taken_for_the_archive(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar.gz", tar_of({"1.dcm": b"a film"}))
    member = members_of(path)["1.dcm"]
    assert isinstance(member, Member)
    assert member.tar is not None
    (tmp_path / "other").write_bytes(bytes(10_000))
    for other in (tmp_path / "other", tmp_path / "nowhere"):
        with pytest.raises(FilmError) as caught:
            content_of(replace(member, tar=member.tar._replace(path=other)))
        assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_names_and_those_of_other_alphabets_are_read(tmp_path: Path, form: str) -> None:
    names = [f"{'ward/' * 40}1.dcm", "Jürgen/Łódź.dcm", "x" * 150]
    assert (
        list(members_of(written(tmp_path / "a.tar", tar_of(dict.fromkeys(names, b"x"), FORMATS[form]))))
        == names
    )


def test_a_name_of_an_old_system_is_read_as_latin_1(tmp_path: Path) -> None:
    content = tar_of({os.fsdecode(b"M\xfcller/1.dcm"): b"x"}, tarfile.GNU_FORMAT)
    assert reasons(written(tmp_path / "a.tar", content)) == {"Müller/1.dcm": "read"}


def test_folders_and_what_is_hidden_are_no_members(tmp_path: Path) -> None:
    content = (
        header("films", kind=tarfile.DIRTYPE)
        + header("old/", kind=tarfile.AREGTYPE)
        + b"".join(entry(name) for name in ("./films/1", ".DS_Store", "films/._1", "__MACOSX/2", "old/3"))
    )
    assert list(members_of(written(tmp_path / "a.tar", content + END))) == ["films/1", "old/3"]


@pytest.mark.parametrize("packing", list(PACKINGS))
def test_members_that_mean_harm_are_seen_and_refused(tmp_path: Path, packing: str) -> None:
    links = {
        "link": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "device": tarfile.CHRTYPE,
        "pipe": tarfile.FIFOTYPE,
    }
    content = b"".join(header(name, kind=kind) for name, kind in links.items())
    for name in ("../../key", "/etc/cron.d/x", "C:\\x", "a\nb", "inner.tar.gz", "inner.zip", "good"):
        content += entry(name, b"bytes")
    content += entry("odd", b"of a kind of its own", b"Z") + entry("holes", b"x", tarfile.GNUTYPE_SPARSE)
    content += (
        entry("pax", b"24 GNU.sparse.size=9999\n", tarfile.XHDTYPE)
        + entry("hole", b"x")
        + entry("last", b"x")
    )
    assert reasons(written(tmp_path / f"a.{packing}", content + END)) == {
        **dict.fromkeys(("link", "hard", "device", "pipe", "odd"), "link"),
        **dict.fromkeys(("__/__/key", "etc/cron.d/x", "C:/x", "a_b"), "unsafe_path"),
        **dict.fromkeys(("inner.tar.gz", "inner.zip"), "nested_archive"),
        **dict.fromkeys(("holes", "hole"), "unsupported_archive"),
        **dict.fromkeys(("good", "last"), "read"),
    }


def test_two_members_of_one_name_stay_two_files(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar.gz", tar_of({"d/1": b"a", "d//1": b"b", "./d/1": b"c"}))
    assert reasons(path) == {"d/1": "read", "d/1#2": "duplicate_name", "d/1#3": "duplicate_name"}
    assert content_of(members_of(path)["d/1"]) == b"a"


@pytest.mark.parametrize("packing", list(PACKINGS))
def test_an_archive_that_is_cut_off_anywhere_is_refused_as_a_whole(tmp_path: Path, packing: str) -> None:
    """Python's tarfile takes most cuts for the end, and would tell of fewer films than there were."""
    content = tar_of({f"{number}.dcm": os.urandom(700) for number in range(3)}, tarfile.GNU_FORMAT)
    content = content[: 3 * (BLOCK + 1024) + BLOCK]  # one block of the end is enough
    path = written(tmp_path / f"a.{packing}", content)
    assert len(members_of(path)) == 3
    whole = path.read_bytes()
    for cut in range(BLOCK, len(whole), 97):
        path.write_bytes(whole[:cut])
        assert reason(path) == "damaged_archive"


@pytest.mark.parametrize("packing", ["tar.gz", "tar.xz", "tar.bz2"])
def test_an_archive_that_unpacks_to_far_more_than_it_is_is_stopped(tmp_path: Path, packing: str) -> None:
    path = tmp_path / f"a.{packing}"
    for size, expected in (
        (2**24 - 2 * BLOCK, "read"),
        (2**24 - BLOCK, "zip_bomb"),
    ):  # 16 MiB, however packed
        written(path, entry("grey", bytes(size)) + bytes(BLOCK))
        with memory_taken() as taken:
            assert (reasons(path)["grey"] if expected == "read" else reason(path)) == expected
        assert taken() < 20_000  # kB


def test_a_film_beyond_256_mib_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with path.open("wb") as file:
        for name, size in (("at-most", 2**28), ("bomb", 2**28 + 1)):
            file.write(header(name, size))
            file.seek(-(-size // BLOCK) * BLOCK, os.SEEK_CUR)  # a hole on the disk
        file.write(END)
    assert reasons(path) == {"at-most": "read", "bomb": "zip_bomb"}


def negative(name: str, kind: bytes) -> bytes:
    """A header that says its content has -512 bytes, so that whoever believes it reads it for ever."""
    block = bytearray(header(name, kind=kind))
    block[124:136] = b"\xff" * 10 + b"\xfe\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "content",
    [
        negative("1.dcm", tarfile.REGTYPE) + END,
        negative("1.dcm", tarfile.GNUTYPE_LONGNAME) + END,
        header("1.dcm", 10**12) + END,
        header("name", 2**30, tarfile.GNUTYPE_LONGNAME) + END,
        entry("pax", b"0 path=x\n", tarfile.XHDTYPE) + entry("1.dcm") + END,
        entry("pax", b"99999 path=x\n", tarfile.XHDTYPE) + entry("1.dcm") + END,
        entry("pax", b"x path=x\n", tarfile.XHDTYPE) + entry("1.dcm") + END,
        entry("pax", b"9" * 9_000, tarfile.XHDTYPE) + entry("1.dcm") + END,
        entry("pax", b"12 size=-512\n", tarfile.XHDTYPE) + entry("1.dcm") + END,
        entry("pax", b"19 size=9999999999\n", tarfile.XHDTYPE) + entry("1.dcm") + END,
        5_000 * entry("name", b"x", tarfile.GNUTYPE_LONGNAME),
        header("1.dcm") + b"no header" * 100,
    ],
    ids=lambda content: str(len(content)),
)
def test_headers_that_lie_end_in_a_reason_and_take_nothing(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path / "a.tar", content)
    assert is_tar(path)
    with memory_taken() as taken:
        assert reason(path) == "damaged_archive"
    assert taken() < 50_000  # kB


def test_an_xz_file_may_not_ask_for_all_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.tar.xz", tar_of({"1.dcm": b"a film"}))
    monkeypatch.setattr(tars, "_XZ_BYTES", 2**20)  # the usual level asks for 9 MiB
    assert reason(path) == "damaged_archive"


@pytest.mark.parametrize("seed", range(150))
def test_a_damaged_archive_ends_in_films_or_reasons(tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    form = list(FORMATS.values())[seed % 3]
    name = "x" * 120 if form != tarfile.USTAR_FORMAT else "x"
    content = bytearray(tar_of({f"a/{name}.dcm": generator.bytes(300), "2.dcm": b"z" * 3000}, form))
    packing = list(PACKINGS)[seed % 4]
    for packed_yet in (False, True):
        for _ in range(generator.integers(1, 6)):
            content[generator.integers(4, len(content))] = generator.integers(256)
        content = content if packed_yet else bytearray(PACKINGS[packing](bytes(content)))
    path = tmp_path / f"a.{packing}"
    path.write_bytes(content)
    members = list_tar_members(path) if is_tar(path) else []
    if isinstance(members, Refusal):
        assert members.reason in ("damaged_archive", "zip_bomb", "unsupported_archive")
        return
    for where, member in members:
        assert ".." not in where.parts
        assert not where.is_absolute()
        if isinstance(member, Member):
            assert len(content_of(member)) == member.size


def test_only_what_is_a_tar_archive_is_one(tmp_path: Path) -> None:
    content = tar_of({"1": b"x"})
    for name in ("a.tar", "a.TAR", "a.tgz", "a.txz", "a.tbz2", "a.tar.gz"):
        (tmp_path / name).write_bytes(content)
        assert is_tar(tmp_path / name)
    for name, what in (
        ("a.dcm", content),
        ("b.tar", b"text"),
        ("a.nii.gz", gzip.compress(content)),
        ("c.tar", END),
    ):
        (tmp_path / name).write_bytes(what)
        assert not is_tar(tmp_path / name)
    assert not is_tar(tmp_path / "nowhere.tar")


def test_a_temporary_folder_that_is_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "Mustermann.tar.gz", tar_of({"1.dcm": b"a film"}))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tars, "_unpack", full)
    with pytest.raises(UsageError, match="set TMPDIR") as caught:
        list_sources([tmp_path])
    assert "Mustermann" not in str(caught.value)


def packed(hospital: Path, path: Path) -> Path:
    """The hospital's films in a tar archive, with a few members of no use."""
    path.parent.mkdir()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(hospital, ".")
        for name, kind in (("../../evil.dcm", tarfile.REGTYPE), ("link.dcm", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    return written(path, file.getvalue())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_films_in_an_archive_are_ingested_as_those_in_a_folder(
    hospital: Path, settings: IngestSettings, identifying: list[str], tmp_path: Path
) -> None:
    source = packed(hospital, tmp_path / "packed/hospital.tar.xz").parent
    loose = ingest([hospital], tmp_path / "loose", settings)
    summary = ingest([source], tmp_path / "dataset", settings)
    assert (summary.seen, summary.accepted) == (loose.seen + 2, loose.accepted)
    assert (summary.rejected["unsafe_path"], summary.rejected["link"]) == (1, 1)
    assert summary.rejected["nested_archive"] == 1
    one, other = open_dataset(tmp_path / "loose"), open_dataset(tmp_path / "dataset")
    for column in ("image_id", "patient", "split"):
        assert sorted(one.manifest[column]) == sorted(other.manifest[column])
    assert len(read_rejected(tmp_path / "dataset/rejected.csv")) == sum(summary.rejected.values())
    assert "hospital.tar.xz/ward/PAT-0-4711/film0.dcm" in (tmp_path / "fixed.key.crosswalk.csv").read_text()
    told = b"".join(contents(tmp_path / "dataset").values()).decode("latin-1")
    assert [word for word in identifying if word in told] == []
    assert not (tmp_path / "evil.dcm").exists()
    assert ingest([source], tmp_path / "dataset", settings).already_done


def test_an_interrupted_ingest_finds_the_same_films(
    hospital: Path, settings: IngestSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = packed(hospital, tmp_path / "packed/hospital.tar.gz")
    ingest([source], tmp_path / "at-once", settings)

    def kill(progress: Progress) -> None:
        if progress.done == 9:
            raise KeyboardInterrupt

    monkeypatch.setattr("xraygen.dataset.reading._FILMS_PER_SHARD", 4)
    with pytest.raises(KeyboardInterrupt):
        ingest([source], tmp_path / "dataset", settings, kill)
    forget_unpacked()  # as when the process ends
    seen: list[int] = []
    ingest([source], tmp_path / "dataset", settings, lambda progress: seen.append(progress.done))
    assert seen[0] == 9  # eight were kept
    assert contents(tmp_path / "dataset") == contents(tmp_path / "at-once")


def test_workers_take_films_out_of_archives(hospital: Path, settings: IngestSettings, tmp_path: Path) -> None:
    source = packed(hospital, tmp_path / "packed/hospital.tar.gz")
    here = ingest([source], tmp_path / "here", settings)
    there = ingest([source], tmp_path / "there", replace(settings, workers=1))
    assert here.accepted == there.accepted == 12
    assert (tmp_path / "here/images.npy").read_bytes() == (tmp_path / "there/images.npy").read_bytes()
