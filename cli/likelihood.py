"""`xraygen likelihood`: RUN and DATASET -> LIKELIHOOD."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from . import console, options


class Part(StrEnum):
    """Part of a DATASET."""

    train = "train"
    validation = "validation"
    test = "test"


def likelihood(
    run: options.Run,
    data: Annotated[Path, typer.Option(help="DATASET folder.")],
    out: Annotated[Path | None, typer.Option(help="LIKELIHOOD folder [RUN/likelihood].")] = None,
    split: Annotated[list[Part] | None, typer.Option(help="Split to measure [test]. Repeatable.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Films of each split taken at every timestep.")] = 64,
    strata: Annotated[
        int, typer.Option(min=0, help="Timesteps for each other film, one per stratum; 0 leaves them out.")
    ] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Timesteps kept [all].")] = None,
    bits: Annotated[
        int | None, typer.Option(min=1, max=16, help="Depth of the pixels [that of the films].")
    ] = None,
    clip: Annotated[bool, typer.Option(help="Clip the predicted image, as the paper does.")] = True,
    batch_size: Annotated[int, typer.Option(min=1, help="Films computed together.")] = 16,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Bits per dimension of real films, term by term. To finish what was interrupted, run the same command again.

    xraygen likelihood run --data dataset

    xraygen likelihood run --data dataset --split train --split test --count 16 --strata 10 --out likelihood
    """
    folder = out or run / "likelihood"
    splits: list[Literal["train", "validation", "test"]] = [part.value for part in split or [Part.test]]
    from xraygen.synthesis.likelihood import LikelihoodSettings, check_likelihood, measure_likelihood

    settings = LikelihoodSettings(count, strata, steps, bits, clip, seed, batch_size)
    if dry_run:
        dataset, splits, depth = check_likelihood(run, data, folder, splits, settings, device=device)
        films = {name: min(count, len(dataset.indices(name))) for name in splits}
        console.emit({"likelihood": str(folder), "films": films, "bits": depth}, as_json=as_json)
        console.say(
            f"Would measure {', '.join(f'{number} {name}' for name, number in films.items())} films of {data} at "
            f"{depth} bits under {run} into {folder}."
        )
        return
    with console.progress() as report:
        result = measure_likelihood(run, data, folder, splits, settings, device=device, report=report)
    console.emit(result, as_json=as_json)
    for name, found in result["splits"].items():
        sums = found["every_timestep"]
        total, error = sums["bits_per_dim"]["mean"], sums["bits_per_dim"]["standard_error"] or float("nan")
        console.say(
            f"{name}: {total:.3f} ± {error:.3f} bits/dim over {sums['images']} films; L_0 {sums['L_0']['mean']:.3f} "
            f"(the schedule alone: {result['L_0_floor']['calibrated']:.3f})"
        )
    console.say(f"{folder}: see {folder / 'likelihood.png'}.")
