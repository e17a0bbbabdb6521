"""RUN -> SYNTHETIC: a set of synthetic films, each from its own seed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xraygen.atomic import one_at_a_time, write_json, write_text
from xraygen.config import RunConfig
from xraygen.dataset.conditions import Conditions
from xraygen.devices import compiles, machine
from xraygen.diffusion.gaussian import GaussianDiffusion, Model
from xraygen.diffusion.guidance import ConditionalModel
from xraygen.diffusion.paths import Watch, unwatched
from xraygen.errors import UsageError
from xraygen.films.colour import read_colour
from xraygen.films.grids import tile
from xraygen.films.listing import Row, column_of, columns_of
from xraygen.films.quarantine import finish_quarantine, quarantined
from xraygen.films.reader import read_film
from xraygen.films.writers import write_png
from xraygen.memory import freed_memory_kept
from xraygen.models.unet import for_inference
from xraygen.progress import Counter, Report, silent
from xraygen.ranges import Stored
from xraygen.synthesis.arithmetic import evaluated
from xraygen.synthesis.card import data_set_card
from xraygen.synthesis.conditions import (
    Guidance,
    Wish,
    folders_as_json,
    read_folders,
    wish_model,
)
from xraygen.synthesis.images import FileFormat, image_path, images_of, settings_of_format, write_image
from xraygen.synthesis.noise import NOISE, SeededNoise
from xraygen.synthesis.provenance import agreed_provenance, differences, provenance
from xraygen.synthesis.rows import ProcessRows, is_there, merge
from xraygen.synthesis.sampling import SamplerSettings, as_stored, sample, sampling_diffusion
from xraygen.synthesis.share import Share
from xraygen.training.checkpoint import Checkpoint, Choice, chosen_checkpoint, load_run, run_config
from xraygen.training.conditions import CONDITIONS, read_conditions

_PREVIEW_IMAGES = 64


@dataclass(frozen=True)
class GenerateSummary:
    """What a call to `generate` did: how many films this process made, and how many of its share were there.

    `quarantined` films were asked for and are suspects of an audit: no process makes them again.
    """

    folder: Path
    made: int
    present: int
    quarantined: int


@dataclass(frozen=True)
class Order:
    """How films are made, as `generate` says it of each."""

    settings: SamplerSettings
    guidance: Guidance = field(default_factory=Guidance)
    file_format: FileFormat = "png"
    mark: bool | None = None
    checkpoint: Choice | Checkpoint = "newest"
    compiled: bool | None = None


@dataclass(frozen=True)
class Work:
    """All that the making of films needs."""

    out: Path
    network: ConditionalModel
    chain: GaussianDiffusion
    config: RunConfig
    conditions: Conditions
    settings: SamplerSettings
    guidance: Guidance
    interval: tuple[float, float] | None
    file_format: FileFormat
    origin: dict[str, Any]
    device: torch.device
    compiled: bool

    def file_name(self, wish: Wish) -> str:
        """Where a film lies in the set."""
        path = image_path(self.out, wish.seed, self.file_format, wish.folder(self.guidance.weight))
        return path.relative_to(self.out).as_posix()

    def row(self, wish: Wish) -> Row:
        """What metadata.csv says of a film, but for its hash."""
        here, settings = machine(self.device, compiled=self.compiled), self.origin["settings"]
        asked = {column_of(name): wish.words.get(name, "") for name in self.conditions.names}
        return {
            "file_name": self.file_name(wish),
            "seed": str(wish.seed),
            **asked,
            "sampler": str(settings["sampler"]),
            "steps": str(settings["steps"]),
            "guidance": str(wish.weight) if wish.words else "",
            "machine": here,
            "repeats": "identical" if here == self.origin["machine"] else "equivalent",
        }

    def images(self, wishes: Sequence[Wish], watch: Watch) -> Stored:
        """The films of one compute batch, `[N, H, W]` uint16 or `[N, H, W, 3]` uint8, padded to its shape."""
        padded = [*wishes, *[wishes[-1]] * (self.settings.compute_batch - len(wishes))]
        model = wish_model(self.network, self.conditions, padded, self.interval, self.device)
        seeds = [wish.seed for wish in padded]
        shape = self.config.data.shape
        x = sample_batch(model, self.chain, seeds, shape, self.settings, self.device, watch)
        return x[: len(wishes)]


def generate(
    run: Path,
    out: Path,
    films: Sequence[int | Wish],
    settings: SamplerSettings,
    *,
    guidance: Guidance | None = None,
    file_format: FileFormat = "png",
    mark: bool | None = None,
    checkpoint: Choice | Checkpoint = "newest",
    device: str = "auto",
    compiled: bool | None = None,
    batch_size: int | None = None,
    share: Share | None = None,
    origin: dict[str, Any] | None = None,
    report: Report = silent,
) -> GenerateSummary:
    """Make one synthetic film per seed; what a killed call left is finished, not done again.

    Args:
        run: RUN folder with a checkpoint.
        out: SYNTHETIC folder; created, or gone on with if the same checkpoint and settings made it.
        films: Seed of each film, the file is named after it; or what a plan says of each.
        settings: Sampler settings.
        guidance: What the films shall show, if the RUN knows conditions; by default nothing is told. Calls that differ
            in what is told alone fill one set. Of films that a plan orders its interval holds.
        file_format: 16-bit PNG, NIfTI, or DICOM as Secondary Capture or as DX For Presentation.
        mark: Whether the word SYNTHETIC goes into a corner of the pixels; None for DX alone.
        checkpoint: "newest", "best" on validation films, or a step; provenance.json names its step and hash.
        device: "auto", "cpu" or "cuda[:i]".
        compiled: Compile the network, on a GPU with Triton and a C compiler. None: there, where its precision is
            bfloat16. It takes a minute, and changes an image's last bits; so its machine says so.
        batch_size: Films from one count to the next, a compute batch at most and by default; it changes no film.
        share: Which of several processes this is, each of which makes its share; by default what the launcher says.
        origin: Provenance under which the films are made, where it is an older set's.
        report: Told how many films are done, of the first process's share, and each step of those under way.

    Returns:
        How many images were made and how many were already there.

    Raises:
        FolderError: If the RUN has no checkpoint, or `out` is something else or is being written to.
        UsageError: If `out` was made otherwise, the settings or the guidance do not fit the RUN, or the network cannot
            be compiled.
    """
    share = share or Share.of_environment()
    order = Order(settings, guidance or Guidance(), file_format, mark, checkpoint, compiled)
    work, wishes = prepare(run, out, films, order, share.device(device))
    if origin is not None and (what := differences(origin, work.origin)):
        raise UsageError(
            f"{run} would make these films with another {', '.join(what)} than they were made with."
        )
    with freed_memory_kept(), share.writer(out):
        with one_at_a_time(out):
            work = replace(work, origin=agreed_provenance(out, origin or work.origin))
            rows = _open(work, wishes)
            asked, aside = len(wishes), quarantined(out)
            wishes = [wish for wish in wishes if work.file_name(wish) not in aside]
            landing = ProcessRows(out, share.number)
        try:
            present = _make_share(work, share, wishes, rows, landing, batch_size, report)
        finally:
            landing.close()
            with one_at_a_time(out):
                rows = merge(out, columns_of(work.conditions.names))
        with one_at_a_time(out):
            if rows:
                _write_preview_and_card(out, file_format, work.origin)
    return GenerateSummary(out, len(share.of(wishes)) - present, present, asked - len(wishes))


def _compiled(choice: bool | None, settings: SamplerSettings, device: torch.device) -> bool:
    """Whether to compile; it does not follow from the number of films: an image is the same alone and among others."""
    if choice and not compiles(device):
        raise UsageError(
            "--compile is for a GPU with Triton and a C compiler (cc, gcc or clang); leave it out here."
        )
    return settings.precision == "bfloat16" and compiles(device) if choice is None else choice


def prepare(
    run: Path, out: Path, films: Sequence[int | Wish], order: Order, device: torch.device
) -> tuple[Work, list[Wish]]:
    """Load what the films are made with, and see that they can be made so; nothing is written."""
    settings = order.settings
    compiled = _compiled(order.compiled, settings, device)
    run_config(run)  # says what is wrong with the folder before its checkpoints are looked at
    checkpoint = chosen_checkpoint(run, order.checkpoint)
    network, diffusion, config = load_run(run, device, checkpoint)
    conditions = read_conditions(run, config)
    chain = sampling_diffusion(diffusion, settings)
    planned = all(isinstance(film, Wish) for film in films)
    guidance = order.guidance.checked(conditions, planned=planned)
    told = {**asdict(settings), "steps": len(chain.schedule.timesteps), "noise": NOISE}
    told |= settings_of_format(run, order.file_format, order.mark, config.data.shape)
    told |= guidance.told(run, conditions)
    origin = provenance(run, checkpoint, told, device, compiled=compiled)
    work = Work(
        out,
        evaluated(for_inference(network), settings.precision, device, compiled=compiled),
        chain,
        config,
        conditions,
        settings,
        guidance,
        guidance.interval_in_t(chain),
        order.file_format,
        origin,
        device,
        compiled,
    )
    return work, [_as_wish(film, guidance) for film in films]


def _open(work: Work, wishes: Sequence[Wish]) -> dict[str, Row]:
    """Begin the set, or go on with it: the rows of the films that are there."""
    write_json(work.out / "provenance.json", work.origin)
    wanted = {wish.folder(work.guidance.weight): wish.words for wish in wishes}
    folders = {**read_folders(work.out), **wanted}
    if any(wanted):
        write_json(work.out / CONDITIONS, folders_as_json(folders))
    for folder in wanted:
        (work.out / "images" / folder).mkdir(parents=True, exist_ok=True)
    finish_quarantine(work.out)
    return merge(work.out, columns_of(work.conditions.names))


def _make_share(
    work: Work,
    share: Share,
    wishes: Sequence[Wish],
    rows: Mapping[str, Row],
    landing: ProcessRows,
    batch_size: int | None,
    report: Report,
) -> int:
    """Make what is missing of this process's share; how many films of it were there."""
    mine = share.of(wishes)
    missing = [wish for wish in mine if not is_there(work.out, rows.get(work.file_name(wish)))]
    present = len(mine) - len(missing)
    if share.number > 0:
        report = silent
    counter = Counter("generate", len(mine), report)
    counter.advance(present)
    _make(work, missing, batch_size, landing, counter)
    return present


