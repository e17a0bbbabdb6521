import json
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless
from typer.testing import Result

from xraygen.films.decoders import decode

Cli = Callable[..., Result]


def test_it_decodes_a_small_film_of_every_family_and_names_no_machine(xraygen_cli: Cli) -> None:
    result = xraygen_cli("info", "--json", "--device", "cpu")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    families = {
        "uncompressed",
        "RLE",
        "JPEG baseline",
        "JPEG extended",
        "JPEG lossless",
        "JPEG-LS",
        "JPEG 2000",
    }
    assert found["decoders"] == dict.fromkeys(families | {"HTJ2K"})
    assert found["environment"]["packages"]["pydicom"] == version("pydicom")
    assert "cxr-64" in found["presets"]
    assert found["features"]["efficientnet-lite0"] == {"lacks": None, "add": None}
    assert platform.node() not in result.stdout
    assert {"bench", "dask", "dev"} <= set(found["extras"])


def test_a_codec_that_fails_is_named_and_the_exit_code_says_so(
    xraygen_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(film: Dataset, syntax: UID) -> Any:
        if syntax == JPEGLSLossless:
            raise ImportError("libcharls.so.2: cannot open shared object file")
        values = decode(film, syntax)
        return values ^ 1 if syntax == JPEG2000Lossless else values

    monkeypatch.setattr("xraygen.about.decode", damaged)
    result = xraygen_cli("info", "--device", "cpu")
    assert result.exit_code == 1
    assert "JPEG-LS FAILS: ImportError: libcharls.so.2: cannot open shared object file" in result.stdout
    assert "JPEG 2000 FAILS: off by 1 levels" in result.stdout
    assert "RLE works" in result.stdout


def test_an_extractor_that_lacks_something_comes_with_what_adds_it(
    xraygen_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XRAYGEN_CACHE", str(tmp_path))
    monkeypatch.setattr("xraygen.metrics.extractors.vision_transformers.find_spec", lambda name: None)
    result = xraygen_cli("info", "--device", "cpu")
    assert "features   efficientnet-lite0 is there" in result.stdout
    assert "inception lacks pt_inception-2015-12-05-6726825d.pth (91 MiB): --weights" in result.stdout
    assert "xrv lacks nih-pc-chex-mimic_ch-google-openi-kaggle-densenet121" in result.stdout
    assert "clip lacks the package transformers: pip install 'xraygen[features]'" in result.stdout


def test_a_missing_extra_comes_with_the_command_that_adds_it(
    xraygen_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_there(package: str) -> str:
        if package == "distributed":
            raise PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr("xraygen.about.version", not_there)
    result = xraygen_cli("info", "--device", "cpu")
    assert "dask lacks distributed: pip install 'xraygen[dask]'" in result.stdout
    assert "bench is there" in result.stdout
