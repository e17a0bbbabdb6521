"""The commands of the how-to pages do what they say, in the folder that the tutorial leaves, at a size of seconds."""

import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from pydicom import dcmread
from typer.testing import Result

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [
    *sorted((DOCS / "how-to").glob("*.md")),
    DOCS / "concepts" / "audit.md",
    DOCS / "concepts" / "interpolation.md",
]
TRAINED_SHORTLY = [
    word
    for change in ("data.image_size=32", "model.channels=32", "model.channel_mult=[1,2]", "model.num_res_blocks=1",
                   "model.attention_resolutions=[8]", "train.batch_size=8", "train.max_steps=2", "train.save_every=2",
                   "train.sample_every=2", "train.sample_count=1", "train.sample_steps=2",
                   "train.precision=float32")  # a process has one precision, and all pages are one process
    for word in ("--set", change)
]  # fmt: skip
SMALLER = {
    "ingest": ["--size", "32", "--workers", "0"],
    "train": TRAINED_SHORTLY,
    "generate": ["--seeds", "0-1", "--steps", "4", "--compute-batch", "2"],
    "generate --like": [],
    "generate --plan": ["--steps", "4", "--compute-batch", "2"],
    "audit": ["--count", "8", "--out", "audited", "--features", "pixels"],
    "audit --features": ["--count", "8", "--out", "audited"],
    "audit --compare": [],
    "progressive": ["--seeds", "0-1", "--sampler", "ddim", "--steps", "4"],
    "likelihood": ["--count", "1", "--steps", "2", "--strata", "0", "--batch-size", "2"],
    "interpolate": ["--frames", "3", "--steps", "4"],
}
"""What is said after a command of a page; of an option that is given twice, the last counts."""
ELSEWHERE = {
    r"SOURCE\.\.\.": "a placeholder",
    r"^xraygen benchmark ": "images to bring; tests/benchmark runs both whole",
    r"--pacs |--dicomweb |^xraygen send ": "a PACS; tests/pacs sends and fetches",
    r"^(torchrun|accelerate|srun) ": "several processes; tests/training/test_processes.py starts them",
    r"^apptainer ": "Apptainer",
    r"mimic/|chest_xray|covid-19|/media/cdrom": "a collection or a disc; tests/dataset reads their layouts",
    r"--weights |--download": "weights to bring; tests/metrics gives the networks random ones",
    r"^xraygen import |--to diffusers ": "weights of 128 channels; tests/interop exchanges them",
    r"fd_low/floor>3|copies>0 --fail-on suspects/bound>1": "share.md's audit, other checks; the tutorial's",
    r"--to monai ": "a minute; tests/interop/test_monai_bundle.py runs it",
    r"refill\.csv|--quarantine": "suspects; tests/audit and tests/synthesis/test_refill.py make some",
    r"^xraygen audit .*(--utility|--run) ": "minutes of classifiers; tests/audit/test_by_choice.py asks for all of it",
    r"posthoc_ema|^xraygen ema ": "snapshots of many steps; tests/training/test_ema_snapshots.py makes them",
}
"""Commands that these tests do not run, and why."""


def runs_here(words: list[str]) -> bool:
    return not any(re.search(pattern, " ".join(words)) for pattern in ELSEWHERE)


def smaller(words: list[str]) -> list[str]:
    """The command of a page with what makes it one of seconds."""
    verb = words[1]
    # What phantoms may have, and a row that there is in a set of two.
    words = [
        word.replace("PNEUMONIA", "OPACITY").replace("metadata.csv#17", "metadata.csv#1") for word in words
    ]
    kinds = [
        f"{verb} {option}" for option in ("--like", "--plan", "--compare", "--features") if option in words
    ]
    return [*words[1:], *SMALLER.get((kinds or [verb])[0], [])]