def _as_wish(film: int | Wish, guidance: Guidance) -> Wish:
    return film if isinstance(film, Wish) else Wish(film, guidance.words, guidance.weight)


def _make(
    work: Work, missing: Sequence[Wish], batch_size: int | None, landing: ProcessRows, counter: Counter
) -> None:
    """Make films in compute batches of those that can share one, `batch_size` in each at most."""
    alike = sorted(missing, key=lambda wish: wish.network)
    steps, whole = len(work.chain.schedule.timesteps), work.settings.compute_batch
    size = min(batch_size or whole, whole)
    for _, group in groupby(alike, key=lambda wish: wish.network):
        wishes = list(group)
        for first in range(0, len(wishes), size):
            batch = wishes[first : first + size]

            def watch(step: int, _: torch.Tensor, worth: int = len(batch)) -> None:
                counter.step(steps - step, steps, worth)

            for wish, image in zip(batch, work.images(batch, watch), strict=True):
                landing.land(work.row(wish), partial(_write_wish, work, wish, image))
            counter.advance(len(batch))


def _write_wish(work: Work, wish: Wish, image: Stored, path: Path) -> None:
    write_image(path, wish.seed, image, work.origin, wish.words)


def sample_batch(
    model: Model,
    diffusion: GaussianDiffusion,
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    settings: SamplerSettings,
    device: torch.device,
    watch: Watch = unwatched,
) -> Stored:
    """Images of these seeds, `[N, H, W]` uint16 or `[N, H, W, 3]` uint8, computed together."""
    noise = SeededNoise(seeds, shape, device)
    x_t = noise.draw()  # (B, C, H, W)
    return as_stored(sample(model, diffusion, x_t, noise, settings, watch=watch))


def _write_preview_and_card(out: Path, file_format: FileFormat, origin: dict[str, Any]) -> None:
    """A contact sheet and the data set card."""
    paths = images_of(out, file_format)
    write_text(out / "README.md", data_set_card(origin, len(paths)))
    colour = origin["config"]["data"]["channels"] == 3
    shown = paths[:_PREVIEW_IMAGES]
    images = np.stack([read_colour(path) if colour else read_film(path).values for path in shown])
    write_png(out / "preview.png", tile(images, 16 if images.dtype == np.uint16 else 8))
