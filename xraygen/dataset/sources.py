"""Which files an ingest reads, and in which order."""

import glob
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from xraygen.errors import UsageError


@dataclass(frozen=True)
class SourceFile:
    """One file that is seen."""

    path: Path
    """Absolute."""
    name: PurePosixPath
    """Relative to the folder that all sources share: the same wherever the whole tree is moved to."""


def list_sources(sources: Sequence[str | Path], leave_out: Collection[Path] = ()) -> list[SourceFile]:
    """List every file of the sources once, sorted by path.

    Args:
        sources: Folders (read with all folders in them; links are followed once), files, or patterns such as
            `in/**/*.dcm`. What is hidden, that is, starts with a dot, is skipped unless it is named itself.
        leave_out: Files and folders that are not films, such as the CSV of labels and the output.

    Raises:
        UsageError: If a source does not exist or a pattern matches nothing.
    """
    roots = [root for source in sources for root in _expand(str(source))]
    excluded = {path.resolve() for path in leave_out}
    found = {path for root in roots for path in _walk(root, excluded)}
    shared = Path(os.path.commonpath([root if root.is_dir() else root.parent for root in roots]))
    return [SourceFile(path, PurePosixPath(path.relative_to(shared))) for path in sorted(found)]


def _expand(source: str) -> list[Path]:
    """A path as it is, a pattern as all that it matches; absolute."""
    if os.path.lexists(source):
        return [Path(os.path.abspath(source))]  # noqa: PTH100 - Path.absolute keeps "..", resolve follows links
    matches = sorted(glob.glob(source, recursive=True))  # noqa: PTH207 - an absolute pattern is none of Path's
    if not matches:
        raise UsageError(
            f"{source} does not exist; give a folder, a file or a pattern such as 'in/**/*.dcm'."
        )
    return [Path(os.path.abspath(match)) for match in matches]  # noqa: PTH100 - as above


def _walk(root: Path, excluded: Collection[Path]) -> Iterator[Path]:
    """The files at or below `root`; a dead link counts as a file, so that it is accounted for."""
    if not root.is_dir():
        if root.resolve() not in excluded:
            yield root
        return
    visited = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        here = Path(folder)
        real = here.resolve()
        if real in visited or real in excluded:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            path = here / name
            if (
                not name.startswith(".")
                and (path.is_file() or path.is_symlink())
                and path.resolve() not in excluded
            ):
                yield path
