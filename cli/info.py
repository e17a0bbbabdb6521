"""`xraygen info`: what this installation can do."""

from collections.abc import Iterator
from typing import Any

import typer

from . import console, options


def info(device: options.Device = "auto", as_json: options.Json = False) -> None:
    """Say versions, device, decoders, feature extractors and extras, and how to add what is missing.

    xraygen info

    xraygen info --json
    """
    from xraygen.about import installation

    found = installation(device)
    console.emit(found, as_json=as_json)
    if not as_json:
        typer.echo("\n".join(_lines(found)))
    if any(found["decoders"].values()):
        raise typer.Exit(1)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """The same for a person."""
    here = found["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in here["packages"].items())
    yield f"xraygen {here['xraygen']}, Python {here['python']}, {here['platform']}"
    yield f"packages   {packages}"
    yield f"device     {here['device']}; {here['cpu_count']} processors, {here['threads']} threads"
    yield f"GPUs       {', '.join(found['gpus']) or 'none that torch can use'}"
    for number, (name, problem) in enumerate(found["decoders"].items()):
        state = "works" if problem is None else f"FAILS: {problem}"
        yield f"{'decoders' if number == 0 else '':<11}{name} {state}"
    for number, (name, state) in enumerate(found["features"].items()):
        lacks = f"lacks {state['lacks']}: {state['add']}" if state["lacks"] else "is there"
        yield f"{'features' if number == 0 else '':<11}{name} {lacks}"
    for number, (extra, state) in enumerate(found["extras"].items()):
        lacks = f"lacks {', '.join(state['missing'])}: {state['add']}" if state["missing"] else "is there"
        yield f"{'extras' if number == 0 else '':<11}{extra} {lacks}"
    yield f"models     {', '.join(found['models']) or 'none'}"
    yield f"presets    {', '.join(found['presets'])}"
