"""CSVs whose rows do not fit their header."""

from pathlib import Path

import pytest

from xraygen.dataset.labels import read_labels
from xraygen.errors import UsageError


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("path,age,finding\n0.png,63,5,sick\n1.png,64,5,well\n", 2, "4 fields, and the header 3; .* a comma"),
        ("path,age,finding\n0.png,63,sick\n\n1.png,64,5,well\n", 4, "4 fields, and the header 3"),
        ("path;finding\n0.png;a; b\n", 2, "3 fields, and the header 2; .* a semicolon"),
        ("path,finding\n0.png,x,,,?\n", 2, "5 fields, and the header 2"),
    ],
)
def test_a_row_of_more_values_than_the_header_has_columns_is_refused(
    tmp_path: Path, text: str, line: int, what: str
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=rf"labels.csv: line {line} has {what}") as caught:
        read_labels(tmp_path / "labels.csv")
    assert "png" not in str(caught.value)


@pytest.mark.parametrize(
    "rows",
    ["0.png,x,\n1.png,y,\n", "0.png,x,,\n1.png,y,,\n", "0.png,x\n1.png,y, ,,\n", "0.png,x,,\n\n1.png,y\n"],
)
def test_fields_beyond_the_header_may_be_empty(tmp_path: Path, rows: str) -> None:
    (tmp_path / "labels.csv").write_text(f"path,finding\n{rows}")
    assert [row.labels for row in read_labels(tmp_path / "labels.csv").rows] == [
        {"finding": "x"},
        {"finding": "y"},
    ]


def test_a_column_may_be_called_anything(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("\npath;self;file;, ;self\n0.png; a ;;b;c\n")
    table = read_labels(tmp_path / "labels.csv")
    assert table.rows[0].labels == {"self": "a", ", ": "b", "self.1": "c"}
