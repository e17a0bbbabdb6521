import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from xraygen.atomic import (
    atomic_file,
    atomic_folder,
    one_at_a_time,
    remove_leftovers,
    sha256_of,
    sole_writer,
    write_json,
    write_text,
    writer_among_others,
)
from xraygen.errors import FolderError

WORKER = """
import sys, time
from pathlib import Path
from xraygen.atomic import atomic_file, atomic_folder, sole_writer
kind, path = {"file": atomic_file, "folder": atomic_folder, "lock": sole_writer}[sys.argv[1]], Path(sys.argv[2])
with kind(path) as aside:
    if sys.argv[1] == "file":
        aside.write_text("half")
    if sys.argv[1] == "folder":
        (aside / "part").write_text("half")
    print("inside", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process(kind: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that stands inside the block of `kind`; killed, if it still lives, at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, kind, str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        try:
            yield process
        finally:
            process.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    with atomic_file(path) as aside:
        aside.write_text("whole")
        assert not path.exists()
        assert aside.parent == path.parent  # a rename is atomic within one file system only
    assert path.read_text() == "whole"
    assert names(path.parent) == ["result.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failing_block_leaves_no_file(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_file(tmp_path / "result") as aside:
        aside.write_text("half")
        raise error
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_block_leaves_the_old_file_intact(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "result"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as aside:
        aside.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result"]


def test_a_new_file_replaces_the_old_one(tmp_path: Path) -> None:
    write_text(tmp_path / "result", "old")
    write_text(tmp_path / "result", "neu: é\n")
    assert (tmp_path / "result").read_bytes() == "neu: é\n".encode()
    assert names(tmp_path) == ["result"]


@pytest.mark.parametrize("path", [".", "..", "/", "folder"])
def test_a_folder_is_no_name_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FolderError, match="is a folder; expected the name of a file"):
        write_text(Path(path), "text")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == []


def test_a_folder_appears_whole_and_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "step-1"
    with atomic_folder(path) as aside:
        (aside / "deep").mkdir()
        (aside / "deep" / "part").write_text("whole")
        assert not path.exists()
    assert (path / "deep" / "part").read_text() == "whole"
    assert names(path.parent) == ["step-1"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failing_block_leaves_no_folder(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_folder(tmp_path / "step-1") as aside:
        (aside / "part").write_text("half")
        raise error
    assert names(tmp_path) == []


def test_a_folder_with_content_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "step-1"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(FolderError, match="exists already"), atomic_folder(path) as aside:
        (aside / "new").write_text("new")
    assert names(path) == ["old"]
    assert names(tmp_path) == ["step-1"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_process_leaves_nothing_under_the_final_name(tmp_path: Path, kind: str) -> None:
    with another_process(kind, tmp_path / "result") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "result").exists()
    assert len(names(tmp_path)) == 1  # what it left aside ...
    remove_leftovers(tmp_path)
    assert names(tmp_path) == []  # ... can be told from everything else, and goes


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    for name in ("result", ".hidden", "notes.partial", ".lock"):
        (tmp_path / name).write_text(name)
    (tmp_path / f".result.{os.getpid()}.partial").write_text("half")
    (tmp_path / ".step-1.7.partial").mkdir()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", ".lock", "notes.partial", "result"]


def test_a_second_process_is_refused_while_the_first_writes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with (
        another_process("lock", run),
        pytest.raises(FolderError, match="Another process is writing") as caught,
        sole_writer(run),
    ):
        pytest.fail("two processes hold one folder")
    assert str(run) in str(caught.value)
    assert caught.value.exit_code == 1


def test_the_lock_goes_with_its_process_however_it_ends(tmp_path: Path) -> None:
    with another_process("lock", tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with sole_writer(tmp_path):
        assert names(tmp_path) == [".lock"]


def test_the_lock_can_be_taken_again_and_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), sole_writer(tmp_path):
        raise RuntimeError("stop")
    with sole_writer(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_locks_are_taken_as_nfs_wants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """flock on NFS is a record lock: shared it needs a file open for reading, exclusive one open for writing."""

    def as_on_nfs(file: IO[str], kind: int) -> None:
        needed = file.readable() if kind & fcntl.LOCK_SH else file.writable()
        if not needed:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    with sole_writer(tmp_path):
        pass
    with writer_among_others(tmp_path), one_at_a_time(tmp_path):
        pass


def test_two_folders_can_be_held_at_once(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "a"), sole_writer(tmp_path / "b"):
        assert names(tmp_path) == ["a", "b"]


def test_json_is_strict_and_ends_with_a_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"b": [1, 2.5, None]}
    assert text.endswith("}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_without_a_meaning_elsewhere_is_refused_and_leaves_the_old(
    tmp_path: Path, number: float
) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"value": number})
    assert (tmp_path / "a.json").read_text() == "1\n"


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_the_hash_is_of_the_whole_file(tmp_path: Path, size: int) -> None:
    content = bytes(i % 251 for i in range(size))
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
