"""`xraygen plan` writes over nobody's file, and names what was typed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Cli = Callable[..., Result]


def test_a_file_that_holds_something_else_is_left_alone(
    xraygen_cli: Cli, labelled_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plan.csv"
    command = ("plan", labelled_dataset, "--balance", "sex", "--out", out)
    assert "holds this plan" not in xraygen_cli(*command, "--dry-run").stderr
    assert not out.exists()
    assert xraygen_cli(*command).exit_code == 0
    proposed = out.read_bytes()
    for again in (command, (*command, "--dry-run")):
        result = xraygen_cli(*again)
        assert result.exit_code == 0
        assert "plan.csv holds this plan already." in " ".join(result.stderr.split())
        assert out.read_bytes() == proposed
    changed = proposed + b"99,M\n"
    out.write_bytes(changed)
    for refused in (command, (*command, "--dry-run", "--json")):
        result = xraygen_cli(*refused)
        assert result.exit_code == 1
        assert "plan.csv exists already and holds something else than this plan; choose" in " ".join(
            result.stderr.split()
        )
        assert result.stdout == ""
        assert out.read_bytes() == changed


def test_a_dry_run_refuses_a_folder_too(xraygen_cli: Cli, labelled_dataset: Path, tmp_path: Path) -> None:
    result = xraygen_cli("plan", labelled_dataset, "--balance", "sex", "--out", tmp_path, "--dry-run")
    assert result.exit_code == 1
    assert "is a folder; expected the name of a file" in " ".join(result.stderr.split())


@pytest.mark.parametrize("column", ["findng", "patient"])
def test_a_column_that_is_none_is_named_as_it_was_typed(
    xraygen_cli: Cli, labelled_dataset: Path, column: str
) -> None:
    result = xraygen_cli("plan", labelled_dataset, "--balance", column)
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert f"xraygen: --balance {column} is no column that a network may be told" in said
    assert "conditions.columns" not in said
