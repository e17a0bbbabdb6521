"""RUN and two films -> PATH: the way from one film to the other."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from xraygen.atomic import sha256_of, sole_writer, write_json
from xraygen.dataset.conditions import Conditions
from xraygen.dataset.store import Dataset, open_dataset
from xraygen.devices import choose_device
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.errors import UsageError
from xraygen.films.video import require_video
from xraygen.memory import freed_memory_kept
from xraygen.metrics.extractors.registry import check_extractor
from xraygen.progress import Counter, Report, silent
from xraygen.synthesis.images import settings_of_format
from xraygen.synthesis.path_ends import End, Words, read_end
from xraygen.synthesis.path_familiarity import Judge, likeness
from xraygen.synthesis.path_folder import PathFolder, PathFormat, PathOutputs, is_whole
from xraygen.synthesis.path_frames import MODES, Mode, Way, lambdas
from xraygen.synthesis.provenance import agreed_provenance, provenance
from xraygen.synthesis.sampling import SamplerSettings, sampling_diffusion
from xraygen.synthesis.timesteps import checked_timestep, nearest_step, timestep_of_log_snr
from xraygen.training.checkpoint import Choice, chosen_checkpoint, load_run, run_config, trained_on
from xraygen.training.conditions import CONDITIONS, read_conditions


@dataclass(frozen=True)
class InterpolateSettings:
    """How the way is made.

    Attributes:
        mode: paper mixes two independently noised films (Ho et al. 2020, sec. 4.4), shared-noise mixes the films
            and noises them once, slerp mixes the films and takes two noises along an arc, inversion does so with the
            noises that lead back to the films.
        timestep: How far both films are noised before they are mixed, 0 ... T - 1, the paper's t - 1; more is freer.
        frames: Pictures from film to film, both reconstructed ends included; lambda runs from 0 to 1 in equal steps.
        seed: Seed of the noise.
        log_snr: Instead of `timestep`, a log-SNR as it is at 64 px; see `log_snrs`.
        beyond: Pictures past either end, at the same distance; lambda goes up to `FARTHEST` outside [0, 1].
        iterations: Evaluations of the network per step of the inversion.
        guidance: Weight of the conditions where the RUN knows some: 0 tells nothing.
    """

    mode: Mode = "shared-noise"
    timestep: int = 500
    frames: int = 11
    seed: int = 0
    log_snr: float | None = None
    beyond: int = 0
    iterations: int = 1
    guidance: float = 1.0


class PathSummary(NamedTuple):
    """What a call to `interpolate` did."""

    folder: Path
    frames: int
    notes: tuple[str, ...]
    """What was done to the films, in words."""
    present: bool = False
    """Whether all of it was there already."""
    nearest: str = ""
    """The t that was taken, in words, where it is another than was asked for."""


@dataclass(frozen=True, eq=False)
class _Told:
    """The conditions of a RUN, and what shall be said of either film."""

    conditions: Conditions
    asked: tuple[Words, Words]


def interpolate(
    run: Path,
    film_a: str,
    film_b: str,
    out: Path,
    settings: InterpolateSettings,
    sampler: SamplerSettings,
    *,
    outputs: PathOutputs | None = None,
    condition_a: Words | None = None,
    condition_b: Words | None = None,
    file_format: PathFormat = "png",
    checkpoint: Choice = "newest",
    device: str = "auto",
    report: Report = silent,
    dry_run: bool = False,
) -> PathSummary:
    """Write a PATH: frames/, strip.png (film A, the frames, film B), path.gif, curves.png and path.json.

    A path shows two real patients and is personal data. The way from B to A is the same frames in reverse, bit for bit.

    Args:
        run: RUN folder with a checkpoint.
        film_a: Image file (DICOM, PNG, JPEG, NIfTI), or a DATASET row such as `dataset#17`.
        film_b: The other end.
        out: PATH folder; made anew with the same command unless it is whole, refused if another command made it.
        settings: The way.
        sampler: How the frames are decoded, a batch of them at a time; inversion takes ddim with eta 0 alone.
        outputs: What else is written.
        condition_a: What the network is told of film A, over what its DATASET row says, where the RUN knows conditions.
        condition_b: The same of film B.
        file_format: "dicom" writes the frames as path.dcm, one multi-frame object, too; "dicom-series" as series/, an
            object each.
        checkpoint: Which checkpoint of the RUN.
        device: "auto", "cpu" or "cuda[:i]".
        report: Told how many frames are done, and each step of those under way.
        dry_run: See whether the PATH can be made, and write nothing.

    Returns:
        How many frames there are, what was done to the films, and whether the PATH was there already.

    Raises:
        FilmError: If an image file cannot be read.
        UsageError: If the timestep or lambda is out of range, a film does not fit the RUN, it cannot be told a word, or
            another command made `out`; if there are no such features here.
        FolderError: If the RUN has no such checkpoint, or `out` is something else.
    """
    outputs = outputs or PathOutputs()
    target = choose_device(device)
    lam = check_way(settings, sampler)
    check_extractor(outputs.features)
    if outputs.mp4:
        require_video()
    run_config(run)  # says what is wrong with the folder before its checkpoints are looked at
    chosen = chosen_checkpoint(run, checkpoint)
    model, diffusion, config = load_run(run, target, chosen)
    told = _Told(read_conditions(run, config), (condition_a or {}, condition_b or {}))
    ends = _ends(run, (film_a, film_b), config.data.shape, told, settings)
    dataset = None if outputs.data is None else _training_data(run, outputs.data)
    chain = sampling_diffusion(diffusion, sampler)
    start = _start(diffusion, chain, settings, config.data.shape)
    way = Way(
        model,
        chain,
        ends,
        settings.mode,
        sampler,
        settings.seed,
        settings.iterations,
        settings.guidance,
        target,
    )
    decisive = _decisive(run, way, settings, start, told)
    if file_format != "png":
        decisive |= {**settings_of_format(run, "dicom", False, config.data.shape), "format": file_format}
    new = provenance(run, chosen, decisive, target)
    summary = PathSummary(out, len(lam), tuple(_prepared(ends)), nearest=_nearest(chain, start, settings))
    if dry_run:
        agreed_provenance(out, new)
        return summary._replace(present=is_whole(out, outputs, dataset))
    with freed_memory_kept(), sole_writer(out):
        origin = agreed_provenance(out, new)
        if is_whole(out, outputs, dataset):
            return summary._replace(present=True)
        write_json(out / "provenance.json", origin)
        judge = Judge(model, diffusion, target)
        reference = judge.reference(run, chosen.step, dataset, told.conditions, report)
        found = likeness(judge, reference, ends, dataset)
        counter = Counter("interpolate", len(lam), report)
        counter.advance(0)
        frames = way.frames(lam, start, counter)
        path = PathFolder(out, way, lam, start, frames)
        path.write(origin, outputs, dataset, found, report)
    return summary


def check_way(settings: InterpolateSettings, sampler: SamplerSettings) -> Tensor:
    """Refuse what can be seen to be wrong without the RUN.

    Args:
        settings: The way.
        sampler: How its frames are decoded.

    Returns:
        Places of the frames, as from `lambdas`.

    Raises:
        UsageError: If a setting is out of range, or the mode does not go with the sampler.
    """
    if settings.mode not in MODES:
        raise UsageError(f"--mode {settings.mode}: expected one of {', '.join(MODES)}.")
    if settings.mode == "inversion" and (sampler.random or sampler.sampler != "ddim"):
        raise UsageError(
            "--mode inversion runs ddim backwards and forwards again without chance; leave out --sampler, or say ddim."
        )
    if settings.iterations < 1:
        raise UsageError(f"--iterations {settings.iterations}: expected 1 or more.")
    if not (math.isfinite(settings.guidance) and settings.guidance >= 0):
        raise UsageError(
            f"--guidance {settings.guidance}: expected a number from 0 up, 1 for the conditions as they are."
        )
    return lambdas(settings.frames, settings.beyond)


def _ends(
    run: Path, films: tuple[str, str], shape: tuple[int, int, int], told: _Told, settings: InterpolateSettings
) -> tuple[End, End]:
    """Both films, and what is told of them."""
    if not told.conditions.members and (any(told.asked) or settings.guidance != 1):
        raise UsageError(
            "This RUN was trained without conditions (conditions.columns is empty); leave out --condition-a, "
            "--condition-b and --guidance."
        )
    first, second = (
        read_end(run, film, shape, told.conditions, asked, side)
        for film, asked, side in zip(films, told.asked, "ab", strict=True)
    )
    return first, second


def _training_data(run: Path, data: Path) -> Dataset:
    """The DATASET, if it is the RUN's; RUNs that were imported do not say which that is."""
    dataset = open_dataset(data)
    if trained_on(run) not in (None, dataset.info.content_sha256):
        raise UsageError(
            f"--data {data}: this RUN was trained on another DATASET (their content hashes differ), and the nearest "
            "film of one that it has not seen says nothing; give its own, or leave out --data."
        )
    return dataset


