"""RUN and two films -> PATH: the way from one film to the other."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from xraygen.atomic import sole_writer, write_json
from xraygen.dataset.store import open_dataset
from xraygen.devices import choose_device
from xraygen.diffusion.gaussian import GaussianDiffusion
from xraygen.diffusion.interpolation import interpolate_paper, interpolate_shared_noise
from xraygen.errors import FolderError, UsageError
from xraygen.films.grids import tile, write_gif
from xraygen.films.transforms import PrepareSettings, prepare_film
from xraygen.films.writers import write_png
from xraygen.models.unet import UNet
from xraygen.progress import Progress, Report, silent
from xraygen.ranges import Stored, stored_to_model
from xraygen.seeds import torch_generator
from xraygen.synthesis.images import settings_of_format, write_frames
from xraygen.synthesis.provenance import agreed_provenance, provenance
from xraygen.synthesis.sampling import SamplerSettings, as_stored, sample, sampling_diffusion
from xraygen.training.checkpoint import load_run, newest_checkpoint

Mode = Literal["paper", "shared-noise"]

_WHOSE = "between two patients' films: personal data"


@dataclass(frozen=True)
class InterpolateSettings:
    """How the way is made.

    Attributes:
        mode: paper mixes two independently noised films (Ho et al. 2020, sec. 4.4), shared-noise mixes the films
            and noises them once.
        timestep: How far both films are noised before they are mixed, 0 ... T - 1; more is freer.
        frames: Pictures on the way, both reconstructed ends included; lambda runs from 0 to 1 in equal steps.
        seed: Seed of the noise.
    """

    mode: Mode = "shared-noise"
    timestep: int = 500
    frames: int = 11
    seed: int = 0


def interpolate(
    run: Path,
    film_a: str,
    film_b: str,
    out: Path,
    settings: InterpolateSettings,
    sampler: SamplerSettings,
    *,
    file_format: Literal["png", "dicom"] = "png",
    device: str = "auto",
    report: Report = silent,
) -> Path:
    """Write a PATH: frames/, strip.png (film A, the frames, film B), path.gif and path.json.

    A path shows two real patients and is personal data.

    Args:
        run: RUN folder with a checkpoint.
        film_a: Image file (DICOM, PNG, JPEG, NIfTI), or a DATASET row such as `dataset#17`.
        film_b: The other end.
        out: PATH folder; made anew with the same command, refused if another command made it.
        settings: The way.
        sampler: How the frames are decoded; compute_batch frames at a time.
        file_format: "dicom" writes the frames as path.dcm, one multi-frame object, too.
        device: "auto", "cpu" or "cuda[:i]".
        report: Told how many frames are done.

    Returns:
        The path of strip.png.

    Raises:
        FilmError: If an image file cannot be read.
        UsageError: If the timestep lies outside the schedule, or a row outside its DATASET.
    """
    target = choose_device(device)
    model, diffusion, config = load_run(run, target)
    if settings.frames < 2:
        raise UsageError(f"--frames {settings.frames}: a path has two ends, so at least 2 frames.")
    if not 0 <= settings.timestep < diffusion.schedule.num_timesteps:
        raise UsageError(
            f"--timestep {settings.timestep}: expected 0 to {diffusion.schedule.num_timesteps - 1}, "
            "the schedule that this RUN was trained on."
        )
    ends = [read_end(run, film) for film in (film_a, film_b)]
    for film, end in zip((film_a, film_b), ends, strict=True):
        if (1, *end.shape[1:]) != config.data.shape:
            raise UsageError(
                f"{film} is {tuple(end.shape)} when prepared, and this RUN makes {config.data.shape}."
            )
    chain = sampling_diffusion(diffusion, sampler)
    start = nearest_step(chain, settings.timestep)
    told = {**asdict(settings), **asdict(sampler), "timestep": int(chain.schedule.timesteps[start])}
    if file_format == "dicom":
        told |= settings_of_format(run, "dicom", False, config.data.shape)
    told["ends_sha256"] = [hashlib.sha256(end.numpy().tobytes()).hexdigest() for end in ends]
    with sole_writer(out):
        origin = agreed_provenance(out, provenance(run, newest_checkpoint(run), told, target))
        write_json(out / "provenance.json", origin)
        x_t = _mixed(chain, ends, settings, start).to(target)
        x = _decode(model, chain, x_t, start, settings, sampler, report)
        _write_path(out, [as_stored(end[None])[0] for end in ends], as_stored(x), origin)
    return out / "strip.png"


def read_end(run: Path, film: str) -> Tensor:
    """One end of the path, `(C, H, W)` in [-1, 1], prepared exactly as the RUN's training films were."""
    folder, separator, row = film.rpartition("#")
    if separator and row.isdigit():
        dataset = open_dataset(Path(folder))
        if int(row) >= len(dataset.images):
            raise UsageError(f"{film}: that DATASET has rows 0 to {len(dataset.images) - 1}.")
        return stored_to_model(dataset.gather(np.array([int(row)])), dataset.info.bits)  # (1, H, W)
    try:
        ingested = json.loads((run / "dataset.json").read_text(encoding="utf-8"))["settings"]
        names = [field.name for field in fields(PrepareSettings) if field.name in ingested]
        settings = PrepareSettings.from_json({name: ingested[name] for name in names})
    except (OSError, ValueError, KeyError):
        raise FolderError(f"{run} has no readable dataset.json, which says how films are prepared.") from None
    if not Path(film).is_file():
        raise UsageError(
            f"There is no file {film}; expected an image file or a DATASET row such as folder#17."
        )
    return stored_to_model(prepare_film(Path(film), settings).image, settings.bits)[None]  # (1, H, W)


