"""An audit in features of the user's own, and in CLIP's."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from xraygen.audit.audit import audit
from xraygen.audit.measures import MEASURES
from xraygen.audit.render import page_templates
from xraygen.audit.settings import AuditSettings
from xraygen.metrics.extractors import registry
from xraygen.metrics.extractors.extractor import ExtractorOptions, FeatureExtractor
from xraygen.metrics.extractors.registry import Entry

Textures = Callable[..., NDArray[np.uint16]]
MakeSynthetic = Callable[..., Path]

MINE = """
from pathlib import Path
from torch.nn.functional import adaptive_avg_pool2d

LOG = Path(__file__).with_suffix(".log")

def features(images):
    with LOG.open("a") as log:
        log.write(f"{len(images)}\\n")
    return adaptive_avg_pool2d(images, 6).flatten(1)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a function that notes how many films it is given."""
    monkeypatch.setenv("XRAYGEN_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return file


def clip_stand_in(device: torch.device, options: ExtractorOptions) -> FeatureExtractor:
    def network(images: Tensor) -> Tensor:
        return functional.normalize(images[:, 0, ::4, ::4].flatten(1), dim=1)

    return FeatureExtractor("clip", "CLIP", 36, {"of": "a test"}, network, device)


def fidelity_section(result: dict[str, Any], name: str) -> str:
    """That part of the page where an extractor of this name is the only one; CLIP's numbers where it has none."""
    entries = result["features"].get(name, result["features"]["clip"])
    spaces = {name: {key: entry for key, entry in entries.items() if key in MEASURES}}
    section = page_templates().get_template("fidelity.html.j2")
    return section.render(report=result, figures=defaultdict(bytes), spaces=spaces)


def test_a_users_function_is_audited_in_and_cmmd_measured_in_clips_features_only(
    tmp_path: Path,
    mine: Path,
    monkeypatch: pytest.MonkeyPatch,
    real: Path,
    textures: Textures,
    make_synthetic: MakeSynthetic,
) -> None:
    monkeypatch.setitem(registry.ENTRIES, "clip", Entry(clip_stand_in))
    synthetic = make_synthetic(tmp_path / "synthetic", textures(16, seed=3))
    settings = AuditSettings(
        features=("clip", f"{mine}:features"),
        pairs=10,
        device="cpu",
        fail_on=("cmmd/noise>1", "cmmd_low>1e9"),
    )
    result = audit(real, synthetic, tmp_path / "report", settings)
    cmmd = result["features"]["clip"]["cmmd"]
    assert cmmd["name"] == "CMMD-CLIP"
    assert cmmd["low"] <= cmmd["value"] <= cmmd["high"] < cmmd["ceiling"]
    assert [verdict["passed"] for verdict in result["verdicts"]] == [True, True]
    assert list(result["features"]) == result["settings"]["features"] == ["clip", "mine.py:features"]
    assert "cmmd" not in result["features"]["mine.py:features"]
    assert result["features"]["mine.py:features"]["extractor"]["dims"] == 36
    page, numbers = ((tmp_path / "report" / name).read_text() for name in ("report.html", "report.json"))
    assert str(tmp_path) not in page + numbers
    assert "CMMD-CLIP" in page
    assert "mine.py:features" in page
    assert "Those of KID and CMMD are a delete-one jackknife of both sets, all others" in page
    assert "No distance here is FID" in page
    told, clip = (fidelity_section(result, name) for name in ("inception", "clip"))
    assert "No distance here is FID" in clip
    assert "Those of KID and CMMD are" in told
    assert "No distance here is FID" not in told
    assert "Those of KID are" in fidelity_section(result, "mine.py:features")


@pytest.mark.slow
def test_a_second_audit_against_the_same_real_films_extracts_none_of_them(
    tmp_path: Path, mine: Path, real: Path, textures: Textures, make_synthetic: MakeSynthetic
) -> None:
    settings = AuditSettings(features=(f"{mine}:features",), pairs=10, device="cpu")
    batches = []
    for number in (1, 2):
        synthetic = make_synthetic(tmp_path / f"synthetic-{number}", textures(16, seed=number))
        audit(real, synthetic, tmp_path / f"report-{number}", settings)
        log = mine.with_suffix(".log")
        batches.append(sum(int(line) == 32 for line in log.read_text().split()))
        log.unlink()
    # The first: 64 real films in two batches, the set in one, and four sets of reference at N = 16; the fifth, the
    # floor, is among the real films. The second: the set alone, since those of reference are the same.
    assert batches == [2 + 1 + 4, 1]
