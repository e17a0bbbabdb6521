"""Who has the network, can he tell whether a film was trained on? The attack by denoising loss on a RUN.

A network denoises what it knows by heart better than what it has never seen. Training films and held-out films are
noised to the same levels, each film with noise of its own that is always the same; the attack calls a film a training
film where its loss is small. N films, S noise levels, C channels, H and W in pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraygen.audit.fidelity import choose
from xraygen.audit.labels import Codes, patients_of
from xraygen.dataset.store import Dataset, Split
from xraygen.devices import choose_device
from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.guidance import told
from xraygen.errors import UsageError
from xraygen.metrics.roc import Area, area_interval, clustered_error, influence
from xraygen.progress import Progress, Report, silent
from xraygen.seeds import torch_generator
from xraygen.training.batches import as_model_input
from xraygen.training.checkpoint import (
    Checkpoint,
    checkpoints,
    chosen_checkpoint,
    load_run,
    run_config,
    trained_on,
)
from xraygen.training.conditions import TrainingConditions
from xraygen.training.folder import check_fit

SIGMAS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Noise levels, as standard deviations beside an image in [-1, 1]: where less is left of a film, or more, all films are
denoised alike."""
FEWEST_PATIENTS = 5
_BATCH = 32

ESTIMAND = (
    "Area under the ROC curve: how often a training film is denoised better than a held-out film, over patients like "
    "these; 0.5 is chance. 95 % intervals: DeLong, whole patients. Combined: mean over the noise levels of the "
    "standardised logarithm of the error. Gap: mean error of held-out films over that of training films, - 1."
)
LIMIT = (
    "This is a bound from below: an attack that knows more (other networks trained on like films, gradients) "
    "may do better. It concerns who has the network, not who has only its films."
)


class Attacked(NamedTuple):
    """Films under attack."""

    errors: NDArray[np.float64]
    """Mean squared error of the network's prediction, `(N, S)`."""
    member: NDArray[np.bool_]
    """Whether each is a training film, `(N,)`."""
    patients: Codes
    """`(N,)`."""


def check_membership(run: Path, dataset: Dataset, made_by: str | None = None) -> Checkpoint:
    """Refuse before the work a RUN that was not trained on the DATASET, or has no network to attack.

    Args:
        run: RUN folder.
        dataset: The DATASET that it was trained on.
        made_by: As for `measure_membership`.

    Returns:
        The checkpoint to attack.

    Raises:
        UsageError: If it was trained on another, its size differs, or there are too few held-out patients.
        FolderError: If it is no RUN, or its checkpoint is not whole.
    """
    config = run_config(run)
    check_fit(config, dataset)
    if trained_on(run) not in (None, dataset.info.content_sha256):
        raise UsageError(
            f"--run {run} was trained on another DATASET than {dataset.folder}; audit it with its own."
        )
    needed: dict[Split, int] = {"train": 2, "test": FEWEST_PATIENTS}
    for split, fewest in needed.items():
        patients = len(np.unique(_patients(dataset, dataset.indices(split))))
        if patients < fewest:
            raise UsageError(
                f"--run: the membership attack needs films of {fewest} patients in the {split} split, and that of "
                f"{dataset.folder} has {patients}; ingest it with another --split."
            )
    return checkpoint_that_made(run, made_by)


