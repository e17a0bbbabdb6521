"""Natural images become the same DATASET whatever they come in, and a python batch runs no code."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from xraygen.dataset.cifar_batches import read_batch, read_label_names
from xraygen.dataset.natural import prepare_natural
from xraygen.dataset.natural_sources import natural_pictures
from xraygen.dataset.store import Dataset, open_dataset
from xraygen.errors import FilmError, UsageError

Images = NDArray[np.uint8]
NAMES = ("airplane", "automobile", "bird")


@pytest.fixture(scope="module")
def images() -> Images:
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


def number(value: int) -> bytes:
    return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)


def python2_batch(images: Images, labels: list[int]) -> bytes:
    """A batch as Python 2 and numpy wrote CIFAR-10's: text and pixels are byte strings, opcode by opcode."""
    pixels = images.transpose(0, 3, 1, 2).tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    array += b"(K\x01" + number(len(images)) + number(3072) + b"\x86"
    array += b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array += b"\x89T" + struct.pack("<i", len(pixels)) + pixels + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + listed + b"u."


@pytest.fixture(scope="module")
def batches(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of cifar-10-batches-py: two batches, a test batch, batches.meta and a page."""
    folder = tmp_path_factory.mktemp("cifar") / "cifar-10-batches-py"
    folder.mkdir()
    for name, rows in {
        "data_batch_1": range(4),
        "data_batch_2": range(4, 8),
        "test_batch": range(8, 12),
    }.items():
        (folder / name).write_bytes(python2_batch(images[list(rows)], [row % 3 for row in rows]))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(NAMES)}, protocol=2))
    (folder / "readme.html").write_text("<p>about</p>")
    return folder


@pytest.fixture(scope="module")
def pictures(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images as train/<class>/NNNN.png and test/<class>/NNNN.png."""
    folder = tmp_path_factory.mktemp("pictures")
    for row, image in enumerate(images):
        path = folder / ("train" if row < 8 else "test") / NAMES[row % 3] / f"{row:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def by_content(dataset: Dataset) -> list[tuple[bytes, str, str]]:
    rows = zip(dataset.images, dataset.manifest["split"], dataset.manifest["class"], strict=True)
    return sorted((image.tobytes(), split, label) for image, split, label in rows)


def tar_of(folder: Path, to: Path, mode: str) -> Path:
    with tarfile.open(to, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, arcname=folder.name)
    return to


def zip_of(folder: Path, to: Path) -> Path:
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(folder.parent))
    return to


def npz_of(images: Images, to: Path) -> Path:
    labels = np.array([NAMES[row % 3] for row in range(12)])
    np.savez(to, x_train=images[:8], y_train=labels[:8, None], x_test=images[8:], y_test=labels[8:, None])
    return to


@pytest.mark.parametrize("form", ["batches", "tar.gz", "folder", "zip", "tar.xz", "npz"])
def test_every_form_gives_the_same_images_splits_and_labels(
    form: str, images: Images, batches: Path, pictures: Path, tmp_path: Path
) -> None:
    make: dict[str, Callable[[], Path]] = {
        "batches": lambda: batches,
        "tar.gz": lambda: tar_of(batches, tmp_path / "cifar-10-python.tar.gz", "w:gz"),
        "folder": lambda: pictures,
        "zip": lambda: zip_of(pictures, tmp_path / "pictures.zip"),
        "tar.xz": lambda: tar_of(pictures, tmp_path / "pictures.tar.xz", "w:xz"),
        "npz": lambda: npz_of(images, tmp_path / "pictures.npz"),
    }
    dataset = prepare_natural(make[form](), tmp_path / "dataset", (32, 32))
    expected = [
        (image.tobytes(), "train" if row < 8 else "test", NAMES[row % 3]) for row, image in enumerate(images)
    ]
    assert by_content(dataset) == sorted(expected)
    assert dataset.images.dtype == np.uint8
    assert (dataset.info.channels, dataset.info.bits, dataset.info.size) == (3, 8, (32, 32))
    assert dataset.info.settings["original"] is False
    counts = dataset.info.counts
    assert counts["seen"] == counts["accepted"] + counts["rejected"]


