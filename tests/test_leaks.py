"""What names a patient reaches no output of any command: planted in every place that films have, looked for in all.

Allowed: what the user typed on the command line may be repeated on stdout and stderr (the path of the sources here is
neutral, what lies below it is not). The key and the crosswalk lie outside every output, and name the patients on
purpose.
"""

import base64
import hashlib
import io
import json
import logging
import re
import shutil
import socket
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pytest
from PIL import Image
from pydicom import dcmread
from pynetdicom import AE, StoragePresentationContexts, evt
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from typer.testing import Result

from xraygen.dataset.manifest import read_rejected

from .planted import IDENTIFIERS, WORDS, write_packed, write_sources

Cli = Callable[..., Result]

SMALL = [
    word
    for change in ("data.image_size=16", "model.channels=32", "model.channel_mult=[1,2]", "model.patch_size=1",
                   "model.attention_resolutions=[]", "schedule.num_timesteps=20", "train.batch_size=8",
                   "train.max_steps=2", "train.sample_steps=2", "train.sample_every=1")
    for word in ("--set", change)
]  # fmt: skip


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """What is logged meanwhile, which the program writes to stderr unless pytest has taken the log over."""
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    try:
        yield log
    finally:
        logging.getLogger().removeHandler(handler)


@contextmanager
def archive() -> Iterator[tuple[str, list[bytes]]]:
    """One that takes all films: its HOST:PORT, and what it was sent."""
    taken: list[bytes] = []

    def take(event: evt.Event) -> int:
        taken.append(event.encoded_dataset())
        return 0

    entity = AE("A")
    for storage in StoragePresentationContexts:
        entity.add_supported_context(storage.abstract_syntax)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    assert server is not None
    try:
        yield f"127.0.0.1:{server.server_address[1]}", taken
    finally:
        server.shutdown()


WORDED = [*SMALL, "--set", "conditions.columns=[finding]", "--set", "train.posthoc_ema=true",
          "--set", "train.posthoc_ema_every=1"]  # fmt: skip
WIDE = [*SMALL, "--set", "model.channels=128", "--set", "model.channel_mult=[1]"]
"""The least that diffusers' networks can express."""


