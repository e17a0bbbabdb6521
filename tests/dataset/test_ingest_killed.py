"""Killed before any one change to the disk, an ingest leaves nothing that the same command does not put right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = '''
import json, os, secrets, shutil, signal, sys
from pathlib import Path
from xraygen.dataset import ingest as room, reading
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.films.transforms import PrepareSettings

films, folder, same_number, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
settings = IngestSettings(
    prepare=PrepareSettings((16, 16)), key=folder / "key", workers=0, split="0.5,0.25,0.25"
)
reading._FILMS_PER_SHARD = 6
secrets.token_bytes = lambda count: bytes([1]) * count
number = os.getpid
os.getpid = lambda: 7  # in a container every run may have the same


def changes_the_disk(event, arguments):
    if event == "open":
        return str(arguments[0]).startswith(str(folder)) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    return event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


def ingest():
    summary = room.ingest([films], folder / "dataset", settings)
    assert summary.seen == summary.accepted + sum(summary.rejected.values()) == 17


def ingest_in_another_process(kill_before):
    """Ingest in a process that kills itself before change `kill_before`; the changes to the disk until then."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.getpid = lambda: 7 if same_number else 8
        done = 0

        def count(event, arguments):
            nonlocal done
            if changes_the_disk(event, arguments):
                os.write(write, f"{event} {str(arguments[0]).removeprefix(str(folder))}\\n".encode())
                if done == kill_before:
                    os.kill(number(), signal.SIGKILL)
                done += 1

        sys.addaudithook(count)
        ingest()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        changes = pipe.read().splitlines()
    status = os.waitpid(child, 0)[1]
    assert status == (0 if kill_before is None else signal.SIGKILL), status
    return changes


def left():
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


all_changes = ingest_in_another_process(None)
expected = left()
for before, change in enumerate(all_changes):
    if steps and not any(step in change for step in steps):
        continue
    shutil.rmtree(folder)
    folder.mkdir()
    assert len(ingest_in_another_process(before)) == before + 1
    try:
        ingest()
        wrong = sorted({name for name, _ in expected.items() ^ left().items()})
    except Exception as error:
        wrong = [repr(error)]
    print(json.dumps([change, wrong]), flush=True)
'''

PLACES = (
    "rename /.key.7",
    "rename /.key.crosswalk",
    "rename /.dataset.7",
    "os.remove /.dataset.ingest/plan.json",
)


@pytest.mark.parametrize(
    ("same_number", "places"),
    [
        (True, PLACES),
        pytest.param(True, (), marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
        pytest.param(False, (), marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_killed_before_a_change_to_the_disk_it_goes_on_to_the_same_bytes(
    hospital: Path, tmp_path: Path, same_number: bool, places: tuple[str, ...]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-c", DRIVER, str(hospital), str(work), str(int(same_number)), *places]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    kills = [json.loads(line) for line in told.stdout.splitlines()]
    assert [kill for kill in kills if kill[1]] == []
    assert len(kills) >= (len(places) or 50)
