"""`xraygen send` against an archive that is made up: what is tried again, what is refused, what the ledger says."""

import gc
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time
from typer.testing import Result

from xraygen import __version__
from xraygen.errors import FolderError, UsageError
from xraygen.films.mark import marked
from xraygen.films.pacs import (
    FILM_CLASSES,
    DimseServer,
    Series,
    Server,
    ServerError,
    connect,
)
from xraygen.films.reader import read_film
from xraygen.films.synthetic import Kind
from xraygen.synthesis import send as room
from xraygen.synthesis.generate import generate
from xraygen.synthesis.ledger import Ledger
from xraygen.synthesis.outgoing import outgoing, pixel_sha256
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.synthesis.send import SendSettings, SendSummary, send

Cli = Callable[..., Result]
SERVER = DimseServer("pacs.example", 104, "ARCHIVE")


class MadeUp:
    """An archive in memory; `trouble` has an error, or None, for each store in turn.

    At each store the `ledger`, where one is named, has a line for each film that was taken before.
    """

    def __init__(
        self,
        trouble: list[ServerError | None] | None = None,
        *,
        queries: bool = True,
        ledger: Path | None = None,
    ) -> None:
        self.films: dict[str, bytes] = {}
        self.trouble = trouble or []
        self.queries = queries
        self.ledger = ledger

    def store(self, film: bytes) -> None:
        if self.ledger is not None:
            lines = self.ledger.read_bytes().count(b"\n") if self.ledger.exists() else 0
            assert lines == len(self.films)  # whoever kills the sender now finds all that it sent
        error = self.trouble.pop(0) if self.trouble else None
        if error is not None:
            raise error
        self.films.setdefault(str(pydicom.dcmread(io.BytesIO(film)).SOPInstanceUID), film)

    def find(self, keys: Mapping[str, str]) -> list[Series]:
        raise NotImplementedError

    def instances(self, series: Series) -> set[str]:
        if not self.queries:
            raise ServerError("no C-FIND", again=False)
        return set(self.films)

    def fetch(self, series: Series) -> Iterator[bytes]:
        yield from self.films.values()


Give = Callable[..., SendSummary]


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Callable[[MadeUp], None]:
    """From now on every connection is one to this archive that is made up."""

    def call(archive: MadeUp) -> None:
        @contextmanager
        def connect(_: Server) -> Iterator[MadeUp]:
            yield archive

        monkeypatch.setattr(room, "connect", connect)

    return call


@pytest.fixture
def give(synthetic: Path, reach: Callable[[MadeUp], None]) -> Give:
    """Send `synthetic` to an archive that is made up."""

    def call(archive: MadeUp, **settings: object) -> SendSummary:
        reach(archive)
        told = SendSettings(**settings)  # type: ignore[arg-type] # a test's
        return send(synthetic, SERVER, told, acknowledged=True, wait=waits.append)

    waits.clear()
    return call


waits: list[float] = []
BROKEN = ServerError("broken", again=True)
REFUSED = ServerError("refused", again=False)


def test_each_film_is_sent_once_and_the_ledger_says_what_arrived(give: Give, synthetic: Path) -> None:
    archive = MadeUp(ledger=synthetic / "sent" / "ledger.jsonl")
    assert give(archive).accepted == 4
    lines = [json.loads(line) for line in (synthetic / "sent" / "ledger.jsonl").read_text().splitlines()]
    assert {line["sop_instance_uid"] for line in lines} == set(archive.films)
    for line in lines:
        film = pydicom.dcmread(io.BytesIO(archive.films[line["sop_instance_uid"]]))
        assert line["pixel_sha256"] == pixel_sha256(film)
        assert line["server"] == "dicom://pacs.example:104/ARCHIVE"
        assert line["permission"] == "acknowledged"
    again = give(archive)
    assert (again.accepted, again.present) == (0, 4)
    assert len(Ledger(synthetic).taken_by(SERVER.name)) == 4


def test_what_breaks_is_tried_again_after_longer_and_longer_waits(give: Give) -> None:
    archive = MadeUp([None, BROKEN, BROKEN, BROKEN, None])
    assert give(archive).accepted == 4
    assert waits == [1, 2, 4]


def test_what_breaks_too_often_ends_the_call_and_the_next_goes_on(give: Give) -> None:
    archive = MadeUp([None, BROKEN, BROKEN])
    with pytest.raises(ServerError):
        give(archive, attempts=2)
    summary = give(archive)
    assert (summary.accepted, summary.present) == (3, 1)


