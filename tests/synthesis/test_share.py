import json
import os
from pathlib import Path

import pytest

from xraygen.atomic import sole_writer, writer_among_others
from xraygen.errors import FolderError, UsageError
from xraygen.films.listing import METADATA, columns_of, read_rows
from xraygen.synthesis.rows import ProcessRows, merge
from xraygen.synthesis.share import Share

COLUMNS = columns_of(["finding", "steps"])


def row(seed: int) -> dict[str, str]:
    return {**dict.fromkeys(COLUMNS, ""), "file_name": f"images/{seed}.png", "seed": str(seed)}


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_disjoint_and_complete(count: int) -> None:
    parts = [Share(number, count).of(range(20)) for number in range(count)]
    assert sorted(seed for part in parts for seed in part) == list(range(20))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, Share()),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, Share(1, 4, 0)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Share(3, 4, 3)),
    ],
)
def test_the_launcher_tells_the_number(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, str], expected: Share
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert Share.of_environment() == expected


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "0")])
def test_a_number_that_cannot_be_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, rank: str, size: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(UsageError, match="start xraygen by torchrun, or unset both"):
        Share.of_environment()


def test_one_alone_and_several_together_keep_each_other_out(tmp_path: Path) -> None:
    refused = pytest.raises(FolderError, match="Another process")
    with writer_among_others(tmp_path), writer_among_others(tmp_path), refused, sole_writer(tmp_path):
        pass
    refused = pytest.raises(FolderError, match="Another process")
    with sole_writer(tmp_path), refused, writer_among_others(tmp_path):
        pass


def test_a_condition_named_like_a_column_has_another_name() -> None:
    assert COLUMNS[:4] == ["file_name", "seed", "finding", "steps_label"]


def test_rows_count_only_with_their_image_and_a_torn_line_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    landing = ProcessRows(tmp_path, 0)
    for seed in (11, 3):
        landing.land(row(seed), lambda path: _write(path, path.name))
    assert list(merge(tmp_path, COLUMNS)) == ["images/3.png", "images/11.png"]  # while it lives
    landing.land(row(4), lambda path: _write(path, "4"))
    landing.close()
    folder = tmp_path / ".process-0"
    with (folder / "rows.jsonl").open("a") as file:
        file.write(json.dumps({**row(5), "sha256": "0" * 64}) + "\n")  # killed before its image appeared
        file.write('{"file_name": "images/6.p')  # killed while it wrote
    (tmp_path / "images" / "3.png").unlink()
    assert list(merge(tmp_path, COLUMNS)) == ["images/4.png", "images/11.png"]
    assert [entry["seed"] for entry in read_rows(tmp_path / METADATA, COLUMNS)] == ["4", "11"]
    assert not folder.exists()


def test_what_dead_processes_left_is_cleared_away_on_nfs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.unlink

    def unlink(path: str, *, dir_fd: int | None = None) -> None:
        """NFS gives a file that is open another name, in its folder, for as long as it is open."""
        opened = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]  # noqa: PTH208
        if any(Path(file).name == Path(path).name for file in opened):
            os.rename(path, ".nfs0001", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        else:
            really(path, dir_fd=dir_fd)

    ProcessRows(tmp_path, 0).close()
    monkeypatch.setattr(os, "unlink", unlink)
    merge(tmp_path, COLUMNS)
    assert not (tmp_path / ".process-0").exists()


def test_two_processes_of_one_number_are_refused(tmp_path: Path) -> None:
    landing = ProcessRows(tmp_path, 0)
    with pytest.raises(FolderError, match="Another process is writing"):
        ProcessRows(tmp_path, 0)
    landing.close()


@pytest.mark.parametrize("text", ["", "file_name,seed\nimages/0.png,0\n", "not a table", "a,a\n1\n"])
def test_a_table_that_xraygen_did_not_write_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / METADATA).write_text(text)
    with pytest.raises(FolderError, match="choose another folder"):
        read_rows(tmp_path / METADATA, COLUMNS)
