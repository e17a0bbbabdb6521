import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

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


def test_dry_run_says_n_and_writes_nothing(
    xraygen_cli: Cli, command: tuple[object, ...], tmp_path: Path
) -> None:
    result = xraygen_cli(*command, "--count", 8, "--dry-run")
    assert result.exit_code == 0
    assert "Would compare 8 films per set" in result.stderr
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("wrong", "exit_code", "words"),
    [
        (("--fail-on", "fid>3"), 2, "known: fd[/floor|blurred"),
        (("--features", "inception"), 2, "efficientnet-lite0, pixels"),
        (("--count", 9), 2, "expected 8 to 8"),
        (("--beside", "nowhere"), 1, "nowhere does not exist"),
        (("--device", "tpu9"), 2, "--device tpu9"),
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
