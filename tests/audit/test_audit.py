import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xraygen.atomic import sha256_of
from xraygen.audit.audit import audit, plan
from xraygen.audit.compare import compare_reports
from xraygen.audit.figures import film_png
from xraygen.audit.render import embedded
from xraygen.audit.settings import AuditSettings
from xraygen.dataset.store import open_dataset
from xraygen.errors import FolderError, UsageError

Textures = Callable[..., NDArray[np.uint16]]
MakeSynthetic = Callable[..., Path]
Finished = tuple[Path, dict[str, Any]]

FAST = AuditSettings(features=("pixels",), pairs=30, device="cpu")


@pytest.fixture(scope="module")
def with_a_copy(
    tmp_path_factory: pytest.TempPathFactory, real: Path, textures: Textures, make_synthetic: MakeSynthetic
) -> Path:
    """24 films of the same kind as the real ones, one of them a copy of a training film."""
    images = textures(24, seed=5)
    images[7] = open_dataset(real).images[33]
    images[9] = images[8]
    return make_synthetic(tmp_path_factory.mktemp("made") / "synthetic", images)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, real: Path, with_a_copy: Path) -> Finished:
    """A whole audit with both extractors: (REPORT folder, what `audit` returned)."""
    tmp = tmp_path_factory.mktemp("audit")
    settings = AuditSettings(
        features=("efficientnet-lite0", "pixels"),
        fail_on=("suspects>0", "fd/noise>1"),
        count=16,
        pairs=30,
        device="cpu",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XRAYGEN_CACHE", str(tmp_path_factory.getbasetemp() / "feature-cache"))
        return tmp / "report", audit(real, with_a_copy, tmp / "report", settings)


def test_report_json_is_strict_and_what_audit_returns(finished: Finished) -> None:
    folder, result = finished
    text = (folder / "report.json").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse) == json.loads(json.dumps(result))
    assert {
        "format_version",
        "real",
        "synthetic",
        "settings",
        "features",
        "ssim",
        "ms_ssim",
        "privacy",
    } <= set(result)
    assert {"groups", "verdicts"} <= set(result)


def test_every_distance_is_taken_at_the_stated_n(finished: Finished) -> None:
    _, result = finished
    for entry in result["features"].values():
        fd = entry["fd"]
        assert fd["count"] == 16
        assert set(fd["sets"]) == {"this", "real", "blurred", "gaussian", "phantoms", "noise"}
        assert fd["low"] <= fd["value"] <= fd["high"]
        assert (fd["floor"], fd["ceiling"]) == (fd["sets"]["real"]["value"], fd["sets"]["noise"]["value"])
        assert "16 real test films" in fd["estimand"]


def test_likeness_has_sets_of_known_kind_beside_it(finished: Finished) -> None:
    """The covariance of independent noise is 0 on average; MS-SSIM takes a mean below 0 for 0."""
    folder, result = finished
    for name in ("ssim", "ms_ssim"):
        sets = result[name]["sets"]
        assert list(sets) == ["blurred", "gaussian", "noise"]
        assert all(entry["pairs"] == 30 for entry in sets.values())
        assert abs(sets["noise"]["value"]) < 0.2 < min(result[name]["real"], sets["blurred"]["value"]) < 1
    noise = result["ssim"]["sets"]["noise"]
    told = f"noise (ceiling)\n{noise['value']:.4f} ± {1.96 * noise['standard_error']:.4f} and "
    assert told in (folder / "report.html").read_text()


def test_films_of_the_same_kind_are_nearer_than_noise(finished: Finished) -> None:
    _, result = finished
    for entry in result["features"].values():
        assert entry["fd"]["value"] < 0.5 * entry["fd"]["ceiling"]


