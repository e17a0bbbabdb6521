"""A CSV as text, column by column; one that a program would have to guess at is refused."""

import csv
import gzip
import re
import zlib
from pathlib import Path
from typing import TextIO

import pandas as pd

from xraygen.errors import UsageError

_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}


def read_csv(file: Path) -> pd.DataFrame:
    """All columns as stripped text; commas, semicolons or tabs, whichever the header has most of.

    Args:
        file: UTF-8, with a header; packed with gzip if its name ends in .gz. Fields beyond the header must be empty.

    Raises:
        UsageError: If it is missing, no CSV or not UTF-8, or has a row of more values than columns.
    """
    try:
        separator = _separator(file)
        with _opened(file) as lines:
            width = _width(file, lines, separator)
        table = pd.read_csv(
            file,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            index_col=False,
            usecols=range(width) if width else None,  # what lies beyond is empty
            encoding="utf-8-sig",
        )
    except UnicodeDecodeError:
        raise UsageError(
            f"--labels {file} is not UTF-8; in Excel save it as 'CSV UTF-8', or use iconv -f WINDOWS-1252 -t UTF-8."
        ) from None
    except (OSError, ValueError, EOFError, zlib.error, csv.Error) as error:
        raise UsageError(f"--labels {file} cannot be read as CSV: {' '.join(str(error).split())}") from None
    return pd.DataFrame({column: table[column].str.strip() for column in table.columns})


def _opened(file: Path) -> TextIO:
    if file.suffix.lower() == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _separator(file: Path) -> str:
    """What the header has most of outside of quotes."""
    with _opened(file) as lines:
        header = re.sub(r'"[^"]*"', "", next(filter(str.strip, lines), ""))
    return max(_SEPARATORS, key=header.count)


def _width(file: Path, lines: TextIO, separator: str) -> int:
    """How many columns the header has; refuses a row that has more values, for pandas cuts it or moves its columns."""
    records = csv.reader(lines, delimiter=separator)
    width = len(next((header for header in records if any(map(str.strip, header))), []))
    for fields in records:
        if any(map(str.strip, fields[width:])):
            raise UsageError(
                f"--labels {file}: line {records.line_num} has {len(fields)} fields, and the header {width}; put a "
                f"value that holds {_SEPARATORS[separator]} into quotes, or give every column a name."
            )
    return width
