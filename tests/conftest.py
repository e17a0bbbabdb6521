"""Fixtures that several rooms share."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from xraygen.config import RunConfig, load_config
from xraygen.dataset.manifest import write_manifest
from xraygen.dataset.store import FORMAT_VERSION, DatasetInfo, content_sha256, open_dataset
from xraygen.seeds import numpy_generator
from xraygen.training.loop import train

if TYPE_CHECKING:
    from tests.browser import Browser

REPOSITORY = Path(__file__).parents[1]
TINY = (
    "data.image_size=16",
    "model.channels=32",
    "model.channel_mult=[1,2]",
    "model.num_res_blocks=1",
    "model.attention_resolutions=[8]",
    "schedule.num_timesteps=20",
    "train.sample_steps=2",
    "train.log_every=1",
)
"""Overrides of any preset that make a network of seconds."""
SIX_STEPS = (
    *TINY,
    "model.patch_size=2",
    "train.batch_size=8",
    "train.max_steps=6",
    "train.save_every=2",
    "train.sample_every=100",
    "train.sample_count=2",
)
"""The same of cxr-64, trained for six steps."""


@pytest.fixture(scope="session")
def films() -> Path:
    """The folder of real films: XRAYGEN_FILMS, or ../shared/data beside the checkout; skips where there is none."""
    folder = Path(os.environ.get("XRAYGEN_FILMS", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real films at {folder}; set XRAYGEN_FILMS to their folder")
    return folder


@pytest.fixture(scope="session")
def program() -> Path:
    """The installed program, for tests that kill it or starve it."""
    return Path(sys.executable).with_name("xraygen")


@pytest.fixture(scope="session")
def xraygen_cli() -> Callable[..., Result]:
    """The command line in process: `xraygen_cli("ingest", folder, "--out", out).exit_code`."""
    (script,) = entry_points(group="console_scripts", name="xraygen")
    app = script.load()

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture(scope="session")
def reference() -> Callable[[str], ModuleType]:
    """`reference("voi")` loads tests/reference/voi.py: slow, obvious and independent of the library."""

    def load(name: str) -> ModuleType:
        specification = importlib.util.spec_from_file_location(
            f"reference_{name}", Path(__file__).parent / "reference" / f"{name}.py"
        )
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """Chromium without a window (tests/browser.py); skips where none is installed.

    One per module: while it is open an event loop runs, which tests of asyncio would not bear.
    """
    path = Path(__file__).parent / "browser.py"
    specification = importlib.util.spec_from_file_location("tests_browser", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["tests_browser"] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    program = module.find_chromium()
    if program is None:
        pytest.skip("no Chromium here; install it or set XRAYGEN_CHROMIUM")
    with module.Browser(program) as browser:
        yield browser


class Numerics:
    """The table of docs/concepts/numerics.md: what each comparison may differ by."""

    def __init__(self, table: str) -> None:
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in table.splitlines()
            if "|" in line
        ]
        self.allowed = {row[0].strip("`"): float(row[4]) for row in rows if row[0].startswith("`")}

    def check(self, row: str, ours: object, theirs: object, *, absolute: bool = False) -> None:
        """Compare two arrays (or numbers) under the tolerance of a row, and record how far apart they are.

        The error is the largest absolute difference, divided by the largest absolute value of the reference
        unless `absolute`.
        """
        mine, other = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
        assert mine.shape == other.shape
        error = float(np.abs(mine - other).max()) / (1.0 if absolute else float(np.abs(other).max()))
        record = os.environ.get("XRAYGEN_MEASURED")
        if record:
            with Path(record).open("a", encoding="utf-8") as file:
                file.write(f"{row} {error!r}\n")
        assert error <= self.allowed[row], (
            f"{row}: {error:.3g} is more than the {self.allowed[row]:.3g} allowed"
        )


@pytest.fixture(scope="session")
def numerics() -> Numerics:
    """`numerics.check("ddim-step", ours, theirs)` with the tolerance of docs/concepts/numerics.md."""
    return Numerics((REPOSITORY / "docs" / "concepts" / "numerics.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATASET of 48 blurred discs at 16 px, one patient each: 32 train, 8 validation, 8 test."""
    folder = tmp_path_factory.mktemp("data") / "dataset"
    folder.mkdir()
    generator = numpy_generator(0, "tiny dataset")
    y, x = np.mgrid[:16, :16]
    centres = generator.uniform(4, 12, (48, 2, 1, 1))
    distance = np.hypot(y - centres[:, 0], x - centres[:, 1])  # (48, 16, 16)
    np.save(folder / "images.npy", (65535 / (1 + np.exp(distance - 4))).astype(np.uint16))
    rows = [
        {
            "image_id": f"I{index}",
            "source": f"{index:032x}",
            "patient": f"P{index}",
            "study": "",
            "split": "train" if index < 32 else "validation" if index < 40 else "test",
            "view": "PA",
            "sex": "",
            "age": np.nan,
            "finding": "NORMAL",
            "rows": 16,
            "columns": 16,
            "bits_stored": 16,
            "photometric": "MONOCHROME2",
            "pixel_spacing_mm": np.nan,
        }
        for index in range(48)
    ]
    write_manifest(folder / "manifest.csv", pd.DataFrame(rows), ["finding"])
    info = DatasetInfo(
        format_version=FORMAT_VERSION,
        created_by="test",
        size=(16, 16),
        bits=16,
        channels=1,
        settings={"size": [16, 16], "fit": "pad", "bits": 16},
        counts={"seen": 48, "accepted": 48, "rejected": 0},
        label_names=("finding",),
        content_sha256=content_sha256(folder),
    )
    (folder / "dataset.json").write_text(json.dumps(info.to_json()))
    return folder


@pytest.fixture(scope="session")
def labelled_dataset(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_dataset` with sex and age, which is not known of every fifth film from the fourth on."""
    folder = Path(shutil.copytree(tiny_dataset, tmp_path_factory.mktemp("labelled") / "dataset"))
    dataset = open_dataset(folder)
    row = np.arange(len(dataset))
    manifest = dataset.manifest.assign(
        sex=np.where(row % 2, "M", "F"), age=np.where(row % 5 == 4, np.nan, 20.0 + row)
    )
    write_manifest(folder / "manifest.csv", manifest, dataset.info.label_names)
    info = {**dataset.info.to_json(), "content_sha256": content_sha256(folder)}
    (folder / "dataset.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="session")
def tiny() -> tuple[str, ...]:
    """Overrides of any preset that make a network of seconds."""
    return TINY


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., RunConfig]:
    """`tiny_config("train.max_steps=4")`: a network of seconds for `tiny_dataset`, with overrides."""
    return lambda *overrides: load_config("cxr-64", [*SIX_STEPS, *overrides])


@pytest.fixture(scope="session")
def tiny_run(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUN of six steps on `tiny_dataset`; tests only read it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    train(load_config("cxr-64", SIX_STEPS), open_dataset(tiny_dataset), run, device="cpu")
    return run


@pytest.fixture(scope="session")
def conditional_config(tiny_config: Callable[..., RunConfig]) -> RunConfig:
    """`tiny_config` with sex and age told, and steps so large that six of them make it listen."""
    return tiny_config("conditions.columns=[sex,age]", "train.learning_rate=1e-2", "train.warmup_steps=0")


@pytest.fixture(scope="session")
def conditional_run(
    labelled_dataset: Path, conditional_config: RunConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A RUN of six steps on `labelled_dataset` that knows sex and age; tests only read it."""
    run = tmp_path_factory.mktemp("runs") / "conditional"
    train(conditional_config, open_dataset(labelled_dataset), run, device="cpu")
    return run
