"""`xraygen config`: what a preset or a YAML file comes to."""

from typing import Annotated

import typer

from . import console, options


def config(
    preset: Annotated[
        str | None, typer.Argument(help="Preset or YAML file; without it the presets are listed.")
    ] = None,
    changes: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Print the resolved configuration of a preset.

    xraygen config cxr-64

    xraygen config cifar10 --set train.batch_size=64
    """
    from xraygen.config import load_config
    from xraygen.presets import preset_names

    if preset is None:
        console.emit({"presets": preset_names()}, as_json=as_json)
        if not as_json:
            typer.echo("\n".join(preset_names()))
        return
    resolved = load_config(preset, changes or [])
    console.emit(resolved.model_dump(mode="json"), as_json=as_json)
    if not as_json:
        typer.echo(resolved.to_yaml(), nl=False)
