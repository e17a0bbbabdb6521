"""Against a real Orthanc: what it holds is what was sent, and ingest reads it back."""

import contextlib
import gc
import io
import json
import shutil
import socket
import socketserver
import ssl
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import Result

from xraygen.dataset import download
from xraygen.dataset.store import open_dataset
from xraygen.films.pacs import Server, ServerError, Tls, WebServer, connect
from xraygen.films.reader import read_film
from xraygen.synthesis.ledger import Ledger
from xraygen.synthesis.outgoing import outgoing
from xraygen.synthesis.send import SendSettings, send

from .conftest import Orthanc

Cli = Callable[..., Result]
LANGUAGES = ["dimse", "web"]


def server_of(orthanc: Orthanc, language: str) -> Server:
    return orthanc.dimse if language == "dimse" else orthanc.web


def options_of(orthanc: Orthanc, language: str, address: str) -> list[str]:
    if language == "web":
        return ["--dicomweb", orthanc.web.url]
    return [address, f"127.0.0.1:{orthanc.dicom_port}", "--aet", "ARCHIVE"]


def ledger_of(synthetic: Path, server: Server) -> dict[str, str]:
    return {uid: line.pixel_sha256 for uid, line in Ledger(synthetic).taken_by(server.name).items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_archive_holds_what_the_ledger_says(
    orthanc: Orthanc, synthetic: Path, xraygen_cli: Cli, language: str
) -> None:
    words = (
        "send",
        synthetic,
        *options_of(orthanc, language, "--to"),
        "--acknowledge-patient-data",
        "--json",
    )
    first = xraygen_cli(*words, "--verify")
    assert first.exit_code == 0, first.stderr
    told = json.loads(first.stdout)
    assert (told["accepted"], told["differing"], told["verified"]) == (4, [], True)
    assert orthanc.films() == ledger_of(synthetic, server_of(orthanc, language))
    second = json.loads(xraygen_cli(*words).stdout)
    assert (second["accepted"], second["present"]) == (0, 4)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_the_archive_lost_is_sent_again(orthanc: Orthanc, synthetic: Path, language: str) -> None:
    server = server_of(orthanc, language)
    send(synthetic, server, SendSettings(kind="dx"), acknowledged=True)
    orthanc.empty()
    assert send(synthetic, server, SendSettings(kind="dx"), acknowledged=True).lost == 4
    assert orthanc.films() == {film.uid: film.pixel_sha256 for film in outgoing(synthetic, "dx").films()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_verifying_sees_that_the_archive_keeps_the_first_that_came_under_a_uid(
    orthanc: Orthanc, synthetic: Path, language: str
) -> None:
    server = server_of(orthanc, language)
    film = next(outgoing(synthetic).films())
    other = pydicom.dcmread(io.BytesIO(film.content))
    other.PixelData = bytes(len(other.PixelData))
    content = io.BytesIO()
    other.save_as(content)
    with connect(server) as archive:
        archive.store(content.getvalue())
    summary = send(synthetic, server, SendSettings(verify=True), acknowledged=True)
    assert (summary.accepted, summary.differing) == (4, (film.uid,))  # it says yes to all four


@pytest.mark.parametrize("language", LANGUAGES)
def test_ingest_reads_them_back(
    orthanc: Orthanc,
    synthetic: Path,
    tmp_path: Path,
    xraygen_cli: Cli,
    language: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    send(synthetic, server_of(orthanc, language), SendSettings(mark=False), acknowledged=True)
    words = ("--out", tmp_path / "dataset", "--size", 16, "--find", "PatientID=SYNTHETIC-*", "--workers", 0)
    curation = ("--curate", "min_side_px=8", "--curate", "min_contrast=0")
    result = xraygen_cli("ingest", *options_of(orthanc, language, "--pacs"), *words, *curation)
    assert result.exit_code == 0, result.stderr
    dataset = open_dataset(tmp_path / "dataset")
    sent = [read_film(synthetic / "images" / f"{seed}.png").values for seed in range(4)]
    assert sorted(image.tobytes() for image in dataset.images) == sorted(image.tobytes() for image in sent)
    assert set(dataset.manifest["study"]) != {""}
    assert not list(tmp_path.glob("xraygen-films-*"))


WORDS = ("Quarkovic", "Zebedia", "ZZ-48151623", "19470811", "ACC9081726354", "1.2.826.0.1.3680043.9.7777")


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_that_names_a_patient_of_the_archive_gets_out(
    orthanc: Orthanc, tmp_path: Path, xraygen_cli: Cli, language: str
) -> None:
    assert xraygen_cli("phantom", tmp_path / "films", "--count", 4, "--size", 64).exit_code == 0
    server = server_of(orthanc, language)
    with connect(server) as archive:
        for number, path in enumerate(sorted((tmp_path / "films").rglob("*.dcm"))):
            film = pydicom.dcmread(path)
            film.PatientName, film.PatientID, film.PatientBirthDate = "Quarkovic^Zebedia", WORDS[2], WORDS[3]
            film.AccessionNumber = WORDS[4]
            film.StudyInstanceUID = film.SeriesInstanceUID = f"{WORDS[5]}.1"
            film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = f"{WORDS[5]}.2.{number}"
            pixels = film.pixel_array
            film.file_meta.TransferSyntaxUID, film.PixelData = ExplicitVRLittleEndian, pixels.tobytes()
            film["PixelData"].is_undefined_length = False
            content = io.BytesIO()
            film.save_as(content, implicit_vr=False, little_endian=True, enforce_file_format=True)
            archive.store(content.getvalue())
    key = tmp_path / "key"
    words = ("--out", tmp_path / "dataset", "--size", 16, "--key", key, "--workers", 0, "--json")
    result = xraygen_cli(
        "ingest", *options_of(orthanc, language, "--pacs"), "--find", "StudyDate=19000101-", *words
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["accepted"] == 4
    written = b"".join(path.read_bytes() for path in (tmp_path / "dataset").rglob("*") if path.is_file())
    told = written + result.stdout.encode() + result.stderr.encode()
    assert not [word for word in WORDS if word.encode() in told]


@pytest.mark.parametrize("language", LANGUAGES)
def test_series_that_are_no_radiographs_are_neither_counted_nor_fetched(
    orthanc: Orthanc, tmp_path: Path, xraygen_cli: Cli, language: str
) -> None:
    assert xraygen_cli("phantom", tmp_path / "films", "--count", 2, "--size", 64).exit_code == 0
    server = server_of(orthanc, language)
    uids: list[str] = []
    with connect(server) as archive:
        for modality, path in zip(("DX", "CT"), sorted((tmp_path / "films").rglob("*.dcm"))[:2], strict=True):
            film = pydicom.dcmread(path)
            film.PatientID, film.StudyInstanceUID, film.Modality = "PHANTOM", "1.2.826.0.1.9", modality
            film.SeriesInstanceUID = f"1.2.826.0.1.9.{len(uids)}"
            uids.append(film.SOPInstanceUID)
            film.decompress(generate_instance_uid=False)
            content = io.BytesIO()
            film.save_as(content)
            archive.store(content.getvalue())
    assert len(orthanc.films()) == 2
    asked = ("--find", "PatientID=PHANTOM", "--out", tmp_path / "dataset", "--dry-run", "--json")
    planned = xraygen_cli("ingest", *options_of(orthanc, language, "--pacs"), *asked)
    assert "Would fetch 1 series" in planned.stderr
    with download.downloaded(server, {"PatientID": "PHANTOM"}) as fetched:
        assert [path.stem for path in fetched.iterdir()] == [uids[0]]


def test_a_proxy_of_the_environment_is_not_asked(
    orthanc: Orthanc, synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token and films go to the archive alone."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert (
        send(synthetic, orthanc.web, SendSettings(verify=True, attempts=1), acknowledged=True).accepted == 4
    )


def test_lent_films_lie_in_a_folder_of_their_owners_and_go_whatever_happens(
    orthanc: Orthanc, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    send(synthetic, orthanc.dimse, SendSettings(), acknowledged=True)
    orphan = tmp_path / "xraygen-films-999999999-left"
    orphan.mkdir()
    (orphan / "1.2.3.dcm").write_bytes(b"a patient")
    with (
        pytest.raises(KeyboardInterrupt),
        download.downloaded(orthanc.web, {"PatientID": "SYNTHETIC-*"}) as films,
    ):
        assert not orphan.exists()
        assert len(list(films.iterdir())) == 4
        assert stat.S_IMODE(films.parent.stat().st_mode) == 0o700
        raise KeyboardInterrupt
    assert not list(tmp_path.glob("xraygen-films-*"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_asking_for_what_is_not_there_is_one_sentence(
    orthanc: Orthanc, tmp_path: Path, xraygen_cli: Cli, language: str
) -> None:
    words = ("ingest", *options_of(orthanc, language, "--pacs"), "--out", tmp_path / "dataset", "--find")
    result = xraygen_cli(*words, "PatientID=NOBODY")
    assert result.exit_code == 1
    assert "no series of radiographs that matches" in result.stderr
    assert "Would fetch 0 series" in xraygen_cli(*words, "PatientID=NOBODY", "--dry-run").stderr
    assert not (tmp_path / "dataset").exists()


def test_a_wrong_title_is_one_sentence(orthanc: Orthanc, synthetic: Path, xraygen_cli: Cli) -> None:
    words = ("--to", f"127.0.0.1:{orthanc.dicom_port}", "--aet", "NOBODY", "--acknowledge-patient-data")
    result = xraygen_cli("send", synthetic, *words)
    assert result.exit_code == 1
    assert "check both AE titles" in result.stderr


def test_a_token_authorises_and_stands_nowhere(
    synthetic: Path, tmp_path: Path, xraygen_cli: Cli, monkeypatch: pytest.MonkeyPatch, orthanc: Orthanc
) -> None:
    closed = Orthanc(tmp_path / "closed", AuthenticationEnabled=True, RegisteredUsers={"me": "s3cret"})
    closed.start()
    try:
        words = ("send", synthetic, "--dicomweb", closed.web.url, "--acknowledge-patient-data")
        refused = xraygen_cli(*words)
        assert refused.exit_code == 1
        assert "HTTP 401. Check the token." in refused.stderr
        token = tmp_path / "token"
        token.write_text("Basic bWU6czNjcmV0\n")  # me:s3cret
        result = xraygen_cli(*words, "--token-file", token)
        assert result.exit_code == 0, result.stderr
        assert "4 films taken" in result.stderr
        monkeypatch.setenv("XRAYGEN_TOKEN", token.read_text())
        assert "4 were there already" in xraygen_cli(*words).stderr
    finally:
        closed.kill()
    written = b"".join(path.read_bytes() for path in synthetic.rglob("*") if path.is_file())
    assert b"bWU6czNjcmV0" not in written + result.stderr.encode()


def test_an_archive_without_dicomweb_refuses_in_one_sentence(orthanc: Orthanc, synthetic: Path) -> None:
    wrong = WebServer(f"http://127.0.0.1:{orthanc.http_port}/nothing")
    with pytest.raises(ServerError, match="HTTP 404"):
        send(synthetic, wrong, SendSettings(verify=True), acknowledged=True)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that signs itself, with its key, in one PEM file."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    both = folder / "both.pem"
    both.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return both


@pytest.mark.parametrize("given", ["", "ca", "ca certificate"])
def test_every_connection_over_tls_asks_who_the_archive_is(certificate: Path, given: str) -> None:
    context = Tls(**dict.fromkeys(given.split(), certificate)).context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.fixture
def secured(certificate: Path, tmp_path: Path, orthanc_of_module: Orthanc) -> Iterator[Orthanc]:
    """An Orthanc that speaks DICOM over TLS alone, and asks for our certificate, too."""
    server = Orthanc(
        tmp_path / "secured",
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(certificate),
        DicomTlsPrivateKey=str(certificate),
        DicomTlsTrustedCertificates=str(certificate),
    )
    server.start()
    yield server
    server.kill()


class _Forward(socketserver.BaseRequestHandler):
    """One connection to the archive's plain port."""

    def handle(self) -> None:
        port = self.server.plain_port  # type: ignore[attr-defined] # see `https`
        with socket.create_connection(("127.0.0.1", port)) as plain:
            back = threading.Thread(target=self._copy, args=(plain, self.request))
            back.start()
            self._copy(self.request, plain)
            back.join()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                target.sendall(content)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def https(certificate: Path, orthanc: Orthanc) -> Iterator[str]:
    """The archive behind a proxy that speaks TLS: Debian's Orthanc itself crashes at its first https connection."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificate))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate)

    class Proxy(socketserver.ThreadingTCPServer):
        plain_port = orthanc.http_port

        def get_request(self) -> tuple[socket.socket, object]:
            accepted, address = super().get_request()
            return context.wrap_socket(accepted, server_side=True), address

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that does not trust us."""

    with Proxy(("127.0.0.1", 0), _Forward) as proxy:
        serving = threading.Thread(target=proxy.serve_forever)
        serving.start()
        yield f"https://127.0.0.1:{proxy.server_address[1]}/dicom-web"
        proxy.shutdown()
        serving.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom forgets a socket
def test_dicom_over_tls_checks_the_archives_certificate_and_shows_ours(
    secured: Orthanc, synthetic: Path, certificate: Path, xraygen_cli: Cli
) -> None:
    to = ("--to", f"127.0.0.1:{secured.dicom_port}", "--aet", "ARCHIVE", "--attempts", 1)
    words = ("send", synthetic, *to, "--acknowledge-patient-data")
    # Each lacks one thing: TLS, both certificates, ours, and trust in theirs.
    for tls in ((), ("--tls",), ("--tls-ca", certificate), ("--tls-cert", certificate)):
        refused = xraygen_cli(*words, *tls)
        assert refused.exit_code == 1
        assert "not reached" in refused.stderr
        assert not secured.films()
    result = xraygen_cli(*words, "--tls-ca", certificate, "--tls-cert", certificate, "--verify")
    assert result.exit_code == 0, result.stderr
    assert secured.films() == ledger_of(synthetic, secured.dimse)
    gc.collect()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # sockets of refused handshakes
def test_https_checks_the_archives_certificate_and_shows_ours(
    https: str, orthanc: Orthanc, synthetic: Path, certificate: Path, xraygen_cli: Cli
) -> None:
    words = ("send", synthetic, "--dicomweb", https, "--acknowledge-patient-data", "--attempts", 1)
    refused = xraygen_cli(*words)
    assert refused.exit_code == 1
    assert "--tls-ca" in refused.stderr
    refused = xraygen_cli(*words, "--tls-cert", certificate)  # ours is shown, theirs is not known
    assert refused.exit_code == 1
    assert "--tls-ca" in refused.stderr
    assert xraygen_cli(*words, "--tls-ca", certificate).exit_code == 1  # it wants to see ours
    assert not orthanc.films()
    result = xraygen_cli(*words, "--tls-ca", certificate, "--tls-cert", certificate, "--verify")
    assert result.exit_code == 0, result.stderr
    assert len(orthanc.films()) == 4
    gc.collect()
