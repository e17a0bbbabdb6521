"""Which files an ingest reads, and in which order."""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from xraygen.dataset.archives import Member, Refusal, is_archive, list_members, unpacked
from xraygen.dataset.dicomdir import is_dicomdir, referenced_files
from xraygen.dataset.tars import is_tar, list_tar_members
from xraygen.errors import FilmError, UsageError

_MADE_HERE = (
    frozenset({"dataset.json", "images.npy"}),  # a DATASET
    frozenset({"config.yaml", "checkpoints"}),  # a RUN
    frozenset({"provenance.json"}),  # a SYNTHETIC, a PATH and whatever else is made with a RUN
    frozenset({"report.json", "report.html"}),  # a REPORT
)
"""What the folders that xraygen makes hold; dataset.json alone is nnU-Net's, too."""


@dataclass(frozen=True)
class SourceFile:
    """One file that is seen; it can be sent to another process and read there."""

    path: Path
    """Absolute; for a member of an archive the archive's path with the member's behind it."""
    name: PurePosixPath
    """Relative to the folder that all sources share: the same wherever the whole tree is moved to. Valid text."""
    member: Member | None = None
    """Where it lies in its archive."""
    refusal: Refusal | None = None
    """Why it is not even opened."""
    there: bool = True
    """Whether it was there when it was listed: a dead link is not, nor is what only a DICOMDIR knows."""

    @property
    def state(self) -> tuple[int | None, int | None]:
        """Its size in bytes, and what tells that it was corrected in place: its time, or its checksum in a zip archive.

        A member of a tar archive has the archive's time, and a file that is not there neither.
        """
        member = self.member
        if member is not None and member.tar is None:
            return member.size, member.crc
        try:
            status = (self.path if member is None else member.archive).stat()
        except OSError:
            return None, None
        return (status.st_size if member is None else member.size), status.st_mtime_ns

    @property
    def vanished(self) -> bool:
        """Whether it, or the archive that holds it, was there when it was listed and is not now."""
        return self.there and not _is_there(self.path if self.member is None else self.member.archive)

    @property
    def path_text(self) -> str:
        """The path as valid text."""
        return as_text(self.path)


@contextmanager
def opened(file: SourceFile) -> Iterator[Path]:
    """Make a file readable under a path of this machine for as long as the block lasts.

    Raises:
        FilmError: If it was refused when it was listed, or cannot be taken out of its archive.
    """
    if file.refusal is not None:
        raise FilmError(*file.refusal)
    if file.member is None:
        yield file.path
    else:
        with unpacked(file.member) as path:
            yield path


class Listing(NamedTuple):
    """What was found in the sources."""

    files: list[SourceFile]
    passed_over: int
    """Number of folders that xraygen made, and whose pictures are no films."""


def list_sources(sources: Sequence[str | Path], leave_out: Collection[Path] = ()) -> list[SourceFile]:
    """The files of `look_through`."""
    return look_through(sources, leave_out).files


def look_through(sources: Sequence[str | Path], leave_out: Collection[Path] = ()) -> Listing:
    """List every file of the sources once, sorted by path.

    Zip and tar archives count as folders: each member is a file, named `archive.zip/member`. A DICOMDIR stands for the
    files that it refers to; those that are missing are listed, too, so that they are accounted for.

    Args:
        sources: Folders (read with all folders in them; links are followed once), files, or patterns such as
            `in/**/*.dcm`, whose `**` follows no links. What is hidden, that is, starts with a dot, is skipped unless it
            is named itself; so is a folder that xraygen made.
        leave_out: Files and folders that are not films, such as the CSV of labels and the output.

    Raises:
        UsageError: If a source does not exist or a pattern matches nothing.
    """
    roots = {root: str(source) for source in sources for root in _expand(str(source))}
    excluded = {path.resolve() for path in leave_out}
    folders: list[Path] = []
    found: dict[Path, str] = {}
    ours: set[Path] = set()
    files: dict[Path, Member | Refusal | None] = {}
    for root, source in roots.items():
        with naming_only(source):
            folders.append(root if root.is_dir() else root.parent)
            found.update(dict.fromkeys(_walk(root, excluded, ours), source))
    for path, source in found.items():
        with naming_only(source):
            files.update(_files_of(path, found))
    shared = Path(os.path.commonpath(folders))
    listed = [_source_file(path, shared, files[path]) for path in sorted(files)]
    return Listing(listed, len(ours - {_real(root) for root in roots}))