@pytest.fixture(scope="module")
def equipped(
    followed: Path, xraygen_cli: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What pages take for granted, beside the tutorial's: films to interpolate, lists, other sets and RUNs."""
    folder = Path(shutil.copytree(followed, tmp_path_factory.mktemp("pages") / "equipped"))
    films = sorted((folder / "films").rglob("*.dcm"))
    shutil.copy(films[0], folder / "first.dcm")
    shutil.copy(films[-1], folder / "second.dcm")
    shutil.copy(folder / "films" / "labels.csv", folder / "labels.csv")
    shutil.make_archive(str(folder / "export"), "zip", folder / "films")
    shutil.copytree(folder / "dataset", folder / "our-dataset")
    for name in "abc":
        shutil.copytree(folder / "report", folder / f"report-{name}")
    (folder / "withdrawn.txt").write_text(f"{dcmread(films[0]).PatientID}\n")
    (folder / "about.md").write_text("Trained on phantoms.\n")
    (folder / "mine.py").write_text(
        "from torch.nn.functional import adaptive_avg_pool2d\n\n\n"
        "def features(images):\n    return adaptive_avg_pool2d(images, 6).flatten(1)\n"
    )
    (folder / "work").mkdir()
    for run, more in (
        ("their-run", []),
        ("conditional-run", ["--set", "conditions.columns=[finding,sex,age]"]),
    ):
        command = ["train", "--config", "cxr-64", "--data", folder / "dataset", "--out", folder / run, *more]
        result = xraygen_cli(*command, *TRAINED_SHORTLY)
        assert result.exit_code == 0, result.stderr
    return folder


@pytest.fixture
def workplace(
    followed: Path,
    equipped: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A copy of it for one page, as the working directory; its `run` is the conditional one where that is needed."""
    folder = Path(shutil.copytree(equipped, tmp_path / "work"))
    if request.node.callspec.params["page"].name == "generate.md":
        shutil.rmtree(folder / "run")
        shutil.rmtree(folder / "synthetic")
        (folder / "conditional-run").rename(folder / "run")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XRAYGEN_CACHE", str(followed.parent / "cache"))
    return folder


@pytest.mark.slow  # a minute of processor time, all pages together
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(
    page: Path,
    workplace: Path,
    commands: Callable[[Path], list[list[str]]],
    python_blocks: Callable[[Path], list[str]],
    xraygen_cli: Callable[..., Result],
) -> None:
    made: dict[str, list[str]] = {}
    for words in filter(runs_here, commands(page)):
        if "--mp4" in words:
            pytest.importorskip("imageio_ffmpeg")
        arguments = smaller(words)
        written = [] if "--dry-run" in words else list(pairwise(arguments))
        out = next((value for option, value in reversed(written) if option == "--out"), "")
        if words[1:2] == ["train"]:  # whose dry run refuses a RUN of other films
            out = arguments[arguments.index("--out") + 1]
        if out and not goes_on(made.get(out), arguments):
            shutil.rmtree(workplace / out, ignore_errors=True)
        result = xraygen_cli(*arguments)
        if result.exit_code == 1 and "--audit" in arguments:
            # Too few phantoms are held out to decide about copies, so that the audit permits nothing here.
            assert "does not pass: " in result.stderr
            permit = arguments.index("--audit")
            arguments[permit : permit + 2] = ["--acknowledge-patient-data"]
            result = xraygen_cli(*arguments)
        answered = {0, 1} if "--fail-on" in words else {0}  # a network of 20 steps may well fail its audit
        assert result.exit_code in answered, (arguments, result.stderr)
        if out and "--dry-run" not in words:
            made[out] = arguments
            assert (workplace / out).is_file() or any((workplace / out).iterdir()), arguments
    if page.stem == "conditions":  # the one page whose Python leaves no name to its reader
        for block in python_blocks(page):
            exec(compile(block.replace("PNEUMONIA", "OPACITY"), str(page), "exec"), {})


def goes_on(before: list[str] | None, now: list[str]) -> bool:
    """Whether a command is the one before it again, or adds films of another condition to those of that one.

    Else the page shows it in the other's place, or takes for granted what the tutorial has made there.
    """
    return before is not None and (before == now or "--condition" in now)


def test_of_every_command_it_is_known_where_it_is_run(commands: Callable[[Path], list[list[str]]]) -> None:
    """And every reason not to run one here is still about some command."""
    lines = [" ".join(words) for page in PAGES for words in commands(page)]
    assert len(lines) > 50
    for pattern in ELSEWHERE:
        assert any(re.search(pattern, line) for line in lines), pattern
    here = [words for page in PAGES for words in commands(page) if runs_here(words)]
    assert len(here) > 25
    assert {words[1] for words in here} >= {
        "ingest",
        "train",
        "generate",
        "audit",
        "interpolate",
        "export",
        "plan",
    }
