"""200 films to a real Orthanc; the sender is killed, then the archive: in the end both say the same."""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from xraygen.dataset.store import open_dataset
from xraygen.films.reader import read_film
from xraygen.synthesis.generate import generate
from xraygen.synthesis.ledger import Ledger
from xraygen.synthesis.outgoing import outgoing
from xraygen.synthesis.sampling import SamplerSettings

from .conftest import Orthanc

FILMS = 200

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def many(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("many") / "synthetic"
    settings = SamplerSettings(sampler="ddim", steps=1, compute_batch=50)
    generate(tiny_run, out, range(FILMS), settings, device="cpu")
    return out


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that shall not outlive the test."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def wait_for_lines(ledger: Path, count: int, sender: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not ledger.exists() or ledger.read_bytes().count(b"\n") < count:
        assert sender.poll() is None, "the sender ended early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("language", ["dimse", "web"])
def test_ledger_and_archive_agree_after_both_were_killed(
    many: Path,
    orthanc: Orthanc,
    tmp_path: Path,
    program: Path,
    xraygen_cli: Callable[..., Result],
    language: str,
    running: list[subprocess.Popen[bytes]],
) -> None:
    synthetic = Path(shutil.copytree(many, tmp_path / "synthetic"))
    ledger = synthetic / "sent" / "ledger.jsonl"
    dimse = [f"127.0.0.1:{orthanc.dicom_port}", "--aet", "ARCHIVE"]
    to = ["--to", *dimse] if language == "dimse" else ["--dicomweb", orthanc.web.url]
    command = [str(program), "send", str(synthetic), *to, "--no-mark", "--acknowledge-patient-data"]

    running.append(subprocess.Popen(command))
    wait_for_lines(ledger, 50, running[-1])
    running[-1].send_signal(signal.SIGKILL)
    running[-1].wait()

    running.append(subprocess.Popen(command))
    wait_for_lines(ledger, 120, running[-1])
    orthanc.kill()
    time.sleep(2)
    orthanc.start()
    assert running[-1].wait(timeout=300) == 0  # it tried again until the archive was back

    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "0 films taken, 200 were there already" in result.stderr  # of the archive's own word, too
    server = orthanc.dimse if language == "dimse" else orthanc.web
    lines = Ledger(synthetic).taken_by(server.name)
    told = {uid: line.pixel_sha256 for uid, line in lines.items()}
    assert len(told) == FILMS
    assert told == {film.uid: film.pixel_sha256 for film in outgoing(synthetic, mark=False).films()}
    assert told == orthanc.films()

    asked = ["--pacs", *dimse] if language == "dimse" else to
    how = (
        "--out",
        tmp_path / "dataset",
        "--size",
        16,
        "--curate",
        "min_side_px=8",
        "--curate",
        "min_contrast=0",
    )
    ingested = xraygen_cli("ingest", *asked, "--find", "PatientID=SYNTHETIC-*", *how)
    assert ingested.exit_code == 0, ingested.stderr
    sent = sorted(read_film(synthetic / "images" / f"{seed}.png").values.tobytes() for seed in range(FILMS))
    assert sorted(image.tobytes() for image in open_dataset(tmp_path / "dataset").images) == sent
