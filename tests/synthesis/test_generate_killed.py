"""Killed at any moment, by one process or several, the same call finishes the set: each image once, with its row."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xraygen.atomic import sha256_of
from xraygen.films.reader import read_film
from xraygen.synthesis.generate import generate
from xraygen.synthesis.images import FileFormat
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.synthesis.share import Share

DRIVER = '''
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from xraygen.synthesis.generate import generate
from xraygen.synthesis.sampling import SamplerSettings
from xraygen.synthesis.share import Share

run, out, count, images, kills, file_format = sys.argv[1:]
run, out, count, images, kills = Path(run), Path(out), int(count), int(images), int(kills)
torch.set_num_threads(1)
settings = SamplerSettings("ddim", 2, compute_batch=4)
moments = random.Random(0)


def changes_the_disk(event, arguments):
    if event == "open":
        return str(arguments[0]).startswith(str(out)) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    return event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir")


def start(number, last):
    """A process that makes its share, and kills itself before the change to the disk with the number `last`."""
    child = os.fork()
    if child:
        return child
    done = 0

    def count_changes(event, arguments):
        nonlocal done
        if changes_the_disk(event, arguments):
            if done == last:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1

    sys.addaudithook(count_changes)
    share = Share(number, count)
    generate(run, out, range(images), settings, file_format=file_format, device="cpu", batch_size=3, share=share)
    os._exit(0)


def launch(last):
    started = [start(number, None if last is None else last + 7 * number) for number in range(count)]
    return [os.waitpid(child, 0)[1] for child in started]


killed = 0
for _ in range(kills):
    statuses = launch(moments.randrange(5 * images // max(kills, 1) // count + 20))
    killed += statuses[0] == signal.SIGKILL
assert launch(None) == [0] * count
for name, seeds in (("alone", [5]), ("many", range(8))):
    generate(run, out.with_name(name), seeds, settings, file_format=file_format, device="cpu", batch_size=5)
print(json.dumps(killed))
'''


def killed_and_finished(
    run: Path, out: Path, processes: int, images: int, kills: int, file_format: str = "png"
) -> int:
    """How many of the kills came before the set was finished."""
    words = [str(word) for word in (run, out, processes, images, kills, file_format)]
    told = subprocess.run([sys.executable, "-c", DRIVER, *words], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return int(json.loads(told.stdout))


def assert_whole(out: Path, images: int) -> None:
    with (out / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == [f"images/{seed}.png" for seed in range(images)]
    assert sorted(path.name for path in (out / "images").iterdir()) == sorted(
        f"{seed}.png" for seed in range(images)
    )
    for row in rows:
        assert sha256_of(out / row["file_name"]) == row["sha256"]
        assert read_film(out / row["file_name"]).values.shape == (16, 16)
    assert len({row["sha256"] for row in rows}) == images
    left = {path.name for path in out.iterdir() if path.name.startswith(".")}
    assert left <= {".lock", ".turn"}


SLOW = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    ("processes", "images", "kills", "file_format"),
    [
        (2, 8, 2, "png"),
        pytest.param(1, 200, 20, "png", marks=SLOW),
        pytest.param(2, 200, 20, "png", marks=SLOW),
        pytest.param(2, 16, 4, "dicom", marks=SLOW),
    ],
)
def test_a_killed_set_is_finished_by_the_same_call_and_image_5_is_that_of_every_other_call(
    tiny_run: Path, tmp_path: Path, processes: int, images: int, kills: int, file_format: str
) -> None:
    assert killed_and_finished(tiny_run, tmp_path / "out", processes, images, kills, file_format) == kills
    if file_format == "png":
        assert_whole(tmp_path / "out", images)
    name = "images/5.dcm" if file_format == "dicom" else "images/5.png"
    assert len({sha256_of(tmp_path / folder / name) for folder in ("out", "alone", "many")}) == 1


@pytest.mark.parametrize("file_format", ["png", "dicom"])
def test_a_film_is_the_same_file_in_every_set(
    tiny_run: Path, tmp_path: Path, file_format: FileFormat
) -> None:
    settings = SamplerSettings("ddim", 2, compute_batch=4)
    for name, seeds, size in (("alone", [5], 4), ("many", range(16), 3)):
        generate(
            tiny_run, tmp_path / name, seeds, settings, file_format=file_format, device="cpu", batch_size=size
        )
    name = "images/5.dcm" if file_format == "dicom" else "images/5.png"
    assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_two_processes_share_the_films_and_leave_none_out(tiny_run: Path, tmp_path: Path) -> None:
    settings = SamplerSettings("ddim", 2, compute_batch=4)
    made = [
        generate(tiny_run, tmp_path, range(7), settings, device="cpu", share=Share(number, 2)).made
        for number in (1, 0)
    ]
    assert made == [3, 4]
    assert_whole(tmp_path, 7)


@pytest.mark.slow
def test_two_processes_of_a_launcher_make_the_files_of_one(
    tiny_run: Path, tmp_path: Path, program: Path
) -> None:
    """The command itself, told its number by the environment as torchrun tells it."""
    words = [
        str(program),
        "generate",
        str(tiny_run),
        "--seeds",
        "0-6",
        "--format",
        "dicom",
        "--device",
        "cpu",
    ]
    words += ["--sampler", "ddim", "--steps", "2", "--compute-batch", "4", "--json"]
    plain = {
        name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    world = {**plain, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [*words, "--out", str(tmp_path / "shared")],
            env={**world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = []
    for process in started:
        out, err = process.communicate(timeout=250)
        assert process.returncode == 0, err
        told.append(json.loads(out))
    assert [(one["made"], one["process"], one["processes"]) for one in told] == [(4, 0, 2), (3, 1, 2)]
    alone = {**plain, "OMP_NUM_THREADS": "1"}
    subprocess.run([*words, "--out", str(tmp_path / "alone")], env=alone, check=True, capture_output=True)
    shared, whole = (films_and_rows(tmp_path / name) for name in ("shared", "alone"))
    assert len(whole) == 8
    assert shared == whole


def films_and_rows(out: Path) -> dict[str, bytes]:
    files = [out / "metadata.csv", *(out / "images").iterdir()]
    return {file.name: file.read_bytes() for file in files}


def test_an_image_that_was_damaged_is_made_again(tiny_run: Path, tmp_path: Path) -> None:
    settings = SamplerSettings("ddim", 2, compute_batch=4)
    generate(tiny_run, tmp_path, range(3), settings, device="cpu")
    (tmp_path / "images" / "1.png").write_bytes(b"")
    (tmp_path / "images" / "2.png").unlink()
    summary = generate(tiny_run, tmp_path, range(3), settings, device="cpu")
    assert (summary.made, summary.present) == (2, 1)
    assert_whole(tmp_path, 3)
