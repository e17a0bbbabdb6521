"""The figures of how-to/high-resolution.md are those that the presets and `xraygen train --dry-run` give."""

import re
from itertools import takewhile
from pathlib import Path

import pytest
import torch

from xraygen.config import RunConfig, load_config
from xraygen.models.unet import UNet
from xraygen.training.budget import Budget, budget

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "high-resolution.md"


def rows(head: str) -> list[list[str]]:
    """Cells of the table whose first line begins with `head`, without their marks of code."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(head))
    table = takewhile(lambda line: line.startswith("|"), lines[begin + 2 :])
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in table]


def needed(preset: str, part: str, precision: str, others: str) -> Budget:
    """What a run takes."""
    settings = [f"train.micro_batch_size={part}", f"train.precision={precision}", *others.split()]
    return budget(load_config(preset, settings))


@pytest.mark.slow  # each walks through a large network three times
@pytest.mark.parametrize("row", rows("| preset | `train.micro_batch_size` |"), ids=" ".join)
def test_the_memory_is_what_a_dry_run_prints(row: list[str]) -> None:
    *settings, plain, checkpointed = row
    counted = needed(*settings)
    assert f"{counted.memory_bytes(counted.plain) / 1e9:.1f}" == plain
    assert f"{counted.memory_bytes(counted.checkpointed) / 1e9:.1f}" == checkpointed


def test_the_presets_are_as_the_page_says() -> None:
    presets = ("cxr-128", "cxr-256", "cxr-512")
    configs: list[RunConfig] = [load_config(preset) for preset in presets]
    parameters, levels, batch, steps = (
        [int(cell.replace(",", "")) for cell in cells] for _, *cells in rows("| | `cxr-128` |")
    )
    with torch.device("meta"):
        networks = [UNet(config.model) for config in configs]
    assert [sum(weight.numel() for weight in network.parameters()) for network in networks] == parameters
    assert [len(config.model.channel_mult) for config in configs] == levels
    assert [config.train.batch_size for config in configs] == batch
    assert [config.train.max_steps for config in configs] == steps
    assert [config.schedule.reference_size for config in configs] == [None, 64, 64]
    for config in configs:
        assert config.schedule.kind == "cosine"
        assert config.diffusion.prediction_type == "v_prediction"
        assert config.diffusion.loss_weighting == "min_snr"
        assert config.model.attention_resolutions == (16,)


def test_sides_are_multiples_of_what_the_page_says() -> None:
    told = re.findall(r"(\d+) in `(cxr-\d+)`", PAGE.read_text(encoding="utf-8"))
    assert len(told) == 2
    for multiple, preset in told:
        model = load_config(preset).model
        assert int(multiple) == model.patch_size * 2 ** (len(model.channel_mult) - 1)
