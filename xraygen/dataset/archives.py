"""Films in archives: listed from a zip archive's directory, read one by one, never unpacked where anybody looks.

An archive comes from outside, so nothing that it says of itself is believed: a member may be named `../../.ssh/key`, be
a link, claim 30 MB and hold 30 TB, or share its bytes with a million others. Each such member is seen and refused.
"""

import os
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from xraygen.errors import FilmError
from xraygen.films.disk import pass_on_failure

MAX_MEMBER_BYTES = 2**28
"""The largest film in an archive: 256 MiB, ten times the largest plate."""
MAX_RATIO = 200
"""A member larger than SMALL_BYTES may not unpack to more than this many times its size in the archive."""
SMALL_BYTES = 2**24
"""16 MiB: what does no harm however well it is packed."""
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")

_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # PKWARE APPNOTE 4.3.7: signature ... name length, extra length
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_SMALLEST_BYTES = 22  # an archive of nothing
_CHUNK = 2**18
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LONGEST_NAME, _LONGEST_PART, _MOST_PARTS = 1024, 200, 16  # characters; disks take 255 bytes a part


class Refusal(NamedTuple):
    """Why a file is refused before it is read."""

    reason: str
    detail: str


class Tar(NamedTuple):
    """Where a tar archive lies unpacked: itself if it is not packed, or else a temporary file."""

    path: Path
    inode: int
    """On another machine a temporary file's path may lead to another file."""


@dataclass(frozen=True)
class Member:
    """Where a member lies in its archive: enough to read it without the archive's directory, in any process."""

    archive: Path
    offset: int
    """Of its local header, in bytes; in a tar archive of its first byte."""
    packed_bytes: int
    size: int
    """Unpacked, in bytes, as the archive's directory says."""
    crc: int = 0
    deflated: bool = False
    tar: Tar | None = None
    """None for a zip archive."""


DAMAGED = Refusal("damaged_archive", "The archive is cut off or damaged; copy it again.")
UNSAFE = Refusal(
    "unsafe_path", "The name leads outside the folder of its archive or DICOMDIR; it is not followed."
)
LINK = Refusal("link", "The archive holds a link or a device here, and no file.")
_ENCRYPTED_MEMBER = Refusal("encrypted", "The file is encrypted in its archive; unpack it first.")
NESTED = Refusal("nested_archive", "Archives in archives are not opened; unpack the outer one first.")
METHOD = Refusal(
    "unsupported_archive", "The file is packed by another method than deflate, or sparse; unpack it first."
)
_TWICE = Refusal("duplicate_name", "The archive holds another file of this name.")
BOMB = Refusal(
    "zip_bomb",
    f"The file unpacks to more than {MAX_MEMBER_BYTES >> 20} MiB, or to more than {MAX_RATIO} times its packed size; "
    "unpack it first if it is a film.",
)
_OVERLAP = Refusal("zip_bomb", "The archive's files together are larger than the archive.")


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive by suffix and first bytes; a document that is one inside (.docx) is none."""
    if path.suffix.lower() != ".zip":
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_SMALLEST_BYTES)
    except OSError as error:
        pass_on_failure(error)
        return False
    return len(head) == _SMALLEST_BYTES and head.startswith(_MAGIC)


def list_members(archive: Path) -> list[tuple[PurePosixPath, Member | Refusal]] | Refusal:
    """List the files of a zip archive without reading any.

    What is hidden (a dot, or macOS's `__MACOSX`) is skipped, as it is in folders.

    Args:
        archive: A file for which `is_archive` holds.

    Returns:
        For each member a name that cannot lead out of the archive, and where its bytes are or why it is refused; names
        are unique. A Refusal instead if the archive as a whole cannot be used.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not _is_folder(info)]
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError, struct.error) as error:
        pass_on_failure(error)
        return DAMAGED
    if sum(info.compress_size for info in infos) > archive.stat().st_size:
        return _OVERLAP
    return named(
        (
            info.filename,
            _refusal(info)
            or Member(
                archive=archive,
                offset=info.header_offset,
                packed_bytes=info.compress_size,
                size=info.file_size,
                crc=info.CRC,
                deflated=info.compress_type == zipfile.ZIP_DEFLATED,
            ),
        )
        for info in infos
    )


