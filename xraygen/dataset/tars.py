"""Films in tar archives: listed from their headers, then read one by one like those in zip archives.

A tar archive has no directory, and a packed one can only be read from its front. So a packed one is unpacked once, into
a temporary file without a name, which vanishes with the program; one that is not packed is read where it lies. Of what
headers say nothing is believed, and of Python's `tarfile` only the reading of a single header is used: it goes back
where a size is below zero, follows headers into headers, and reads names of gigabytes.
"""

import bz2
import errno
import gzip
import lzma
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from tarfile import BLOCKSIZE, GNUTYPE_LONGNAME, GNUTYPE_SPARSE, SOLARIS_XHDTYPE, XHDTYPE, TarInfo
from typing import IO, BinaryIO

from xraygen.dataset import archives
from xraygen.dataset.archives import DAMAGED, MAX_RATIO, TAR_SUFFIXES, Member, Refusal, Tar
from xraygen.errors import FilmError, UsageError
from xraygen.films.disk import pass_on_failure

_CHUNK = 2**18
_XZ_BYTES = 2**30
"""The most memory that an xz file may ask for; `xz -9` asks for 65 MiB."""
_LARGEST_EXTENSION = 2**16
"""What may be said of a member besides its header's 512 bytes, such as a long name."""
_EXTENSIONS = (GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, XHDTYPE, SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LARGER = Refusal(
    "zip_bomb",
    f"The archive unpacks to more than {MAX_RATIO} times its size; unpack it first if it holds films.",
)

_unpacked: dict[tuple[Path, int, int], tuple[IO[bytes], Path]] = {}
"""Temporary files and their paths by archive, its size and its time; a file vanishes when it is closed."""


def is_tar(path: Path) -> bool:
    """Whether a file is a tar archive, packed by gzip, xz or bzip2 or not, by suffix and first bytes."""
    if not path.name.lower().endswith(TAR_SUFFIXES):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(BLOCKSIZE)
        return head.startswith(tuple(_UNPACKERS)) or bool(_header(head))
    except tarfile.HeaderError:
        return False
    except OSError as error:
        pass_on_failure(error)
        return False


def list_tar_members(archive: Path) -> list[tuple[PurePosixPath, Member | Refusal]] | Refusal:
    """List the files of a tar archive; if it is packed, unpack it, until `forget_unpacked` or the program's end.

    Args:
        archive: A file for which `is_tar` holds.

    Returns:
        As `list_members`. One that is cut off is refused as a whole: what is missing cannot be counted.

    Raises:
        UsageError: If the temporary folder has no room.
        OSError: If the disk or the machine fails.
    """
    try:
        path = _plain(archive)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            tar = Tar(path, status.st_ino)
            return archives.named(
                (
                    _name(info),
                    _refusal(info) or Member(archive, info.offset_data, info.size, info.size, tar=tar),
                )
                for info in _headers(file, status.st_size)
                if not info.isdir()
            )
    except FilmError as refusal:
        return Refusal(refusal.reason, refusal.detail)
    except (tarfile.HeaderError, lzma.LZMAError, zlib.error, EOFError, ValueError):
        return DAMAGED
    except OSError as error:
        if error.errno in _FULL:
            raise UsageError(
                f"{tempfile.gettempdir()} has no room for a packed archive's films; set TMPDIR to a folder that has, "
                "or unpack the archive first."
            ) from error
        pass_on_failure(error)
        return DAMAGED


def forget_unpacked() -> None:
    """Close the temporary files: members of packed archives must be listed anew to be read."""
    while _unpacked:
        _unpacked.popitem()[1][0].close()


def _plain(archive: Path) -> Path:
    """Where the archive lies unpacked: itself, or a temporary file."""
    with archive.open("rb") as packed:
        head = packed.read(BLOCKSIZE)
        packed.seek(0)
        unpackers = [unpacker for magic, unpacker in _UNPACKERS.items() if head.startswith(magic)]
        if not unpackers:
            return archive
        status = os.fstat(packed.fileno())
        key = (archive, status.st_size, status.st_mtime_ns)
        if key not in _unpacked:
            most = max(archives.SMALL_BYTES, MAX_RATIO * status.st_size)
            _unpacked[key] = _unpack(unpackers[0](packed), most)
    return _unpacked[key][1]


def _unpack(pieces: Iterator[bytes], most: int) -> tuple[IO[bytes], Path]:
    """Write at most so many bytes to a temporary file, on Linux to one without a name."""
    nameless = hasattr(os, "memfd_create")
    file = tempfile.NamedTemporaryFile(prefix="xraygen-", delete=not nameless)  # noqa: SIM115 - stays open
    path = Path(file.name)
    if nameless:
        path.unlink()
        path = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
    try:
        for piece in pieces:
            most -= len(piece)
            if most < 0:
                raise FilmError(*_LARGER)
            file.write(piece)
        file.flush()
    except BaseException:
        file.close()
        raise
    return file, path


def _xz(packed: BinaryIO) -> Iterator[bytes]:
    """The bytes of an xz file, at most _CHUNK at a time; its streams may follow one another."""
    data = packed.read(_CHUNK)
    while data:
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_BYTES)
        while not stream.eof:
            if stream.needs_input and not data:
                raise EOFError
            yield stream.decompress(data, _CHUNK)
            data = packed.read(_CHUNK) if stream.needs_input else b""
        data = (stream.unused_data + data + packed.read(_CHUNK)).lstrip(b"\0")  # padding by zeros


