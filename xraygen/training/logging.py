"""What a run tells about itself while it goes: log.jsonl."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorboard.summary.writer import event_file_writer

from xraygen.atomic import write_text


def append_log(run: Path, entry: dict[str, Any]) -> None:
    """Add a line to log.jsonl, with the time."""
    line = json.dumps({**entry, "time": datetime.now(UTC).isoformat(timespec="seconds")})
    with (run / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_log(run: Path) -> list[dict[str, Any]]:
    """The entries of log.jsonl; a line that a kill cut short is left out."""
    path = run / "log.jsonl"
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries


def rewind_log(run: Path, step: int) -> None:
    """Drop entries after `step`: those steps are about to be done again."""
    kept = [entry for entry in read_log(run) if entry["step"] <= step]
    write_text(run / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept))


@contextmanager
def nameless_event_files() -> Iterator[None]:
    """Inside, TensorBoard's event files are not named after this machine, whose name may be an institution's."""
    before = event_file_writer.socket
    event_file_writer.socket = SimpleNamespace(gethostname=lambda: "host")
    try:
        yield
    finally:
        event_file_writer.socket = before