@contextmanager
def naming_only(source: str | Path) -> Iterator[None]:
    """Refuse what is closed below a source in a sentence that names it alone; a folder's name may be a person's.

    Raises:
        UsageError: If the system lets nobody in: what is in a closed folder would be missing from the counts.
        OSError: If the disk or the machine fails, naming no file below the source.
    """
    try:
        yield
    except PermissionError:
        raise UsageError(
            f"{source} holds a folder that cannot be listed (permission denied); make it readable, or name the other "
            f"folders: find {source} -type d \\( ! -readable -o ! -executable \\) shows which it is."
        ) from None
    except OSError as error:
        if error.filename is None:
            raise
        raise OSError(error.errno, error.strerror, str(source)) from None


def _source_file(path: Path, shared: Path, what: Member | Refusal | None) -> SourceFile:
    return SourceFile(
        path,
        PurePosixPath(as_text(path.relative_to(shared))),
        member=what if isinstance(what, Member) else None,
        refusal=what if isinstance(what, Refusal) else None,
        there=isinstance(what, Member) or (what is None and _is_there(path)),
    )


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


def as_text(path: Path | str) -> str:
    """A path or a part of one as valid text: bytes of old exports that are no UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _files_of(path: Path, found: Collection[Path]) -> Mapping[Path, Member | Refusal | None]:
    """What one file on the disk stands for: itself, an archive's members, or what a DICOMDIR refers to."""
    zipped = is_archive(path)
    if zipped or is_tar(path):
        members = list_members(path) if zipped else list_tar_members(path)
        return {path: members} if isinstance(members, Refusal) else {path / name: it for name, it in members}
    if is_dicomdir(path):
        referenced = referenced_files(path)
        if referenced is not None:
            return {file: refusal for file, refusal in referenced.items() if file not in found}
    return {path: None}


def _expand(source: str) -> list[Path]:
    """A path as it is, a pattern as all that it matches; absolute."""
    if os.path.lexists(source):
        return [Path(os.path.abspath(source))]  # noqa: PTH100 - Path.absolute keeps "..", resolve follows links
    with naming_only(source):
        matches = sorted(_matches(source))
    if not matches:
        raise UsageError(
            f"{source} does not exist; give a folder, a file or a pattern such as 'in/**/*.dcm'."
        )
    return matches


def _matches(pattern: str) -> Iterator[Path]:
    """All that a pattern matches; unlike glob.glob's, Path.glob's ** does not go round in circles of links."""
    parts = Path(os.path.abspath(pattern)).parts  # noqa: PTH100 - as above
    fixed = next((number for number, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    if fixed == len(parts):
        return
    hidden_too = any(part.startswith(".") for part in parts[fixed:])
    for path in Path(*parts[:fixed]).glob(str(Path(*parts[fixed:]))):
        if hidden_too or not any(part.startswith(".") for part in path.parts[fixed:]):
            yield path


def _walk(root: Path, excluded: Collection[Path], ours: set[Path]) -> Iterator[Path]:
    """The files at or below `root`; a dead link counts as a file, so that it is accounted for."""
    if not root.is_dir():
        if _real(root) not in excluded:
            yield root
        return
    for here, files in visible_folders(root, excluded, ours):
        for name in files:
            path = here / name
            if (
                not name.startswith(".")
                and (path.is_file() or path.is_symlink())
                and _real(path) not in excluded
            ):
                yield path


def visible_folders(
    root: Path, excluded: Collection[Path] = (), ours: set[Path] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """A folder and all in it, links followed, each real one once, with the names of their files; none that is hidden.

    Args:
        root: The folder.
        excluded: Folders that are left out, with all in them.
        ours: Where given, folders below the root that xraygen made are left out too, and added to it.

    Raises:
        OSError: If one cannot be listed.
    """
    visited = set()
    for folder, folders, files in os.walk(root, onerror=_raise, followlinks=True):
        here = Path(folder)
        real = here.resolve()
        if real in visited or real in excluded:
            folders.clear()
            continue
        visited.add(real)
        if ours is not None and here != root and any(mark <= {*folders, *files} for mark in _MADE_HERE):
            ours.add(real)
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield here, files


def _raise(error: OSError) -> None:
    raise error


def _real(path: Path) -> Path:
    """Where links lead; a link to itself leads nowhere and stays what it is."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # RuntimeError: a circle, before Python 3.13
        return path
