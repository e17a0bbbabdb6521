"""Weights are the published ones or refused; they are fetched only when asked, and whole or not at all."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xraygen.errors import FolderError, UsageError
from xraygen.metrics.extractors import vision_transformers
from xraygen.metrics.extractors.extractor import ExtractorOptions
from xraygen.metrics.extractors.registry import check_extractor, load_extractor, parse_weights
from xraygen.metrics.extractors.weights import (
    Published,
    kept_weights,
    load_exactly,
    read_tensors,
    weights_file,
)

CONTENT = b"these are weights" * 1000


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XRAYGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def published() -> Iterator[Published]:
    """A file on a server of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/weights.pt" else 404)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/weights.pt"
        yield Published("xrv", "weights.pt", url, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "MIT")
        server.shutdown()


def test_without_download_nothing_is_fetched_and_one_sentence_says_what_to_do(published: Published) -> None:
    with pytest.raises(UsageError) as caught:
        weights_file(published, ExtractorOptions())
    assert str(caught.value) == (
        "--features xrv needs weights.pt (0 MiB), which is not here: --weights xrv=FILE, or --download, which fetches "
        f"it from {published.url}."
    )
    assert not kept_weights(published).exists()


def test_a_download_is_checked_kept_and_used_again(published: Published) -> None:
    file = weights_file(published, ExtractorOptions(download=True))
    assert file.read_bytes() == CONTENT
    gone = replace(published, url="http://127.0.0.1:1/weights.pt")
    assert weights_file(gone, ExtractorOptions()) == file


def test_a_download_with_another_hash_leaves_nothing(published: Published) -> None:
    other = replace(published, sha256="0" * 64)
    with pytest.raises(FolderError, match=f"instead of {'0' * 64}; it was deleted"):
        weights_file(other, ExtractorOptions(download=True))
    assert [path for path in kept_weights(other).parent.iterdir() if path.is_file()] == []


def test_a_server_that_has_no_such_file_is_one_sentence(published: Published) -> None:
    gone = replace(published, url=published.url + ".gone")
    with pytest.raises(
        FolderError, match=r"could not be fetched .*bring weights.pt yourself: --weights xrv=FILE"
    ):
        weights_file(gone, ExtractorOptions(download=True))


def test_a_kept_file_that_was_damaged_is_refused(published: Published) -> None:
    file = weights_file(published, ExtractorOptions(download=True))
    file.write_bytes(CONTENT[:-1])
    with pytest.raises(UsageError, match=f"xrv is defined by {published.sha256}"):
        weights_file(published, ExtractorOptions())


@pytest.mark.parametrize("name", ["inception", "xrv"])
def test_another_file_than_the_published_one_is_refused_by_hash(name: str, tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(b"weights")
    options = ExtractorOptions({name: tmp_path / "other.pt"})
    for refuse in (check_extractor, lambda name, options: load_extractor(name, "cpu", options)):
        with pytest.raises(UsageError, match=r"has SHA-256 .* is another file or damaged"):
            refuse(name, options)


@pytest.mark.parametrize(
    ("name", "words"),
    [("inception", "no such file"), ("radimagenet", "no such file"), ("clip", "missing or unreadable")],
)
def test_weights_that_are_not_there_are_refused_before_the_work(
    name: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision_transformers, "find_spec", lambda name: True)
    with pytest.raises(UsageError, match=words):
        check_extractor(name, ExtractorOptions({name: tmp_path / "none.pt"}))


@pytest.mark.parametrize("name", ["inception", "xrv", "radimagenet"])
def test_weights_that_are_missing_are_refused_before_the_work(name: str) -> None:
    with pytest.raises(UsageError, match=f"--features {name} needs .* is not here: --weights {name}=FILE"):
        check_extractor(name)


def test_download_is_no_help_where_the_publisher_wants_to_be_asked() -> None:
    check_extractor("xrv", ExtractorOptions(download=True))
    with pytest.raises(UsageError, match="once you have the models from"):
        check_extractor("radimagenet", ExtractorOptions(download=True))


def test_the_hash_of_the_fid_network_begins_with_what_its_name_says() -> None:
    from xraygen.metrics.extractors.inception import published as of_fid  # noqa: PLC0415 - shadowed above

    assert of_fid().sha256.startswith("6726825d")
    assert len(of_fid().sha256) == 64


@pytest.mark.parametrize(
    ("texts", "features", "expected"),
    [
        (["a.pt"], ["pixels", "xrv"], {"xrv": "a.pt"}),
        (["xrv=a.pt", "inception=b=c.pth"], ["inception", "xrv"], {"xrv": "a.pt", "inception": "b=c.pth"}),
        (["folder/x=1.pt"], ["xrv"], {"xrv": "folder/x=1.pt"}),
    ],
)
def test_weights_belong_to_the_extractor_that_takes_them(
    texts: list[str], features: list[str], expected: dict[str, str]
) -> None:
    assert parse_weights(texts, features) == {name: Path(path) for name, path in expected.items()}


@pytest.mark.parametrize(
    ("texts", "features", "words"),
    [
        (["a.pt"], ["xrv", "inception"], "expected NAME=PATH.*xrv, inception"),
        (["a.pt"], ["pixels"], "none was chosen"),
        (["xrv=a.pt"], ["inception"], "was not chosen, or takes no weights"),
        (["pixels=a.pt"], ["pixels"], "was not chosen, or takes no weights"),
        (["xrv=a.pt", "b.pt"], ["xrv"], "xrv has weights already"),
    ],
)
def test_weights_of_nobody_are_refused(texts: list[str], features: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_weights(texts, features)


def test_weights_are_read_as_data_from_both_formats(tmp_path: Path) -> None:
    state = nn.Linear(3, 2).state_dict()
    torch.save(state, tmp_path / "state.pt")
    save_file(state, tmp_path / "state.safetensors")
    for file in tmp_path.glob("state.*"):
        assert all(torch.equal(read_tensors(file)[name], tensor) for name, tensor in state.items())


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2), tmp_path / "whole.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    (tmp_path / "text.safetensors").write_text("weights")
    for name in ("whole.pt", "list.pt", "text.safetensors"):
        with pytest.raises(FolderError, match="expected a state dict"):
            read_tensors(tmp_path / name)


def test_weights_that_do_not_fit_are_named() -> None:
    network = nn.Linear(3, 2)
    state = network.state_dict()
    for wrong, name in (
        ({"weight": state["weight"]}, "bias"),
        ({**state, "more": state["bias"]}, "more"),
        ({**state, "bias": torch.zeros(3)}, "bias"),
    ):
        with pytest.raises(FolderError, match=f"1 are missing, left over or of another shape, .* {name}"):
            load_exactly(network, wrong, Path("file.pt"))


def test_without_the_package_one_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_transformers, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"needs the package transformers, .*: pip install 'xraygen\[features\]'"
    ):
        load_extractor("clip", "cpu")


def test_without_a_folder_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def nothing_kept(*_: object, local_files_only: bool, **__: object) -> str:
        asked.append(local_files_only)
        raise OSError("not kept")

    monkeypatch.setattr(vision_transformers, "find_spec", lambda name: True)
    monkeypatch.setattr(vision_transformers, "snapshot_download", nothing_kept)
    with pytest.raises(UsageError, match="--weights clip=FOLDER, or --download"):
        check_extractor("clip")
    assert asked == [True]
    with pytest.raises(FolderError, match="could not be fetched from the Hugging Face Hub"):
        load_extractor("clip", "cpu", ExtractorOptions(download=True))
    assert asked[-1] is False
