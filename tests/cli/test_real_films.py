"""The commands of docs/results/real-films.md, run on a few films of each collection."""

import re
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result

from xraygen.dataset.store import Dataset, open_dataset

Ingest = Callable[[str], Dataset]
PAGE = Path(__file__).parents[2] / "docs" / "results" / "real-films.md"
COMMANDS = {
    words[words.index("--out") + 1]: words
    for words in map(shlex.split, re.findall(r"^    xraygen (.*)$", PAGE.read_text(), re.MULTILINE))
}
FEW = 24

pytestmark = pytest.mark.films


def part_of_kermany(archive: Path, part: Path) -> None:
    """An archive of the first films of each class."""
    wanted = {"NORMAL": FEW, "PNEUMONIA": FEW}
    part.parent.mkdir()
    with tarfile.open(archive, "r|xz") as members, tarfile.open(part, "w:xz", preset=0) as few:
        for member in members:
            kind = Path(member.name).parent.name
            if member.isfile() and wanted.get(kind, 0):
                few.addfile(member, members.extractfile(member))
                wanted[kind] -= 1
            if not any(wanted.values()):
                break


@pytest.fixture
def ingest(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, xraygen_cli: Callable[..., Result]
) -> Ingest:
    """Runs the command that writes a DATASET on the first films of each folder, at 32 px."""
    monkeypatch.chdir(tmp_path)

    def run(name: str) -> Dataset:
        words = COMMANDS[name]
        for source in [word for word in words if "-cxr/" in word and not word.endswith(".csv")]:
            Path(source).mkdir(parents=True)
            for path in sorted((films / source).iterdir())[:FEW]:
                (tmp_path / source / path.name).symlink_to(path)
        for path in [*films.glob("hannover-cxr/*.csv"), *films.glob("dicom-*")]:
            Path(path.parent.name if path.is_file() else ".").mkdir(exist_ok=True)
            (tmp_path / path.relative_to(films)).symlink_to(path)
        if name == "kermany":
            part_of_kermany(films / words[1], tmp_path / words[1])
        result = xraygen_cli(*words, "--size", 32, "--workers", 0)
        assert result.exit_code == 0, result.output
        return open_dataset(Path(name))

    return run


def test_the_page_has_one_command_for_each_collection() -> None:
    assert list(COMMANDS) == ["kermany", "hannover", "hannover-1024", "nih", "dicom", "dicom-any"]


def test_kermanys_classes_causes_and_children(ingest: Ingest) -> None:
    dataset = ingest("kermany")
    assert dataset.manifest["finding"].value_counts().to_dict() == {"NORMAL": FEW, "PNEUMONIA": FEW}
    assert set(dataset.manifest.loc[dataset.manifest["finding"] == "PNEUMONIA", "cause"]) <= {
        "bacteria",
        "virus",
    }
    assert (dataset.manifest.loc[dataset.manifest["finding"] == "NORMAL", "cause"] == "").all()
    assert dataset.manifest["patient"].nunique() < len(dataset) == 2 * FEW
    assert dataset.info.flags == {}


def test_hannovers_sex_and_projection_come_from_its_csv(films: Path, ingest: Ingest) -> None:
    dataset = ingest("hannover")
    table = pd.read_csv(films / "hannover-cxr/gray640_data.csv", dtype=str, keep_default_na=False)
    names = sorted(path.stem for path in (films / "hannover-cxr/gray640").iterdir())[:FEW]
    rows = table.set_index("image_id").loc[names]
    assert len(dataset) == FEW
    for ours, theirs in (("sex", "sex"), ("view", "projection")):
        assert sorted(dataset.manifest[ours]) == sorted(rows[theirs].str.upper())
    assert sorted(dataset.manifest["crp_val"]) == sorted(rows["crp_val"])
    assert dataset.manifest["age"].isna().all()  # the CSV has the column, and says none
    assert dataset.manifest["patient"].nunique() == rows["patient_id"].nunique()
    assert dataset.info.flags == {}


def test_a_film_in_two_sizes_is_taken_once(ingest: Ingest) -> None:
    dataset = ingest("hannover-1024")
    assert set(dataset.manifest["finding"]) <= {"COVID-19", "No Finding"}
    assert set(dataset.manifest["view"]) <= {"AP", "AP SUPINE", "PA"}
    assert set(dataset.manifest["sex"]) <= {"M", "F"}
    rejected = pd.read_csv(dataset.folder / "rejected.csv")
    assert set(rejected["reason"]) <= {"near_duplicate"}
    assert len(dataset) + len(rejected) == FEW + 4


def test_pictures_without_a_table_have_neither_sex_nor_age_nor_view(ingest: Ingest) -> None:
    dataset = ingest("nih")
    assert (len(dataset), dataset.info.flags) == (9, {})
    assert (dataset.manifest[["sex", "view"]] == "").to_numpy().all()
    assert dataset.manifest["age"].isna().all()


def test_dicoms_say_sex_age_and_view_themselves(ingest: Ingest) -> None:
    dataset = ingest("dicom")
    assert dataset.info.counts == {"seen": 10, "accepted": 6, "rejected": 4}
    assert dataset.info.flags == {"no_orientation": 5}
    assert sorted(dataset.manifest["age"].dropna()) == [62, 81]  # neither has a unit
    assert sorted(dataset.manifest["view"]) == ["", "", "", "PA", "PA", "PA"]
    assert sorted(dataset.manifest["sex"]) == ["", "", "M", "M", "M", "O"]
    assert set(pd.read_csv(dataset.folder / "rejected.csv")["reason"]) == {"body_part"}


def test_one_film_in_four_encodings_is_one_film(ingest: Ingest) -> None:
    dataset = ingest("dicom-any")
    assert dataset.info.counts == {"seen": 10, "accepted": 7, "rejected": 3}
    assert list(pd.read_csv(dataset.folder / "rejected.csv")["reason"]) == ["duplicate"] * 3
