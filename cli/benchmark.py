"""`xraygen benchmark`: figures of this machine, beside other libraries."""

from typing import Annotated

import typer

from . import console, options

benchmark = typer.Typer(no_args_is_help=True, help="Measure xraygen on this machine, beside other libraries.")


@benchmark.callback()
def _every_benchmark() -> None:
    """Measure xraygen on this machine, beside other libraries."""


@benchmark.command("speed")
def speed(
    rounds: Annotated[int, typer.Option(min=6, help="Rounds in which the libraries take turns.")] = 9,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small networks: seconds, and no figures to quote.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads [all].")] = None,
    device: options.Device = "auto",
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Time train steps and generation against diffusers and MONAI: the same network and batch, in turns.

    xraygen benchmark speed

    xraygen benchmark speed --quick --json
    """
    if dry_run:
        console.say(f"Would time train steps and films of xraygen, diffusers and MONAI in {rounds} rounds.")
        return
    import torch

    from xraygen.benchmark.speed import benchmark_speed
    from xraygen.benchmark.table import speed_table
    from xraygen.devices import choose_device

    if threads is not None:
        torch.set_num_threads(threads)
    with console.progress() as report:
        measured = benchmark_speed(choose_device(device), quick=quick, rounds=rounds, report=report)
    console.emit(measured, as_json=as_json)
    if not as_json:
        typer.echo(speed_table(measured), nl=False)
