"""A user's function as an extractor: what it may be, and what is said of one that is not."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from xraygen.errors import UsageError
from xraygen.metrics.features import _key, extract, load_extractor

GOOD = """
import numpy as np

def features(images):
    return np.stack([images.mean(dim=(1, 2, 3)), images.amax(dim=(1, 2, 3))], axis=1)

def wrong_shape(images):
    return images.mean(dim=(2, 3)).flatten()

def one_row(images):
    return images.mean(dim=(1, 2, 3))[:1, None]

def not_finite(images):
    return images.mean(dim=(2, 3)) / 0

def in_training_mode(images):
    return images.mean(dim=(2, 3)) - images.mean()

def fails(images):
    raise RuntimeError("no\\nweights")

number = 3
features.provenance = {"weights": "abc"}
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    return file


def test_a_function_in_a_file_is_an_extractor_with_its_provenance(module: Path, tmp_path: Path) -> None:
    extractor = load_extractor(f"{module}:features", "cpu")
    assert (extractor.name, extractor.label, extractor.dims) == ("mine.py:features",) * 2 + (2,)
    assert extractor.provenance["extractor"] == "mine.features"
    assert extractor.provenance["source_sha256"] == hashlib.sha256(module.read_bytes()).hexdigest()
    assert extractor.provenance["own_weights"] == "abc"
    assert str(tmp_path) not in str(dict(extractor.provenance))
    films = np.random.default_rng(0).integers(0, 65536, (3, 8, 8), dtype=np.uint16)
    found = extract(extractor, films, 16, cache=tmp_path / "cache")
    assert np.allclose(found[:, 0], films.mean(axis=(1, 2)) / 65535, atol=1e-6)
    assert np.allclose(found[:, 1], films.max(axis=(1, 2)) / 65535, atol=1e-6)


def test_a_function_of_a_module_is_found_by_its_name(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(module.parent))
    assert load_extractor("mine:features", "cpu").provenance["extractor"] == "mine.features"


def test_another_text_of_the_file_is_another_extractor(module: Path, tmp_path: Path) -> None:
    films = np.zeros((2, 8, 8), dtype=np.uint16)
    extract(load_extractor(f"{module}:features", "cpu"), films, 16, cache=tmp_path / "cache")
    module.write_text(GOOD + "\n# changed\n")
    extract(load_extractor(f"{module}:features", "cpu"), films, 16, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


PARTIAL = """
import functools

def power(images, exponent):
    return images.mean(dim=(2, 3)) ** exponent

features = functools.partial(power, exponent={})
"""


def test_another_argument_of_another_modules_class_is_another_extractor(module: Path) -> None:
    """`functools.partial` is of a file of Python's own, which does not change."""
    keys = []
    for exponent in ("2", "0.5"):
        module.write_text(PARTIAL.format(exponent))
        extractor = load_extractor(f"{module}:features", "cpu")
        assert extractor.provenance["module_sha256"] == hashlib.sha256(module.read_bytes()).hexdigest()
        keys.append(_key(extractor, 16))
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("wrong_shape", r"gave \(2,\) of 2 images; expected \(2, d\)"),
        ("one_row", r"gave \(1, 1\) of 2 images; expected \(2, d\)"),
        ("not_finite", "gave numbers that are not finite"),
        ("in_training_mode", "among others; is a network in training mode"),
        ("fails", r"failed on \(2, 1, 64, 64\): RuntimeError: no weights"),
        ("number", "number is no function"),
        ("nothing", "has no attribute 'nothing'; expected package.module:function"),
    ],
)
def test_what_is_no_extractor_is_refused_in_one_sentence(module: Path, function: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        load_extractor(f"{module}:{function}", "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere.py:features", "there is no such file"),
        ("no_such_module:features", "No module named 'no_such_module'"),
    ],
)
def test_a_module_that_is_not_there_is_refused(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_extractor(name, "cpu")


def test_features_whose_number_depends_on_the_size_are_refused(module: Path) -> None:
    module.write_text("def features(images):\n    return images.flatten(1)\n")
    extractor = load_extractor(f"{module}:features", "cpu")
    with pytest.raises(UsageError, match="gave 64 features of 8x8 px and 4096 of 64x64 px; expected as many"):
        extractor(torch.zeros(2, 1, 8, 8))


def test_a_film_that_it_fails_on_later_is_one_sentence(module: Path) -> None:
    module.write_text(
        "def features(images):\n    assert images.amax() < 2\n    return 1 / (images.mean(dim=(2, 3)) - 0.5)\n"
    )
    extractor = load_extractor(f"{module}:features", "cpu")
    with pytest.raises(UsageError, match="not finite"):
        extractor(torch.full((2, 1, 8, 8), 0.5))
