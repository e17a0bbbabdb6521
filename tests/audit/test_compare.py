import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from numpy.typing import NDArray

from xraygen.audit.audit import audit
from xraygen.audit.compare import as_markdown, compare_reports
from xraygen.audit.measures import MANIFOLD
from xraygen.audit.settings import AuditSettings
from xraygen.errors import FolderError, UsageError

Textures = Callable[..., NDArray[np.uint16]]
Make = Callable[..., Path]
Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def reports(
    tmp_path_factory: pytest.TempPathFactory, real: Path, textures: Textures, make_synthetic: Make
) -> list[Path]:
    """Two REPORTs of sets of one name against one DATASET, the second of darker films that were told their view."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XRAYGEN_CACHE", str(tmp_path_factory.getbasetemp() / "feature-cache"))
        for name, images in (("a", textures(16, seed=5)), ("b", textures(16, seed=6) // 2)):
            synthetic = make_synthetic(folder / name / "<b>set|1", images)
            if name == "b":
                metadata = pd.read_csv(synthetic / "metadata.csv", dtype=str, keep_default_na=False)
                metadata.assign(view="PA").to_csv(synthetic / "metadata.csv", index=False)
            settings = AuditSettings(features=("pixels",), pairs=30, device="cpu", fail_on=("fd/floor>3",))
            audit(real, synthetic, folder / f"report-{name}", settings)
    return [folder / "report-a", folder / "report-b"]


def rewritten(report: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A REPORT's report.json with a change."""
    content = json.loads((report / "report.json").read_text())
    change(content)
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(content))
    return folder


def test_every_cell_is_the_number_of_its_report(reports: list[Path]) -> None:
    comparison = compare_reports(reports)
    rows = {row["measure"]: row["cells"] for row in comparison["rows"]}
    for place, report in enumerate(reports):
        told = json.loads((report / "report.json").read_text())
        fd = told["features"]["pixels"]["fd"]
        assert rows["FD-pixels-32"][place]["value"] == fd["value"]
        assert rows["FD-pixels-32"][place]["floor"] == fd["sets"]["real"]["value"]
        assert rows["grey distance"][place]["high"] == told["intensity"]["high"]
        assert rows["MS-SSIM of pairs"][place]["value"] == told["ms_ssim"]["value"]
        assert rows["suspects"][place]["value"] == told["privacy"]["gate"]["suspects"]
        assert rows["checks passed"][place]["text"] == f"{int(told['verdicts'][0]['passed'])} (of 1)"
    assert rows["KID-pixels-32, view = PA"][0] is None  # the first set was told nothing
    assert rows["KID-pixels-32, view = PA"][1]["value"] is not None


def in_another_space(told: dict[str, Any]) -> None:
    """The report has a second feature space, in which some numbers are others."""
    named = json.dumps(told["features"]["pixels"]).replace("pixels-32", "Other")
    told["features"]["other"] = json.loads(named)
    for name in MANIFOLD:
        told["features"]["other"][name]["value"] = 0.125


def test_what_is_measured_in_two_feature_spaces_has_a_row_for_each(
    reports: list[Path], tmp_path: Path
) -> None:
    both = rewritten(reports[1], tmp_path / "both", in_another_space)
    comparison = compare_reports([reports[0], both])
    rows = {row["measure"]: row["cells"] for row in comparison["rows"]}
    assert len(rows) == len(comparison["rows"])
    told = json.loads((both / "report.json").read_text())["features"]
    for name in MANIFOLD:
        assert rows[f"{name} in pixels-32"][1]["value"] == told["pixels"][name]["value"]
        assert rows[f"{name} in Other"][1]["value"] == 0.125
        assert rows[f"{name} in Other"][0] is None


def test_reports_of_one_name_are_told_apart(reports: list[Path]) -> None:
    names = [report["name"] for report in compare_reports([*reports, reports[0]])["reports"]]
    assert names == ["<b>set|1 (report-a)", "<b>set|1 (report-b)", "<b>set|1 (report-a) #3"]


def test_the_markdown_has_as_many_cells_in_every_row(reports: list[Path]) -> None:
    comparison = compare_reports(reports)
    table = [line for line in as_markdown(comparison).splitlines() if line.startswith("|")]
    assert len(table) == len(comparison["rows"]) + 2
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {4}
    assert "&lt;b>set\\|1" in table[0]


