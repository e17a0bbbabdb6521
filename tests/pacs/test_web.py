"""What an archive, or what stands before it, may answer to STOW-RS: made up, on the loopback interface."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import Result

from xraygen.films.pacs import ServerError, WebServer, connect
from xraygen.synthesis.outgoing import outgoing

Cli = Callable[..., Result]
PAGE = (200, {"Content-Type": "text/html"}, b"<html>Please log in.</html>")
Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def answering(post: Answer, get: Answer = PAGE) -> Iterator[tuple[str, list[str]]]:
    """A server that says this to all, its address, and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(get)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(post)

        def answer(self, answer: Answer) -> None:
            status, headers, body = answer
            asked.append(f"{self.command} {self.path}")
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/dicom-web", asked
        server.shutdown()
    gc.collect()


@pytest.fixture
def film(synthetic: Path) -> bytes:
    return next(iter(outgoing(synthetic, None, None).films())).content


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_film_that_is_sent_on_to_a_login_is_not_taken(
    synthetic: Path, xraygen_cli: Cli, status: int
) -> None:
    with answering((status, {"Location": "/login?back=secret"}, b"")) as (url, asked):
        words = ("send", synthetic, "--dicomweb", url, "--acknowledge-patient-data", "--attempts", 1)
        result = xraygen_cli(*words)
        assert asked == ["POST /dicom-web/studies"] * 4
    assert result.exit_code == 1
    assert "0 films taken" in result.stderr
    said = " ".join(result.stderr.split())
    assert f"4 refused: {url} sends to another address (HTTP {status})" in said
    assert "check the token" in said
    assert "secret" not in said
    assert not (synthetic / "sent" / "ledger.jsonl").exists()


def test_a_search_that_is_sent_on_is_one_sentence() -> None:
    with (
        answering(PAGE, (302, {"Location": "/login"}, b"")) as (url, asked),
        connect(WebServer(url)) as archive,
    ):
        with pytest.raises(ServerError, match="another address") as caught:
            archive.find({"PatientID": "A"})
        assert len(asked) == 1
    assert not caught.value.again


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html>Please log in.</html>"),
        ("", b"ok"),
        ("application/json", b"[]"),
        ("application/json", b'{"error": "expired"}'),
        ("application/xml", b"ok"),
    ],
)
def test_status_200_with_what_is_no_answer_of_an_archive_takes_no_film(
    film: bytes, kind: str, body: bytes
) -> None:
    with (
        answering((200, {"Content-Type": kind} if kind else {}, body)) as (url, _),
        connect(WebServer(url)) as archive,
        pytest.raises(ServerError, match="does not say that it has taken a film") as caught,
    ):
        archive.store(film)
    assert not caught.value.again


@pytest.mark.parametrize(
    ("kind", "body"),
    [("", b""), ("application/dicom+json", b"{}"), ("application/json; charset=utf-8", b"{}")],
)
def test_status_200_that_lists_nothing_takes_it(film: bytes, kind: str, body: bytes) -> None:
    with (
        answering((200, {"Content-Type": kind} if kind else {}, body)) as (url, asked),
        connect(WebServer(url)) as archive,
    ):
        archive.store(film)
        assert asked == ["POST /dicom-web/studies"]
