"""A real archive: Orthanc (Debian's packages orthanc and orthanc-dicomweb) on the loopback interface."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests

from xraygen.films.pacs import DimseServer, WebServer
from xraygen.synthesis.generate import generate
from xraygen.synthesis.sampling import SamplerSettings

PROGRAM = shutil.which("Orthanc", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_SECONDS_TO_START = 60


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Orthanc:
    """An Orthanc with storage of its own, that can be killed and started again."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.dicom_port, self.http_port = free_ports(2)
        self._root = f"http://127.0.0.1:{self.http_port}"
        self._settings = folder / "orthanc.json"
        self._log = folder / "log.txt"
        self._process: subprocess.Popen[bytes] | None = None
        told = {
            "Name": "xraygen tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(PLUGIN)],
            "DicomAet": "ARCHIVE",
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "DicomCheckCalledAet": True,
            **settings,
        }
        self._settings.write_text(json.dumps(told))

    @property
    def dimse(self) -> DimseServer:
        return DimseServer("127.0.0.1", self.dicom_port, "ARCHIVE")

    @property
    def web(self) -> WebServer:
        return WebServer(f"{self._root}/dicom-web")

    def start(self) -> None:
        assert PROGRAM is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, str(self._settings)], stdout=log, stderr=log)
        deadline = time.monotonic() + _SECONDS_TO_START
        while time.monotonic() < deadline:
            try:
                requests.get(f"{self._root}/system", timeout=1)
                return
            except requests.RequestException:
                assert self._process.poll() is None, self._log.read_text()
                time.sleep(0.1)
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def get(self, path: str) -> Any:
        """Orthanc's own interface, which xraygen does not use."""
        return requests.get(f"{self._root}/{path}", timeout=30)

    def films(self) -> dict[str, str]:
        """SOP Instance UID -> SHA-256 of the Pixel Data, of all that it holds."""
        found = {}
        for instance in self.get("instances").json():
            film = pydicom.dcmread(BytesIO(self.get(f"instances/{instance}/file").content))
            found[str(film.SOPInstanceUID)] = sha256(film.PixelData).hexdigest()
        return found

    def empty(self) -> None:
        for patient in self.get("patients").json():
            requests.delete(f"{self._root}/patients/{patient}", timeout=30)


@pytest.fixture(scope="module")
def orthanc_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if PROGRAM is None or not PLUGIN.is_file():
        pytest.skip("Orthanc is not installed (Debian's packages orthanc and orthanc-dicomweb)")
    server = Orthanc(tmp_path_factory.mktemp("orthanc"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def orthanc(orthanc_of_module: Orthanc) -> Orthanc:
    """Running, and empty."""
    orthanc_of_module.empty()
    return orthanc_of_module


@pytest.fixture(scope="session")
def plain_set(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four films as PNG."""
    out = tmp_path_factory.mktemp("sets") / "plain"
    settings = SamplerSettings(sampler="ddim", steps=1, compute_batch=4)
    generate(tiny_run, out, range(4), settings, device="cpu")
    return out


@pytest.fixture
def synthetic(plain_set: Path, tmp_path: Path) -> Path:
    """A copy of `plain_set`, to be sent."""
    return Path(shutil.copytree(plain_set, tmp_path / "synthetic"))
