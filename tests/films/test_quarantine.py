import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from xraygen.atomic import sha256_of
from xraygen.errors import FolderError
from xraygen.films import quarantine
from xraygen.films.listing import METADATA, as_csv, columns_of, read_rows
from xraygen.films.quarantine import finish_quarantine, quarantined, set_aside

CHANGES = 5  # the list, the plan, metadata.csv and two films
REASONS = {f"images/{seed}.png": {"suspect_in": "pixels", "distance": "0.1"} for seed in (2, 4)}


class Killed(BaseException):
    """What no `except Exception` survives."""


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Six files with rows, two of them told something, and a preview."""
    out = tmp_path / "synthetic"
    (out / "images").mkdir(parents=True)
    (out / "preview.png").write_bytes(b"all of them")
    rows = []
    for seed in range(6):
        path = out / "images" / f"{seed}.png"
        path.write_bytes(b"film %d" % seed)
        told = {"finding": "NORMAL", "guidance": "1.5"} if seed == 4 else {"finding": "", "guidance": ""}
        rows.append(
            {
                "file_name": f"images/{seed}.png",
                "seed": str(seed),
                **told,
                "sampler": "ddim",
                "steps": "50",
                "sha256": sha256_of(path),
                "machine": "here",
                "repeats": "identical",
            }
        )
    (out / METADATA).write_text(as_csv(columns_of(["finding"]), rows))
    return out


def plan_of(out: Path) -> list[dict[str, str]]:
    with (out / "quarantine" / "refill.csv").open() as file:
        return list(csv.DictReader(file))


def files_in(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def every_row_has_its_film(out: Path) -> bool:
    return all(sha256_of(out / row["file_name"]) == row["sha256"] for row in read_rows(out / METADATA))


def test_films_leave_the_set_with_their_rows(made: Path) -> None:
    moved = set_aside(made, REASONS)
    assert [row["file_name"] for row in moved] == ["images/2.png", "images/4.png"]
    assert [row["seed"] for row in read_rows(made / METADATA)] == ["0", "1", "3", "5"]
    assert {path.name for path in (made / "images").iterdir()} == {"0.png", "1.png", "3.png", "5.png"}
    assert (made / "quarantine" / "images" / "4.png").read_bytes() == b"film 4"
    assert quarantined(made) == set(REASONS)
    assert not (made / "preview.png").exists()  # it may show one of them
    assert (made / "quarantine").stat().st_mode & 0o077 == 0


def test_other_seeds_are_ordered_with_the_same_words(made: Path) -> None:
    set_aside(made, REASONS)
    assert plan_of(made) == [
        {"seed": "6", "finding": "", "guidance": ""},
        {"seed": "7", "finding": "NORMAL", "guidance": "1.5"},
    ]


def test_a_plan_orders_only_what_is_not_made_yet(made: Path) -> None:
    """The replacement of the first film came, and is a suspect itself."""
    set_aside(made, REASONS)
    rows = read_rows(made / METADATA)
    (made / "images" / "6.png").write_bytes(b"film 6")
    (made / METADATA).write_text(
        as_csv(columns_of(["finding"]), [*rows, {**rows[0], "file_name": "images/6.png", "seed": "6"}])
    )
    set_aside(made, {"images/6.png": {"suspect_in": "aligned", "distance": "0.2"}})
    assert [row["seed"] for row in plan_of(made)] == ["7", "8"]
    assert quarantined(made) == {*REASONS, "images/6.png"}


def test_no_suspect_changes_nothing(made: Path) -> None:
    before = files_in(made)
    assert set_aside(made, {}) == []
    assert files_in(made) == before


@pytest.fixture
def killed_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """`killed_before(n)`: the process dies before the change to the disk with the number n."""

    def arm(last: int) -> None:
        done = iter(range(last))

        def dying(change: Callable[..., None]) -> Callable[..., None]:
            def step(*arguments: Any) -> None:
                if next(done, None) is None:
                    raise Killed
                change(*arguments)

            return step

        for name in ("write_text", "move_into_place"):
            monkeypatch.setattr(quarantine, name, dying(getattr(quarantine, name)))

    yield arm
    monkeypatch.undo()


@pytest.mark.parametrize("last", range(CHANGES))
def test_a_killed_move_leaves_a_whole_set_and_is_finished_by_the_next(
    made: Path,
    tmp_path: Path,
    killed_before: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    last: int,
) -> None:
    killed_before(last)
    with pytest.raises(Killed):
        set_aside(made, REASONS)
    assert every_row_has_its_film(made)
    monkeypatch.undo()
    set_aside(made, REASONS)
    assert every_row_has_its_film(made)
    assert {path.name for path in (made / "images").iterdir()} == {"0.png", "1.png", "3.png", "5.png"}
    assert {path.name for path in (made / "quarantine" / "images").iterdir()} == {"2.png", "4.png"}
    assert [row["seed"] for row in plan_of(made)] == ["6", "7"]


def test_a_whole_move_changes_the_disk_as_often_as_is_tested(
    made: Path, killed_before: Callable[[int], None]
) -> None:
    killed_before(CHANGES)
    set_aside(made, REASONS)


def test_what_has_a_row_stays_where_it_is(made: Path) -> None:
    set_aside(made, REASONS)
    before = files_in(made)
    finish_quarantine(made)
    assert files_in(made) == before


def test_seeds_must_be_numbers(made: Path) -> None:
    text = (made / METADATA).read_text().replace("images/2.png,2,", "images/2.png,two,")
    (made / METADATA).write_text(text)
    with pytest.raises(FolderError, match="no number as its seed"):
        set_aside(made, REASONS)
