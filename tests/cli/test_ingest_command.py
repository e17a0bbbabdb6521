"""`xraygen ingest`: the wiring."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage, generate_uid

from xraygen.dataset.store import open_dataset
from xraygen.errors import XraygenError
from xraygen.films.phantom import phantom_film
from xraygen.progress import Progress, Report

Cli = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six films of two kinds, a copy, and a text."""
    generator = np.random.default_rng(0)
    for kind in ("sick", "well"):
        for number in range(3):
            path = tmp_path / "films" / kind / f"{kind}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 2**16, (20, 30), dtype=np.uint16)).save(path)
    copy = (tmp_path / "films/sick/sick-0.png").read_bytes()
    (tmp_path / "films/well/copy.png").write_bytes(copy)
    (tmp_path / "films/notes.txt").write_text("no film")
    return tmp_path / "films"


def write_index(folder: Path, identifiers: list[list[str]]) -> None:
    """A DICOMDIR that refers to these files."""
    index = Dataset()
    index.file_meta = FileMetaDataset()
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index.DirectoryRecordSequence = [Dataset() for _ in identifiers]
    for record, identifier in zip(index.DirectoryRecordSequence, identifiers, strict=True):
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", identifier
    index.save_as(folder / "DICOMDIR", enforce_file_format=True)


def test_ingest_makes_a_dataset_and_says_what_became_of_the_files(
    xraygen_cli: Cli, folder: Path, tmp_path: Path
) -> None:
    options = (
        "--size",
        "16x24",
        "--fit",
        "crop",
        "--bits",
        12,
        "--layout",
        "folders",
        "--split",
        "0.5,0,0.5",
        "--key",
        tmp_path / "fixed.key",
    )
    (tmp_path / "fixed.key").write_bytes(bytes([2]) * 32)  # the key decides who comes into which split
    (tmp_path / "fixed.key").chmod(0o600)
    result = xraygen_cli("ingest", folder, "--out", tmp_path / "dataset", *options, "--workers", 0, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["seen"], summary["accepted"]) == (8, 6)
    assert summary["rejected"] == {"duplicate": 1, "not_an_image": 1}
    images = summary["images"]
    assert images == summary["patients"]
    assert images["validation"] == 0
    assert images["train"] + images["test"] == 6
    assert re.search(r"^ingest 8/8  rejected 2  files/s [\d.e+]+  0 s left$", result.stderr, re.MULTILINE)
    assert "8 files seen, 6 accepted" in result.stderr
    assert "1 rejected: duplicate" in result.stderr
    assert f"train: {images['train']} images of {images['train']} patients" in result.stderr
    assert f"with {images['test']} it will be undecided" in result.stderr
    dataset = open_dataset(tmp_path / "dataset")
    assert (dataset.info.size, dataset.info.bits, dataset.info.label_names) == ((16, 24), 12, ("finding",))
    assert list(dataset.manifest["finding"]) == ["sick"] * 3 + ["well"] * 3