def _start(
    diffusion: GaussianDiffusion,
    chain: GaussianDiffusion,
    settings: InterpolateSettings,
    shape: tuple[int, int, int],
) -> int:
    """The step of the chain to which the films are noised."""
    if settings.log_snr is not None:
        return nearest_step(chain, timestep_of_log_snr(diffusion, settings.log_snr, shape))
    return nearest_step(chain, checked_timestep(diffusion, settings.timestep))


def _nearest(chain: GaussianDiffusion, start: int, settings: InterpolateSettings) -> str:
    """The t of a step, in words, where it is another than was asked for."""
    t, steps = int(chain.schedule.timesteps[start]), len(chain.schedule.timesteps)
    if settings.log_snr is None and t == settings.timestep:
        return ""
    asked = settings.timestep if settings.log_snr is None else f"log-SNR {settings.log_snr:g} at 64 px"
    return f"t = {t}, the nearest to {asked} that {steps} steps have"


def _decisive(run: Path, way: Way, settings: InterpolateSettings, start: int, told: _Told) -> dict[str, Any]:
    """All settings that decide what the frames look like, for the provenance."""
    decisive = {**asdict(settings), **asdict(way.sampler)}
    decisive["steps"] = len(way.chain.schedule.timesteps)
    decisive["timestep"] = int(way.chain.schedule.timesteps[start])
    decisive["ends_sha256"] = [end.content for end in way.ends]
    if told.conditions.members:
        decisive["conditions"] = [dict(end.words) for end in way.ends]
        decisive["conditions_sha256"] = sha256_of(run / CONDITIONS)
    return decisive


def _prepared(ends: tuple[End, End]) -> list[str]:
    """What was done to films that came from files, in words."""
    notes = []
    for end, side in zip(ends, "AB", strict=True):
        if end.row is None:
            done = end.prepared
            height, width = done["to"]
            notes.append(
                f"film {side}: {done['rows']}x{done['columns']} px brought to {height}x{width} ({done['fit']})"
            )
    return notes
