"""`xraygen benchmark`: speed beside other libraries, and the paper's setups beside its figures."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from xraygen.errors import UsageError

from . import console, options

_HELP = "Measure speed beside other libraries, and run the setups of Ho et al. 2020 beside their figures."
benchmark = typer.Typer(no_args_is_help=True, help=_HELP)


class SetupName(StrEnum):
    """The paper's setups."""

    cifar10 = "cifar10"
    celebahq = "celebahq"


Data = Annotated[
    Path,
    typer.Option(
        help="The images: CIFAR-10's python batches, a folder, a zip or tar archive, or a .npz file."
    ),
]
Out = Annotated[Path, typer.Option(help="Folder of all that comes of it, benchmark.md first.")]
TrainSteps = Annotated[int | None, typer.Option("--steps", min=1, help="Training steps [the paper's].")]
Samples = Annotated[int, typer.Option(min=2, help="Images of each set that is scored.")]
ChainSteps = Annotated[
    int | None,
    typer.Option(min=2, help="Sample by ddim over so many timesteps [the paper's ddpm, over all]."),
]
Ladder = Annotated[
    str | None,
    typer.Option(
        metavar="46800,93600", help="Earlier steps that are scored too, or none [the published ones]."
    ),
]
LikelihoodImages = Annotated[
    int, typer.Option(min=0, help="Images of each split whose bits are counted; 0 leaves it out.")
]
ProgressiveSamples = Annotated[
    int, typer.Option(min=0, help="Chains that are scored on their way; 0 leaves it out.")
]
Paths = Annotated[
    int,
    typer.Option(
        min=0, help="Pairs of images between which the way is drawn at falling noise; 0 leaves it out."
    ),
]
ReferenceImages = Annotated[
    int | None, typer.Option(min=2, help="Real images of each split to compare with, at most [all].")
]
ComputeBatch = Annotated[int, typer.Option(min=1, help="Images sampled together.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="PTH",
        help="FID's network, pt_inception-2015-12-05-6726825d.pth; without it no FID and no Inception Score.",
    ),
]


@benchmark.callback(help=_HELP)
def _every_benchmark() -> None:
    """What all benchmarks share: nothing."""


@benchmark.command("speed")
def speed(
    rounds: Annotated[int, typer.Option(min=6, help="Rounds in which the libraries take turns.")] = 9,
    parts: Annotated[
        str | None,
        typer.Option(
            metavar="train,generation,ingest,audit", help="What is timed, with commas between [all]."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes: a minute or two, and no figures to quote.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads [all].")] = None,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Time training, generation, ingest and the audit's distances against other libraries: the same work, in turns.

    xraygen benchmark speed

    xraygen benchmark speed --parts ingest,audit --quick --json
    """
    from xraygen.benchmark.parts import read_parts
    from xraygen.devices import choose_device

    chosen, target = read_parts(parts), choose_device(device)
    if dry_run:
        console.emit({"rounds": rounds, "quick": quick, "parts": chosen}, as_json=as_json)
        console.say(f"Would time {', '.join(chosen)} of xraygen and other libraries in {rounds} rounds.")
        return
    import torch

    from xraygen.benchmark.speed import benchmark_speed
    from xraygen.benchmark.table import speed_table

    if threads is not None:
        torch.set_num_threads(threads)
    with console.progress() as report:
        measured = benchmark_speed(target, quick=quick, rounds=rounds, parts=chosen, report=report)
    console.emit(measured, as_json=as_json)
    if not as_json:
        typer.echo(speed_table(measured), nl=False)


@benchmark.command("cifar10")
def cifar10(
    data: Data,
    out: Out,
    steps: TrainSteps = None,
    samples: Samples = 50_000,
    chain_steps: ChainSteps = None,
    ladder: Ladder = None,
    likelihood_images: LikelihoodImages = 64,
    progressive_samples: ProgressiveSamples = 5_000,
    paths: Paths = 2,
    reference_images: ReferenceImages = None,
    compute_batch: ComputeBatch = 64,
    weights: Weights = None,
    changes: options.Set = None,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """The paper's CIFAR10: train, generate, score, beside its figures. Run it again to go on.

    xraygen benchmark cifar10 --data cifar-10-python.tar.gz --out cifar10 --weights pt_inception-2015-12-05-6726825d.pth

    xraygen benchmark cifar10 --data cifar-10-batches-py --out short --steps 2000 --samples 1000 --chain-steps 100
    """
    sizes = (steps, samples, chain_steps, _read_ladder(ladder), likelihood_images, progressive_samples, paths)
    more = (reference_images, compute_batch, weights, tuple(changes or ()))
    _paper(SetupName.cifar10, data, out, (*sizes, *more), device, dry_run=dry_run, as_json=as_json)


@benchmark.command("celebahq")
def celebahq(
    data: Data,
    out: Out,
    steps: TrainSteps = None,
    samples: Samples = 50_000,
    chain_steps: ChainSteps = None,
    ladder: Ladder = None,
    likelihood_images: LikelihoodImages = 64,
    progressive_samples: ProgressiveSamples = 5_000,
    paths: Paths = 2,
    reference_images: ReferenceImages = None,
    compute_batch: ComputeBatch = 16,
    weights: Weights = None,
    changes: options.Set = None,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """The paper's CelebA-HQ 256, on images that you bring. Run it again to go on.

    xraygen benchmark celebahq --data celeba-hq --out celebahq

    xraygen benchmark celebahq --data CelebA-HQ-img.zip --out short --steps 1000 --samples 100 --chain-steps 50
    """
    sizes = (steps, samples, chain_steps, _read_ladder(ladder), likelihood_images, progressive_samples, paths)
    more = (reference_images, compute_batch, weights, tuple(changes or ()))
    _paper(SetupName.celebahq, data, out, (*sizes, *more), device, dry_run=dry_run, as_json=as_json)


def _paper(
    name: SetupName,
    data: Path,
    out: Path,
    settings: tuple[Any, ...],
    device: str,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """One of the paper's setups."""
    from xraygen.benchmark.paper import PaperSettings, benchmark_paper, planned
    from xraygen.benchmark.published import SETUPS
    from xraygen.devices import choose_device

    setup, asked = SETUPS[name], PaperSettings(*settings)
    config, scored = planned(setup, asked)
    choose_device(device)
    if dry_run:
        console.say(
            f"Would make a DATASET of {data} in {out}, train `{setup.preset}` for {scored[-1]:,} steps, and generate "
            f"and score {asked.samples:,} images at {', '.join(f'{step:,}' for step in scored)}."
        )
        going = {"folder": str(out), "steps": scored, "samples": asked.samples}
        console.emit({**going, "config": config.model_dump(mode="json")}, as_json=as_json)
        if not as_json:
            typer.echo(config.to_yaml(), nl=False)
        return
    with console.progress() as report:
        result = benchmark_paper(setup, data, out, asked, device=device, report=report)
    console.emit(result, as_json=as_json)
    if not as_json:
        typer.echo((out / "benchmark.md").read_text(encoding="utf-8"), nl=False)
    console.say(f"{out}: see {out / 'benchmark.md'}.")


def _read_ladder(text: str | None) -> tuple[int, ...] | None:
    """`46800,93600` as numbers, `none` as none; what was not said is the library's to choose."""
    if text is None:
        return None
    parts = [] if text == "none" else [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--ladder {text}: expected training steps such as 46800,93600, or none.")
    return tuple(int(part) for part in parts)
