import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from xraygen.atomic import sha256_of
from xraygen.dataset.store import open_dataset
from xraygen.films.listing import METADATA, as_csv, read_rows
from xraygen.films.writers import write_png
from xraygen.ranges import stored_to_unit, unit_to_stored

Cli = Callable[..., Result]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("XRAYGEN_CACHE", str(tmp_path_factory.getbasetemp() / "feature-cache"))


@pytest.fixture(scope="module")
def synthetic(xraygen_cli: Cli, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of the tiny network, as `xraygen generate` writes them."""
    out = tmp_path_factory.mktemp("made") / "synthetic"
    result = xraygen_cli("generate", tiny_run, "--out", out, "--seeds", "0-7", "--steps", 2)
    assert result.exit_code == 0, result.stderr
    return out


@pytest.fixture
def command(tiny_dataset: Path, synthetic: Path, tmp_path: Path) -> tuple[object, ...]:
    """The shortest audit there is."""
    folders = ("--real", tiny_dataset, "--synthetic", synthetic, "--out", tmp_path / "report")
    return ("audit", *folders, "--features", "pixels", "--device", "cpu")


def test_audit_of_what_generate_wrote_makes_a_report(
    xraygen_cli: Cli, command: tuple[object, ...], tmp_path: Path
) -> None:
    result = xraygen_cli(*command)
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in (tmp_path / "report").iterdir() if path.name[0] != "."} == {
        "report.html",
        "report-confidential.html",
        "report-confidential.json",
        "report.json",
        "figures",
    }
    assert "pixels against 8 real test films, N = 8 (95 % intervals)" in result.stderr
    assert "FD-pixels-32 (lower is better)" in result.stderr
    assert result.stderr.rstrip().endswith(str(tmp_path / "report" / "report.html"))
    assert result.stdout == ""


def test_json_on_stdout_is_report_json(xraygen_cli: Cli, command: tuple[object, ...], tmp_path: Path) -> None:
    result = xraygen_cli(*command, "--json")
    assert json.loads(result.stdout) == json.loads((tmp_path / "report" / "report.json").read_text())


@pytest.mark.parametrize(("check", "exit_code"), [("fd>0", 1), ("fd<0", 0)])
def test_a_check_that_holds_ends_with_1_and_a_report(
    xraygen_cli: Cli, command: tuple[object, ...], tmp_path: Path, check: str, exit_code: int
) -> None:
    result = xraygen_cli(*command, "--fail-on", check)
    assert result.exit_code == exit_code, result.stderr
    assert ("FAILED" in result.stderr) == (exit_code == 1)
    assert (tmp_path / "report" / "report.json").exists()


def test_a_column_to_hold_all_films_against_must_be_there(
    xraygen_cli: Cli, command: tuple[object, ...]
) -> None:
    result = xraygen_cli(*command, "--against-each", "site", "--dry-run")
    assert result.exit_code == 2
    assert "--against-each site: no column of words" in " ".join(result.stderr.split())


def test_dry_run_says_n_and_writes_nothing(
    xraygen_cli: Cli, command: tuple[object, ...], tmp_path: Path
) -> None:
    result = xraygen_cli(*command, "--count", 8, "--dry-run")
    assert result.exit_code == 0
    assert "Would compare 8 films per set" in result.stderr
    assert not (tmp_path / "report").exists()


def test_quarantine_says_what_it_moved_and_how_the_set_becomes_whole(
    xraygen_cli: Cli, tiny_dataset: Path, synthetic: Path, tmp_path: Path
) -> None:
    made = shutil.copytree(synthetic, tmp_path / "made")
    train = open_dataset(tiny_dataset)
    film = train.images[int(train.indices("train")[0])]
    write_png(made / "images" / "3.png", unit_to_stored(stored_to_unit(film, train.info.bits), 16))
    rows = read_rows(made / METADATA)
    rows[3]["sha256"] = sha256_of(made / "images" / "3.png")
    (made / METADATA).write_text(as_csv(list(rows[0]), rows))
    folders = ("--real", tiny_dataset, "--synthetic", made, "--out", tmp_path / "report")
    result = xraygen_cli(
        "audit", *folders, "--features", "pixels", "--device", "cpu", "--quarantine", "--json"
    )
    assert result.exit_code == 0, result.stderr
    suspects = len(json.loads(result.stdout)["privacy"]["suspects"])
    assert suspects >= 1
    assert f"Moved {suspects} suspects into" in result.stderr
    assert str(made / "quarantine" / "refill.csv") in result.stderr
    assert (made / "quarantine" / "images" / "3.png").exists()
    assert len(read_rows(made / METADATA)) == 8 - suspects


@pytest.mark.parametrize(
    ("wrong", "exit_code", "words"),
    [
        (("--fail-on", "fid>3"), 2, "known: fd[/floor|blurred"),
        (("--features", "inceptoin"), 2, "efficientnet-lite0, pixels"),
        (("--features", "inception"), 2, "--weights inception=FILE, or --download"),
        (("--features", "xrv", "--weights", "nowhere.pt"), 2, "there is no such file"),
        (("--weights", "weights.pt"), 2, "none was chosen"),
        (("--features", "nowhere:features"), 2, "No module named 'nowhere'"),
        (("--fail-on", "cmmd>1"), 2, "CMMD needs CLIP's features"),
        (("--count", 9), 2, "expected 8 to 8"),
        (("--beside", "nowhere"), 1, "nowhere does not exist"),
        (("--device", "tpu9"), 2, "--device tpu9"),
        (("--utility", "finding"), 2, "expected two words or more, and all training films of"),
        (("--run", "nowhere"), 1, "There is no folder nowhere"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_no_report(
    xraygen_cli: Cli,
    command: tuple[object, ...],
    tmp_path: Path,
    wrong: tuple[object, ...],
    exit_code: int,
    words: str,
) -> None:
    result = xraygen_cli(*command, *wrong)
    assert result.exit_code == exit_code
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "report").exists()


def test_the_report_of_another_set_is_not_replaced(
    xraygen_cli: Cli, command: tuple[object, ...], tiny_dataset: Path, tmp_path: Path
) -> None:
    assert xraygen_cli(*command).exit_code == 0
    before = (tmp_path / "report" / "report.json").read_bytes()
    for dry in ((), ("--dry-run",)):
        result = xraygen_cli(*command, "--synthetic", tiny_dataset, *dry)
        assert result.exit_code == 1
        said = " ".join(result.stderr.split())
        assert f"{tmp_path / 'report'} is the report of another set (synthetic) than {tiny_dataset};" in said
        assert xraygen_cli(*command, "--seed", 1, "--count", 8, *dry).exit_code == 0
        (tmp_path / "report" / "report.json").write_bytes(before)