def named(members: Iterable[tuple[str, Member | Refusal]]) -> list[tuple[PurePosixPath, Member | Refusal]]:
    """Give each member of an archive a name of its own that stays inside; leave out what is hidden."""
    found: dict[PurePosixPath, Member | Refusal] = {}
    copies: Counter[PurePosixPath] = Counter()
    for said, member in members:
        name, safe = clean_name(said)
        if any(part.startswith(".") or part == "__MACOSX" for part in name.parts):
            continue
        refusal = None if safe else UNSAFE
        if refusal is None and name in found and isinstance(member, Member):
            refusal = _TWICE
        plain = name
        while name in found:
            copies[plain] += 1
            name = plain.with_name(f"{plain.name}#{copies[plain] + 1}")
        found[name] = refusal or member
    return list(found.items())


def clean_name(name: str) -> tuple[PurePosixPath, bool]:
    """A relative path that stays where it is put, and whether `name` said just that.

    A slash and a backslash both separate. Absolute names, drives, `..`, control characters and names too long for a
    disk are not safe; what stands in for them is.
    """
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    safe = (
        bool(parts)
        and not plain.startswith("/")
        and ":" not in parts[0]
        and ".." not in parts
        and not _CONTROL.search(plain)
        and len(plain) <= _LONGEST_NAME
        and all(len(part) <= _LONGEST_PART for part in parts)
    )
    if not safe:
        shorter = (_CONTROL.sub("_", part)[:_LONGEST_PART] for part in parts[:_MOST_PARTS])
        parts = ["__" if part == ".." else part for part in shorter] or ["__"]
    return PurePosixPath(*parts), safe


@contextmanager
def unpacked(member: Member) -> Iterator[Path]:
    """Unpack one member for as long as the block lasts.

    On Linux into memory, which vanishes with the process however that ends; elsewhere into a temporary folder that only
    its owner can read.

    Yields:
        A path from which this process can read it.

    Raises:
        FilmError: damaged_archive, zip_bomb or unreadable.
        OSError: If the disk or the machine fails.
    """
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("film"), "wb") as file:
            _unpack(member, file)
            file.flush()
            yield Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
    else:
        with tempfile.TemporaryDirectory(prefix="xraygen-") as folder:
            path = Path(folder) / "film"
            with path.open("wb") as file:
                _unpack(member, file)
            yield path


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.is_dir() or info.filename.endswith("\\") or stat.S_ISDIR(info.external_attr >> 16)


def _refusal(info: zipfile.ZipInfo) -> Refusal | None:
    """Why a member is refused, as far as the archive's directory tells."""
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return LINK
    if info.flag_bits & _ENCRYPTED:
        return _ENCRYPTED_MEMBER
    if info.filename.lower().endswith((".zip", *TAR_SUFFIXES)):
        return NESTED
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return METHOD
    if info.file_size > MAX_MEMBER_BYTES or (
        info.file_size > SMALL_BYTES and info.file_size > MAX_RATIO * info.compress_size
    ):
        return BOMB
    return None


def _unpack(member: Member, to: BinaryIO) -> None:
    """Write a member's bytes, and no more than its archive announced."""
    try:
        with (member.tar.path if member.tar else member.archive).open("rb") as file:
            size, crc = 0, 0
            for piece in _pieces(member, file):
                size += len(piece)
                if size > member.size:
                    raise FilmError(*BOMB)
                crc = zlib.crc32(piece, crc)
                to.write(piece)
    except zlib.error as error:
        raise FilmError(*DAMAGED) from error
    except OSError as error:
        pass_on_failure(error)
        raise FilmError(
            "unreadable", f"The archive cannot be read ({error.strerror or 'input error'})."
        ) from error
    if size != member.size or (member.tar is None and crc != member.crc):
        raise FilmError(*DAMAGED)


def _pieces(member: Member, file: BinaryIO) -> Iterator[bytes]:
    """A member's unpacked bytes, at most _CHUNK at a time, however much they promise to become."""
    _seek(member, file)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    left = member.packed_bytes
    while left > 0:
        packed = file.read(min(left, _CHUNK))
        if not packed:
            raise FilmError(*DAMAGED)
        left -= len(packed)
        if not member.deflated:
            yield packed
            continue
        while packed:
            yield inflate.decompress(packed, _CHUNK)
            packed = inflate.unconsumed_tail
    if member.deflated:
        yield inflate.flush()


def _seek(member: Member, file: BinaryIO) -> None:
    """Go to a member's first byte, behind the local header that it has in a zip archive."""
    file.seek(max(0, member.offset))
    if member.tar is not None:
        if member.tar.path != member.archive and os.fstat(file.fileno()).st_ino != member.tar.inode:
            raise FilmError("unreadable", "The tar archive is not unpacked on this machine; unpack it first.")
        return
    header = file.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size or not header.startswith(_MAGIC[0]):
        raise FilmError(*DAMAGED)
    _, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
    file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
