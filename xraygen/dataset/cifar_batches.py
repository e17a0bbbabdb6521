"""CIFAR-10's python batches, read without running what a pickle may ask for.

A pickle is a program: whoever wrote it chooses which functions are called. The few names that a batch needs are
answered with stand-ins that only take notes, and any other name ends the reading: no function of the pickle's choice
ever runs.
"""

import hashlib
import io
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from xraygen.errors import FilmError

SIDE = 32
META_NAME = "batches.meta"
MAX_BATCH_BYTES = 2**26
"""64 MiB: twice a batch of CIFAR-10."""

ORIGINAL_MD5: Mapping[str, str] = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
"""Of the files that Krizhevsky published, as torchvision's CIFAR10 lists them."""

_BATCH = re.compile(r"(data_batch_\d{1,3}|test_batch)")
_NUMPY = r"numpy\.(core|_core)\.multiarray"


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        images: uint8 `[N, 32, 32, 3]`.
        labels: Number of each image's class.
        original: Whether the file is one of those that were published, by its MD5.
    """

    images: NDArray[np.uint8]
    labels: tuple[int, ...]
    original: bool


def is_batch(name: str) -> bool:
    """Whether a file's name is that of a batch: data_batch_1 and the like, or test_batch."""
    return _BATCH.fullmatch(name) is not None


def read_batch(name: str, content: bytes) -> Batch:
    """Read a batch.

    Args:
        name: The file's name.
        content: Its bytes.

    Raises:
        FilmError: `no_batch` where it is no batch of 32x32 images in colour, or asks for more than a batch needs.
    """
    values = _read(content)
    data, labels = values.get("data"), values.get("labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise _no_batch("it lacks data or labels")
    pixels = data.values()
    if pixels.ndim != 2 or pixels.shape[1] != 3 * SIDE * SIDE or len(labels) != len(pixels):
        raise _no_batch(f"it holds {len(labels)} labels and data of shape {pixels.shape}")
    if not all(isinstance(label, int) and 0 <= label < 1000 for label in labels):
        raise _no_batch("its labels are no numbers")
    images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)  # (N, 32, 32, 3)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return Batch(np.ascontiguousarray(images), tuple(labels), ORIGINAL_MD5.get(name) == digest)


def read_label_names(content: bytes) -> tuple[str, ...]:
    """The classes' names, from batches.meta.

    Raises:
        FilmError: `no_batch` where it holds none.
    """
    names = _read(content).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _no_batch("it lacks label_names")
    return tuple(names)


def _no_batch(why: str) -> FilmError:
    return FilmError("no_batch", f"The file is not a python batch of CIFAR-10 ({why}); download it again.")


def _read(content: bytes) -> dict[str, Any]:
    """The dictionary in a pickle; text of Python 2 is taken byte by byte."""
    if len(content) > MAX_BATCH_BYTES:
        raise _no_batch(f"it is larger than {MAX_BATCH_BYTES >> 20} MiB")
    try:
        values = _Reader(io.BytesIO(content), encoding="latin1").load()
    except FilmError:
        raise
    except Exception as error:  # a damaged pickle fails in many ways
        raise _no_batch("it is cut off or damaged") from error
    if not isinstance(values, dict):
        raise _no_batch("it is no dictionary")
    return {str(key): value for key, value in values.items() if isinstance(key, (str, bytes))}


class _Reader(pickle.Unpickler):
    """Knows the names of an array of bytes, and no other.

    Each answer is a function made for the occasion: what a pickle does to it is forgotten with it.
    """

    def find_class(self, module: str, name: str) -> Any:
        if re.fullmatch(_NUMPY, module) and name == "_reconstruct":
            return lambda *_: _Array()
        if (module, name) == ("numpy", "ndarray"):
            return lambda *_: None
        if (module, name) == ("numpy", "dtype"):
            return lambda name, *_: _DType(name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding="latin1": _encode(text, encoding)
        raise _no_batch("it names code that no batch needs")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _no_batch("it refers to something outside")


class _DType:
    """Stands in for numpy.dtype: keeps its name."""

    def __init__(self, name: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and fields, which bytes do not have."""


class _Array:
    """Stands in for numpy.ndarray: keeps shape, type and bytes."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, tuple) else ()

    def values(self) -> NDArray[np.uint8]:
        """The array, if it is one of bytes."""
        if len(self.state) != 5:
            raise _no_batch("its array is not whole")
        _, shape, dtype, columns_first, content = self.state
        if isinstance(content, str):  # bytes of Python 2
            content = content.encode("latin1")
        fits = (
            isinstance(dtype, _DType)
            and dtype.name == "u1"
            and isinstance(content, bytes)
            and isinstance(shape, tuple)
            and all(isinstance(side, int) and side >= 0 for side in shape)
            and prod(shape) == len(content)
        )
        if not fits:
            raise _no_batch("its array is not one of bytes")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if columns_first else "C")


def _encode(text: object, encoding: object) -> bytes:
    """Stands in for codecs.encode, by which Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _no_batch("it encodes text in an unknown way")
    return text.encode("latin1")
