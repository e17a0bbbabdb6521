"""Whatever a file holds, it is accepted or rejected with a reason, in little time and memory, and no more happens."""

import importlib.util
import resource
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from xraygen.dataset.ingest import ingest
from xraygen.dataset.ingest_settings import IngestSettings
from xraygen.dataset.manifest import read_rejected
from xraygen.errors import FilmError
from xraygen.films.reader import read_film

from .memory import memory_taken

_SECONDS = 10.0
_MEMORY_BYTES = 2 * 10**9


@pytest.fixture(scope="module")
def mutations() -> ModuleType:
    """mutations.py, beside this file."""
    path = Path(__file__).with_name("mutations.py")
    specification = importlib.util.spec_from_file_location("mutations", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_films_that_are_damaged_are_valid_and_mutants_are_not_all_alike(
    mutations: ModuleType, tmp_path: Path
) -> None:
    films = mutations.valid_films()
    for name, content in films.items():
        (tmp_path / f"film.{name}").write_bytes(content)
        assert read_film(tmp_path / f"film.{name}").values.size == 24 * 20, name
    changed = [seed for seed in range(300) if mutations.mutant(seed, films)[1] not in films.values()]
    assert len(changed) > 270
    assert mutations.mutant(7, films) == mutations.mutant(7, films)


@pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_every_mutant_is_accepted_or_rejected_with_a_reason(
    mutations: ModuleType,
    settings: IngestSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    films = mutations.valid_films()
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    sources = tmp_path / "in"
    sources.mkdir()
    for seed in range(count):
        name, content = mutations.mutant(seed, films)
        (sources / f"{seed:05d}.{name}").write_bytes(content)
    before = contents(sources)
    summary = ingest([sources], tmp_path / "out", replace(settings, workers=2, seconds_per_file=_SECONDS))
    assert summary.seen == count == summary.accepted + sum(summary.rejected.values())
    rejected = read_rejected(tmp_path / "out" / "rejected.csv")
    assert (rejected["reason"] != "").all()
    assert (rejected["detail"] != "").all()
    # Not even a worker was lost, and no error came that nobody had thought of.
    unforeseen = rejected["reason"].isin(["crashed", "timed_out", "out_of_memory", "reader_failed"])
    assert list(rejected["detail"][unforeseen]) == []
    assert {"truncated", "too_large", "decode_failed", "no_pixels", "not_an_image"} <= set(summary.rejected)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < _MEMORY_BYTES
    assert contents(sources) == before
    assert {path.name for path in tmp_path.iterdir()} == {
        *("in", "out", "scratch", "fixed.key", "fixed.key.crosswalk.csv"),
    }  # fmt: skip
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("name", ["explicit", "rle", "jpeg-ls", "lossless", "jpeg-2000", "htj2k"])
def test_a_claim_of_65535_x_65535_pixels_takes_no_memory(
    mutations: ModuleType, tmp_path: Path, name: str
) -> None:
    films = mutations.valid_films()
    content = films[name]
    rows, columns = b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"
    for element, value in ((rows, b"\x18\x00"), (columns, b"\x14\x00")):
        assert element + value in content
        content = content.replace(element + value, element + b"\xff\xff")
    (tmp_path / "film").write_bytes(content)
    with memory_taken() as taken, pytest.raises(FilmError) as refusal:
        read_film(tmp_path / "film")
    assert refusal.value.reason == "too_large"
    assert taken() < 50_000  # kB


@pytest.mark.parametrize("name", ["jpeg-ls", "lossless", "lossless-sv1", "extended", "jpeg-2000", "htj2k"])
def test_a_compressed_image_that_claims_more_than_its_film_is_not_decoded(
    mutations: ModuleType, tmp_path: Path, name: str
) -> None:
    content = mutations.valid_films()[name]
    small, huge = (b"\x00\x18\x00\x14", b"\xff\xff\xff\xff")
    if name in ("jpeg-2000", "htj2k"):
        small, huge = b"\x00\x00\x00\x14\x00\x00\x00\x18", b"\x00\x00\xff\xff\x00\x00\xff\xff"
    assert small in content
    (tmp_path / "film").write_bytes(content.replace(small, huge, 1))
    with memory_taken() as taken, pytest.raises(FilmError, match="65535 x 65535") as refusal:
        read_film(tmp_path / "film")
    assert refusal.value.reason == "decode_failed"
    assert taken() < 50_000  # kB


def test_an_htj2k_image_that_fails_half_way_is_refused(mutations: ModuleType, tmp_path: Path) -> None:
    """The decoder returned whatever its memory held before, and said so to nobody."""
    content = bytearray(mutations.valid_films()["htj2k"])
    middle = content.rindex(b"\xff\x93") + 40  # inside the tile's data
    content[middle : middle + 60] = bytes(60)
    (tmp_path / "film").write_bytes(content)
    with pytest.raises(FilmError, match="damaged"):
        read_film(tmp_path / "film")


@pytest.mark.parametrize("name", ["lossless", "lossless-sv1"])
def test_a_lossless_jpeg_without_its_huffman_table_is_refused(
    mutations: ModuleType, tmp_path: Path, name: str
) -> None:
    """The second decoder read a table that was not there, and killed the process."""
    content = mutations.valid_films()[name]
    assert content.count(b"\xff\xc4") == 1
    start = content.index(b"\xff\xc4")
    length = int.from_bytes(content[start + 2 : start + 4], "big")
    comment = (
        b"\xff\xfe" + content[start + 2 : start + 2 + length]
    )  # of the same length, so that the rest stays whole
    (tmp_path / "film").write_bytes(content[:start] + comment + content[start + 2 + length :])
    with pytest.raises(FilmError) as refusal:
        read_film(tmp_path / "film")
    assert refusal.value.reason == "decode_failed"
