import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from xraygen.audit.audit import audit, plan
from xraygen.audit.groups import by_group, group_table, groupings
from xraygen.audit.sets import ImageSet
from xraygen.audit.settings import AuditSettings
from xraygen.dataset.manifest import write_manifest
from xraygen.dataset.store import content_sha256, open_dataset
from xraygen.errors import UsageError
from xraygen.metrics.features import extract, load_extractor
from xraygen.metrics.frechet import frechet_distance_of_features
from xraygen.metrics.kernel import kernel_distance

Textures = Callable[..., NDArray[np.uint16]]
Make = Callable[..., Path]

FAST = AuditSettings(features=("pixels",), pairs=30, device="cpu")


@pytest.fixture(scope="module")
def audited(
    tmp_path_factory: pytest.TempPathFactory, labelled: Path, told: Path
) -> tuple[Path, dict[str, Any]]:
    """(REPORT, result)."""
    out = tmp_path_factory.mktemp("groups") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XRAYGEN_CACHE", str(tmp_path_factory.getbasetemp() / "feature-cache"))
        return out, audit(labelled, told, out, FAST)


def members(result: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(entry["column"], entry["word"]): entry for entry in result["groups"]["members"]}


def test_films_are_counted_by_what_they_were_told_and_by_what_is_known_of_real_ones(
    audited: tuple[Path, dict[str, Any]],
) -> None:
    found = members(audited[1])
    kinds = ("synthetic", "test", "train", "count")
    assert [found["finding", "NORMAL"][kind] for kind in kinds] == [14, 10, 20, 10]
    assert [found["finding", "PNEUMONIA"][kind] for kind in kinds] == [12, 10, 20, 10]
    assert [found["age", "0 to 4"][kind] for kind in kinds] == [9, 8, 16, 8]
    assert [found["age", "45 to 64"][kind] for kind in kinds] == [3, 0, 0, None]
    assert [found["age", "5 to 17"][kind] for kind in kinds] == [0, 4, 8, None]


def test_a_group_that_was_not_met_is_far_from_its_own_floor(audited: tuple[Path, dict[str, Any]]) -> None:
    found = members(audited[1])
    good, bad = found["finding", "NORMAL"], found["finding", "PNEUMONIA"]
    assert good["fd"]["value"] < 2 * good["fd"]["floor"]["value"]
    assert bad["fd"]["value"] > 4 * bad["fd"]["floor"]["value"]
    assert bad["kid"]["low"] > bad["kid"]["floor"]["high"]
    assert any("finding = PNEUMONIA is farthest from its floor" in line for line in audited[1]["summary"])


def test_the_distance_of_a_group_is_that_of_its_films(labelled: Path, textures: Textures) -> None:
    """Ten test films of the group and ten that were told it: all are chosen, and it can be had by hand."""
    dataset = open_dataset(labelled)
    words = ["PNEUMONIA", "NORMAL"] * 10
    names = tuple(f"{row}.png" for row in range(20))
    films = ImageSet("set", textures(20, seed=9), names, 16, pd.DataFrame({"finding": words}))
    extractor = load_extractor("pixels", "cpu")
    features = tuple(extract(extractor, images, 16) for images in (dataset.images, films.images))
    result = by_group(extractor, dataset, films, (features[0], features[1]), count=20, seed=0)
    (entry,) = [entry for entry in result["members"] if entry["word"] == "PNEUMONIA"]
    rows = np.arange(54, 64)  # the last ten test films
    assert entry["count"] == 10
    by_hand = frechet_distance_of_features(features[0][rows], features[1][::2])
    assert entry["fd"]["value"] == pytest.approx(by_hand, rel=1e-9)
    assert entry["kid"]["value"] == pytest.approx(kernel_distance(features[0][rows], features[1][::2]).value)


def test_a_classifier_of_real_films_sees_what_the_synthetic_ones_were_told(
    audited: tuple[Path, dict[str, Any]], labelled: Path, textures: Textures
) -> None:
    """Real PNEUMONIA films are darker; films told PNEUMONIA were as bright as normal ones, and here some are not."""
    shown = {(entry["column"], entry["word"]): entry for entry in audited[1]["groups"]["shown"]}
    assert shown.keys() == {("finding", "NORMAL"), ("finding", "PNEUMONIA")}
    blind = shown["finding", "PNEUMONIA"]
    assert (blind["films"], blind["test_films"]) == (12, 10)
    assert blind["real"]["auc"]["value"] > 0.95
    assert blind["synthetic"]["auc"]["low"] < 0.5  # nothing was planted in them
    assert blind["synthetic"]["share"]["value"] < 0.5 < blind["real"]["share"]["value"]
    assert any("tells films told finding = " in line for line in audited[1]["summary"])
    assert "Do films show what they were told?" in (audited[0] / "report.html").read_text()
    dataset, images = open_dataset(labelled), textures(20, seed=9)
    images[::2] //= 2
    told = pd.DataFrame({"finding": ["PNEUMONIA", "NORMAL"] * 10})
    films = ImageSet("set", images, tuple(map(str, range(20))), 16, told)
    extractor = load_extractor("pixels", "cpu")
    features = tuple(extract(extractor, pixels, 16) for pixels in (dataset.images, films.images))
    result = by_group(extractor, dataset, films, (features[0], features[1]), count=20, seed=0)
    assert all(entry["synthetic"]["auc"]["value"] > 0.95 for entry in result["shown"])


