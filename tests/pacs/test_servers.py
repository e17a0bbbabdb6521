"""What names an archive, and what may be said to it: addresses, tokens, certificates and keys of a query."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from xraygen.errors import UsageError
from xraygen.films.pacs import Tls, WebServer, parse_address, parse_keys

Cli = Callable[..., Result]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Name one archive"),
        (["--to", "pacs:104", "--aet", "A", "--dicomweb", "http://localhost"], "Name one archive"),
        (["--to", "pacs:104"], "--aet"),
        (["--to", "pacs", "--aet", "A"], "HOST:PORT"),
        (["--to", "pacs:²", "--aet", "A"], "HOST:PORT"),
        (["--to", "pacs:104", "--aet", "A" * 17], "16 characters"),
        (["--dicomweb", "ftp://pacs"], "expected a URL"),
        (["--dicomweb", "https://me:secret@pacs"], "XRAYGEN_TOKEN"),
        (["--dicomweb", "https://pacs?token=secret"], "XRAYGEN_TOKEN"),
        (["--to", "pacs:104", "--aet", "A", "--tls-ca", "/nowhere.pem"], "expected a PEM file"),
        (["--dicomweb", "http://localhost", "--tls"], "give an https URL"),
        (["--dicomweb", "http://localhost", "--tls-ca", __file__], "give an https URL"),
        (["--dicomweb", "http://localhost", "--tls-cert", __file__], "give an https URL"),
        (["--dicomweb", "https://localhost", "--aet", "A"], "--aet: DICOMweb knows no AE title"),
        (["--to", "pacs:104", "--aet", "A", "--token-file", __file__], "--token-file: --to takes no token"),
    ],
)
def test_what_names_no_archive_is_one_sentence(
    synthetic: Path, xraygen_cli: Cli, words: list[str], sentence: str
) -> None:
    result = xraygen_cli("send", synthetic, "--acknowledge-patient-data", *words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "secret" not in result.stderr
    assert not (synthetic / "sent").exists()


def test_a_token_is_in_no_repr_and_goes_over_https_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    server = WebServer("https://pacs.example/dicom-web", "s3cret")
    assert "s3cret" not in repr(server) + server.name
    assert server.authorization == {"Authorization": "Bearer s3cret"}
    assert WebServer("http://localhost", "Basic abc").authorization == {"Authorization": "Basic abc"}
    with pytest.raises(UsageError, match="https only"):
        WebServer("http://pacs.example/dicom-web", "s3cret")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"s3cret \xff", "cannot be read; expected a text file in UTF-8"),
        (b"s3cret\ns3cret", "expected one line of ASCII"),
        (None, "cannot be read"),
    ],
)
def test_a_token_file_that_holds_none_is_one_sentence_without_it(
    synthetic: Path, tmp_path: Path, xraygen_cli: Cli, content: bytes | None, sentence: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    words = ("--dicomweb", "https://pacs.example", "--token-file", file, "--acknowledge-patient-data")
    result = xraygen_cli("send", synthetic, *words)
    assert result.exit_code == 2
    assert f"xraygen: {file}" in result.stderr
    assert sentence in result.stderr
    assert "s3cret" not in result.output
    assert not (synthetic / "sent").exists()


def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(UsageError, match="PEM"):
        Tls(tmp_path / "ca.pem").context()


def test_addresses_and_keys_are_read() -> None:
    assert parse_address("[::1]:104") == ("::1", 104)
    assert parse_keys(["StudyDate=20260101-", "PatientID=A=B"]) == {
        "StudyDate": "20260101-",
        "PatientID": "A=B",
    }
    for wrong in ([], ["StudyDate"], ["=1"], ["Study Date=1"]):
        with pytest.raises(UsageError):
            parse_keys(wrong)