def test_reports_of_one_kind_may_be_compared(reports: list[Path]) -> None:
    (note,) = compare_reports(reports)["notes"]
    assert note.endswith("do not show that one set is better.")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told["real"].update(content_sha256="other"), "against different DATASETs"),
        (lambda told: told["settings"].update(count=12), "N differs (12, 16)"),
        (lambda told: told["settings"].update(seed=3), "The seeds differ"),
        (lambda told: told["features"]["pixels"]["extractor"].update(size=7), "pixels is another extractor"),
    ],
)
def test_what_forbids_a_comparison_is_said(
    reports: list[Path], tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    other = rewritten(reports[1], tmp_path / "other", change)
    notes = compare_reports([reports[0], other])["notes"]
    assert any(words in note for note in notes)


@pytest.mark.parametrize(
    ("measured", "free"),
    [
        (False, "FD-…, N = ∞ and KID-… may be compared"),
        (True, "FD-…, N = ∞ and KID-… and CMMD-… may be compared"),
    ],
)
def test_what_does_not_depend_on_n_may_be_compared_at_any(
    reports: list[Path], tmp_path: Path, measured: bool, free: str
) -> None:
    def change(told: dict[str, Any]) -> None:
        told["settings"]["count"] = 12
        if measured:
            told["features"]["clip"] = {"cmmd": told["features"]["pixels"]["kid"], "extractor": {}}

    notes = compare_reports([reports[0], rewritten(reports[1], tmp_path / "other", change)])["notes"]
    assert sum(f"of the distances only {free}" in note for note in notes) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told.update(format_version=1), "is of format 1, and format 3 is compared; audit again"),
        (lambda told: told.pop("privacy"), "is no REPORT with a readable report.json"),
        (lambda told: told.update(features=[1]), "is no REPORT with a readable report.json"),
    ],
)
def test_another_report_is_refused(
    reports: list[Path], tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str
) -> None:
    other = rewritten(reports[1], tmp_path / "other", change)
    with pytest.raises(FolderError, match=words):
        compare_reports([reports[0], other])


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_command_prints_markdown_and_writes_one_page(
    reports: list[Path], tmp_path: Path, xraygen_cli: Cli
) -> None:
    out = tmp_path / "comparison"
    result = xraygen_cli("audit", "--compare", *reports, "--out", out)
    assert result.exit_code == 0, result.stderr
    comparison = compare_reports(reports)
    assert result.stdout == as_markdown(comparison) + "\n"
    assert json.loads((out / "comparison.json").read_text()) == json.loads(json.dumps(comparison))
    source = (out / "comparison.html").read_text()
    page = Page()
    page.feed(source)
    assert not {"b", "img", "script", "link"} & set(page.tags)
    assert "<b>set|1 (report-a)" in page.text
    assert page.tags.count("tr") == len(comparison["rows"]) + 1
    assert "real-00" not in source + result.stdout  # no training film's name


def test_json_on_stdout_takes_the_place_of_markdown(reports: list[Path], xraygen_cli: Cli) -> None:
    result = xraygen_cli("audit", "--compare", *reports, "--json")
    assert json.loads(result.stdout) == json.loads(json.dumps(compare_reports(reports)))


def test_a_dry_run_names_the_reports(reports: list[Path], xraygen_cli: Cli) -> None:
    result = xraygen_cli("audit", "--compare", *reports, "--dry-run", "--json")
    assert json.loads(result.stdout) == {"reports": [str(report) for report in reports]}


def test_one_report_is_nothing_to_compare(reports: list[Path]) -> None:
    with pytest.raises(UsageError, match="two or more REPORT folders; given: 1"):
        compare_reports(reports[:1])


@pytest.mark.parametrize(
    ("words", "exit_code", "sentence"),
    [
        (("--compare", "nowhere", "nowhere"), 1, "nowhere is no REPORT"),
        (("--compare", "a", "b", "--real", "c"), 2, "and --dry-run alone; leave out --real."),
        (("--compare", "a", "b", "--fail-on", "fd>0"), 2, "leave out --fail-on."),
        (("--compare", "a", "b", "--seed", "0", "--quarantine"), 2, "leave out --quarantine and --seed."),
        (("a", "b"), 2, "put side by side by --compare"),
        (("--real", "a"), 2, "needs --real DATASET, --synthetic SYNTHETIC and --out REPORT"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    xraygen_cli: Cli, words: tuple[str, ...], exit_code: int, sentence: str
) -> None:
    result = xraygen_cli("audit", *words)
    assert result.exit_code == exit_code
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr


def test_a_report_is_not_written_over(reports: list[Path], xraygen_cli: Cli) -> None:
    result = xraygen_cli("audit", "--compare", *reports, "--out", reports[0])
    assert result.exit_code == 1
    assert "is no part of a comparison" in result.stderr