@pytest.fixture(scope="module")
def of_two_sites(tmp_path_factory: pytest.TempPathFactory, textures: Textures, make_dataset: Make) -> Path:
    """40 training and 24 test films of sites A and B in turn, of which B's are darker; of the last it is not known."""
    images = textures(64, seed=3)
    images[1::2] //= 2
    folder = make_dataset(
        tmp_path_factory.mktemp("sites") / "dataset", images, ["train"] * 40 + ["test"] * 24
    )
    manifest = open_dataset(folder).manifest.assign(site=["A", "B"] * 31 + ["A", ""], kit=["one"] * 64)
    write_manifest(folder / "manifest.csv", manifest, ["site", "kit"])
    info = json.loads((folder / "dataset.json").read_text())
    info |= {"label_names": ["site", "kit"], "content_sha256": content_sha256(folder)}
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


def test_all_films_are_held_against_each_site_that_they_were_not_told(
    of_two_sites: Path, told: Path, tmp_path: Path
) -> None:
    """The films are as bright as A's."""
    settings = replace(FAST, against_each=("site",), fail_on=("groups.site=B.fd/floor>3",))
    result = audit(of_two_sites, told, tmp_path / "report", settings)
    found = members(result)
    assert found.keys() == {("site", "A"), ("site", "B")}
    counts = [
        [found["site", word][kind] for kind in ("synthetic", "test", "train", "count")] for word in "AB"
    ]
    assert counts == [[30, 12, 20, 12], [30, 11, 20, 11]]
    near, far = found["site", "A"], found["site", "B"]
    assert near["fd"]["value"] < 2 * near["fd"]["floor"]["value"]
    assert far["fd"]["value"] > 4 * far["fd"]["floor"]["value"]
    assert far["kid"]["low"] > far["kid"]["floor"]["high"]
    assert not far["told"]
    assert result["groups"]["shown"] == []  # they were told no site that they could show
    assert "site" not in result["groups"]["untold"]
    (verdict,) = result["verdicts"]
    assert not verdict["passed"]
    assert any(
        "site = B (all films of the set) is farthest from its floor" in line for line in result["summary"]
    )
    page = (tmp_path / "report" / "report.html").read_text()
    assert "site = B (all films of the set)" in page
    assert "all\nfilms are held against the real films of each word" in page
    assert any(
        "site = A (all films of the set): 30 synthetic" in line for line in group_table(result["groups"])
    )


def test_without_being_asked_nothing_is_said_of_sites(of_two_sites: Path) -> None:
    found, untold = groupings(open_dataset(of_two_sites), pd.DataFrame(index=range(30)))
    assert found == []
    assert "site" in untold


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("hospital", "no column of words in .*; it has site, kit, view, sex."),
        ("kit", "expected two words or more, and all training films of .* are one."),
        ("age", "no column of words"),
    ],
)
@pytest.mark.parametrize("call", [plan, audit])
def test_a_column_that_splits_nothing_is_refused_before_the_work(
    of_two_sites: Path, told: Path, tmp_path: Path, column: str, words: str, call: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match=f"--against-each {column}: {words}"):
        call(of_two_sites, told, tmp_path / "report", replace(FAST, against_each=(column,)))
    assert not (tmp_path / "report").exists()


def test_a_column_that_was_told_is_refused(labelled: Path, told: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--against-each finding: the films of .* were told it"):
        plan(labelled, told, tmp_path / "report", replace(FAST, against_each=("finding",)))


def test_small_groups_are_warned_of(audited: tuple[Path, dict[str, Any]]) -> None:
    found = members(audited[1])
    assert found["age", "45 to 64"]["warning"] == "Too few films for a distance, which takes 8 of each kind."
    assert found["age", "5 to 17"]["warning"] == "No film of the set was told this."
    for entry in found.values():
        if entry["count"] is not None:
            needed = entry["fd"]["enough"]["count"]
            assert ("too small for FD" in entry["warning"]) == (
                needed is not None and needed > entry["count"]
            )


def test_what_was_not_told_makes_no_group_and_what_could_name_a_patient_none_either(labelled: Path) -> None:
    found, untold = groupings(
        open_dataset(labelled), pd.DataFrame({"finding": ["NORMAL"], "note": ["note 1"]})
    )
    assert [grouping.column for grouping in found] == ["finding"]
    assert untold == ["view", "sex", "age"]


def test_a_set_that_was_told_nothing_has_no_groups(
    audited: tuple[Path, dict[str, Any]], labelled: Path
) -> None:
    found, untold = groupings(open_dataset(labelled), pd.DataFrame(index=range(30)))
    assert found == []
    assert untold == ["finding", "view", "sex", "age"]


def test_the_page_and_the_terminal_show_the_groups(audited: tuple[Path, dict[str, Any]]) -> None:
    out, result = audited
    page = (out / "report.html").read_text()
    assert "finding = PNEUMONIA" in page
    assert "told nothing of view, sex" in page
    assert "note" not in json.dumps(result["groups"])
    lines = group_table(result["groups"])
    assert any(
        line.startswith("  age = 0 to 4: 9 synthetic, 8 test, 16 training films; N = 8: FD") for line in lines
    )
