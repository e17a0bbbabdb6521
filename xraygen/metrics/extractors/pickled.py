"""A network that was saved whole by torch, read as data: its tensors by name, without running a line of its code.

`torch.save(network)` writes a pickle that names classes to be built; weights_only=True refuses it. Here every class is
an empty shell, so that nothing named in the file is imported or called; only the tensors below the shells are kept.
Both forms are read: the zip archive of today, and the stream of pickles that torch wrote before 1.6.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Self

import numpy as np
import torch
from torch import Tensor

from xraygen.errors import FolderError

_MAGIC = 0x1950A86A20F9469CFC6C
"""First number of torch's stream of pickles."""
_KINDS = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}


@dataclass(frozen=True)
class _View:
    """A tensor whose numbers have not been read yet."""

    storage: str
    kind: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Shell:
    """Stands for an object of any class; holds what was saved of it."""

    name = ""
    state: Mapping[str, Any] = MappingProxyType({})

    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, Mapping) else {}


def _view(
    storage: tuple[str, str],
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    *_: object,
) -> _View:
    """In place of torch._utils._rebuild_tensor_v2."""
    return _View(*storage, offset, tuple(size), tuple(stride))


def _itself(view: _View, *_: object) -> _View:
    """In place of torch._utils._rebuild_parameter."""
    return view


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _view,
    ("torch._utils", "_rebuild_parameter"): _itself,
}


class _Reader(pickle.Unpickler):
    """Builds shells; knows three names, all of them above."""

    def find_class(self, module: str, name: str) -> Any:
        """A stand-in for what the file names."""
        known = _ALLOWED.get((module, name))
        return known if known is not None else type("Shell", (_Shell,), {"name": name})

    def persistent_load(self, identity: Any) -> Any:
        """A storage by its key, or the class of a module with its source code, which is left unread."""
        kind, *rest = identity
        if _text(kind) == "module":
            return rest[0]
        storage, key = rest[0], rest[1]
        return _text(key), str(getattr(storage, "name", ""))


def read_module(file: Path) -> dict[str, Tensor]:
    """Tensors of a network that was saved whole, by the names of its state dict.

    Args:
        file: Written by `torch.save(network, file)`.

    Raises:
        FolderError: If it is no such file, or damaged.
    """
    try:
        if zipfile.is_zipfile(file):
            root, storages = _from_archive(file)
        else:
            with file.open("rb") as stream:
                root, storages = _from_stream(stream)
        return dict(_tensors(root, "", storages))
    except Exception as error:
        raise FolderError(f"{file} cannot be read as a network saved by torch; copy it again.") from error


def _from_archive(file: Path) -> tuple[_Shell, dict[str, bytes]]:
    """The root and the storages' bytes of a zip archive."""
    with zipfile.ZipFile(file) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl") + "data/"
        root = _Reader(archive.open(pickled)).load()
        names = [name for name in archive.namelist() if name.startswith(folder)]
        return root, {name.removeprefix(folder): archive.read(name) for name in names}


def _from_stream(stream: IO[bytes]) -> tuple[_Shell, dict[str, bytes]]:
    """The same of a stream: magic number, version, system, the network, keys, and per key a count and its numbers."""
    magic, _, _ = (_Reader(stream).load() for _ in range(3))
    if magic != _MAGIC:
        raise ValueError("no file of torch")
    reader = _Reader(stream)
    root = reader.load()
    keys = [_text(key) for key in _Reader(stream).load()]
    kinds = {view.storage: view.kind for view in _views(root)}
    storages = {}
    for key in keys:
        (count,) = struct.unpack("<q", stream.read(8))
        storages[key] = stream.read(count * np.dtype(_KINDS[kinds[key]]).itemsize)
    return root, storages


def _members(module: _Shell) -> list[tuple[str, Any]]:
    """Parameters, buffers and modules directly below a module, by name."""
    parts = (module.state.get(part) or {} for part in ("_parameters", "_buffers", "_modules"))
    return [(str(name), member) for part in parts for name, member in part.items()]


def _views(module: _Shell) -> list[_View]:
    """All tensors below a module."""
    found = []
    for _, member in _members(module):
        if isinstance(member, _View):
            found.append(member)
        elif isinstance(member, _Shell):
            found += _views(member)
    return found


def _tensors(module: _Shell, prefix: str, storages: Mapping[str, bytes]) -> list[tuple[str, Tensor]]:
    """Named tensors below a module, as its state dict names them."""
    found = []
    for name, member in _members(module):
        if isinstance(member, _View):
            found.append((prefix + name, _filled(member, storages[member.storage])))
        elif isinstance(member, _Shell):
            found += _tensors(member, f"{prefix}{name}.", storages)
    return found


def _filled(view: _View, content: bytes) -> Tensor:
    """The tensor of a view."""
    numbers = torch.from_numpy(np.frombuffer(content, _KINDS[view.kind]).copy())
    return numbers.as_strided(view.size, view.stride, view.offset).clone()


def _text(value: object) -> str:
    """A string that an old file may hold as bytes."""
    return value.decode("ascii") if isinstance(value, bytes) else str(value)
