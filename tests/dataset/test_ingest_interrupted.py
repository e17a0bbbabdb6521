"""The same bytes, however often an ingest was interrupted and however many processes did it."""

import errno
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from xraygen.dataset import reading
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.errors import FolderError, UsageError, XraygenError
from xraygen.films.transforms import PrepareSettings
from xraygen.progress import Progress


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class KilledError(Exception):
    """Stands for SIGKILL."""


def killed_after(films: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.done >= films:
            raise KilledError

    return report


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_FILMS_PER_SHARD", 4)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("films", [1, 4, 5, 11, 16, 17])
def test_a_killed_ingest_goes_on_and_gives_the_same_bytes(
    hospital: Path, settings: IngestSettings, tmp_path: Path, films: int
) -> None:
    ingest([hospital], tmp_path / "at-once", settings)
    (tmp_path / "fixed.key.crosswalk.csv").unlink()
    with pytest.raises(KilledError):
        ingest([hospital], tmp_path / "dataset", settings, killed_after(films))
    assert not (tmp_path / "dataset").exists()
    seen: list[int] = []
    ingest([hospital], tmp_path / "dataset", settings, lambda progress: seen.append(progress.done))
    assert contents(tmp_path / "dataset") == contents(tmp_path / "at-once")
    finished = 17 if films == 17 else films // 4 * 4
    assert seen == list(range(finished + 1, 18))  # nothing is read twice that was finished
    assert not list(tmp_path.glob(".*"))


@pytest.mark.usefixtures("small_shards")
def test_the_speed_is_that_of_the_files_read_now(
    hospital: Path, settings: IngestSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KilledError):
        ingest([hospital], tmp_path / "dataset", settings, killed_after(8))
    clock = count()
    monkeypatch.setattr(reading, "perf_counter", lambda: next(clock) / 2)  # 0 s, then 0.5 s for each file
    told: list[Progress] = []
    ingest([hospital], tmp_path / "dataset", settings, told.append)
    assert [progress.done for progress in told] == list(range(9, 18))
    assert [progress.figures["files/s"] for progress in told] == [2] * 9


@pytest.mark.usefixtures("small_shards")
def test_a_full_disk_leaves_nothing_half_written(
    hospital: Path, settings: IngestSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr("xraygen.dataset.ingest.write_manifest", no_space)
        with pytest.raises(OSError, match="No space left"):
            ingest([hospital], tmp_path / "dataset", settings)
    assert not (tmp_path / "dataset").exists()
    ingest([hospital], tmp_path / "dataset", settings)
    ingest([hospital], tmp_path / "again", settings)
    assert contents(tmp_path / "dataset") == contents(tmp_path / "again")


def test_the_same_command_again_has_nothing_to_do(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    first = ingest([hospital], tmp_path / "dataset", settings)
    before = contents(tmp_path / "dataset")
    again = ingest([hospital], tmp_path / "dataset", settings, killed_after(0))
    assert again == replace(first, already_done=True)
    assert contents(tmp_path / "dataset") == before


def test_another_command_does_not_touch_a_finished_dataset(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([hospital], tmp_path / "dataset", settings)
    before = contents(tmp_path / "dataset")
    other_size = replace(settings, prepare=PrepareSettings((8, 8)))
    with pytest.raises(UsageError, match="choose another --out"):
        ingest([hospital], tmp_path / "dataset", other_size)
    (hospital / "new.dcm").write_bytes(b"new")
    with pytest.raises(UsageError, match="choose another --out"):
        ingest([hospital], tmp_path / "dataset", settings)
    with pytest.raises(UsageError, match="its key"):
        ingest([hospital], tmp_path / "dataset", replace(settings, key=tmp_path / "other.key"))
    assert not (tmp_path / "other.key").exists()
    assert contents(tmp_path / "dataset") == before


def test_more_time_for_a_file_is_another_dataset(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([hospital], tmp_path / "dataset", settings)
    with pytest.raises(UsageError, match="choose another --out"):
        ingest([hospital], tmp_path / "dataset", replace(settings, seconds_per_file=120.0))


@pytest.mark.usefixtures("small_shards")
def test_work_of_other_settings_is_not_mixed_in(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        ingest(
            [hospital],
            tmp_path / "dataset",
            replace(settings, prepare=PrepareSettings((16, 16), "crop")),
            killed_after(9),
        )
    ingest([hospital], tmp_path / "dataset", settings)
    ingest([hospital], tmp_path / "at-once", settings)
    assert contents(tmp_path / "dataset") == contents(tmp_path / "at-once")


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("size", [(16, 16), (8, 8)])
def test_a_second_ingest_into_one_folder_is_refused_and_disturbs_nothing(
    hospital: Path, settings: IngestSettings, tmp_path: Path, size: tuple[int, int]
) -> None:
    other = replace(settings, prepare=PrepareSettings(size))
    refused: list[str] = []

    def begin_another(progress: Progress) -> None:
        if progress.done == 6:  # one shard is written, and another begun
            with pytest.raises(FolderError, match="Another process is writing") as error:
                ingest([hospital], tmp_path / "dataset", other)
            refused.append(str(error.value))

    ingest([hospital], tmp_path / "at-once", settings)
    ingest([hospital], tmp_path / "dataset", settings, begin_another)
    assert len(refused) == 1
    assert contents(tmp_path / "dataset") == contents(tmp_path / "at-once")
    assert not list(tmp_path.glob(".*"))


INGEST = """
import sys
from pathlib import Path
from xraygen.dataset import reading
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.films.transforms import PrepareSettings
if __name__ == "__main__":
    films, out, key = map(Path, sys.argv[1:])
    reading._FILMS_PER_SHARD = 4
    print("ready", flush=True)
    ingest([films], out, IngestSettings(prepare=PrepareSettings((16, 16)), key=key, workers=2, split="0.5,0.25,0.25"))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sigkill_at_twenty_random_moments_changes_no_byte(
    hospital: Path, settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    for number in range(200):
        write_dicom(hospital / f"more/{number}.dcm", 1000 + number, f"PAT-{number % 30}", f"1.2.{number}")
    settings = replace(settings, workers=2)
    whole = ingest([hospital], tmp_path / "whole", settings)
    expected = contents(tmp_path / "whole")

    def start(out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", INGEST, str(hospital), str(out), str(settings.key)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    with start(tmp_path / "timed") as process:
        began = time.monotonic()  # what comes before "ready" is no time to be killed in
        assert process.wait(120) == 0
    duration = time.monotonic() - began
    random, cut_short, resumed = np.random.default_rng(0), 0, 0
    for number in range(20):
        out = tmp_path / f"killed-{number}"
        with start(out) as process:
            began = time.monotonic()
            # Every other one in the second half: the first is mostly the start of the reading process.
            moment = float(random.uniform(duration / 2 if number % 2 else 0, duration))
            try:
                process.wait(moment)
                duration = time.monotonic() - began  # the machine has less to do now than when it was timed
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
        cut_short += process.returncode == -signal.SIGKILL
        resumed += len(list((tmp_path / f".{out.name}.ingest").glob("shard-*"))) > 0
        again = ingest([hospital], out, settings)
        assert again.seen == whole.seen == again.accepted + sum(again.rejected.values())
        assert contents(out) == expected, number
        assert not list(tmp_path.glob(f".{out.name}*"))
    assert cut_short >= 10
    assert resumed >= 3  # some were killed between shards


class Backwards(Executor):
    """Somebody else's executor, which does the newest work first."""

    def __init__(self) -> None:
        self.waiting: list[tuple] = []

    def submit(self, function, /, *arguments, **options):  # type: ignore[no-untyped-def]  # as in its base
        future = BackwardsFuture(self)
        self.waiting.append((future, function, arguments))
        return future

    def work(self) -> None:
        while self.waiting:
            future, function, arguments = self.waiting.pop()
            try:
                future.set_result(function(*arguments))
            except XraygenError as error:
                future.set_exception(error)


class BackwardsFuture(Future):
    def __init__(self, executor: Backwards) -> None:
        super().__init__()
        self.executor = executor

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self.executor.work()
        return super().exception(timeout)


def test_how_many_processes_read_and_in_which_order_changes_no_byte(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([hospital], tmp_path / "one", settings)
    ingest([hospital], tmp_path / "two", replace(settings, workers=2))
    ingest([hospital], tmp_path / "other", settings, executor=Backwards())
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "other")


def test_the_work_in_progress_names_nobody_either(
    identifying: list[str], hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    with pytest.raises(KilledError):
        ingest([hospital], tmp_path / "dataset", settings, killed_after(17))
    work = tmp_path / ".dataset.ingest"
    assert work.stat().st_mode & 0o077 == 0
    text = b"".join(contents(work).values())
    assert text
    assert [word for word in identifying if word.encode() in text] == []