def test_a_refusal_is_counted_and_not_tried_again(give: Give, synthetic: Path) -> None:
    summary = give(MadeUp([REFUSED, None, REFUSED]))
    assert summary.refused == {"refused": 2}
    assert (summary.accepted, waits) == (2, [])
    assert len(Ledger(synthetic).taken_by(SERVER.name)) == 2


def test_what_the_archive_lost_is_sent_again(give: Give) -> None:
    archive = MadeUp()
    give(archive)
    archive.films.popitem()
    summary = give(archive)
    assert (summary.accepted, summary.present, summary.lost) == (1, 3, 1)


def test_an_archive_that_answers_no_queries_is_taken_at_the_ledgers_word(give: Give) -> None:
    archive = MadeUp(queries=False)
    give(archive)
    assert give(archive).present == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom forgets a socket
def test_an_archive_that_is_busy_is_asked_again(synthetic: Path) -> None:
    """It takes one association at a time, and another has it until we wait."""
    archive, other = AE("ARCHIVE"), AE("OTHER")
    archive.maximum_associations = 1
    for uid in (*FILM_CLASSES, Verification):
        archive.add_supported_context(uid)
    other.add_requested_context(Verification)
    films: list[str] = []

    def take(event: evt.Event) -> int:
        films.append(str(event.dataset.SOPInstanceUID))
        return 0

    server = archive.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    assert server is not None
    port = server.server_address[1]
    holding = other.associate("127.0.0.1", port)
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        holding.release()
        time.sleep(0.2)  # until the archive's thread has ended

    try:
        to = DimseServer("127.0.0.1", port, "ARCHIVE")
        with connect(to) as one, pytest.raises(ServerError, match="is busy") as busy:
            one.instances(Series("1.2", "1.2.3"))
        assert busy.value.again
        summary = send(synthetic, to, SendSettings(), acknowledged=True, wait=wait)
    finally:
        server.shutdown()
    assert (summary.accepted, len(films)) == (4, 4)
    assert waited
    gc.collect()


def test_verifying_finds_a_film_that_is_not_as_it_was_sent(give: Give) -> None:
    archive = MadeUp()
    assert give(archive, verify=True).differing == ()
    first = exchange_one(archive)
    assert give(archive, verify=True).differing == (first,)


def exchange_one(archive: MadeUp) -> str:
    """What an archive keeps where another film came first under a UID; the UID."""
    first = next(iter(archive.films))
    film = pydicom.dcmread(io.BytesIO(archive.films[first]))
    film.PixelData = bytes(len(film.PixelData))
    content = io.BytesIO()
    film.save_as(content)
    archive.films[first] = content.getvalue()
    return first


def test_the_command_fails_if_a_film_is_refused_or_is_not_there_as_it_was_sent(
    reach: Callable[[MadeUp], None], synthetic: Path, xraygen_cli: Cli
) -> None:
    archive = MadeUp([None, REFUSED])
    reach(archive)
    command = (
        "send",
        synthetic,
        "--to",
        "pacs.example:104",
        "--aet",
        "ARCHIVE",
        "--acknowledge-patient-data",
    )
    refused = xraygen_cli(*command)
    assert refused.exit_code == 1
    assert "3 films taken" in refused.stderr
    assert "1 refused: refused" in refused.stderr
    verified = xraygen_cli(*command, "--verify")
    assert verified.exit_code == 0, verified.stderr
    assert "1 films taken, 3 were there already" in verified.stderr
    first = exchange_one(archive)
    assert xraygen_cli(*command).exit_code == 0  # nobody looked
    exchanged = xraygen_cli(*command, "--verify")
    assert exchanged.exit_code == 1
    assert exchanged.stderr.count("not there as it was sent") == 1
    assert f"not there as it was sent: {first}" in exchanged.stderr


def test_verifying_reads_what_the_archive_compressed(give: Give) -> None:
    archive = MadeUp()
    give(archive)
    for number, (uid, content) in enumerate(archive.films.items()):
        film = pydicom.dcmread(io.BytesIO(content))
        film.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        if number == 1:
            film.PixelData = encapsulate([b"rubbish!"])
        kept = io.BytesIO()
        film.save_as(kept)
        archive.films[uid] = kept.getvalue()
    assert give(archive, verify=True).differing == (list(archive.films)[1],)