def nearest_step(diffusion: GaussianDiffusion, timestep: int) -> int:
    """Index of the kept timestep that lies nearest to `timestep`."""
    return int((diffusion.schedule.timesteps - timestep).abs().argmin())


def _mixed(chain: GaussianDiffusion, ends: list[Tensor], settings: InterpolateSettings, start: int) -> Tensor:
    """Noisy frames `(F, C, H, W)`; the noise of an end follows from its own pixels, so that swapping ends mirrors."""
    frames = settings.frames
    lam = torch.linspace(0, 1, frames)
    t = torch.full((frames,), start)
    x_a, x_b = (end.expand(frames, -1, -1, -1) for end in ends)
    if settings.mode == "shared-noise":
        noise = torch.randn(ends[0].shape, generator=torch_generator(settings.seed, "shared noise"))
        return interpolate_shared_noise(chain, x_a, x_b, noise.expand_as(x_a), t, lam)
    noise_a, noise_b = (_noise_of(end, settings.seed).expand(frames, -1, -1, -1) for end in ends)
    return interpolate_paper(chain, x_a, x_b, noise_a, noise_b, t, lam)


def _noise_of(end: Tensor, seed: int) -> Tensor:
    """The noise of one film, `(C, H, W)`, keyed by its pixels."""
    content = hashlib.sha256(end.numpy().tobytes()).hexdigest()
    return torch.randn(end.shape, generator=torch_generator(seed, "film noise", content))


def _decode(
    model: UNet,
    chain: GaussianDiffusion,
    x_t: Tensor,
    start: int,
    settings: InterpolateSettings,
    sampler: SamplerSettings,
    report: Report,
) -> Tensor:
    """Noisy frames to frames; the chain's noise is one for all lambda, so that frames differ by lambda alone."""

    def shared_noise(step: int) -> Tensor:
        generator = torch_generator(settings.seed, "decoding noise", step)
        return torch.randn(x_t.shape[1:], generator=generator).to(x_t.device)

    report(Progress("interpolate", 0, len(x_t)))
    decoded: list[Tensor] = []
    for part in torch.split(x_t, sampler.compute_batch):
        decoded.append(sample(model, chain, part, shared_noise, sampler, start=start))
        report(Progress("interpolate", sum(map(len, decoded)), len(x_t)))
    return torch.cat(decoded)


def _write_path(out: Path, ends: list[Stored], frames: Stored, origin: dict[str, Any]) -> None:
    """The pictures, then path.json, which says that they are all there."""
    lambdas = np.linspace(0, 1, len(frames)).round(6).tolist()
    for index, frame in enumerate(frames):
        write_png(out / "frames" / f"frame-{index:03d}.png", frame)
    strip = np.stack([ends[0], *frames, ends[1]])
    write_png(out / "strip.png", tile(strip, 16, columns=len(strip)))
    write_gif(out / "path.gif", frames, 16)
    if origin["settings"].get("format") == "dicom":
        words = [f"lambda {lam:.4g}" for lam in lambdas]
        write_frames(out / "path.dcm", frames.astype(np.uint16), words, origin, _WHOSE)
    entries = [
        {"file_name": f"frames/frame-{index:03d}.png", "lambda": lam} for index, lam in enumerate(lambdas)
    ]
    write_json(
        out / "path.json",
        {"format_version": 1, "personal_data": True, "settings": origin["settings"], "frames": entries},
    )
