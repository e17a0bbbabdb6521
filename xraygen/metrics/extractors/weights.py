"""Weights of extractors: where they lie, whether they are the published ones, and how they are read.

They are data, never code.
"""

import os
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from xraygen.atomic import atomic_file, sha256_of
from xraygen.errors import FolderError, UsageError
from xraygen.metrics.extractors.extractor import ExtractorOptions, Lack
from xraygen.progress import Progress, Report

_CHUNK = 2**20
_TIMEOUT_SECONDS = 60
_NEVER_USED = "num_batches_tracked"


@dataclass(frozen=True)
class Published:
    """A file of weights, as its publisher gives it out."""

    extractor: str
    """The name that --weights takes."""
    file: str
    """What it is called."""
    url: str
    """Where it is fetched from, with --download only."""
    sha256: str
    """In hexadecimal, as its publisher's page or its own name says."""
    size: int
    """Bytes."""
    licence: str
    """What it is given out under."""


def cache_folder() -> Path:
    """$XRAYGEN_CACHE, else $XDG_CACHE_HOME/xraygen/features, else ~/.cache/xraygen/features."""
    if chosen := os.environ.get("XRAYGEN_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xraygen" / "features"


def kept_weights(wanted: Published) -> Path:
    """Where a download is kept: beside the cached features."""
    return cache_folder() / "weights" / wanted.file


def lacks_file(wanted: Published, options: ExtractorOptions, also: Iterable[Published] = ()) -> Lack | None:
    """What is missing where neither --weights nor an earlier download brings the file.

    Args:
        wanted: The file that --download would fetch.
        options: --weights and --download.
        also: Other publications that --weights may name.

    Raises:
        UsageError: If --weights names no file, or another one.
    """
    if (given := options.weights.get(wanted.extractor)) is not None:
        check_published(given, (wanted, *also))
        return None
    if kept_weights(wanted).is_file():
        return None
    return Lack(
        f"{wanted.file} ({wanted.size / 2**20:.0f} MiB)",
        f"--weights {wanted.extractor}=FILE, or --download, which fetches it from {wanted.url}",
        downloads=True,
    )


def weights_file(wanted: Published, options: ExtractorOptions, also: Iterable[Published] = ()) -> Path:
    """The file of weights, if and only if it is a published one.

    Args:
        wanted: The file that --download would fetch.
        options: --weights and --download.
        also: Other publications that --weights may name.

    Raises:
        UsageError: If there is no file, or its hash is another's.
        FolderError: If it cannot be fetched.
    """
    lack = lacks_file(wanted, options, also)
    if (given := options.weights.get(wanted.extractor)) is not None:
        return given
    kept = kept_weights(wanted)
    if lack is not None:
        if not options.download:
            raise UsageError(refusal(wanted.extractor, lack))
        download(wanted, kept, options.report)
    check_published(kept, (wanted,))
    return kept


def refusal(extractor: str, lack: Lack) -> str:
    """One sentence for who asks for an extractor that is not all there; nothing was downloaded."""
    return f"--features {extractor} needs {lack.what}, which is not here: {lack.add}."


def check_published(file: Path, published: Iterable[Published]) -> Published:
    """Which publication a file is.

    Raises:
        UsageError: If there is no such file, or it is none of them.
    """
    candidates = tuple(published)
    name, known = candidates[0].extractor, ", ".join(one.file for one in candidates)
    if not file.is_file():
        raise UsageError(f"--weights {name}={file}: there is no such file; expected {known}.")
    found = sha256_of(file)
    for one in candidates:
        if one.sha256 == found:
            return one
    expected = " or ".join(one.sha256 for one in candidates)
    raise UsageError(
        f"{file} has SHA-256 {found}, and {name} is defined by {expected} ({known}): it is another file or "
        f"damaged; copy it again from {candidates[0].url}."
    )


def download(wanted: Published, to: Path, report: Report) -> None:
    """Fetch a file; it is at `to` only once its hash has been found right.

    Raises:
        FolderError: If the publisher cannot be reached, or gives something else.
    """
    try:
        with atomic_file(to) as aside:
            _copy(wanted, aside, report)
            found = sha256_of(aside)
            if found != wanted.sha256:
                raise FolderError(
                    f"{wanted.url} gave a file with SHA-256 {found} instead of {wanted.sha256}; it was deleted. "
                    f"Bring the file yourself: --weights {wanted.extractor}=FILE."
                )
    except (OSError, HTTPException) as error:
        raise FolderError(
            f"{wanted.url} could not be fetched ({' '.join(str(error).split())}); bring {wanted.file} yourself: "
            f"--weights {wanted.extractor}=FILE."
        ) from None


def _copy(wanted: Published, to: Path, report: Report) -> None:
    """From the network to the disk, chunk by chunk."""
    with (
        urllib.request.urlopen(wanted.url, timeout=_TIMEOUT_SECONDS) as source,
        to.open("wb") as target,
    ):
        done = 0
        while chunk := source.read(_CHUNK):
            target.write(chunk)
            done += len(chunk)
            report(Progress(f"download {wanted.file}", min(done, wanted.size), wanted.size))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """A state dict, from safetensors or from torch with weights_only=True.

    Raises:
        FolderError: If the file holds anything else.
    """
    state: object = None
    with suppress(Exception):  # torch and safetensors raise many kinds
        state = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise FolderError(
            f"{file} cannot be read as weights: expected a state dict, saved by torch or as safetensors."
        )
    return {str(name): value for name, value in state.items()}


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Give a network its weights, all of them and no others; a count of batches, which nothing uses, may be missing.

    Args:
        module: Of any device; made on "meta" it costs neither time nor memory before.
        tensors: By the names of its state dict; become float32.
        file: Where they come from, for messages.

    Raises:
        FolderError: If a weight is missing, is left over, or has another shape.
    """
    wanted = module.state_dict()
    counts = {name: torch.zeros((), dtype=torch.int64) for name in wanted if name.endswith(_NEVER_USED)}
    given = {**counts, **{name: tensor.float() for name, tensor in tensors.items() if name not in counts}}
    wrong = sorted(wanted.keys() ^ given.keys()) or [
        name for name, tensor in wanted.items() if tensor.shape != given[name].shape
    ]
    if wrong:
        raise FolderError(
            f"{file} does not hold the weights of this network: {len(wrong)} are missing, left over or of another "
            f"shape, the first of them {wrong[0]}."
        )
    module.load_state_dict(given, strict=True, assign=True)