def with_words(out: Path, dataset: Path) -> dict[str, tuple[object, ...]]:
    """What can be done with a RUN that was told words, and with one that goes to diffusers and comes back."""
    run, wide, words, cpu = out / "worded", out / "wide", out / "words", ("--device", "cpu")
    order = out.parent / "order.csv"
    order.write_text("seed,finding\n" + "".join(f"{seed},F1\n" for seed in range(6, 12)))
    train = ("train", "--config", "phantom-32", "--data", dataset, *cpu)
    made = ("generate", run, "--out", words, "--steps", 2, "--guidance", 1.5, *cpu)
    audit = ("audit", "--real", dataset, "--synthetic", words, "--features", "pixels", "--count", 8, *cpu)
    return {
        "info": ("info", *cpu, "--json"),
        "train words": (*train, "--out", run, *WORDED),
        "ema": ("ema", run, "--sigma-rel", 0.1, "--out", out / "average", "--json"),
        "plan": ("plan", dataset, "--balance", "finding", "--out", out / "plan.csv", "--json"),
        "plan bad": ("plan", dataset, "--balance", "surname"),
        "generate words": (*made, "--seeds", "0-5", "--condition", "finding=F0", "--json"),
        "plan words": (*made, "--plan", order),
        "words bad": (*made, "--seeds", 0, "--condition", "finding=Nobody"),
        "like": ("generate", run, "--like", f"{words / 'metadata.csv'}#0", "--out", out / "like", *cpu),
        "audit words": (*audit, "--out", out / "words-report", "--run", run, "--bits-per-dim", "--utility",
                        "finding", "--repeats", 2, "--quarantine", "--json"),
        "compare": ("audit", "--compare", out / "report", out / "words-report", "--out", out / "compared"),
        "train wide": (*train, "--out", wide, *WIDE),
        "export": ("export", wide, "--to", "diffusers", "--out", out / "diffusers", "--acknowledge-patient-data",
                   "--json"),
        "import": ("import", out / "diffusers", "--out", out / "imported", "--json"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def told(xraygen_cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of all outputs (`out`), and what each command said; some of them must fail."""
    folder = tmp_path_factory.mktemp("leaks")
    films, sources, out = folder / "phantoms", folder / "in", folder / "out"
    assert xraygen_cli("phantom", films, "--count", 100, "--size", 64).exit_code == 0
    write_sources(films, sources)
    ends = [folder / "a.dcm", folder / "b.dcm"]
    for end, path in zip(ends, sorted(sources.rglob("Plumbob?.dcm")), strict=False):
        shutil.copy(path, end)
    shutil.copy(next(sources.rglob("Quarkovic-cut.dcm")), folder / "cut.dcm")
    (folder / "bad").mkdir()
    for kind in ("class", "other", "syntax"):
        shutil.copy(next(sources.rglob(f"Plumbob-{kind}.dcm")), folder / "bad" / f"Plumbob-{kind}.dcm")
    run, dataset, cpu = out / "run", out / "dataset", ("--device", "cpu")
    write_packed(folder)
    (folder / "key").write_bytes(
        bytes(range(32))
    )  # with a key of chance, an audit might have too few test films
    (folder / "key").chmod(0o600)
    apart = ("--size", 16, "--key", folder / "key", "--split", "0.5,0.25,0.25", "--workers", 0)
    read = ("ingest", sources, "--size", 16, "--key", folder / "key", "--split", "0.5,0.1,0.4", "--labels",
            sources / "labels.csv")  # fmt: skip
    commands: dict[str, tuple[object, ...]] = {
        "ingest plan": (*read, "--label-columns", "finding", "--out", dataset, "--dry-run", "--json"),
        "ingest": (*read, "--label-columns", "finding", "--out", dataset, "--workers", 1, "--json"),
        "ingest again": (*read, "--label-columns", "finding", "--out", dataset),
        "ingest other": (*read, "--label-columns", "finding", "--out", dataset, "--bits", 8),
        "ingest labels": (*read, "--label-columns", "nothing", "--out", out / "none"),
        "ingest bad": ("ingest", folder / "bad", "--out", out / "none", "--key", folder / "key"),
        "phantom": ("phantom", out / "phantoms", "--count", 2, "--size", 64),
        "config": ("config", "phantom-32"),
        "ingest archive": ("ingest", folder / "packed", "--out", out / "archive", *apart),
        "ingest disc": ("ingest", folder / "disc" / "DICOMDIR", "--out", out / "disc", *apart, "--json"),
        "train": ("train", "--config", "phantom-32", "--data", dataset, "--out", run, *SMALL, *cpu),
        "generate": ("generate", run, "--out", out / "png", "--seeds", "0-11", "--steps", 2, *cpu, "--json"),
        "dicom": ("generate", run, "--out", out / "dicom", "--seeds", "0-2", "--steps", 2, "--format", "dicom", *cpu),
        "dx": ("generate", run, "--out", out / "dx", "--seeds", "0-1", "--steps", 2, "--format", "dicom-dx", *cpu),
        "nifti": ("generate", run, "--out", out / "nifti", "--seeds", 0, "--steps", 2, "--format", "nifti", "--mark",
                  *cpu),
        "send": ("send", out / "png", "--to", "127.0.0.1:1", "--aet", "A", "--acknowledge-patient-data", "--dry-run"),
        "path": ("interpolate", run, *ends, "--out", out / "path", "--timestep", 9, "--frames", 3,
                 "--format", "dicom", "--data", dataset, "--grid", "--features", "pixels", *cpu, "--json"),
        "path rows": ("interpolate", run, f"{dataset}#0", f"{dataset}#1", "--out", out / "rows", "--timestep", 9,
                      "--frames", 3, "--features", "pixels", *cpu),
        "path bad": ("interpolate", run, folder / "cut.dcm", ends[1], "--out", out / "none", "--timestep", 9, *cpu),
        "path far": ("interpolate", run, f"{dataset}#99999", ends[1], "--out", out / "none", "--timestep", 9, *cpu),
        "likelihood": ("likelihood", run, "--data", dataset, "--count", 2, "--bits", 8, *cpu, "--out",
                       out / "likelihood", "--json"),
        "progressive": ("progressive", run, "--out", out / "progressive", "--seeds", "0-1", *cpu),
        "audit": ("audit", "--real", dataset, "--synthetic", out / "png", "--out", out / "report", "--features",
                  "pixels", "--count", 8, *cpu, "--json"),
        "audit either": ("audit", "--real", dataset, "--synthetic", dataset, "--out", out / "self", "--features",
                      "pixels", *cpu),
        "ingest without": ("ingest", sources, "--out", out / "without", *apart, "--exclude", folder / "withdrawn.txt",
                           "--also-search", out, "--json"),
        "export bad": ("export", run, "--to", "diffusers", "--out", out / "none", "--acknowledge-patient-data"),
        "import bad": ("import", out / "none", "--out", out / "none"),
        "release": ("export", run, "--to", "release", "--out", out / "release", "--acknowledge-patient-data",
                    "--json"),
        **with_words(out, dataset),
    }  # fmt: skip
    said = {}
    for name, command in commands.items():
        with pytest.MonkeyPatch.context() as machine, logged() as log:
            machine.setattr(socket, "gethostname", lambda: "stationx7.wendelinspital")
            result = xraygen_cli(*command)
        fails = name.split()[-1] in ("other", "labels", "bad", "far")
        if not name.endswith("either"):
            assert (result.exit_code != 0) == fails, (name, result.stderr)
        said[name] = result.stdout + result.stderr + log.getvalue()
    return out, said


def decoded_events(name: str, content: bytes) -> Iterator[bytes]:
    """The events of a TensorBoard file, their pictures and texts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        for event in EventFileLoader(str(path)).Load():
            yield str(event).encode()
            for value in event.summary.value:
                for part in (value.image.encoded_image_string, *value.tensor.string_val):
                    yield from decoded(part, value.tag)


def decoded(content: bytes, name: str) -> Iterator[bytes]:
    """A file's bytes, and all that is packed, zipped or encoded inside."""
    yield content
    if content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.namelist():
                yield member.encode()
                yield from decoded(archive.read(member), member)
    if content.startswith(b"\x1f\x8b"):
        yield from decoded(zlib.decompress(content, 31), name)
    if content.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            yield repr(picture.info).encode()
    if content[128:132] == b"DICM":
        with warnings.catch_warnings(action="ignore"):  # some were cut short on purpose
            film = dcmread(io.BytesIO(content))
        yield "\n".join(
            f"{element.tag} {element.repval} {element.value}" for element in film.iterall()
        ).encode()
    if "tfevents" in name:
        yield from decoded_events(name, content)
    for encoded in re.findall(rb"data:[\w/+.-]+;base64,([A-Za-z0-9+/=]+)", content):
        yield from decoded(base64.b64decode(encoded), name)


@lru_cache
def forms(words: tuple[str, ...]) -> Mapping[bytes, str]:
    """Every spelling that is looked for, in lower case."""
    found = {}
    for word in words:
        for form in (
            word.encode(),
            word.encode("utf-16-le"),
            base64.b64encode(word.encode()).rstrip(b"=")[:-1],
        ):
            found[form.lower()] = word
    for identifier in IDENTIFIERS:
        for kind in ("md5", "sha1", "sha256"):  # a plain hash confirms a guess
            found[hashlib.new(kind, identifier.encode()).hexdigest()[:16].encode()] = (
                f"{kind} of {identifier}"
            )
    return found


def found_in(content: bytes, name: str) -> list[str]:
    """What is planted and stands in a file."""
    looked_for = forms(WORDS)
    lowered = (part.lower() for part in decoded(content, name))
    return sorted({word for part in lowered for form, word in looked_for.items() if form in part})


def test_the_search_finds_what_is_there(told: tuple[Path, dict[str, str]]) -> None:
    folder = told[0].parent
    in_films = {word for path in (folder / "in").rglob("*") for word in [
        *found_in(str(path.relative_to(folder)).encode(), ""),
        *(found_in(path.read_bytes(), path.name) if path.is_file() else []),
    ]}  # fmt: skip
    assert in_films == set(WORDS)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(next((folder / "in").rglob("Plumbob.png")), "inside.png")
    assert "Pngtextowitz" in found_in(archive.getvalue(), "")
    page = b"<img src='data:image/png;base64," + base64.b64encode(b"Quarkovic") + b"'>"
    assert found_in(page, "") == ["Quarkovic"]
    assert found_in(hashlib.sha256(b"ZZ-48151623").hexdigest().encode(), "") == ["sha256 of ZZ-48151623"]


def test_no_file_and_no_name_of_a_file_says_who(told: tuple[Path, dict[str, str]]) -> None:
    out, _ = told
    files = [path for path in out.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {"conditions.json", "posthoc-ema.json", "plan.csv", "imported.json"} <= {
        path.name for path in files
    }
    assert {".png", ".dcm", ".json", ".csv", ".npy", ".html", ".gif", ".safetensors", ".yaml"} <= kinds
    assert any("tfevents" in path.name for path in files)
    leaks = {str(path.relative_to(out)): found_in(path.read_bytes(), path.name) for path in files}
    names = {name: found_in(name.encode(), "") for name in leaks}
    assert {name: words for name, words in {**leaks}.items() if words} == {}
    assert {name: words for name, words in names.items() if words} == {}


def test_no_command_says_who_not_even_one_that_fails(told: tuple[Path, dict[str, str]]) -> None:
    _, said = told
    assert all(said.values())
    assert {
        name: found_in(text.encode(), "") for name, text in said.items() if found_in(text.encode(), "")
    } == {}


def test_the_commands_came_to_what_they_should(told: tuple[Path, dict[str, str]]) -> None:
    out, said = told
    reasons = {
        name: set(read_rejected(out / name / "rejected.csv")["reason"])
        for name in ("archive", "disc", "without")
    }
    assert reasons["archive"] >= {"unsafe_path", "nested_archive", "damaged_archive", "not_an_image"}
    assert "unreadable" in reasons["disc"]
    assert "excluded" in reasons["without"]
    made_with = json.loads(said["ingest without"].split("\n")[0])["made_with_excluded"]
    assert {str(out / name) for name in ("dataset", "run", "png", "dicom")} <= set(made_with)
    assert "32 groups" in said["export bad"]
    assert "There is no folder" in said["import bad"]
    events = next(path for path in out.rglob("*tfevents*"))
    assert b"samples" in b"".join(decoded(events.read_bytes(), events.name))


def test_a_release_is_whole_and_says_nothing_of_the_machine(told: tuple[Path, dict[str, str]]) -> None:
    files = {path.name: path.read_bytes() for path in (told[0] / "release").rglob("*") if path.is_file()}
    assert {"README.md", "config.yaml", "dataset.json", "ema.safetensors"} <= set(files)
    assert [name for name, content in files.items() if str(told[0].parent).encode() in content] == []


@pytest.mark.slow
def test_a_monai_bundle_says_neither_who_nor_where(
    told: tuple[Path, dict[str, str]], xraygen_cli: Cli, tmp_path: Path
) -> None:
    words = ("--to", "monai", "--out", tmp_path / "monai", "--acknowledge-patient-data")
    assert xraygen_cli("export", told[0] / "run", *words).exit_code == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "monai").rglob("*") if path.is_file()}
    assert {name: found for name in files if (found := found_in(files[name], name))} == {}
    texts = ("metadata.json", "inference.json", "README.md")
    assert [name for name in texts if str(told[0].parent).encode() in files[name]] == []


def test_a_bug_in_the_reader_names_no_film(
    xraygen_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def bug(path: Path, _: object) -> None:
        raise RuntimeError(f"{path} of Quarkovic")

    monkeypatch.setattr("xraygen.dataset.reading.prepare_film", bug)
    sources = tmp_path / "in" / "Dreiborn"
    sources.mkdir(parents=True)
    for name in ("Quarkovic_Zebedia.dcm", "Plumbob.dcm"):
        (sources / name).write_bytes(b"ZZ-48151623")
    result = xraygen_cli("ingest", tmp_path / "in", "--out", tmp_path / "out", "--size", 16, "--workers", 0)
    assert result.exit_code == 1
    assert "reader_failed (2): The reader failed with RuntimeError" in result.stderr
    captured = capfd.readouterr()
    everything = "\n".join([result.stdout, result.stderr, captured.out, captured.err, str(result.exception)])
    assert found_in(everything.encode(), "") == []


def test_pydicom_says_nothing_of_a_film_that_is_cut_short(xraygen_cli: Cli, tmp_path: Path) -> None:
    """It logs the file's path, and the program writes the log to stderr."""
    assert xraygen_cli("phantom", tmp_path / "films", "--count", 2, "--size", 64).exit_code == 0
    content = sorted((tmp_path / "films").rglob("*.dcm"))[1].read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/Quarkovic.dcm").write_bytes(content[: len(content) // 2])
    with logged() as log:
        result = xraygen_cli("ingest", tmp_path / "in", "--out", tmp_path / "out", "--workers", 0)
    assert result.exit_code == 1
    assert log.getvalue() == ""


def test_only_the_key_and_the_crosswalk_lie_beside(told: tuple[Path, dict[str, str]]) -> None:
    folder = told[0].parent
    assert {path.name for path in folder.iterdir()} == {
        *("phantoms", "in", "out", "bad", "a.dcm", "b.dcm", "cut.dcm", "key", "key.crosswalk.csv", "packed", "disc"),
        *("withdrawn.txt", "order.csv"),
    }  # fmt: skip
    assert "none" not in {path.name for path in told[0].iterdir()}
    for name in ("key", "key.crosswalk.csv"):
        assert (folder / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("words", "sent"), [(("png",), 12), (("dx", "--dicom-object", "dx"), 2)])
def test_what_goes_to_an_archive_says_nobody(
    told: tuple[Path, dict[str, str]], xraygen_cli: Cli, tmp_path: Path, words: tuple[str, ...], sent: int
) -> None:
    shutil.copytree(told[0] / words[0], tmp_path / "set")  # `send` writes a ledger beside the films
    with logged() as log, archive() as (address, taken):
        to = ("--to", address, "--aet", "A", "--acknowledge-patient-data", "--json")
        result = xraygen_cli("send", tmp_path / "set", *words[1:], *to)
    assert result.exit_code == 0, result.stderr
    assert len(taken) == sent
    kept = [path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()]
    said = (result.stdout + result.stderr + log.getvalue()).encode()
    assert [found for content in (*taken, *kept, said) if (found := found_in(content, ""))] == []


def test_what_passes_is_coded(told: tuple[Path, dict[str, str]]) -> None:
    manifest = (told[0] / "dataset" / "manifest.csv").read_text()
    assert "90.0" in manifest
    assert "97" not in re.findall(r",(\d+)\.0,", manifest)
