"""Writes the measured column of concepts/numerics.md anew: MEASURED holds a line `row error` per comparison."""

import sys
from pathlib import Path

TABLE = Path(__file__).parent / "concepts" / "numerics.md"


def main(measured: Path) -> None:
    """The largest error of each row, into its table."""
    largest: dict[str, float] = {}
    for line in measured.read_text(encoding="utf-8").splitlines():
        row, error = line.split()
        largest[row] = max(largest.get(row, 0.0), float(error))
    lines = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = line.split("|")
        if len(cells) == 8 and (row := cells[1].strip().strip("`")) in largest:
            cells[4] = f" {largest[row]:.1e} "
        lines.append("|".join(cells))
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
