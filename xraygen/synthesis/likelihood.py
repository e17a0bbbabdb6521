"""RUN and DATASET -> LIKELIHOOD: how many bits per dimension the model needs for real films.

LIKELIHOOD/ likelihood.json  images.csv  terms.csv  rate_distortion.csv  likelihood.png  progressive-confidential.png
            provenance.json  terms/ (finished units of work)

images.csv names films of the DATASET and the strip shows some of them: a LIKELIHOOD is personal data.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from xraygen.atomic import remove_leftovers, sole_writer, write_json
from xraygen.dataset.store import Dataset, Split, open_dataset
from xraygen.devices import choose_device
from xraygen.diffusion.likelihood import prior_bits_per_dim, strata_edges
from xraygen.errors import UsageError
from xraygen.memory import freed_memory_kept
from xraygen.progress import Report, silent
from xraygen.seeds import numpy_generator
from xraygen.synthesis.likelihood_report import Estimated, SplitTerms, Strip, write_report
from xraygen.synthesis.likelihood_terms import (
    Measurement,
    Pairs,
    at_every_timestep,
    at_one_timestep_per_stratum,
)
from xraygen.synthesis.provenance import agreed_provenance, provenance
from xraygen.training.batches import as_model_input
from xraygen.training.checkpoint import Checkpoint, Choice, chosen_checkpoint, load_run, run_config

_STRIP_FILMS, _STRIP_COLUMNS = 4, 10
_PRIOR_FILMS = 256


@dataclass(frozen=True)
class LikelihoodSettings:
    """What is measured."""

    count: int = 64
    """Films of each split whose bound is taken at every timestep; all if there are fewer."""
    strata: int = 0
    """Timesteps per film for the other films of the split, one from each stratum; 0 leaves them out."""
    steps: int | None = None
    """Timesteps kept; all by default."""
    bits: int | None = None
    """Depth of the pixels; that of the films by default."""
    clip: bool = True
    """Clip pred_xstart to [-1, 1], as the paper does."""
    seed: int = 0
    """Seed of the choice of films, of the noise and of the strata."""
    batch_size: int = 16
    """Images computed together."""


def measure_likelihood(
    run: Path,
    data: Path,
    out: Path,
    splits: Sequence[Split] = ("test",),
    settings: LikelihoodSettings | None = None,
    *,
    checkpoint: Choice = "newest",
    device: str = "auto",
    report: Report = silent,
) -> dict[str, Any]:
    """Measure the variational bound of films under a RUN, and write a LIKELIHOOD folder.

    Every finished unit of work is kept, so that the same command goes on where it was stopped, and a command with
    further splits uses what is there.

    Args:
        run: RUN folder with a checkpoint; its averaged weights are used.
        data: DATASET folder.
        out: LIKELIHOOD folder.
        splits: Splits to measure, each once.
        settings: What is measured.
        checkpoint: Which checkpoint of the RUN.
        device: "auto", "cpu" or "cuda[:i]".
        report: Told how many evaluations of the network are done.

    Returns:
        What likelihood.json holds.

    Raises:
        UsageError: If the DATASET does not fit the RUN or has no film in a split, its films have several depths and
            none was chosen, or `out` was made otherwise.
        FolderError: If the RUN has no such checkpoint.
    """
    settings = settings or LikelihoodSettings()
    measurement, splits, new = _prepare(run, data, out, splits, settings, checkpoint, device)
    with freed_memory_kept(), sole_writer(out):
        origin = agreed_provenance(out, new)
        write_json(out / "provenance.json", origin)
        measurement.folder.mkdir(exist_ok=True)
        remove_leftovers(measurement.folder)
        plans = [_Plan.of(measurement, split, settings) for split in splits]
        measurement.compute([part for plan in plans for part in plan.work], report)
        terms = [_collect(measurement, plan) for plan in plans]
        strip = _strip(measurement, plans[-1])
        return write_report(out, terms, strip, measurement.diffusion, measurement.bits, origin)


def check_likelihood(
    run: Path,
    data: Path,
    out: Path,
    splits: Sequence[Split],
    settings: LikelihoodSettings,
    *,
    checkpoint: Choice = "newest",
    device: str = "auto",
) -> tuple[Dataset, list[Split], int]:
    """Whether `measure_likelihood` would do it; nothing is written.

    Returns:
        The DATASET, the splits, each once, and the depth of the pixels.

    Raises:
        UsageError: As `measure_likelihood`.
        FolderError: As `measure_likelihood`.
    """
    measurement, splits, new = _prepare(run, data, out, splits, settings, checkpoint, device)
    agreed_provenance(out, new)
    return measurement.dataset, splits, measurement.bits


def _prepare(
    run: Path,
    data: Path,
    out: Path,
    splits: Sequence[Split],
    settings: LikelihoodSettings,
    checkpoint: Choice,
    device: str,
) -> tuple[Measurement, list[Split], dict[str, Any]]:
    """How terms are computed, the splits, each once, and the provenance, if RUN, DATASET and settings fit together."""
    target = choose_device(device)
    chosen, dataset, splits, bits = _fitting(run, data, splits, settings.bits, checkpoint)
    model, diffusion, _ = load_run(run, target, chosen)
    chain = diffusion if settings.steps is None else diffusion.respace(settings.steps)
    told = {
        **asdict(settings),
        "bits": bits,
        "steps": len(chain.schedule.timesteps),
        "dataset_sha256": dataset.info.content_sha256,
    }
    measurement = Measurement(
        out / "terms", model, chain, dataset, bits, settings.clip, settings.seed, settings.batch_size, target
    )
    return measurement, splits, provenance(run, chosen, told, target)


def _fitting(
    run: Path, data: Path, splits: Sequence[Split], bits: int | None, checkpoint: Choice
) -> tuple[Checkpoint, Dataset, list[Split], int]:
    """The checkpoint, the DATASET, the splits, each once, and the depth of the pixels, if RUN and DATASET fit."""
    config = run_config(run)  # says what is wrong with the folder before its checkpoints are looked at
    chosen = chosen_checkpoint(run, checkpoint)
    dataset = open_dataset(data)
    shape = tuple(as_model_input(dataset, np.zeros(1, np.int64)).shape[1:])
    if shape != config.data.shape:
        raise UsageError(f"The films of {data} are {shape} and this RUN was trained on {config.data.shape}.")
    asked = _with_films(dataset, splits)
    return chosen, dataset, asked, bits or source_bits(dataset, asked)


def _with_films(dataset: Dataset, splits: Sequence[Split]) -> list[Split]:
    """The splits, each once; one without films has no mean."""
    for split in splits:
        if not len(dataset.indices(split)):
            raise UsageError(f"{dataset.folder} has no film in {split}; choose another --split.")
    return list(dict.fromkeys(splits))


def source_bits(dataset: Dataset, splits: Sequence[Split]) -> int:
    """The depth that the films of these splits, of which there are some, had before ingest.

    Raises:
        UsageError: If they had several: bits per dimension of different depths have no common mean.
    """
    rows = np.concatenate([dataset.indices(split) for split in splits])
    depths = dataset.manifest["bits_stored"].iloc[rows].value_counts().sort_index()
    if len(depths) > 1:
        found = ", ".join(f"{count} of {bits} bits" for bits, count in depths.items())
        raise UsageError(
            f"The films of {dataset.folder} have several depths ({found}), and bits per dimension of different depths "
            "have no common mean; choose one with --bits, such as the least."
        )
    return int(depths.index[0])


@dataclass(frozen=True)
class _Plan:
    """Which films of a split are taken at every timestep, and which at one per stratum."""

    split: Split
    whole: NDArray[np.int64]
    rest: NDArray[np.int64]
    edges: NDArray[np.int64]
    work: tuple[tuple[str, Pairs], tuple[str, Pairs]]

    @classmethod
    def of(cls, measurement: Measurement, split: Split, settings: LikelihoodSettings) -> "_Plan":
        """Draw the films and the timesteps."""
        steps = len(measurement.diffusion.schedule.timesteps)
        rows = numpy_generator(settings.seed, "likelihood films", split).permutation(
            measurement.dataset.indices(split)
        )
        whole, rest = rows[: settings.count], rows[settings.count :]
        if settings.strata == 0:
            rest = rest[:0]
        edges = strata_edges(steps, max(settings.strata, 1))
        work = (
            (f"{split}-every", at_every_timestep(whole, steps)),
            (f"{split}-strata", at_one_timestep_per_stratum(rest, edges, settings.seed)),
        )
        return cls(split, whole, rest, edges, work)


def _collect(measurement: Measurement, plan: _Plan) -> SplitTerms:
    """The terms of a split, film by film."""
    every, strata = (measurement.finished(*part) for part in plan.work)
    sampled = strata.bits_per_dim.reshape(len(plan.rest), len(plan.edges) - 1) * np.diff(plan.edges)
    names = measurement.dataset.manifest["image_id"].to_numpy(dtype=str)
    return SplitTerms(
        split=plan.split,
        image_ids=names[plan.whole],
        prior=_prior(measurement, plan.whole),
        terms=every.bits_per_dim.reshape(len(plan.whole), -1),
        xstart_mse=every.xstart_mse.reshape(len(plan.whole), -1),
        rest=Estimated(
            image_ids=names[plan.rest],
            prior=_prior(measurement, plan.rest),
            first=sampled[:, 0],
            between=sampled[:, 1:].sum(axis=1),
        ),
    )


def _prior(measurement: Measurement, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """L_T of films, `[n]`."""
    parts = [
        prior_bits_per_dim(measurement.diffusion, measurement.films(rows[start : start + _PRIOR_FILMS]))
        .cpu()
        .numpy()
        for start in range(0, len(rows), _PRIOR_FILMS)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _strip(measurement: Measurement, plan: _Plan) -> Strip:
    """What is seen of a few films at falling noise, and at last the films themselves."""
    rows = plan.whole[:_STRIP_FILMS]
    last = len(measurement.diffusion.schedule.timesteps) - 1
    columns = np.linspace(last, 0, _STRIP_COLUMNS).round().astype(np.int64)
    seen: list[Tensor] = [
        measurement.seen(Pairs(rows, np.full(len(rows), t))).float() for t in columns
    ]  # (films, C, H, W) each
    timesteps = measurement.diffusion.schedule.timesteps[columns].tolist()
    return Strip(plan.split, [*seen, measurement.films(rows).float()], timesteps)