def test_files_are_counted_whole_and_their_speed_in_four_digits(
    xraygen_cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ingest(_: object, out: object, settings: object, report: Report, executor: object) -> None:
        report(Progress("ingest", 250_000, 1_000_000, {"rejected": 12_345, "files/s": 123.456}))
        raise XraygenError("enough")

    monkeypatch.setattr("xraygen.dataset.ingest.ingest", ingest)
    result = xraygen_cli("ingest", folder, "--out", tmp_path / "dataset")
    assert result.stderr.splitlines()[0] == "ingest 250000/1000000  rejected 12,345  files/s 123.5"


def test_labels_and_key_reach_the_library(
    xraygen_cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xraygen.metrics.tail.LEAST_FILMS", 0)
    (tmp_path / "labels.csv").write_text("file,a,b\nsick-0,1,2\nwell-1,3,4\n")
    labels = ("--labels", tmp_path / "labels.csv", "--label-columns", "b", "--key", tmp_path / "my.key")
    common = ("--size", 8, "--workers", 0)
    result = xraygen_cli("ingest", folder, "--out", tmp_path / "dataset", *labels, *common)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "undecided" not in result.stderr, "no film is wanted"
    assert (tmp_path / "my.key").stat().st_size == 32
    dataset = open_dataset(tmp_path / "dataset")
    assert sorted(dataset.manifest["b"]) == ["", "", "", "", "2", "4"]


def test_preset_and_split_column_reach_the_library_and_decisions_are_said(
    xraygen_cli: Cli, folder: Path, tmp_path: Path
) -> None:
    rows = "sick-0.png,No Finding,1,test\nwell-1.png,Mass|Nodule,2,train\n"
    (tmp_path / "labels.csv").write_text(f"Image Index,Finding Labels,Patient ID,fold\n{rows}")
    options = ("--labels", tmp_path / "labels.csv", "--split-column", "fold", "--size", 8, "--workers", 0)
    result = xraygen_cli("ingest", folder, "--out", tmp_path / "dataset", *options, "--json")
    assert result.exit_code == 0, result.output
    assert "note: the labels were read in the convention nih" in result.stderr
    assert "note: the split column is silent on 4 patients" in result.stderr
    manifest = open_dataset(tmp_path / "dataset").manifest.set_index("Mass")
    assert (manifest.loc["0", "split"], manifest.loc["1", "split"]) == ("test", "train")
    assert len(json.loads(result.stdout)["notes"]) == 2


def test_thresholds_and_the_list_reach_the_library(xraygen_cli: Cli, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("sick-1.png\n")
    curation = ("--curate", "min_contrast=0.01", "--crop-collimation", "--exclude", tmp_path / "list.txt")
    common = ("--size", 16, "--workers", 0, "--also-search", tmp_path / "old")
    (tmp_path / "old").mkdir()
    result = xraygen_cli("ingest", folder, "--out", tmp_path / "dataset", *curation, *common, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["rejected"]["excluded"] == 1
    assert summary["made_with_excluded"] == []
    settings = open_dataset(tmp_path / "dataset").info.settings
    assert settings["curation"]["min_contrast"] == 0.01
    assert (settings["crop_collimation"], settings["refuse_text"], settings["exclude"]) == (True, False, True)


def test_a_dry_run_touches_nothing(xraygen_cli: Cli, folder: Path, tmp_path: Path) -> None:
    result = xraygen_cli("ingest", folder, "--out", tmp_path / "dataset", "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["files"] == 8
    assert "Would read 8 files" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["films"]


def test_a_dry_run_reads_the_labels_and_checks_the_names(
    xraygen_cli: Cli, folder: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    common = ("ingest", folder, "--out", tmp_path / "dataset", "--labels", table, "--dry-run", "--json")
    table.write_text("Dateiname;Nachname;Befund\nsick-0;Quarkovic;x\nwell-1;Zebedia;y\n")
    result = xraygen_cli(*common)
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert (plan["label_rows"], plan["label_names"], plan["left_out"]) == (2, ["Befund"], ["Nachname"])
    assert "2 rows of labels: Befund" in result.stderr
    assert "left out, for they may name a patient: Nachname" in result.stderr
    table.write_text("Dateiname;Befund\nnobody;x\n")
    result = xraygen_cli(*common)
    assert result.exit_code == 2
    assert "no row speaks of any of the films" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["films", "labels.csv"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("nowhere",), 2, "does not exist"),
        (("films", "--size", "big"), 2, "--size big"),
        (("films", "--split", "0.9,0.9,0"), 2, "add up to 1"),
        (("films", "--label-columns", "a"), 2, "--labels"),
        (("films", "--split-column", "a"), 2, "--labels"),
        (("films", "--label-preset", "nih"), 2, "--labels"),
        (("films", "--labels", "films/notes.txt"), 2, "no column to match films by"),
        (("films", "--key", "dataset/key"), 2, "inside the DATASET"),
        (("films", "--curate", "contrast=1"), 2, "--curate contrast=1"),
        (("films", "--views", "thorax"), 2, "--views thorax"),
        (("films", "--exclude", "nowhere.txt"), 2, "--exclude nowhere.txt"),
        (("films", "--also-search", "films"), 2, "--also-search"),
        (("films/notes.txt",), 1, "none of the 1 files could be used; the commonest reason is not_an_image"),
    ],
)
def test_what_a_user_can_cause_is_one_sentence(
    xraygen_cli: Cli,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(folder.parent)
    result = xraygen_cli("ingest", *arguments, "--out", "dataset", "--workers", 0)
    assert result.exit_code == code, result.output
    assert sentence in result.stderr
    assert len([line for line in result.stderr.splitlines() if not line.startswith("ingest")]) == 1
    assert not Path("dataset").exists()


@pytest.mark.parametrize("closed", ["scandir", "is_file", "iterdir"])
def test_a_closed_folder_is_not_named_for_its_name_may_be_a_patients(
    xraygen_cli: Cli, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """`is_file` fails in a folder that can be listed and not entered, and `iterdir` below a DICOMDIR."""
    ward = folder / "Mustermann_Erika"
    write_index(folder, [["MUSTERMANN_ERIKA", "IM1"]])
    (ward / "deep").mkdir(parents=True)
    where: object = os if closed == "scandir" else Path
    before = getattr(where, closed)

    def refuse(path: str | Path, *arguments: object) -> object:
        if str(path).startswith(str(ward)) or (closed == "iterdir" and Path(path) == folder):
            raise PermissionError(errno.EACCES, "Permission denied", str(ward / "deep"))
        return before(path, *arguments)

    (ward / "film.png").touch()
    monkeypatch.setattr(where, closed, refuse)
    result = xraygen_cli("ingest", folder, "--out", tmp_path / "dataset", "--workers", 0)
    assert result.exit_code == 2, result.output
    assert f"xraygen: {folder} holds a folder that cannot be listed" in result.stderr
    assert f"find {folder} -type d" in result.stderr
    assert "Mustermann" not in result.stderr


REFUSED = {
    "--exclude nowhere.txt": "--exclude nowhere.txt cannot be read",
    "--exclude films/notes.txt --also-search nowhere": "--also-search nowhere is no folder",
    "--key bad.key": "bad.key is not a key of xraygen",
    "--key fixed.key": "fixed.key.crosswalk.csv is not a crosswalk",
    "--key good.key --out films": "films exists and is no DATASET",
    "--out films": "films exists and its key films.key does not",
    "--key films/key --out films": "inside the DATASET",
}


@pytest.mark.parametrize("options", REFUSED)
@pytest.mark.parametrize(
    "source",
    ["films", "--pacs 127.0.0.1:9 --aet A --find PatientID=1", "--dicomweb http://localhost:9 --find A=1"],
)
def test_a_dry_run_and_an_archive_refuse_at_once_what_the_run_refuses(
    xraygen_cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, options: str
) -> None:
    """Nobody listens at port 9: what is refused here is refused before anything is fetched."""
    monkeypatch.chdir(folder.parent)
    for name in ("good.key", "fixed.key"):
        Path(name).write_bytes(bytes(32))
        Path(name).chmod(0o600)
    Path("bad.key").write_text("no key")
    Path("fixed.key.crosswalk.csv").write_text("a,b\n")
    before = sorted(Path().rglob("*"))
    words = ("ingest", *source.split(), "--out", "dataset", "--workers", 0, *options.split())
    run, dry = xraygen_cli(*words), xraygen_cli(*words, "--dry-run")
    assert (run.exit_code, dry.exit_code) == (2, 2), run.output
    assert run.stderr == dry.stderr
    assert REFUSED[options] in run.stderr
    assert sorted(Path().rglob("*")) == before


def test_labels_are_read_before_films_are_fetched(
    xraygen_cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    archive = ("--pacs", "127.0.0.1:9", "--aet", "A", "--find", "PatientID=1", "--labels", "films/notes.txt")
    result = xraygen_cli("ingest", *archive, "--out", "dataset")
    assert result.exit_code == 2
    assert "no column to match films by" in result.stderr


def test_help_shows_how_to_call_it(xraygen_cli: Cli) -> None:
    result = xraygen_cli("ingest", "--help")
    assert result.exit_code == 0
    assert "xraygen ingest films --out dataset" in " ".join(result.stdout.split())


def test_what_is_read_by_choice_reaches_the_library(xraygen_cli: Cli, folder: Path, tmp_path: Path) -> None:
    choices = ("--for-processing", "--any-body-part", "--burned-in", "--frames", "first")
    result = xraygen_cli("ingest", folder, "--out", tmp_path / "dataset", *choices, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    read = json.loads(result.stdout)["settings"]["read"]
    assert read == {"for_processing": True, "any_body_part": True, "burned_in": True, "frames": "first"}


def test_views_reach_the_library_and_are_said_by_number(
    xraygen_cli: Cli, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text("file,view\nsick-0,PA\nsick-1,PA\nwell-1,LL\nwell-2,AP\n")
    common = ("--labels", tmp_path / "labels.csv", "--size", 16, "--workers", 0, "--json")
    result = xraygen_cli("ingest", folder, "--out", tmp_path / "all", *common)
    assert "views: PA 2, not known 2, LL 1, AP 1" in result.stderr
    result = xraygen_cli("ingest", folder, "--out", tmp_path / "frontal", "--views", "PA,AP", *common)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["views"] == {"PA": 2, "AP": 1}
    assert "views: PA 2, AP 1" in result.stderr
    assert "rejected: view" in result.stderr


def test_flags_are_said_by_number(xraygen_cli: Cli, tmp_path: Path) -> None:
    negative = 4095 - phantom_film(0, 0, 0, 64).pixels
    (tmp_path / "films").mkdir()
    Image.fromarray(negative.astype(np.uint16) << 4).save(tmp_path / "films/negative.png")
    common = ("--size", 16, "--workers", 0, "--json")
    result = xraygen_cli("ingest", tmp_path / "films", "--out", tmp_path / "dataset", *common)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["flags"] == {"polarity_doubtful": 1}
    assert "1 flagged: polarity_doubtful" in result.stderr
