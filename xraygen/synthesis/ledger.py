"""SYNTHETIC/sent/ledger.jsonl: which archive has taken which film; a line is on disk before the next film goes."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from xraygen.errors import FolderError

FOLDER, NAME = "sent", "ledger.jsonl"


@dataclass(frozen=True)
class Sent:
    """One line.

    Attributes:
        server: The archive, without anything that authorises.
        file_name: Image of the set, as metadata.csv names it.
        sop_instance_uid: Under which UID it was sent.
        pixel_sha256: Hash of its Pixel Data as sent.
        permission: What let it be sent.
        time: When the archive took it, in UTC.
    """

    server: str
    file_name: str
    sop_instance_uid: str
    pixel_sha256: str
    permission: str
    time: str


class Ledger:
    """The ledger of one SYNTHETIC.

    Args:
        synthetic: Its folder.

    Raises:
        FolderError: If a line other than the last one is damaged.
    """

    def __init__(self, synthetic: Path) -> None:
        self.path = synthetic / FOLDER / NAME
        self._lines = list(self._read())

    def taken_by(self, server: str) -> dict[str, Sent]:
        """SOP Instance UID -> line, of one archive."""
        return {line.sop_instance_uid: line for line in self._lines if line.server == server}

    def add(self, line: Sent) -> None:
        """Append a line; on return it is on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write((json.dumps(asdict(line)) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
        self._lines.append(line)

    def _read(self) -> Iterator[Sent]:
        """All lines; half a line that a killed process left at the end is cut off."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        for number, line in enumerate(content[:whole].splitlines(), 1):
            try:
                yield Sent(**json.loads(line))
            except (ValueError, TypeError):
                raise FolderError(
                    f"{self.path} is damaged in line {number}; move it away, and all is sent again."
                ) from None
