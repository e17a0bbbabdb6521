"""What a user can do wrong is one clear sentence: no traceback, the right exit code, nothing left behind."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import Result

from xraygen.films.writers import write_png
from xraygen.seeds import numpy_generator

Cli = Callable[..., Result]


def one_sentence(result: Result, exit_code: int, *words: str) -> None:
    assert result.exit_code == exit_code, result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("xraygen: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_unknown_preset_lists_the_presets(xraygen_cli: Cli, tiny_dataset: Path, tmp_path: Path) -> None:
    result = xraygen_cli("train", "--config", "cxr64", "--data", tiny_dataset, "--out", tmp_path / "run")
    one_sentence(result, 2, "cxr64", "cxr-64", "phantom-32")


@pytest.mark.parametrize(
    ("assignment", "word"),
    [
        ("train.batchsize=3", "train.batchsize is not a setting; known here: batch_size"),
        ("trian.batch_size=3", "trian is not a setting"),
        ("train.batch_size=many", "train.batch_size"),
        ("train.batch_size=0", "greater than or equal to 1"),
        ("train.batch_size", "expected key=value"),
    ],
)
def test_misspelt_or_impossible_settings_name_their_key(
    xraygen_cli: Cli, tiny_dataset: Path, tmp_path: Path, assignment: str, word: str
) -> None:
    command = ("train", "--config", "cxr-64", "--data", tiny_dataset, "--out", tmp_path / "run")
    one_sentence(xraygen_cli(*command, "--set", assignment), 2, word)
    assert not (tmp_path / "run").exists()


def test_training_on_a_folder_that_is_missing_or_no_dataset(xraygen_cli: Cli, tmp_path: Path) -> None:
    command = ("train", "--config", "cxr-64", "--out", tmp_path / "run", "--data")
    one_sentence(xraygen_cli(*command, tmp_path / "nowhere"), 1, "nowhere does not exist")
    one_sentence(xraygen_cli(*command, tmp_path), 1, "is not a DATASET")


def test_ingest_of_a_missing_and_of_an_empty_folder(xraygen_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one_sentence(xraygen_cli("ingest", tmp_path / "nowhere", "--out", tmp_path / "out"), 2, "nowhere")
    one_sentence(xraygen_cli("ingest", tmp_path / "empty", "--out", tmp_path / "out"), 1, "empty")
    assert not (tmp_path / "out").exists()


def test_ingest_of_a_text_file_renamed_dcm_names_the_reason(xraygen_cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "report.dcm").write_text("The heart is not enlarged.")
    result = xraygen_cli("ingest", tmp_path / "films", "--out", tmp_path / "out", "--workers", "0")
    one_sentence(result, 1, "neither DICOM nor PNG")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.99])
def test_ingest_of_a_dicom_file_cut_short_says_so(xraygen_cli: Cli, tmp_path: Path, share: float) -> None:
    assert xraygen_cli("phantom", tmp_path / "films", "--count", "1", "--size", "64").exit_code == 0
    (film,) = (tmp_path / "films").rglob("*.dcm")
    content = film.read_bytes()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "film.dcm").write_bytes(content[: int(share * len(content))])
    result = xraygen_cli("ingest", tmp_path / "cut", "--out", tmp_path / "out", "--workers", "0")
    one_sentence(result, 1, "truncated")
    result = xraygen_cli(
        "ingest", tmp_path / "films", tmp_path / "cut", "--out", tmp_path / "out", "--workers", "0"
    )
    assert result.exit_code == 0, result.stderr
    assert "truncated" in (tmp_path / "out" / "rejected.csv").read_text()


@pytest.mark.parametrize("verb", ["generate", "interpolate"])
def test_sampling_a_run_without_a_checkpoint(
    xraygen_cli: Cli, tiny_run: Path, tiny_dataset: Path, tmp_path: Path, verb: str
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    rest = ("--seeds", "0") if verb == "generate" else (f"{tiny_dataset}#0", f"{tiny_dataset}#1")
    result = xraygen_cli(verb, run, *rest, "--out", tmp_path / "out", "--device", "cpu")
    one_sentence(result, 1, "holds no whole checkpoint")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("seeds", ["5-3", "a", "1-", "", "-4"])
def test_wrong_seeds_say_what_a_range_looks_like(
    xraygen_cli: Cli, tiny_run: Path, tmp_path: Path, seeds: str
) -> None:
    result = xraygen_cli("generate", tiny_run, "--out", tmp_path / "out", f"--seeds={seeds}")
    one_sentence(result, 2, "0-999")


def test_a_gpu_that_is_not_there(xraygen_cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    command = ("generate", tiny_run, "--out", tmp_path / "out", "--seeds", "0", "--device")
    one_sentence(xraygen_cli(*command, "cuda:97"), 2, "--device cuda:97")
    for device in ("gpu", "mps", "meta", "xpu", "cpu:1", "cuda:-1"):
        one_sentence(xraygen_cli(*command, device), 2, f"--device {device}: expected auto, cpu or cuda[:i]")


def test_a_plan_that_is_to_be_written_as_a_folder(
    xraygen_cli: Cli, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = xraygen_cli("plan", tiny_dataset, "--balance", "finding", "--out", ".")
    one_sentence(result, 1, ". is a folder")


def no_memory_for_a_tensor() -> None:
    """On a processor torch has no error of its own for it."""
    torch.empty(2**50, dtype=torch.uint8)


def no_memory_for_an_array() -> None:
    np.empty(2**50, np.uint8)


def no_memory_on_a_gpu() -> None:
    """As the caching allocator of CUDA says it."""
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"
    )


@pytest.mark.parametrize("asks", [no_memory_for_a_tensor, no_memory_for_an_array, no_memory_on_a_gpu])
def test_too_little_memory_is_one_sentence_that_says_what_to_lower(
    xraygen_cli: Cli, monkeypatch: pytest.MonkeyPatch, asks: Callable[[], None]
) -> None:
    monkeypatch.setattr("xraygen.presets.preset_names", asks)
    one_sentence(xraygen_cli("config"), 1, "out of memory", "--compute-batch", "train.micro_batch_size")


def test_ctrl_c_is_one_sentence_that_says_how_to_go_on(
    xraygen_cli: Cli, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("xraygen.synthesis.generate.generate", interrupted)
    result = xraygen_cli("generate", tiny_run, "--out", tmp_path / "films", "--seeds", 0)
    assert result.exit_code == 130
    assert "give the same command again" in " ".join(result.stderr.split())


def test_torch_is_not_imported_to_tell_that_memory_ran_out(
    xraygen_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> None:
        raise MemoryError

    monkeypatch.setattr("xraygen.presets.preset_names", ask)
    monkeypatch.delitem(sys.modules, "torch")
    one_sentence(xraygen_cli("config"), 1, "out of memory")
    assert "torch" not in sys.modules


def test_another_error_in_the_code_keeps_its_traceback(
    xraygen_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("xraygen.presets.preset_names", fail)
    result = xraygen_cli("config")
    assert isinstance(result.exception, RuntimeError)
    assert "out of memory" not in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("generate --seeds 0 --guidance-interval 0.3,inf", "--guidance-interval 0.3,inf"),
        ("generate --seeds 0 --guidance inf", "--guidance inf"),
        ("generate --seeds 0 --checkpoint ²", "--checkpoint ²"),
        ("generate --seeds 0-²", "--seeds 0-²"),
        ("generate --seeds 0 --steps paper --sampler ddim --dry-run", "--steps paper is ddpm"),
        ("generate --seeds 0 --eta 0.5", "--eta: dpm++ has none"),
        ("generate --seeds 0 --sampler unipc --eta 0.5 --dry-run", "--eta: unipc has none"),
        ("generate --seeds 0 --percentile 99", "--percentile: --threshold static has none"),
        (
            "generate --seeds 0 --threshold none --percentile 99 --dry-run",
            "--percentile: --threshold none has",
        ),
        ("generate --seeds 0 --condition nosuch=X --dry-run", "trained without conditions"),
        ("generate --seeds 0 --guidance 2 --dry-run", "nothing to guide by"),
        ("generate --seeds 0 --guidance-interval 0.1,2 --dry-run", "nothing to guide by"),
        ("generate --like nowhere#0 --dry-run", "there is no file"),
        ("interpolate a b --mode inversion --sampler ddpm --dry-run", "leave out --sampler, or say ddim"),
        ("interpolate a b --frames 3 --beyond 2 --dry-run", "--beyond 2: with 3 frames"),
        ("interpolate a b --checkpoint x --dry-run", "--checkpoint x: expected newest"),
        ("interpolate a#² b --device cpu", "There is no file a#²"),
        ("interpolate a b --log-snr nan", "--log-snr nan"),
        ("interpolate a b --guidance inf", "--guidance inf"),
        ("progressive --seeds 0 --split 10,²", "--split 10,²"),
        ("export --to diffusers --dry-run", "--acknowledge-patient-data"),
        ("export --to diffusers --acknowledge-patient-data --dry-run", "model.patch_size is 2"),
        ("export --to monai --weights model --acknowledge-patient-data", "--weights model: --to monai"),
        ("export --to release --weights model --acknowledge-patient-data", "--weights model: --to release"),
        (
            "export --to diffusers --checkpoint best --acknowledge-patient-data",
            "--checkpoint: --to diffusers",
        ),
        ("export --to monai --card about.md --acknowledge-patient-data", "--card: --to monai"),
    ],
)
def test_what_cannot_be_done_as_asked_is_said_before_it_begins(
    xraygen_cli: Cli, tiny_run: Path, tmp_path: Path, words: str, said: str
) -> None:
    verb, *rest = words.split()
    one_sentence(xraygen_cli(verb, tiny_run, *rest, "--out", tmp_path / "out"), 2, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", ["--guidance 2", "--guidance-interval 0.1,2", "--guidance 2 --dry-run"])
def test_a_plan_for_a_run_without_conditions_has_nothing_to_guide_by(
    xraygen_cli: Cli, tiny_run: Path, tmp_path: Path, words: str
) -> None:
    (tmp_path / "plan.csv").write_text("seed\n0\n")
    command = (
        "generate",
        tiny_run,
        "--plan",
        tmp_path / "plan.csv",
        "--out",
        tmp_path / "out",
        *words.split(),
    )
    one_sentence(xraygen_cli(*command), 2, "trained without conditions", "leave out --guidance")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["diffusers", "monai", "release"])
def test_a_dry_run_of_an_export_says_that_its_folder_exists(
    xraygen_cli: Cli, tiny_run: Path, tmp_path: Path, to: str
) -> None:
    command = ("export", tiny_run, "--to", to, "--out", tmp_path, "--acknowledge-patient-data", "--dry-run")
    one_sentence(xraygen_cli(*command), 1, "exists already")


@pytest.mark.parametrize(
    "option",
    ["--steps 2", "--sampler ddim", "--format dicom", "--condition sex=F", "--checkpoint best", "--no-mark"],
)
def test_what_a_row_decides_is_not_said_beside_it(xraygen_cli: Cli, tiny_run: Path, option: str) -> None:
    result = xraygen_cli("generate", tiny_run, "--like", "set/metadata.csv#0", *option.split(), "--dry-run")
    one_sentence(result, 2, "leave out", "--mark" if option == "--no-mark" else option.split(maxsplit=1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["phantom", "ingest", "train", "generate"])
def test_a_full_disk_is_one_sentence_and_what_is_there_can_be_read(
    program: Path, tiny_run: Path, tiny_dataset: Path, tmp_path: Path, verb: str
) -> None:
    """A file system of 400 kB in a user's own mount name space: the real ENOSPC, for the whole program."""
    (tmp_path / "disk").mkdir()
    out = tmp_path / "disk" / "out"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(3):
        picture = numpy_generator(seed, "picture").integers(0, 65536, (400, 400), dtype=np.uint16)
        write_png(pictures / f"{seed}.png", picture)
    commands = {
        "phantom": f"{program} phantom {out} --count 8 --size 512",
        "ingest": f"{program} ingest {pictures} --out {out} --key {tmp_path / 'key'} --size 512 --workers 0",
        "train": f"{program} train --config {tiny_run / 'config.yaml'} --data {tiny_dataset} --out {out} --device cpu",
        "generate": f"{program} generate {tiny_run} --out {out} --seeds 0-2000 --steps 1 --device cpu",
    }
    script = (
        f"mount -t tmpfs -o size=400k tmpfs {tmp_path / 'disk'} && {commands[verb]}; code=$?; "
        f"find {tmp_path / 'disk'} -name '*.partial'; exit $code"
    )
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in result.stderr or "mount:" in result.stderr:
        pytest.skip("this machine lets no user mount a file system of its own")
    assert result.returncode == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "No space left on device" in result.stderr.splitlines()[-1]
    assert result.stdout == ""  # nothing half-written is left


def test_a_name_between_colons_stays_what_it_is(xraygen_cli: Cli, tmp_path: Path) -> None:
    """rich would put a picture in its place."""
    folder = tmp_path / ":x:"
    result = xraygen_cli("phantom", folder, "--count", "1", "--size", "64", "--json")
    assert result.exit_code == 0, result.output
    assert str(folder) in result.stdout
    assert str(folder) in result.stderr