def test_other_folders_stand_beside(
    tmp_path: Path, real: Path, with_a_copy: Path, textures: Textures, make_synthetic: MakeSynthetic
) -> None:
    dark = make_synthetic(tmp_path / "other", textures(15, seed=6) // 2)
    same_name = make_synthetic(tmp_path / "again" / "other", textures(12, seed=6))
    settings = replace(FAST, beside=(dark, same_name, real))
    result = audit(real, with_a_copy, tmp_path / "report", settings)
    sets = result["features"]["pixels"]["fd"]["sets"]
    assert {"beside:other", "beside:other-2", "beside:dataset"} <= set(sets)
    assert result["settings"]["count"] == 12
    assert sets["beside:other"]["value"] > sets["beside:other-2"]["value"]


def test_the_name_of_the_distance_is_never_fid(finished: Finished) -> None:
    _, result = finished
    assert result["features"]["efficientnet-lite0"]["fd"]["name"] == "FD-EfficientNet-Lite0"


def test_the_copied_film_is_found_and_its_training_film_named_in_confidence(finished: Finished) -> None:
    folder, result = finished
    found = {suspect["file_name"]: suspect for suspect in result["privacy"]["suspects"]}
    assert found["images/7.png"]["p_value"] == pytest.approx(1 / 21)
    assert found["images/7.png"]["distance"] == pytest.approx(0, abs=1e-3)  # features are float32
    named = json.loads((folder / "report-confidential.json").read_text())
    assert next(iter(named)) == "confidential"
    of_suspects = {suspect["file_name"]: suspect["train_image_id"] for suspect in named["suspects"]}
    assert of_suspects["images/7.png"] == "real-0033"
    assert list(of_suspects) == [suspect["file_name"] for suspect in result["privacy"]["suspects"]]
    for rows in named["nearest"].values():
        assert (rows[7]["file_name"], rows[7]["train_image_id"]) == ("images/7.png", "real-0033")


def test_what_may_be_shared_names_no_training_film(finished: Finished, real: Path) -> None:
    folder, result = finished
    manifest = open_dataset(real).manifest
    names = {name for column in ("image_id", "patient") for name in manifest[column]}
    shared = [folder / "report.html", folder / "report.json", *(folder / "figures").iterdir()]
    told = b"".join(path.read_bytes() for path in shared) + json.dumps(result).encode()
    assert [name for name in names if name.encode() in told] == []
    assert b"real-0033" in (folder / "report-confidential.json").read_bytes()


def test_duplicates_are_counted(finished: Finished) -> None:
    _, result = finished
    assert result["synthetic"]["duplicates"] == 1
    assert "Exact duplicates among the synthetic films: 1." in result["summary"]


def test_verdicts_say_which_check_failed(finished: Finished) -> None:
    _, result = finished
    assert {verdict["check"]: verdict["passed"] for verdict in result["verdicts"]} == {
        "suspects>0": False,
        "fd/noise>1": True,
    }


@pytest.mark.parametrize("name", ["report.html", "report-confidential.html"])
def test_the_pages_need_no_other_file(finished: Finished, name: str) -> None:
    folder, _ = finished
    page = (folder / name).read_text()
    assert not re.findall(r"<(?:script|link|iframe|object|embed)\b", page)
    assert not re.findall(r"https?://|url\(|@import", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_no_real_film_is_in_the_report_nor_a_suspect(
    finished: Finished, real: Path, with_a_copy: Path
) -> None:
    folder, _ = finished
    page = (folder / "report.html").read_text()
    assert len(re.findall("<img ", page)) == len(list((folder / "figures").iterdir())) == 7
    dataset = open_dataset(real)
    assert all(embedded(film_png(image, 16)) not in page for image in dataset.images)


def test_no_suspect_is_shown_nor_stays_from_an_earlier_report(
    tmp_path: Path, real: Path, make_synthetic: MakeSynthetic
) -> None:
    (tmp_path / "report" / "figures").mkdir(parents=True)
    (tmp_path / "report" / "figures" / "films-best.png").write_bytes(b"an older one")
    copies = open_dataset(real).gather(np.arange(8))
    audit(real, make_synthetic(tmp_path / "copies", copies), tmp_path / "report", FAST)
    assert [path.name for path in (tmp_path / "report" / "figures").glob("films-*")] == []
    assert "No film of this set is shown" in (tmp_path / "report" / "report.html").read_text()


def test_the_confidential_page_says_so_shows_the_pair_and_is_for_its_owner(
    finished: Finished, real: Path
) -> None:
    folder, _ = finished
    page = (folder / "report-confidential.html").read_text()
    assert "CONFIDENTIAL" in page
    copied = embedded(film_png(open_dataset(real).images[33], 16))
    assert page.count(copied) >= 2  # the synthetic film and the training film
    for name in ("report-confidential.html", "report-confidential.json"):
        assert (folder / name).stat().st_mode & 0o077 == 0


def test_the_report_names_hashes_and_versions_and_no_path(finished: Finished, real: Path) -> None:
    folder, result = finished
    page = (folder / "report.html").read_text()
    assert result["real"]["content_sha256"] in page
    assert result["features"]["efficientnet-lite0"]["extractor"]["weights_sha256"] in page
    assert str(real.parent) not in page + (folder / "report.json").read_text()


def test_the_same_audit_twice_gives_the_same_numbers(tmp_path: Path, real: Path, with_a_copy: Path) -> None:
    first, second = (audit(real, with_a_copy, tmp_path / "report", FAST) for _ in range(2))
    differing = [key for key in first if first[key] != second[key]]
    assert differing in ([], ["environment"])  # the time


def test_other_seeds_choose_other_films(tmp_path: Path, real: Path, with_a_copy: Path) -> None:
    settings = [AuditSettings(features=("pixels",), count=12, pairs=30, seed=seed) for seed in (0, 1)]
    first, second = (audit(real, with_a_copy, tmp_path / "report", one) for one in settings)
    assert first["features"]["pixels"]["fd"]["value"] != second["features"]["pixels"]["fd"]["value"]


def test_a_dataset_can_be_audited_against_itself(tmp_path: Path, real: Path) -> None:
    result = audit(real, real, tmp_path / "report", FAST)
    assert result["synthetic"]["films"] == 64
    shared = (tmp_path / "report" / "report.json").read_text() + (
        tmp_path / "report" / "report.html"
    ).read_text()
    assert "real-0" not in shared
    assert [
        path.name for path in (tmp_path / "report" / "figures").glob("films-*")
    ] == []  # they may be patients'
    assert len(result["privacy"]["suspects"]) >= 40  # all training films are copies of training films


def test_a_report_on_a_dataset_says_first_that_its_films_are_real(
    tmp_path: Path, finished: Finished, real: Path, textures: Textures, make_dataset: Callable[..., Path]
) -> None:
    """The films of another hospital in the place of synthetic ones."""
    other = make_dataset(tmp_path / "<b>other", textures(20, seed=8), ["test"] * 20)
    result = audit(real, other, tmp_path / "report", FAST)
    note = result["synthetic"]["note"]
    assert note.startswith(
        "“Synthetic” means the films of <b>other here, which is a DATASET: they are real films"
    )
    assert result["summary"][0] == note
    shown = escape(note)
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count(shown) == 1
    assert (
        page.index("<h1>") < page.index(shown) < page.index("20 films of the DATASET &lt;b&gt;other against")
    )
    assert "synthetic films against" not in page
    assert (
        "No film of either is shown on this page, and those of &lt;b&gt;other are called by their rows"
        in page
    )
    assert "No film of this set is shown: they are a DATASET" in page
    shared = [embedded(film_png(image, 16)) for image in open_dataset(other).images]
    assert [picture for picture in shared if picture in page] == []
    confidential = (tmp_path / "report" / "report-confidential.html").read_text()
    assert confidential.index("CONFIDENTIAL: this page") < confidential.index(shown)
    (compared, *_) = compare_reports([tmp_path / "report"] * 2)["notes"]
    assert compared == note
    folder, of_synthetic = finished
    assert of_synthetic["synthetic"]["note"] == ""
    assert "means the films of" not in (folder / "report.html").read_text() + of_synthetic["summary"][0]


def test_report_json_is_written_last(
    tmp_path: Path, real: Path, with_a_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A REPORT whose writing was cut off has no report.json, not even an older one."""
    out = tmp_path / "report"
    audit(real, with_a_copy, out, FAST)

    def full_disk(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xraygen.audit.render.write_text", full_disk)
    with pytest.raises(OSError, match="No space"):
        audit(real, with_a_copy, out, FAST)
    assert not (out / "report.json").exists()


def test_a_folder_with_something_else_is_not_written_into(
    tmp_path: Path, real: Path, with_a_copy: Path
) -> None:
    before = {path.name: sha256_of(path) for path in real.iterdir() if path.is_file()}
    with pytest.raises(FolderError, match="no part of a REPORT"):
        audit(real, with_a_copy, real, FAST)
    assert {path.name: sha256_of(path) for path in real.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (AuditSettings(features=("nonesuch",)), "unknown; known: efficientnet-lite0"),
        (AuditSettings(fail_on=("fid>1",)), "is not measured"),
        (AuditSettings(count=1000), "expected 8 to 20"),
        (AuditSettings(device="tpu9"), "--device tpu9"),
    ],
)
@pytest.mark.parametrize("call", [plan, audit])
def test_wrong_settings_are_refused_before_the_work(
    tmp_path: Path,
    real: Path,
    with_a_copy: Path,
    settings: AuditSettings,
    words: str,
    call: Callable[..., Any],
) -> None:
    with pytest.raises(UsageError, match=words):
        call(real, with_a_copy, tmp_path / "report", settings)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("call", [plan, audit])
def test_films_that_cannot_be_compared_are_refused_before_any_set_is_read(
    tmp_path: Path,
    real: Path,
    with_a_copy: Path,
    textures: Textures,
    make_synthetic: MakeSynthetic,
    make_dataset: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., Any],
) -> None:
    monkeypatch.delattr("xraygen.audit.audit.read_set")
    oblong = make_synthetic(tmp_path / "oblong", textures(9, size=(24, 20)))
    of_real = make_dataset(tmp_path / "larger", textures(9, size=(32, 32)), ["test"] * 9)
    colour = make_dataset(tmp_path / "colour", np.zeros((9, 24, 24, 3), np.uint8), ["test"] * 9)
    small = make_dataset(tmp_path / "small", textures(16, size=(10, 12)), ["train", "test"] * 8)
    for reals, synthetic, beside, words in (
        (real, oblong, (), r"0\.png is 24x20 px and the real films are 24x24"),
        (real, with_a_copy, (with_a_copy, oblong), r"0\.png is 24x20 px and the real films are 24x24"),
        (real, of_real, (), "larger is 32x32 px and the real films are 24x24"),
        (real, with_a_copy, (colour,), "colour holds colour images"),
        (small, small, (), "small holds films of 10x12 px, and SSIM needs 11x11; ingest them larger"),
    ):
        with pytest.raises(FolderError, match=words):
            call(reals, synthetic, tmp_path / "report", replace(FAST, beside=beside))
    assert not (tmp_path / "report").exists()


def test_a_plan_says_n_and_writes_nothing(tmp_path: Path, real: Path, with_a_copy: Path) -> None:
    planned = plan(real, with_a_copy, tmp_path / "report", FAST)
    assert planned["count"] == 20
    assert planned["films"]["the train split"] == 40
    assert not (tmp_path / "report").exists()