def _gzip(packed: BinaryIO) -> Iterator[bytes]:
    return iter(partial(gzip.GzipFile(fileobj=packed).read, _CHUNK), b"")


def _bzip2(packed: BinaryIO) -> Iterator[bytes]:
    return iter(partial(bz2.BZ2File(packed).read, _CHUNK), b"")


_UNPACKERS: dict[bytes, Callable[[BinaryIO], Iterator[bytes]]] = {
    b"\x1f\x8b": _gzip,
    b"\xfd7zXZ\0": _xz,
    b"BZh": _bzip2,
}


def _header(block: bytes) -> TarInfo:
    """What 512 bytes say of a member; raises HeaderError where they say nothing."""
    return TarInfo.frombuf(block, "utf-8", "surrogateescape")


def _headers(file: BinaryIO, file_bytes: int) -> Iterator[TarInfo]:
    """Each member's header, with what stands before it added; raises where the archive does not end as it must."""
    at, said = 0, dict[bytes, bytes]()
    while True:
        file.seek(at)
        block = file.read(BLOCKSIZE)
        if block == bytes(BLOCKSIZE):
            return
        info = _header(block)
        at += BLOCKSIZE
        if info.type == GNUTYPE_SPARSE and block[482]:
            raise FilmError(*archives.METHOD)  # its bytes lie behind more blocks
        extends = info.type in _EXTENSIONS
        info.size = info.size if extends else int(said.get(b"size", info.size))
        if extends or info.isreg() or info.type not in tarfile.SUPPORTED_TYPES:  # not links and folders
            if not 0 <= info.size <= (_LARGEST_EXTENSION if extends else file_bytes - at):
                raise FilmError(*DAMAGED)
            info.offset_data = at
            at += -(-info.size // BLOCKSIZE) * BLOCKSIZE
        if extends:
            said |= _extension(info.type, file.read(info.size))
            continue
        if b"path" in said:
            info.name = said[b"path"].decode("utf-8", "surrogateescape")
        if any(key.startswith(b"GNU.sparse.") for key in said):
            info.type = GNUTYPE_SPARSE
        yield info
        said = {}


def _extension(kind: bytes, content: bytes) -> dict[bytes, bytes]:
    """What is said of the next member: its `path` or `size`, and much that is not needed."""
    if kind == GNUTYPE_LONGNAME:
        return {b"path": content.split(b"\0")[0]}
    said = {}
    while kind in (XHDTYPE, SOLARIS_XHDTYPE) and content.strip(b"\0"):
        digits = content.partition(b" ")[0]
        length = int(digits)  # of the whole record, such as b"20 path=films/1.dcm\n"
        if not len(digits) < length <= len(content):
            raise FilmError(*DAMAGED)
        key, _, value = content[len(digits) + 1 : length - 1].partition(b"=")
        said[key] = value
        content = content[length:]
    return said


def _name(info: TarInfo) -> str:
    """A member's name; bytes that are no UTF-8 are read as Latin-1, as old exports wrote it."""
    name = info.name.encode("utf-8", "surrogateescape")
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _refusal(info: TarInfo) -> Refusal | None:
    """Why a member is refused, as far as its header tells."""
    if info.type == GNUTYPE_SPARSE:
        return archives.METHOD
    if not info.isreg():
        return archives.LINK
    if info.name.lower().endswith((".zip", *TAR_SUFFIXES)):
        return archives.NESTED
    return archives.BOMB if info.size > archives.MAX_MEMBER_BYTES else None
