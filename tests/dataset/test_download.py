"""Films that an archive lends: nobody takes them away while they are read, and nothing stays of a killed process's."""

import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from xraygen.atomic import try_to_hold
from xraygen.dataset import download
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.films.pacs import DimseServer, ServerError

DEAD = 999_999_999  # no process has such a number


class Archive:
    """Has one series of one film."""

    def __init__(self, film: bytes) -> None:
        self.film = film

    def find(self, keys: Mapping[str, str]) -> list[str]:
        return ["1.2"]

    def fetch(self, series: str) -> Iterator[bytes]:
        yield self.film


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_dicom: Callable[..., Path]) -> DimseServer:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    film = write_dicom(tmp_path / "film.dcm", 1, "P1").read_bytes()

    @contextmanager
    def connect(_: object) -> Iterator[Archive]:
        yield Archive(film)

    monkeypatch.setattr(download, "connect", connect)
    return DimseServer("pacs.example", 104, "ARCHIVE")


class Moody(Archive):
    """Has three series: it breaks off at the second, and does not give all of the third."""

    def __init__(self, film: bytes, *, refuses: tuple[str, ...] = ("3",), broken: int = 2) -> None:
        super().__init__(film)
        self.refuses, self.broken = refuses, broken

    def find(self, keys: Mapping[str, str]) -> list[str]:
        return ["3", "1", "2"]

    def fetch(self, series: str) -> Iterator[bytes]:
        yield self.film
        if series == "2" and self.broken:
            self.broken -= 1
            raise ServerError("The connection broke.", again=True)
        if series in self.refuses:
            raise ServerError("PACS does not give all films of a series (status B000).", again=False)


@pytest.fixture
def moody(server: DimseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Lets the archive be a moody one; the pauses before it is asked again."""

    def begin(**moods: Any) -> list[float]:
        archive = Moody((tmp_path / "film.dcm").read_bytes(), **moods)
        monkeypatch.setattr(download, "connect", lambda _: nullcontext(archive))
        pauses: list[float] = []
        monkeypatch.setattr(download, "sleep", pauses.append)
        return pauses

    return begin


def test_a_series_that_is_refused_is_counted_and_a_broken_one_asked_for_again(
    server: DimseServer, moody: Callable[..., list[float]], caplog: pytest.LogCaptureFixture
) -> None:
    pauses = moody()
    with download.downloaded(server, {}) as films:
        assert len(list(films.iterdir())) == 1  # all series are of one film
    assert pauses == [1, 2]
    (told,) = caplog.messages
    assert told.startswith("1 of 3 series were not given whole")
    assert told.endswith("PACS does not give all films of a series (status B000).")


def test_films_that_are_fetched_again_are_the_same_films(
    server: DimseServer, settings: IngestSettings, tmp_path: Path
) -> None:
    for done in (False, True):
        with download.downloaded(server, {}) as films:
            assert ingest([films], tmp_path / "dataset", settings).already_done == done


@pytest.mark.parametrize(
    ("moods", "sentence"),
    [({"refuses": ("1", "2", "3")}, "status B000"), ({"broken": 99}, "connection broke")],
)
def test_an_archive_that_gives_nothing_or_stays_away_ends_the_call(
    moods: dict[str, Any], sentence: str, server: DimseServer, moody: Callable[..., list[float]]
) -> None:
    pauses = moody(**moods)
    with pytest.raises(ServerError, match=sentence), download.downloaded(server, {}):
        pass
    assert pauses == ([1, 2, 4, 8, 16] if "broken" in moods else [1, 2])
    assert lent_folders() == []


def lent_folders() -> list[Path]:
    return sorted(Path(tempfile.gettempdir()).iterdir())


def test_films_lent_to_a_process_of_another_machine_stay(
    server: DimseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_runs", lambda _: False)  # what one sees of another machine's processes
    with download.downloaded(server, {}) as first:
        with download.downloaded(server, {}) as second:
            assert [len(list(films.iterdir())) for films in (first, second)] == [1, 1]
        assert lent_folders() == [first.parent]
        assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700
    assert lent_folders() == []


def test_a_folder_that_a_killed_process_left_goes_and_one_that_is_held_stays(server: DimseServer) -> None:
    left, older, held = (Path(tempfile.gettempdir(), f"xraygen-films-{DEAD}-{name}") for name in "abc")
    for folder in (left, older, held):
        folder.mkdir()
        (folder / "1.2.3.dcm").write_bytes(b"a patient")
    (left / ".lock").touch()
    with (held / ".lock").open("w") as lock:
        assert try_to_hold(lock)
        with download.downloaded(server, {}):
            assert not left.exists()
            assert not older.exists()  # of a version that held no lock
    assert lent_folders() == [held]


def test_on_a_disk_without_locks_films_are_lent_and_nothing_is_removed(
    server: DimseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_: object) -> bool:
        raise OSError("no locks here")

    monkeypatch.setattr(download, "try_to_hold", no_locks)
    monkeypatch.setattr(download, "_runs", lambda _: False)
    with download.downloaded(server, {}) as first, download.downloaded(server, {}):
        assert len(list(first.iterdir())) == 1
    assert lent_folders() == []