def measure_membership(
    run: Path,
    dataset: Dataset,
    *,
    made_by: str | None = None,
    count: int = 256,
    seed: int = 0,
    device: str = "auto",
    report: Report = silent,
) -> dict[str, Any]:
    """Attack a RUN with its training films and the test films of its DATASET.

    Args:
        run: RUN folder.
        dataset: The DATASET that it was trained on.
        made_by: Hash of the averaged weights that made the audited films: that checkpoint is attacked where the RUN
            still has it, and else the newest.
        count: Films of either kind, at most.
        seed: Seed of the choice of films and of their noise.
        device: Where the network computes.
        report: Told after each batch.

    Returns:
        `membership` of report.json.

    Raises:
        UsageError: As `check_membership`.
        FolderError: As `check_membership`.
    """
    checkpoint = check_membership(run, dataset, made_by)
    target = choose_device(device)
    model, diffusion, config = load_run(run, target, checkpoint)
    conditions = TrainingConditions.of(config, dataset, run) if config.conditions.columns else None
    rows = np.concatenate([_some(dataset, "train", count, seed), _some(dataset, "test", count, seed)])
    t = noise_levels(diffusion)
    errors = np.empty((len(rows), len(t)))
    for start in range(0, len(rows), _BATCH):
        report(Progress("membership attack", start, len(rows)))
        part = rows[start : start + _BATCH]
        known = None if conditions is None else conditions.of_rows(part).to(target)
        x_start = as_model_input(dataset, part)
        names = dataset.manifest["image_id"].iloc[part].astype(str).tolist()
        noise = noise_of(names, tuple(x_start.shape[1:]), len(t), seed).to(target)
        errors[start : start + _BATCH] = denoising_errors(
            told(model, known), diffusion, x_start.to(target), t, noise
        )
    report(Progress("membership attack", len(rows), len(rows)))
    member = np.isin(rows, dataset.indices("train"))
    found = attack(Attacked(errors, member, _patients(dataset, rows)), t, diffusion)
    return {
        **found,
        "checkpoint": {"step": checkpoint.step, "ema_sha256": checkpoint.ema_sha256},
        "made_the_films": None if made_by is None else checkpoint.ema_sha256 == made_by,
        "dataset_known": trained_on(run) is not None,
    }


def noise_levels(diffusion: GaussianDiffusion) -> Tensor:
    """Timesteps nearest to SIGMAS in log sigma, int64 `(S,)`, rising, without repeats."""
    log_sigmas = diffusion.schedule.sigmas.log()
    wanted = torch.tensor(SIGMAS, dtype=torch.float64).log()
    nearest = (log_sigmas[None] - wanted[:, None]).abs().argmin(dim=1)  # (S,)
    return torch.tensor(sorted(set(nearest.tolist())))


def noise_of(names: Sequence[str], shape: tuple[int, ...], levels: int, seed: int) -> Tensor:
    """Noise of each film at each level, `(N, S, C, H, W)`: a function of the film, whatever the others are."""
    return torch.stack(
        [
            torch.randn((levels, *shape), generator=torch_generator(seed, "membership noise", name))
            for name in names
        ]
    )


@torch.inference_mode()
def denoising_errors(
    model: Model, diffusion: GaussianDiffusion, x_start: Tensor, t: Tensor, noise: Tensor
) -> NDArray[np.float64]:
    """Mean squared error of the network's prediction, `(N, S)`, without the weights of training.

    Args:
        model: Network without conditions.
        diffusion: What it predicts.
        x_start: Films, `(N, C, H, W)`, [-1, 1].
        t: Timesteps, `(S,)`.
        noise: `(N, S, C, H, W)`.

    Source:
        Ho et al. 2020, eq. 14; as an attack Matsumoto et al. 2023 and Carlini et al. 2023, sec. 5.
    """
    errors = np.empty((len(x_start), len(t)))
    for place, step in enumerate(t.tolist()):
        at = torch.full((len(x_start),), step, device=x_start.device)
        x_t = diffusion.q_sample(x_start, at, noise[:, place])
        output, _ = diffusion.model_output(model, x_t, at)
        error = (output - diffusion.target(x_start, at, noise[:, place])).square()
        errors[:, place] = error.flatten(1).double().mean(dim=1).cpu().numpy()
    return errors


