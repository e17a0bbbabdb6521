"""A path's way between two films, and what asks for a PATH that is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from xraygen.synthesis.interpolate import InterpolateSettings, interpolate
from xraygen.synthesis.path_ends import read_end
from xraygen.synthesis.path_folder import PathOutputs
from xraygen.synthesis.path_frames import Way
from xraygen.synthesis.sampling import SamplerSettings, sampling_diffusion
from xraygen.training.checkpoint import LoadedRun, load_run
from xraygen.training.conditions import read_conditions


@pytest.fixture(scope="session")
def fast() -> SamplerSettings:
    """Ten steps of ddim, five films at a time."""
    return SamplerSettings(sampler="ddim", steps=10, compute_batch=5)


@pytest.fixture(scope="session")
def loaded(tiny_run: Path) -> LoadedRun:
    """`tiny_run`, read."""
    return load_run(tiny_run)


@pytest.fixture(scope="session")
def way(loaded: LoadedRun, tiny_run: Path, tiny_dataset: Path, fast: SamplerSettings) -> Way:
    """From row 1 to row 9 of `tiny_dataset`; tests replace what they want otherwise."""
    conditions = read_conditions(tiny_run, loaded.config)
    first, second = (
        read_end(tiny_run, f"{tiny_dataset}#{row}", loaded.config.data.shape, conditions, {}, "a")
        for row in (1, 9)
    )
    chain = sampling_diffusion(loaded.diffusion, fast)
    return Way(loaded.model, chain, (first, second), "paper", fast, 0, 1, 1.0, torch.device("cpu"))


@pytest.fixture(scope="session")
def try_path(tiny_run: Path, fast: SamplerSettings) -> Callable[..., None]:
    """`try_path(film_a, film_b, out, frames=1)`: a PATH of `tiny_run` from nearly no noise, with settings changed."""

    def attempt(film_a: str, film_b: str, out: Path, **changes: Any) -> None:
        settings = InterpolateSettings(**{"timestep": 1, **changes})
        plain = PathOutputs(features="pixels")
        interpolate(tiny_run, film_a, film_b, out, settings, fast, outputs=plain, device="cpu")

    return attempt