def test_a_batch_of_python_2_is_what_pickle_and_numpy_read_of_it(images: Images) -> None:
    content = python2_batch(images, [1] * 12)
    theirs = pickle.loads(content, encoding="latin1")  # our own bytes
    ours = read_batch("data_batch_1", content)
    assert np.array_equal(ours.images, theirs["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert np.array_equal(ours.images, images)
    assert list(ours.labels) == theirs["labels"]
    assert not ours.original


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_batch_that_python_3_wrote_is_read_too(images: Images, protocol: int) -> None:
    rows = images.transpose(0, 3, 1, 2).reshape(12, -1)
    content = pickle.dumps({"data": np.ascontiguousarray(rows), "labels": [0] * 12}, protocol=protocol)
    assert np.array_equal(read_batch("data_batch_1", content).images, images)


class _Touches:
    """Pickles into a program that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_batch_that_asks_for_code_is_refused_and_the_code_not_run(images: Images, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    content = pickle.dumps({"data": _Touches(mark), "labels": []}, protocol=2)
    with pytest.raises(FilmError, match="names code that no batch needs"):
        read_batch("data_batch_1", content)
    assert not mark.exists()
    pickle.loads(content)
    assert mark.exists()  # the program works where pickle itself reads it


def hostile(instructions: bytes) -> bytes:
    return b"\x80\x02" + instructions + b"."


@pytest.mark.parametrize(
    "content",
    [
        hostile(b"cos\nsystem\nU\x02ls\x85R"),
        hostile(b"cbuiltins\neval\nU\x011\x85R"),
        hostile(b"cnumpy.core.multiarray\n_reconstruct\n}U\x0c__defaults__K\x01sb"),
        hostile(b"cnumpy\nload\nU\x01x\x85R"),
        hostile(b"cnumpy.core.multiarray\nfromfile\nU\x01x\x85R"),
        hostile(b"U\x01xQ"),
        hostile(b"]"),
        b"",
        b"\x80\x02}(U\x04data",
        b"no pickle at all",
    ],
    ids=["system", "eval", "build", "load", "fromfile", "persistent", "list", "empty", "cut", "text"],
)
def test_what_is_no_batch_is_refused_in_one_sentence(content: bytes) -> None:
    with pytest.raises(FilmError, match="not a python batch of CIFAR-10") as caught:
        read_batch("data_batch_1", content)
    assert caught.value.reason == "no_batch"


def test_an_array_of_objects_or_of_another_size_is_refused(images: Images) -> None:
    for data in (np.array([{}, {}], dtype=object), np.zeros((12, 3072)), np.zeros((12, 5), np.uint8)):
        content = pickle.dumps({"data": data, "labels": [0] * 12}, protocol=2)
        with pytest.raises(FilmError, match="not a python batch"):
            read_batch("data_batch_1", content)


def test_names_of_classes_are_text() -> None:
    assert read_label_names(pickle.dumps({"label_names": ["cat"]}, protocol=2)) == ("cat",)
    with pytest.raises(FilmError, match="lacks label_names"):
        read_label_names(pickle.dumps({"label_names": [1]}, protocol=2))


def test_larger_pictures_are_reduced_by_area_and_the_rest_is_accounted_for(tmp_path: Path) -> None:
    """CelebA-HQ's layout: one folder of square pictures, larger than what is trained on."""
    source = tmp_path / "celeba-hq"
    source.mkdir()
    large = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(large).save(source / "0.png")
    Image.fromarray(large[:32, :32]).save(source / "1.png")
    Image.fromarray(large[:16, :16]).save(source / "2.png")
    Image.fromarray(large[:, :32]).save(source / "3.png")
    (source / "4.png").write_bytes((source / "0.png").read_bytes()[:500])
    (source / "list.txt").write_text("0.png")
    dataset = prepare_natural(source, tmp_path / "dataset", (32, 32))
    means = large.reshape(32, 2, 32, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(dataset.images[0] - means).max() <= 1  # Pillow rounds to whole levels along either axis
    assert np.array_equal(dataset.images[1], large[:32, :32])
    assert dataset.info.counts == {"seen": 6, "accepted": 2, "rejected": 4}
    assert dataset.info.settings["resized"] == 1
    assert dataset.info.label_names == ()
    rejected = (tmp_path / "dataset" / "rejected.csv").read_text()
    assert {line.split(",")[1] for line in rejected.splitlines()[1:]} == {
        "too_small",
        "other_proportions",
        "truncated",
        "not_an_image",
    }
    assert set(dataset.manifest["split"]) == {"train"}


def test_the_same_command_opens_what_is_there_and_another_source_is_refused(
    batches: Path, pictures: Path, tmp_path: Path
) -> None:
    first = prepare_natural(batches, tmp_path / "dataset", (32, 32))
    again = prepare_natural(batches, tmp_path / "dataset", (32, 32))
    assert again.info == first.info == open_dataset(tmp_path / "dataset").info
    with pytest.raises(UsageError, match="another source or at another size"):
        prepare_natural(pictures, tmp_path / "dataset", (32, 32))


def test_members_that_lead_elsewhere_are_seen_and_never_followed(pictures: Path, tmp_path: Path) -> None:
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w") as writer:
        link = tarfile.TarInfo("train/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        writer.addfile(link)
        data = next(pictures.rglob("*.png")).read_bytes()
        outside = tarfile.TarInfo("../outside.png")
        outside.size = len(data)
        writer.addfile(outside, io.BytesIO(data))
    found = list(natural_pictures(archive))
    assert [picture.image.reason for picture in found if isinstance(picture.image, FilmError)] == ["link"] * 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none", None, "does not exist"),
        ("a.npz", b"PK", "damaged, or no .npz file"),
        ("a.tar.gz", b"\x1f\x8b", "cut off or damaged"),
        ("a.zip", b"text", "not a zip archive"),
        ("a.txt", b"text", "holds no image of 32x32"),
    ],
)
def test_a_source_that_cannot_be_read_is_said_in_one_sentence(
    name: str, content: bytes | None, words: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        prepare_natural(tmp_path / name, tmp_path / "dataset", (32, 32))
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pixels": np.zeros((2, 32, 32, 3), np.uint8)}, "holds none of the arrays"),
        ({"images": np.zeros((2, 3, 32, 32), np.uint8)}, r"expected uint8 \[N, H, W, 3\]"),
        ({"images": np.zeros((2, 32, 32, 3), np.float32)}, r"expected uint8 \[N, H, W, 3\]"),
        ({"images": np.zeros((2, 32, 32, 3), np.uint8), "labels": np.zeros(3)}, "not equally long"),
    ],
)
def test_npz_files_of_something_else_are_refused(
    arrays: dict[str, np.ndarray], words: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=words):
        prepare_natural(tmp_path / "a.npz", tmp_path / "dataset", (32, 32))


@pytest.mark.films
@pytest.mark.slow
def test_the_whole_of_cifar10_is_read(films: Path, tmp_path: Path) -> None:
    dataset = prepare_natural(films / "cifar10-jpg" / "cifar10_jpg.tar.xz", tmp_path / "dataset", (32, 32))
    assert {name: int(count) for name, count in dataset.manifest["split"].value_counts().items()} == {
        "train": 50_000,
        "test": 10_000,
    }
    assert dataset.manifest["class"].value_counts().tolist() == [6_000] * 10
    assert json.loads((tmp_path / "dataset" / "dataset.json").read_text())["settings"]["original"] is False
