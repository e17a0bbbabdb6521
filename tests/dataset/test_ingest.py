"""Films become a DATASET: everything accounted for, and nobody named."""

import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xraygen.dataset.ingest import files_to_read, ingest
from xraygen.dataset.ingest_settings import IngestSettings, parse_size
from xraygen.dataset.manifest import read_rejected
from xraygen.dataset.store import Dataset, open_dataset
from xraygen.errors import UsageError, XraygenError
from xraygen.films.transforms import PrepareSettings, prepare_film
from xraygen.progress import Progress

SPLITS_OF_THREE = "0.5,0.25,0.25"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def crosswalk_of(settings: IngestSettings) -> pd.DataFrame:
    assert settings.key is not None
    return pd.read_csv(f"{settings.key}.crosswalk.csv", dtype=str, keep_default_na=False)


def paths_in(dataset: Dataset, settings: IngestSettings) -> list[Path]:
    """Each row's file."""
    paths = crosswalk_of(settings).set_index("source")["path"]
    return [Path(paths[source]) for source in dataset.manifest["source"]]


def assert_no_patient_in_two_splits(dataset: Dataset, real_patients: list[str]) -> None:
    table = pd.DataFrame({"patient": real_patients, "split": dataset.manifest["split"]})
    assert table.groupby("patient")["split"].nunique().max() == 1
    pairs = pd.DataFrame({"real": real_patients, "pseudonym": dataset.manifest["patient"]}).drop_duplicates()
    assert pairs["real"].is_unique
    assert pairs["pseudonym"].is_unique


def test_every_file_is_accounted_for(hospital: Path, settings: IngestSettings, tmp_path: Path) -> None:
    summary = ingest([hospital], tmp_path / "dataset", settings)
    assert (summary.seen, summary.accepted) == (17, 12)
    rejected = read_rejected(tmp_path / "dataset/rejected.csv")
    reasons = rejected["reason"].value_counts().to_dict()
    assert reasons == summary.rejected
    assert reasons["duplicate"] == 1
    assert reasons["not_an_image"] >= 2  # the report and the archive
    assert sum(reasons.values()) == 5
    info = open_dataset(tmp_path / "dataset").info
    assert info.counts == {"seen": 17, "accepted": 12, "rejected": 5}
    sources = [*rejected["source"], *open_dataset(tmp_path / "dataset").manifest["source"]]
    assert sorted(sources) == sorted(crosswalk_of(settings)["source"])
    assert len(set(sources)) == 17