def test_half_a_line_of_a_killed_process_is_cut_off_and_a_damaged_one_is_refused(
    give: Give, synthetic: Path
) -> None:
    give(MadeUp())
    ledger = synthetic / "sent" / "ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-20])
    assert len(Ledger(synthetic).taken_by(SERVER.name)) == 3
    assert whole.startswith(ledger.read_bytes())
    ledger.write_bytes(b"{}\n" + whole)
    with pytest.raises(FolderError, match="damaged in line 1"):
        Ledger(synthetic)


@pytest.mark.parametrize("kind", ["sc", "dx"])
def test_films_are_marked_unless_it_is_asked_not_to(synthetic: Path, kind: Kind) -> None:
    plain = read_film(synthetic / "images" / "0.png").values
    for mark in (None, False):
        film = pydicom.dcmread(io.BytesIO(next(outgoing(synthetic, kind, mark).films()).content))
        np.testing.assert_array_equal(film.pixel_array, plain if mark is False else marked(plain))
        assert film.Modality == {"sc": "OT", "dx": "DX"}[kind]


def test_a_set_is_the_same_films_after_an_upgrade(synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [film.uid for film in outgoing(synthetic).films()]
    for module in ("films.synthetic", "films.writers", "synthesis.provenance"):
        monkeypatch.setattr(f"xraygen.{module}.__version__", "99.0")
    films = list(outgoing(synthetic).films())
    assert [film.uid for film in films] == before
    made_by = json.loads((synthetic / "provenance.json").read_text())["version"]
    assert pydicom.dcmread(io.BytesIO(films[0].content)).SoftwareVersions == made_by == __version__


def test_a_dicom_set_that_is_marked_goes_as_it_is(tiny_run: Path, tmp_path: Path) -> None:
    out, fast = tmp_path / "out", SamplerSettings(sampler="ddim", steps=1, compute_batch=4)
    generate(tiny_run, out, [5], fast, file_format="dicom-dx", device="cpu")
    (film,) = outgoing(out).films()
    assert film.content == (out / "images" / "5.dcm").read_bytes()
    with pytest.raises(UsageError, match="mark is in the pixels"):
        outgoing(out, mark=False)


def test_an_image_that_is_missing_or_changed_is_not_sent(synthetic: Path) -> None:
    (synthetic / "images" / "0.png").write_bytes((synthetic / "images" / "1.png").read_bytes())
    with pytest.raises(FolderError, match="not the image"):
        list(outgoing(synthetic).films())
    (synthetic / "images" / "0.png").unlink()
    with pytest.raises(FolderError, match="lacks"):
        list(outgoing(synthetic).films())


def test_a_dry_run_says_how_many_and_asks_for_permission_too(synthetic: Path, xraygen_cli: Cli) -> None:
    words = ("send", synthetic, "--to", "pacs.example:104", "--aet", "ARCHIVE", "--dry-run")
    assert "--acknowledge-patient-data" in xraygen_cli(*words).stderr
    result = xraygen_cli(*words, "--acknowledge-patient-data")
    assert result.exit_code == 0
    assert "Would send 4 films as sc to dicom://pacs.example:104/ARCHIVE" in result.stderr
    assert not (synthetic / "sent").exists()


@pytest.mark.parametrize(
    "words", [("--to", "127.0.0.1:1", "--aet", "A"), ("--dicomweb", "http://127.0.0.1:1")]
)
def test_a_missing_package_says_what_to_install(
    synthetic: Path, xraygen_cli: Cli, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    for name in ("pynetdicom", "dicomweb_client", "dicomweb_client.api"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    for name in ("pacs_dimse", "pacs_web"):
        monkeypatch.delitem(__import__("sys").modules, f"xraygen.films.{name}", raising=False)
    result = xraygen_cli("send", synthetic, "--acknowledge-patient-data", *words)
    assert result.exit_code == 2
    assert "pip install 'xraygen[pacs]'" in result.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom forgets a socket
@pytest.mark.parametrize(
    "words", [("--to", "127.0.0.1:1", "--aet", "A"), ("--dicomweb", "http://127.0.0.1:1")]
)
def test_an_archive_that_is_not_there_is_one_sentence(
    synthetic: Path, xraygen_cli: Cli, words: tuple[str, ...]
) -> None:
    result = xraygen_cli("send", synthetic, "--acknowledge-patient-data", *words, "--attempts", 1)
    assert result.exit_code == 1
    lines = [line for line in result.stderr.splitlines() if line.startswith("xraygen: ")]
    assert len(lines) == 1
    assert "not reached" in lines[0]
    gc.collect()
