from collections.abc import Callable
from pathlib import Path

from click.testing import Result

from xraygen.films.listing import METADATA, read_rows
from xraygen.films.quarantine import set_aside

Cli = Callable[..., Result]
HOW = ("--sampler", "ddim", "--steps", 2, "--guidance", 1.5, "--device", "cpu")


def test_a_film_in_quarantine_is_replaced_and_never_made_again(
    conditional_run: Path, tmp_path: Path, xraygen_cli: Cli
) -> None:
    out = tmp_path / "out"
    command = ("generate", conditional_run, "--out", out, *HOW)
    first = (*command, "--seeds", "0-2", "--condition", "sex=F")
    assert xraygen_cli(*first).exit_code == 0
    suspect = read_rows(out / METADATA)[1]
    set_aside(out, {suspect["file_name"]: {"suspect_in": "pixels"}})

    again = xraygen_cli(*first)
    assert again.exit_code == 0, again.stderr
    assert "1 that were asked for are in quarantine" in again.stderr
    assert [row["seed"] for row in read_rows(out / METADATA)] == ["0", "2"]

    refilled = xraygen_cli(*command, "--plan", out / "quarantine" / "refill.csv")
    assert refilled.exit_code == 0, refilled.stderr
    rows = read_rows(out / METADATA)
    assert [(row["seed"], row["sex"], row["guidance"]) for row in rows] == [
        (seed, "F", "1.5") for seed in ("0", "2", "3")
    ]
    assert Path(rows[2]["file_name"]).parent == Path(suspect["file_name"]).parent


def test_a_film_that_a_killed_quarantine_left_is_moved_before_others_are_made(
    tiny_run: Path, tmp_path: Path, xraygen_cli: Cli
) -> None:
    out = tmp_path / "out"
    command = ("generate", tiny_run, "--out", out, "--seeds", "0-1", "--steps", 2, "--device", "cpu")
    assert xraygen_cli(*command).exit_code == 0
    set_aside(out, {"images/1.png": {"suspect_in": "pixels"}})
    (out / "quarantine" / "images" / "1.png").rename(out / "images" / "1.png")  # as if killed before the move
    assert xraygen_cli(*command).exit_code == 0
    assert [path.name for path in (out / "images").iterdir()] == ["0.png"]
    assert (out / "quarantine" / "images" / "1.png").exists()
