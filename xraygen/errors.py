"""What can go wrong, as one tree.

XraygenError               exit 1: the answer is no
├── UsageError             exit 2: the command or the config is wrong
│   └── ConfigError        a preset, a YAML file or a `--set key=value`
├── FilmError              one image file is refused; `reason` is its code in rejected.csv
├── FolderError            a DATASET, RUN, SYNTHETIC or REPORT is missing, damaged or of another format
└── ShapeError             arrays that do not fit together (a caller's mistake, not a user's)

Each message is one sentence for the user: what, where, what was expected, what to do.
"""


class XraygenError(Exception):
    """Root of all errors that xraygen raises on purpose."""

    exit_code = 1


class UsageError(XraygenError):
    """The command line or the configuration asks for something that cannot be."""

    exit_code = 2


class ConfigError(UsageError):
    """A preset, YAML file or override is unknown or out of range."""


class FilmError(XraygenError):
    """One image file is refused.

    Args:
        reason: Short code for rejected.csv, such as `not_dicom` or `truncated`.
        detail: One sentence without any patient's data.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["FilmError"], tuple[str, str]]:
        """Keep both arguments when the error crosses a process boundary."""
        return type(self), (self.reason, self.detail)


class FolderError(XraygenError):
    """A folder that an earlier step should have written is missing, damaged or of another format."""


class ShapeError(XraygenError, ValueError):
    """Arrays that do not fit together."""
