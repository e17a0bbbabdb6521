"""Keyed hashes, and where the key may lie."""

import fcntl
import hashlib
import hmac
import os
import re
import shutil
import threading
from pathlib import Path

import pandas as pd
import pytest

import xraygen
from xraygen.dataset.pseudonyms import (
    CROSSWALK_COLUMNS,
    Pseudonyms,
    check_key_path,
    crosswalk_path,
    default_key_path,
    open_key,
    write_crosswalk,
)
from xraygen.errors import UsageError


@pytest.mark.parametrize(
    ("kind", "letter", "digits"),
    [
        ("patient", "P", "43cddb37d6d58694476c5b8f627da5c5"),
        ("study", "S", "29aac91895dcfb5271a33499cc84a4f9"),
        ("image", "I", "731db90d487753383a72f6e32f4e078f"),
        ("source", "", "e55b542ccb428126c86ac682a59805da"),
    ],
)
def test_a_pseudonym_is_an_hmac_under_the_key(kind: str, letter: str, digits: str) -> None:
    expected = hmac.new(b"k" * 32, f"{kind}\x1f4711".encode(), hashlib.sha256).hexdigest()
    assert expected.startswith(digits)
    assert getattr(Pseudonyms(b"k" * 32), kind)("4711") == f"{letter}{digits}"


def test_pseudonyms_have_their_forms() -> None:
    pseudonyms = Pseudonyms(b"k" * 32)
    assert re.fullmatch(r"P[0-9a-f]{32}", pseudonyms.patient("x"))
    assert re.fullmatch(r"S[0-9a-f]{32}", pseudonyms.study("x"))
    assert re.fullmatch(r"I[0-9a-f]{32}", pseudonyms.image("x"))
    assert re.fullmatch(r"[0-9a-f]{32}", pseudonyms.source("x"))


def test_kinds_and_keys_do_not_share_pseudonyms() -> None:
    one, other = Pseudonyms(b"1" * 32), Pseudonyms(b"2" * 32)
    digits = {one.patient("7")[1:], one.study("7")[1:], one.image("7")[1:], other.patient("7")[1:]}
    assert len(digits) == 4


def test_the_key_does_not_show_in_a_traceback() -> None:
    assert "secret" not in repr(Pseudonyms(b"secret" * 6))


def test_a_new_key_is_random_private_and_kept(tmp_path: Path) -> None:
    first, second = open_key(tmp_path / "a.key"), open_key(tmp_path / "b.key")
    assert first.key != second.key
    assert len(first.key) == 32
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    assert open_key(tmp_path / "a.key").key == first.key


def test_a_file_that_is_no_key_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not a key"):
        open_key(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("text", ["correct horse battery staple 123", "only thirty-one letters and LF\n\n"])
def test_a_passphrase_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(UsageError, match="passphrase"):
        open_key(tmp_path / "key")
    assert (tmp_path / "key").read_text() == text


@pytest.mark.parametrize("byte", [b"\0", b"\x7f", b"\xe4"])
def test_one_byte_that_nobody_types_makes_a_key(tmp_path: Path, byte: bytes) -> None:
    (tmp_path / "key").write_bytes(b"x" * 31 + byte)
    assert open_key(tmp_path / "key").key == b"x" * 31 + byte


@pytest.mark.parametrize(("mode", "warns"), [(0o600, 0), (0o400, 0), (0o640, 1), (0o644, 1), (0o602, 1)])
def test_a_key_that_others_may_read_is_warned_of(
    tmp_path: Path, mode: int, warns: int, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "key").write_bytes(bytes(32))
    (tmp_path / "key").chmod(mode)
    open_key(tmp_path / "key")
    assert len(caplog.records) == warns
    assert all("chmod 600" in record.getMessage() for record in caplog.records)


def test_the_public_key_that_ships_is_one(tmp_path: Path) -> None:
    shipped = Path(xraygen.__file__).parent / "shipped/kermany-64/dataset.key"
    copy = Path(shutil.copy(shipped, tmp_path))
    assert open_key(copy).key == shipped.read_bytes()


@pytest.mark.parametrize("inside", ["key", "deep/down/key", "../dataset/key", "../link/key"])
def test_a_key_inside_the_dataset_is_refused(tmp_path: Path, inside: str) -> None:
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    (tmp_path / "link").symlink_to(dataset)
    with pytest.raises(UsageError, match="inside the DATASET"):
        check_key_path(dataset / inside, dataset)
    check_key_path(default_key_path(dataset), dataset)


def test_a_shared_key_keeps_the_crosswalk_of_both_datasets(tmp_path: Path) -> None:
    key = tmp_path / "key"
    for name in ("b", "a", "b"):
        rows = pd.DataFrame([dict.fromkeys(CROSSWALK_COLUMNS, name)])
        write_crosswalk(key, rows)
    crosswalk = pd.read_csv(crosswalk_path(key))
    assert list(crosswalk["path"]) == ["a", "b"]
    assert crosswalk_path(key).stat().st_mode & 0o777 == 0o600


def test_a_dataset_without_a_film_leaves_the_film_its_name_in_another(tmp_path: Path) -> None:
    key = tmp_path / "key"
    accepted = {"source": "s", "image_id": "I1", "patient": "P1", "study": "S1", "path": "/films/1.dcm"}
    rejected = {**accepted, "image_id": "", "patient": "", "study": ""}
    for row in (accepted, rejected, accepted, rejected):
        write_crosswalk(key, pd.DataFrame([row]))
    crosswalk = pd.read_csv(crosswalk_path(key), keep_default_na=False)
    assert crosswalk.to_dict("records") == [rejected, accepted]


def test_ingests_under_one_key_take_turns_at_its_crosswalk(tmp_path: Path) -> None:
    """Two that read the crosswalk before either wrote it lost the rows of one."""
    key = tmp_path / "key"
    key.touch()
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # another ingest's turn
    ours = pd.DataFrame([dict.fromkeys(CROSSWALK_COLUMNS, "ours")])
    writer = threading.Thread(target=write_crosswalk, args=(key, ours))
    writer.start()
    writer.join(0.2)
    assert writer.is_alive()
    pd.DataFrame([dict.fromkeys(CROSSWALK_COLUMNS, "theirs")]).to_csv(crosswalk_path(key), index=False)
    os.close(folder)
    writer.join(10)
    assert list(pd.read_csv(crosswalk_path(key))["path"]) == ["ours", "theirs"]
