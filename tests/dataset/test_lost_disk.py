"""A disk that is lost while films are read ends the ingest; it does not make rejections of a hospital."""

import errno
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xraygen.dataset import archives, dicomdir, sources
from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.manifest import read_rejected
from xraygen.progress import Progress


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failing(name: str, number: int) -> Callable[..., Any]:
    """`Path.open` on a disk that cannot hand over files of that name."""
    opens = Path.open

    def open_or_fail(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == name:
            raise OSError(number, "The disk says so", str(path))
        return opens(path, *arguments, **options)

    return open_or_fail


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EMFILE])
def test_a_disk_lost_half_way_ends_the_ingest_and_the_same_command_goes_on(
    hospital: Path, settings: IngestSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as lost:
        lost.setattr(Path, "open", failing("Mustermann_Erika.png", number))
        with pytest.raises(OSError, match="not the film") as raised:
            ingest([hospital], tmp_path / "dataset", settings)
    assert raised.value.errno == number
    assert "Mustermann" not in str(raised.value)
    assert not (tmp_path / "dataset").exists()
    ingest([hospital], tmp_path / "dataset", settings)
    ingest([hospital], tmp_path / "at-once", settings)
    assert contents(tmp_path / "dataset") == contents(tmp_path / "at-once")


@pytest.mark.parametrize("name", ["films.zip", "films.tar.gz", "DICOMDIR"])
def test_a_disk_lost_while_films_are_listed_does_not_hide_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(b"PK\x05\x06" + bytes(18))

    def lost(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "The disk says so")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing(name, errno.EIO))
        patch.setattr(zipfile, "ZipFile", lost)
        patch.setattr(dicomdir, "dcmread", lost)
        with pytest.raises(OSError, match="not the film"):
            sources.list_sources([tmp_path])
        if name == "films.zip":
            with pytest.raises(OSError, match="not the film"):
                archives.list_members(tmp_path / name)


def test_an_archive_on_a_lost_disk_is_not_damaged(
    hospital: Path, settings: IngestSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = shutil.make_archive(str(tmp_path / "films"), "zip", hospital / "loose")

    def lose_it(_: Progress) -> None:
        monkeypatch.setattr(Path, "open", failing("films.zip", errno.ESTALE))

    with pytest.raises(OSError, match="not the film"):
        ingest([archive], tmp_path / "dataset", settings, lose_it)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("what", ["file", "link", "archive", "folder"])
def test_a_film_that_was_listed_and_is_gone_ends_the_ingest(
    hospital: Path, settings: IngestSettings, tmp_path: Path, what: str
) -> None:
    last = hospital / "ward/z.dcm"
    shutil.copy(hospital / "ward/copy-of-PAT-0.dcm", last)
    if what == "link":
        last.rename(tmp_path / "elsewhere.dcm")
        last.symlink_to(tmp_path / "elsewhere.dcm")
    if what == "archive":
        last.unlink()
        last = Path(shutil.make_archive(str(hospital / "zz"), "zip", hospital / "loose"))

    def unmount(progress: Progress) -> None:
        if progress.done == 5:
            (tmp_path / "elsewhere.dcm" if what == "link" else last).unlink()
            if what == "folder":
                shutil.rmtree(hospital)

    with pytest.raises(FileNotFoundError, match="not there any more") as raised:
        ingest([hospital], tmp_path / "dataset", settings, unmount)
    assert "z.dcm" not in str(raised.value)
    assert not (tmp_path / "dataset").exists()


def test_what_was_never_there_or_is_closed_is_rejected(
    hospital: Path, settings: IngestSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hospital / "dead.dcm").symlink_to(tmp_path / "nowhere.dcm")
    (hospital / "round.dcm").symlink_to("round.dcm")
    monkeypatch.setattr(
        Path, "open", failing("film0.dcm", errno.EACCES)
    )  # root may read what is closed to it
    summary = ingest([hospital], tmp_path / "dataset", settings)
    assert summary.rejected["unreadable"] == 5
    details = read_rejected(tmp_path / "dataset/rejected.csv")["detail"]
    assert sum("No such file or directory" in detail for detail in details) == 1
