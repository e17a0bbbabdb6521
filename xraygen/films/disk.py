"""Whose fault it is that a file cannot be read: its own, or that of the disk and the machine."""

import errno

from xraygen.errors import FilmError

_NOT_TO_BE_OPENED = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENXIO),
)
_NOT_TO_BE_FOLLOWED = (errno.EINVAL, errno.EOVERFLOW)
"""A damaged header sends its reader to a place before or beyond any file."""
_OF_THE_FILE = frozenset((*_NOT_TO_BE_OPENED, *_NOT_TO_BE_FOLLOWED))


def pass_on_failure(error: Exception) -> None:
    """Do nothing about an error that a file causes; raise again what the disk or the machine does.

    A network disk that is lost (ESTALE, EIO, ENOTCONN, ETIMEDOUT) or a machine without descriptors (EMFILE) says
    nothing of the film that happened to be next. What decoders raise has no errno, and is the file's.

    Args:
        error: What reading a file came to.

    Raises:
        OSError: With the same errno, naming no file.
    """
    if not isinstance(error, OSError) or error.errno is None or error.errno in _OF_THE_FILE:
        return
    raise OSError(
        error.errno,
        f"a film cannot be read ({error.strerror}): the disk or the machine failed, and not the film; see to it and "
        "run the same command again",
    ) from error


def unreadable(error: OSError) -> FilmError:
    """The refusal of a file that cannot be opened or read.

    Raises:
        OSError: As `pass_on_failure`.
    """
    pass_on_failure(error)
    return FilmError("unreadable", f"The file cannot be read ({error.strerror or 'input error'}).")
