"""By choice: how many bits per dimension a RUN needs for synthetic, held-out and training films.

The bound needs every timestep of every film; here each film's is estimated from one timestep per stratum, which is
unbiased, and the interval over films holds the error of that too. `xraygen likelihood` measures the bound itself.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.audit.fidelity import choose
from xraygen.audit.labels import Codes, patients_of
from xraygen.audit.membership import checkpoint_that_made
from xraygen.audit.sets import ImageSet
from xraygen.dataset.store import Dataset, Split
from xraygen.devices import choose_device
from xraygen.diffusion.densities import to_grid
from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.likelihood import bound_terms, prior_bits_per_dim, strata_edges
from xraygen.metrics.roc import NORMAL, clustered_error
from xraygen.progress import Progress, Report, silent
from xraygen.ranges import stored_to_model
from xraygen.seeds import numpy_generator, torch_generator
from xraygen.training.batches import as_model_input
from xraygen.training.checkpoint import load_run

STRATA = 8
FILMS = 64
_BATCH = 16

ESTIMAND = (
    "Mean over the films of the population of the variational bound (Ho et al. 2020, eq. 5) under this network, told "
    "no condition, in bits per dimension at {bits} bits. 95 % intervals over films, patient by patient. A network that "
    "knows training films by heart needs fewer bits for them than for held-out films."
)


class _Kind(NamedTuple):
    """Films of one kind."""

    rows: NDArray[np.int64]
    patients: Codes
    pixels: Callable[[NDArray[np.int64]], Tensor]
    """Rows -> films, `(B, C, H, W)` in [-1, 1]."""


def measure_bits(
    run: Path,
    dataset: Dataset,
    films: ImageSet,
    *,
    made_by: str | None = None,
    count: int = FILMS,
    seed: int = 0,
    device: str = "auto",
    report: Report = silent,
) -> dict[str, Any]:
    """`bits_per_dim` of report.json.

    Args:
        run: RUN folder, of the size of the films.
        dataset: The real films.
        films: The SYNTHETIC.
        made_by: Hash of the averaged weights that made the films.
        count: Films of each of the three kinds, at most.
        seed: Seed of the choice of films, timesteps and noise.
        device: Where the network computes.
        report: Told after each batch.
    """
    checkpoint = checkpoint_that_made(run, made_by)
    target = choose_device(device)
    model, diffusion, _ = load_run(run, target, checkpoint)
    kinds = _kinds(dataset, films, count, seed)
    measured = np.concatenate([kinds["test"].rows, kinds["train"].rows])
    bits = int(dataset.manifest["bits_stored"].iloc[measured].min())
    entries = {}
    for kind, (chosen, patients, pixels) in kinds.items():
        per_film = []
        for start in range(0, len(chosen), _BATCH):
            report(Progress(f"bits per dimension ({kind} films)", start, len(chosen)))
            part = chosen[start : start + _BATCH]
            x_start = to_grid(pixels(part), bits).to(target)
            per_film.append(estimated_bits(model, diffusion, x_start, bits, part, seed, kind))
        report(Progress(f"bits per dimension ({kind} films)", len(chosen), len(chosen)))
        entries[kind] = _entry(np.concatenate(per_film), patients)
    return {"bits": bits, "strata": STRATA, "kinds": entries, "estimand": ESTIMAND.format(bits=bits)}


def estimated_bits(
    model: Model,
    diffusion: GaussianDiffusion,
    x_start: Tensor,
    bits: int,
    names: NDArray[np.int64],
    seed: int,
    kind: str,
) -> NDArray[np.float64]:
    """L_T + Σ over strata of its width times the term of one timestep drawn from it; `(B,)`, unbiased.

    Args:
        model: Network without conditions.
        diffusion: Its diffusion.
        x_start: Films on the grid of `bits` bits, `(B, C, H, W)`, float64.
        bits: Depth of the pixels.
        names: Number of each film: timesteps and noise follow from it, the kind and the seed.
        seed: Seed.
        kind: Of the films.
    """
    edges = strata_edges(len(diffusion.schedule.timesteps), STRATA)
    drawn = np.stack(
        [numpy_generator(seed, "bits timesteps", kind, int(n)).integers(edges[:-1], edges[1:]) for n in names]
    )  # (B, strata)
    total = prior_bits_per_dim(diffusion, x_start)
    for stratum, width in enumerate(np.diff(edges)):
        noise = torch.stack(
            [
                torch.randn(
                    x_start.shape[1:], generator=torch_generator(seed, "bits noise", kind, int(n), stratum)
                )
                for n in names
            ]
        )
        t = torch.from_numpy(drawn[:, stratum]).to(x_start.device)
        terms = bound_terms(
            lambda x_t, at: model(x_t.float(), at if at.dtype == torch.int64 else at.float()),
            diffusion,
            x_start,
            t,
            noise.double().to(x_start.device),
            bits=bits,
        )
        total = total + float(width) * terms.bits_per_dim
    values: NDArray[np.float64] = total.cpu().numpy()
    return values


def bits_table(bits: dict[str, Any]) -> list[str]:
    """As lines of text."""
    lines = [f"bits per dimension at {bits['bits']} bits (95 % intervals)"]
    for kind, entry in bits["kinds"].items():
        lines.append(
            f"  {kind + ' films':<16} {entry['value']:.3f} ({entry['low']:.3f} to {entry['high']:.3f}), "
            f"{entry['films']} films"
        )
    return [*lines, ""]


def _entry(values: NDArray[np.float64], patients: Codes) -> dict[str, Any]:
    """Mean with its interval, patients as units."""
    mean, n = float(values.mean()), len(values)
    groups = len(np.unique(patients))
    half = NORMAL * clustered_error((values - mean) / n, patients) * (groups / max(groups - 1, 1)) ** 0.5
    return {"value": mean, "low": mean - half, "high": mean + half, "films": n}


def _kinds(dataset: Dataset, films: ImageSet, count: int, seed: int) -> dict[str, _Kind]:
    """Synthetic, test and training films, at most `count` of each."""
    made = choose(len(films), min(count, len(films)), seed, "bits-synthetic")

    def synthetic(rows: NDArray[np.int64]) -> Tensor:
        return stored_to_model(films.images[rows], films.bits)[:, None]

    def real(split: Split) -> _Kind:
        rows = _some(dataset, split, count, seed)
        patients = patients_of(list(dataset.manifest["patient"].iloc[rows]))
        return _Kind(rows, patients, lambda some: as_model_input(dataset, some))

    return {
        "synthetic": _Kind(made, np.arange(len(made)), synthetic),
        "test": real("test"),
        "train": real("train"),
    }


def _some(dataset: Dataset, split: Split, count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` rows of a split."""
    rows = dataset.indices(split)
    return rows[choose(len(rows), min(count, len(rows)), seed, f"bits-{split}")]