def test_each_row_is_the_film_that_the_crosswalk_names(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([hospital], tmp_path / "dataset", settings)
    dataset = open_dataset(tmp_path / "dataset")
    for image, path in zip(dataset.images, paths_in(dataset, settings), strict=True):
        np.testing.assert_array_equal(image, prepare_film(path, settings.prepare).image)


def test_patients_stay_together_and_unknown_ones_alone(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([hospital], tmp_path / "dataset", settings)
    dataset = open_dataset(tmp_path / "dataset")
    real = [path.parent.name if "ward" in path.parts else path.name for path in paths_in(dataset, settings)]
    real = ["PAT-0-4711" if name == "ward" else name for name in real]
    assert len(set(real)) == 6
    assert_no_patient_in_two_splits(dataset, real)


def test_images_of_one_study_stay_together_where_the_patient_is_unknown(
    settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    for number in range(4):
        write_dicom(tmp_path / f"in/{number}.dcm", number, "", f"1.2.{number // 2}")
    ingest([tmp_path / "in"], tmp_path / "dataset", settings)
    patients = open_dataset(tmp_path / "dataset").manifest["patient"]
    assert list(patients.duplicated()) == [False, True, False, True]


def test_a_duplicate_names_the_film_that_is_kept(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([hospital], tmp_path / "dataset", settings)
    rejected = read_rejected(tmp_path / "dataset/rejected.csv").set_index("reason")
    paths = crosswalk_of(settings).set_index("source")["path"]
    duplicate = rejected.loc["duplicate"]
    kept = duplicate["detail"].removeprefix("The same pixels as ").removesuffix(", which is kept.")
    assert {Path(paths[source]).name for source in (duplicate["source"], kept)} == {
        "copy-of-PAT-0.dcm",
        "film0.dcm",
    }
    assert kept in set(open_dataset(tmp_path / "dataset").manifest["source"])


def test_nothing_in_the_dataset_names_anybody(
    identifying: list[str], hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "file,patient_id,patient_name,accession,cold\n"
        "Jane_Doe.jpg,Karl-0815,Karl,0815,yes\nfilm0.dcm,Karl-0815,Karl,0815,no\n"
    )
    ingest([hospital], tmp_path / "dataset", replace(settings, labels=labels))
    text = b"".join(contents(tmp_path / "dataset").values())
    assert [word for word in identifying if word.encode() in text] == []
    assert "Karl" not in (tmp_path / "fixed.key.crosswalk.csv").read_text()


def test_a_folder_without_files_is_refused(settings: IngestSettings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(XraygenError, match="holds no file") as caught:
        ingest([tmp_path / "empty"], tmp_path / "dataset", settings)
    assert caught.value.exit_code == 1


def test_no_usable_film_is_refused_with_the_commonest_reason(
    settings: IngestSettings, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / f"in/{number}.txt").write_text("no film")
    (tmp_path / "in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    sentence = r"none of the 4 files could be used; the commonest reason is not_an_image \(3\)"
    with pytest.raises(XraygenError, match=sentence) as caught:
        ingest([tmp_path / "in"], tmp_path / "dataset", settings)
    assert caught.value.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fixed.key", "in"]


def test_a_missing_source_is_wrong_usage(settings: IngestSettings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        ingest([tmp_path / "nowhere"], tmp_path / "dataset", settings)


def test_a_folder_of_something_else_is_not_overwritten(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter").touch()
    with pytest.raises(UsageError, match="is no DATASET"):
        ingest([hospital], tmp_path / "thesis", settings)


def test_an_empty_folder_gives_way_to_the_dataset(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    (tmp_path / "dataset").mkdir()
    assert ingest([hospital], tmp_path / "dataset", settings).accepted == 12


def test_an_empty_folder_that_cannot_give_way_is_refused_before_a_film_is_read(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "dataset").symlink_to(tmp_path / "empty")  # as little to be removed as what is mounted

    def read(_: Progress) -> None:
        pytest.fail("a film was read")

    with pytest.raises(UsageError, match="cannot be replaced"):
        ingest([hospital], tmp_path / "dataset", settings, read)
    assert (tmp_path / "dataset").is_symlink()


@pytest.mark.parametrize("nameless", [".", "/", ""])
def test_an_output_or_key_without_a_name_is_wrong_usage(
    hospital: Path, settings: IngestSettings, nameless: str
) -> None:
    with pytest.raises(UsageError, match=r"^--out [./] has no name"):
        files_to_read([hospital], Path(nameless), settings)
    with pytest.raises(UsageError, match=r"^--key [./] has no name"):
        ingest([hospital], "dataset", replace(settings, key=Path(nameless)))


def test_the_output_may_lie_among_the_sources(hospital: Path, settings: IngestSettings) -> None:
    inside = replace(settings, key=None)
    first = ingest([hospital], hospital / "dataset", inside)
    again = ingest([hospital], hospital / "dataset", inside)
    assert (first.seen, again.seen, again.already_done) == (17, 17, True)


def test_an_older_dataset_among_the_sources_is_no_film(hospital: Path, settings: IngestSettings) -> None:
    """Before, its contact sheet was one: the second DATASET held a picture of 12 films."""
    ingest([hospital], hospital / "dataset", settings)
    summary = ingest([hospital], hospital / "second", settings)
    assert (summary.seen, summary.accepted) == (17, 12)
    assert summary.notes == (
        "folders that xraygen made, and whose pictures were not read: 1; name one as a SOURCE to read them",
    )
    with pytest.raises(XraygenError, match="by its own name one that xraygen made"):
        (hospital / "more").mkdir()
        (hospital / "dataset").rename(hospital / "more/dataset")
        ingest([hospital / "more"], hospital / "third", settings)


@pytest.mark.parametrize(("bits", "dtype"), [(8, "uint8"), (9, "uint16"), (16, "uint16")])
def test_levels_have_the_bits_asked_for(
    hospital: Path, settings: IngestSettings, tmp_path: Path, bits: int, dtype: str
) -> None:
    ingest([hospital], tmp_path / "dataset", replace(settings, prepare=PrepareSettings((16, 24), bits=bits)))
    dataset = open_dataset(tmp_path / "dataset")
    assert dataset.images.dtype == np.dtype(dtype)
    assert (dataset.images.shape, dataset.info.bits) == ((12, 16, 24), bits)
    assert 2 ** (bits - 1) < dataset.images.max() < 2**bits


def test_a_csv_fills_what_films_do_not_say(hospital: Path, settings: IngestSettings, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(
        "file,patient_id,sex,age,view,cold\nJane_Doe.jpg,PAT-0-4711,f,40,ap,yes\nfilm0.dcm,,m,1,ap,no\n"
    )
    summary = ingest([hospital], tmp_path / "dataset", replace(settings, labels=labels))
    dataset = open_dataset(tmp_path / "dataset")
    rows = dataset.manifest.assign(file=[path.name for path in paths_in(dataset, settings)]).set_index("file")
    jane, film0 = rows.loc["Jane_Doe.jpg"], rows.loc["film0.dcm"].iloc[1]
    assert tuple(jane[["sex", "age", "view", "cold"]]) == ("F", 40.0, "AP", "yes")
    assert tuple(film0[["sex", "age", "view", "cold"]]) == (
        "F",
        63.0,
        "PA",
        "no",
    )  # the film's own word counts
    assert jane["patient"] in set(rows.loc[["film1.dcm"], "patient"])  # PAT-0 again
    assert summary.label_names == ("cold",)
    assert summary.unlabelled == 12 - (rows["cold"] != "").sum()
    assert 0 < summary.unlabelled < 12


def test_a_csv_inside_the_sources_is_no_film(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    labels = hospital / "labels.csv"
    labels.write_text("file,cold\nJane_Doe.jpg,yes\n")
    assert ingest([hospital], tmp_path / "dataset", replace(settings, labels=labels)).seen == 17


@pytest.mark.parametrize("text", ["file,cold\nnobody.dcm,yes\n", "SOPInstanceUID,cold\n1.2.3,yes\n"])
def test_a_csv_about_other_films_is_refused(
    hospital: Path, settings: IngestSettings, tmp_path: Path, text: str
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match="no row speaks of any of the films"):
        ingest([hospital], tmp_path / "dataset", replace(settings, labels=tmp_path / "labels.csv"))


def test_folder_names_that_are_patients_are_refused_as_labels(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="the label finding repeats the films' patients"):
        ingest([hospital / "ward"], tmp_path / "dataset", replace(settings, layout="folders"))


def test_a_folder_whose_name_is_no_text_is_a_label_in_text(
    settings: IngestSettings, tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    for number in range(3):
        film = write_dicom(tmp_path / f"in/{number}.dcm", number, f"P{number}")
        film.rename(tmp_path / os.fsdecode(b"in/caf\xe9-%d.dcm" % number))
    (tmp_path / "in").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    source = tmp_path / os.fsdecode(b"caf\xe9")
    ingest([source], tmp_path / "dataset", replace(settings, layout="folders"))
    assert set(open_dataset(tmp_path / "dataset").manifest["finding"]) == {"caf\\xe9"}


def test_a_column_that_repeats_the_file_names_is_refused_as_label(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    (tmp_path / "labels.csv").write_text("file,original\nJane_Doe.jpg,Jane_Doe\n")
    with pytest.raises(UsageError, match="the label original repeats"):
        ingest([hospital], tmp_path / "dataset", replace(settings, labels=tmp_path / "labels.csv"))


def test_a_key_inside_the_dataset_is_refused(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="inside the DATASET"):
        ingest([hospital], tmp_path / "dataset", replace(settings, key=tmp_path / "dataset/key"))


def test_another_dataset_under_the_key_leaves_all_names_of_the_first(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([hospital], tmp_path / "dataset", settings)
    films = set(crosswalk_of(settings)["image_id"])
    withdrawn = tmp_path / "withdrawn.txt"
    withdrawn.write_text("PAT-0-4711\n")
    ingest([hospital], tmp_path / "without", replace(settings, exclude=withdrawn))
    crosswalk = crosswalk_of(settings)
    assert set(crosswalk["image_id"]) == films
    named = crosswalk[crosswalk["path"].str.contains("PAT-0-4711/") & (crosswalk["patient"] != "")]
    assert len(named) == 3
    assert named["study"].ne("").all()


def test_without_the_key_pseudonyms_cannot_be_guessed(
    hospital: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    ingest([hospital], tmp_path / "a", replace(settings, key=None))
    ingest([hospital], tmp_path / "b", replace(settings, key=None))
    one, other = open_dataset(tmp_path / "a").manifest, open_dataset(tmp_path / "b").manifest
    for name in ("image_id", "source", "patient", "study"):
        assert not (set(one[name]) & set(other[name])) - {""}


def test_dataset_json_says_how_it_was_made(hospital: Path, settings: IngestSettings, tmp_path: Path) -> None:
    ingest([hospital], tmp_path / "dataset", settings)
    info = json.loads((tmp_path / "dataset/dataset.json").read_text())
    assert (info["format_version"], info["size"], info["bits"], info["channels"]) == (1, [16, 16], 16, 1)
    expected = {
        "size": [16, 16],
        "fit": "pad",
        "bits": 16,
        "split": SPLITS_OF_THREE,
        "layout": None,
    }
    assert expected.items() <= info["settings"].items()


@pytest.mark.parametrize(("text", "size"), [("256", (256, 256)), ("512x384", (512, 384)), (" 8X9 ", (8, 9))])
def test_size_is_a_side_or_height_and_width(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "8x0", "-8", "8x8x8", "big"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected pixels as in 256"):
        parse_size(text)


@pytest.mark.films
def test_real_adult_films_with_their_csv_keep_patients_together(
    films: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    folder, labels = films / "hannover-cxr/gray640", films / "hannover-cxr/gray640_data.csv"
    summary = ingest([folder], tmp_path / "dataset", replace(settings, labels=labels, split="0.8,0.1,0.1"))
    assert (summary.seen, summary.accepted) == (243, 243)
    dataset = open_dataset(tmp_path / "dataset")
    table = pd.read_csv(labels, dtype=str, keep_default_na=False).set_index("image_id")
    rows = table.loc[[path.stem for path in paths_in(dataset, settings)]]
    assert_no_patient_in_two_splits(dataset, list(rows["patient_id"]))
    assert list(dataset.manifest["view"]) == list(rows["projection"].str.upper())
    assert list(dataset.manifest["sex"]) == list(rows["sex"].str.upper())
    assert list(dataset.manifest["age"].fillna(-1)) == [float(age or -1) for age in rows["age"]]
    assert list(dataset.manifest["crp_val"]) == list(rows["crp_val"])
    assert dataset.images.std() > 1000
    text = b"".join(contents(tmp_path / "dataset").values())
    assert not [name for name in {*rows.index, *rows["patient_id"]} if name.encode() in text]


@pytest.mark.films
def test_real_paediatric_films_are_grouped_by_the_number_in_their_name(
    films: Path, settings: IngestSettings, tmp_path: Path
) -> None:
    wanted = {"NORMAL": 30, "PNEUMONIA": 30}
    with tarfile.open(films / "kermany-cxr-224/kermany_224.tar.xz", "r|xz") as archive:
        for member in archive:
            folder = Path(member.name).parent.name
            if member.isfile() and wanted[folder]:
                archive.extract(member, tmp_path, filter="data")
                wanted[folder] -= 1
            if not any(wanted.values()):
                break
    summary = ingest([tmp_path / "dataset"], tmp_path / "out", replace(settings, layout="kermany"))
    assert summary.seen == 60
    dataset = open_dataset(tmp_path / "out")
    names = [path.name.removeprefix("NORMAL2-") for path in paths_in(dataset, settings)]
    real = [name.split("_")[0] if "person" in name else "-".join(name.split("-")[:2]) for name in names]
    assert_no_patient_in_two_splits(dataset, real)
    assert set(dataset.manifest["finding"]) == {"NORMAL", "PNEUMONIA"}
    assert list(dataset.manifest["cause"] != "") == list(dataset.manifest["finding"] == "PNEUMONIA")
