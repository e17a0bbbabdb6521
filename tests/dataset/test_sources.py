"""Which files are seen."""

import os
import pickle
import zipfile
import zlib
from pathlib import Path

import pytest

from xraygen.dataset.sources import list_sources, look_through, opened
from xraygen.errors import FilmError, UsageError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b/2.dcm", "a/1.dcm", "a/deep/3", ".hidden/4.dcm", "a/.5.dcm"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "in"


def names(sources: list[str | Path], leave_out: tuple[Path, ...] = ()) -> list[str]:
    return [str(file.name) for file in list_sources(sources, leave_out)]


def test_folders_are_read_in_order_without_what_is_hidden(tree: Path) -> None:
    assert names([tree]) == ["a/1.dcm", "a/deep/3", "b/2.dcm"]


def test_names_do_not_say_where_the_tree_lies(tree: Path) -> None:
    moved = tree.rename(tree.parent / "moved")
    assert names([moved]) == ["a/1.dcm", "a/deep/3", "b/2.dcm"]


def test_files_and_patterns_are_sources_too(tree: Path) -> None:
    assert names([tree / "a/deep/3"]) == ["3"]
    assert names([f"{tree}/**/*.dcm"]) == ["a/1.dcm", "b/2.dcm"]
    assert names([tree / "a/.5.dcm"]) == [".5.dcm"]


def test_a_file_named_twice_is_seen_once(tree: Path) -> None:
    assert names([tree, tree / "a", tree / "a/1.dcm"]) == ["a/1.dcm", "a/deep/3", "b/2.dcm"]


def test_the_order_of_the_sources_plays_no_part(tree: Path) -> None:
    assert (
        names([tree / "b", tree / "a"])
        == names([tree / "a", tree / "b"])
        == ["a/1.dcm", "a/deep/3", "b/2.dcm"]
    )


def test_a_file_whose_name_is_a_pattern_is_a_file(tree: Path) -> None:
    (tree / "film[1].dcm").touch()
    assert names([tree / "film[1].dcm"]) == ["film[1].dcm"]


def test_a_circle_of_links_ends_and_a_dead_link_is_seen(tree: Path) -> None:
    (tree / "a/circle").symlink_to(tree)
    (tree / "b/dead.dcm").symlink_to(tree / "gone")
    assert names([tree]) == ["a/1.dcm", "a/deep/3", "b/2.dcm", "b/dead.dcm"]


def test_a_pattern_does_not_go_round_in_circles(tree: Path) -> None:
    for number in range(4):  # glob.glob's ** would try 4 ** 40 ways
        (tree / f"a/circle{number}").symlink_to(tree)
    assert names([f"{tree}/**/*.dcm"]) == ["a/1.dcm", "b/2.dcm"]


def test_a_link_to_itself_is_seen(tree: Path) -> None:
    (tree / "b/self.dcm").symlink_to(tree / "b/self.dcm")
    assert names([tree / "b"]) == ["2.dcm", "self.dcm"]


def test_a_pattern_matches_what_is_hidden_only_if_it_says_so(tree: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        names([f"{tree}/*/4.dcm"])
    assert names([f"{tree}/.hid*/4.dcm"]) == ["4.dcm"]
    assert names([f"{tree}/a/*"]) == ["1.dcm", "deep/3"]


def test_names_that_are_no_text_are_seen_under_names_that_are(tree: Path) -> None:
    (tree / "a" / os.fsdecode(b"M\xfcller")).touch()  # as a scanner of twenty years ago wrote it
    (file,) = [file for file in list_sources([tree / "a"]) if "ller" in str(file.name)]
    assert str(file.name) == "M\\xfcller"
    assert file.path_text.encode().endswith(b"/a/M\\xfcller")
    assert file.path.exists()


def test_an_archive_is_a_folder(tree: Path) -> None:
    with zipfile.ZipFile(tree / "b/films.zip", "w") as archive:
        for name in ("z.dcm", "more/y", "../x"):
            archive.writestr(name, name)
    assert names([tree / "b"]) == ["2.dcm", "films.zip/__/x", "films.zip/more/y", "films.zip/z.dcm"]
    assert names([f"{tree}/b/*.zip"]) == ["films.zip/__/x", "films.zip/more/y", "films.zip/z.dcm"]
    assert names([tree / "b"], (tree / "b/films.zip",)) == ["2.dcm"]


def test_a_file_can_be_sent_to_another_process_and_read_there(tree: Path) -> None:
    with zipfile.ZipFile(tree / "films.zip", "w") as archive:
        archive.writestr("z.dcm", "in the archive")
        archive.writestr("../z.dcm", "outside")
    outside, inside = pickle.loads(pickle.dumps(list_sources([tree / "films.zip"])))
    with opened(inside) as path:
        assert path.read_text() == "in the archive"
    assert inside.state == (14, zlib.crc32(b"in the archive"))
    with pytest.raises(FilmError) as caught, opened(outside):
        pass
    assert caught.value.reason == "unsafe_path"


def test_linked_folders_are_followed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tree)
    assert names([tmp_path / "out"]) == ["link/a/1.dcm", "link/a/deep/3", "link/b/2.dcm"]


def test_what_is_left_out_is_not_seen(tree: Path) -> None:
    assert names([tree], (tree / "a", tree / "b/2.dcm")) == []


@pytest.mark.parametrize(
    ("marks", "picture"),
    [
        (("dataset.json", "images.npy"), "overview-accepted.png"),
        (("config.yaml", "checkpoints/step-1/model.safetensors"), "samples/step-1.png"),
        (("provenance.json",), "images/0.png"),
        (("report.json", "report.html"), "figures/copies.png"),
    ],
)
def test_folders_that_xraygen_made_are_passed_over_unless_they_are_named(
    tree: Path, marks: tuple[str, ...], picture: str
) -> None:
    for name in (*marks, picture):
        (tree / "ours" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "ours" / name).touch()
    films = ["a/1.dcm", "a/deep/3", "b/2.dcm"]
    assert (names([tree]), look_through([tree]).passed_over) == (films, 1)
    assert look_through([tree], [tree / "ours"]).passed_over == 0  # as --out
    assert picture in names([tree / "ours"])
    assert Path(picture).name in names([(tree / "ours" / picture).parent])
    assert f"ours/{picture}" in names([tree, tree / "ours"])
    assert look_through([tree, tree / "ours"]).passed_over == 0


def test_what_another_program_calls_dataset_json_marks_nothing(tree: Path) -> None:
    (tree / "a/dataset.json").touch()  # nnU-Net's
    assert names([tree / "a", tree / "b"]) == ["a/1.dcm", "a/dataset.json", "a/deep/3", "b/2.dcm"]
    assert "a/deep/3" in names([tree])


@pytest.mark.parametrize("source", ["nowhere", "nowhere/*.dcm"])
def test_a_source_that_is_not_there_is_wrong_usage(tree: Path, source: str) -> None:
    with pytest.raises(UsageError, match=f"{tree}.*does not exist"):
        list_sources([tree, f"{tree}/{source}"])
