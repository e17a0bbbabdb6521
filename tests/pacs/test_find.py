"""A key that the archive does not search by would match all that it has."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    StudyRootQueryRetrieveInformationModelFind,
)
from typer.testing import Result

from xraygen.errors import UsageError
from xraygen.films.pacs import DimseServer, Series, Server, WebServer, connect

Cli = Callable[..., Result]
Archive = Callable[..., AbstractContextManager[Server]]
TAGS = {"StudyInstanceUID": "0020000D", "SeriesInstanceUID": "0020000E", "Modality": "00080060"}
STUDY, SERIES = {"StudyInstanceUID": "1.2"}, {"SeriesInstanceUID": "1.2.3", "Modality": "DX"}


def dataset(values: Mapping[str, str]) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


@contextmanager
def dimse(status: int, study: Mapping[str, str], series: Mapping[str, str]) -> Iterator[Server]:
    """An archive of one series, whatever it is asked for."""

    def answer(event: evt.Event) -> Iterator[tuple[int, Dataset]]:
        level = event.identifier.QueryRetrieveLevel
        yield status, dataset(study if level == "STUDY" else series)

    archive = AE("ARCHIVE")
    archive.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = archive.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, answer)])
    assert server is not None
    try:
        yield DimseServer("127.0.0.1", server.server_address[1], "ARCHIVE")
    finally:
        server.shutdown()


@contextmanager
def web(status: int, study: Mapping[str, str], series: Mapping[str, str]) -> Iterator[Server]:
    """The same, by QIDO-RS, which has no such status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            values = series if "/series" in self.path else study
            match = {TAGS.get(name, "00081010"): {"Value": [value]} for name, value in values.items()}
            content = json.dumps(
                [match] if "offset=0" in self.path or "offset" not in self.path else []
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield WebServer(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom forgets a socket
@pytest.mark.parametrize(
    ("archive", "status", "study", "series", "key"),
    [
        (dimse, 0xFF01, {}, {}, "StationName"),
        (dimse, 0xFF00, {}, {}, "StationName"),
        (
            dimse,
            0xFF01,
            {"StationName": "ANY"},
            {},
            "StationName",
        ),  # it gives the value, and does not heed it
        (dimse, 0xFF00, {}, {}, "BodyPartExamined"),
        (dimse, 0xFF01, {}, {"BodyPartExamined": "HEAD"}, "BodyPartExamined"),
        (web, 0, {}, {}, "StationName"),
        (web, 0, {}, {}, "BodyPartExamined"),
    ],
)
def test_a_key_that_the_archive_does_not_heed_is_refused(
    archive: Archive,
    status: int,
    study: dict[str, str],
    series: dict[str, str],
    key: str,
) -> None:
    with (
        archive(status, STUDY | study, SERIES | series) as server,
        connect(server) as one,
        pytest.raises(UsageError, match=f"^--find {key}: the archive does not search by it"),
    ):
        one.find({key: "X"})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom forgets a socket
@pytest.mark.parametrize("archive", [dimse, web])
def test_a_key_that_the_archive_heeds_is_not(archive: Archive) -> None:
    """Nor one that every archive must heed, by an archive that warns of each answer."""
    with archive(0xFF00, STUDY | {"StationName": "X"}, SERIES) as server, connect(server) as one:
        assert one.find({"StationName": "X"}) == [Series("1.2", "1.2.3")]
    with archive(0xFF01, STUDY, SERIES) as server, connect(server) as one:
        assert one.find({"StudyInstanceUID": "1.2", "Modality": "DX"}) == [Series("1.2", "1.2.3")]


@pytest.mark.parametrize(
    "options", [("--pacs", "127.0.0.1:9", "--aet", "A"), ("--dicomweb", "http://localhost:9")]
)
@pytest.mark.parametrize(
    ("key", "sentence"), [("SOPInstanceUID", "this is an image's"), ("StudyDay", "no attribute of DICOM")]
)
def test_a_key_of_no_study_or_series_is_refused_before_anybody_is_asked(
    options: tuple[str, ...], key: str, sentence: str, xraygen_cli: Cli
) -> None:
    for more in ((), ("--dry-run",)):
        result = xraygen_cli("ingest", *options, "--find", f"{key}=1", "--out", "dataset", *more)
        assert result.exit_code == 2, result.output
        assert f"--find {key}: " in result.stderr
        assert sentence in result.stderr