def attack(films: Attacked, t: Tensor, diffusion: GaussianDiffusion) -> dict[str, Any]:
    """AUC of each noise level and of all together, with the gap and a verdict.

    Args:
        films: N of them.
        t: Timesteps, `(S,)`.
        diffusion: For the noise levels and timesteps that t stands for.
    """
    log_errors = np.log(np.maximum(films.errors, np.finfo(np.float64).tiny))  # (N, S)
    spread = log_errors.std(axis=0)
    standardised = (log_errors - log_errors.mean(axis=0)) / np.where(spread > 0, spread, 1)
    combined = _area(-standardised.mean(axis=1), films)
    levels = []
    for place, step in enumerate(t.tolist()):
        train, held_out = (float(films.errors[kind, place].mean()) for kind in (films.member, ~films.member))
        levels.append(
            {
                "timestep": int(diffusion.schedule.timesteps[step]),
                "sigma": float(diffusion.schedule.sigmas[step]),
                **_area(-log_errors[:, place], films)._asdict(),
                "train_error": train,
                "held_out_error": held_out,
                "gap": held_out / train - 1 if train > 0 else 0.0,
            }
        )
    sentence = _sentence(combined)
    return {
        **combined._asdict(),
        "train_films": int(films.member.sum()),
        "held_out_films": int((~films.member).sum()),
        "train_patients": len(np.unique(films.patients[films.member])),
        "held_out_patients": len(np.unique(films.patients[~films.member])),
        "gap": float(np.mean([level["gap"] for level in levels])),
        "levels": levels,
        "verdict": "signal" if combined.low > 0.5 else "none",
        "sentence": sentence,
        "estimand": ESTIMAND,
        "limit": LIMIT,
    }


def membership_table(membership: dict[str, Any]) -> list[str]:
    """As lines of text."""
    lines = [
        f"membership attack: {membership['train_films']} training and {membership['held_out_films']} held-out films, "
        "AUC (95 % intervals)"
    ]
    for level in membership["levels"]:
        lines.append(
            f"  t = {level['timestep']} (sigma {level['sigma']:.2g}): {level['value']:.3f} ({level['low']:.3f} to "
            f"{level['high']:.3f}), gap {100 * level['gap']:+.1f} %"
        )
    return [*lines, ""]


def _area(scores: NDArray[np.float64], films: Attacked) -> Area:
    """How well scores tell members, with patients as units."""
    found = influence(scores, films.member, films.patients)
    patients = [len(np.unique(films.patients[kind])) for kind in (films.member, ~films.member)]
    return area_interval(found.area, clustered_error(found.of_film, films.patients), *patients)


def _sentence(area: Area) -> str:
    """The verdict in words."""
    number = f"{area.value:.3f} (95 %: {area.low:.3f} to {area.high:.3f}; chance is 0.5)"
    if area.low <= 0.5:
        verdict = "nothing measurable tells a training film from another one"
    elif area.value < 0.6:
        verdict = "training films are told from others slightly more often than chance would"
    elif area.value < 0.8:
        verdict = (
            "the network remembers single training films: who has it learns something of who is among them"
        )
    else:
        verdict = "the network knows its training films by heart: do not share it"
    return f"From the denoising loss, training films are told from held-out films with an AUC of {number}: {verdict}."


def checkpoint_that_made(run: Path, made_by: str | None) -> Checkpoint:
    """The checkpoint that made the films, else the newest."""
    for checkpoint in checkpoints(run):
        try:
            if made_by is not None and checkpoint.ema_sha256 == made_by:
                return chosen_checkpoint(run, checkpoint.step)
        except (OSError, ValueError, KeyError):
            continue
    return chosen_checkpoint(run)


def _some(dataset: Dataset, split: Split, count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` rows of a split."""
    rows = dataset.indices(split)
    return rows[choose(len(rows), min(count, len(rows)), seed, f"membership-{split}")]


def _patients(dataset: Dataset, rows: NDArray[np.int64]) -> Codes:
    return patients_of(list(dataset.manifest["patient"].iloc[rows]))
