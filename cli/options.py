"""Options that several verbs share, and how their values are read."""

import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from xraygen.errors import UsageError
from xraygen.presets import run_folder


def given(context: typer.Context) -> dict[str, str]:
    """Parameter -> option, of what stands on the command line."""
    return {
        str(parameter.name): max(parameter.opts, key=len)
        for parameter in context.command.params
        if (source := context.get_parameter_source(str(parameter.name))) is not None
        and source.name == "COMMANDLINE"
    }


def finite(parameter: typer.CallbackParam, value: float | None) -> float | None:
    """An option's number, which may be neither NaN nor infinite."""
    if value is not None and not math.isfinite(value):
        raise UsageError(f"{parameter.opts[0]} {value}: expected a finite number.")
    return value


class SamplerName(StrEnum):
    """How images are made from noise."""

    ddim = "ddim"
    ddpm = "ddpm"
    dpmpp = "dpm++"
    dpmpp_sde = "dpm++-sde"
    unipc = "unipc"


Run = Annotated[
    Path,
    typer.Argument(
        parser=run_folder,
        metavar="RUN",
        help="RUN folder, or a model that ships with xraygen; `xraygen info` names them.",
    ),
]


class SpacingName(StrEnum):
    """Which timesteps a shorter chain keeps."""

    uniform = "uniform"
    trailing = "trailing"
    log_snr = "log-snr"
    edm = "edm"


class PrecisionName(StrEnum):
    """In what the network is evaluated."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class ThresholdName(StrEnum):
    """How the guessed image is kept in [-1, 1]."""

    static = "static"
    dynamic = "dynamic"
    none = "none"


Sampler = Annotated[
    SamplerName,
    typer.Option(help="ddpm is the paper's; the others need fewer steps, dpm++ and unipc fewest."),
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Network evaluations per image [ddim: 50, dpm++ and unipc: 20, ddpm: all]."),
]
Precision = Annotated[
    PrecisionName,
    typer.Option(
        help="Arithmetic of the network; bfloat16 is for GPUs, and other in an image's finest detail."
    ),
]
Seed = Annotated[int, typer.Option(help="Seed; the same seed gives the same result.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda[:i]", help="Where to compute.")]
DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be done, and do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting, such as train.batch_size=64. Repeatable."
    ),
]


def read_conditions(assignments: Sequence[str]) -> dict[str, str]:
    """`finding=PNEUMONIA` and the like as a dictionary."""
    words: dict[str, str] = {}
    for assignment in assignments:
        name, equals, word = assignment.partition("=")
        if not (name and equals and word):
            raise UsageError(f"--condition {assignment}: expected column=value, such as finding=PNEUMONIA.")
        if name in words:
            raise UsageError(f"--condition {assignment}: {name} was already said to be {words[name]}.")
        words[name] = word
    return words


def read_interval(text: str | None) -> tuple[float, float] | None:
    """`0.2,5` as two rising numbers."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not 0 <= low < high < math.inf:
        raise UsageError(f"--guidance-interval {text}: expected two rising noise levels, such as 0.2,5.")
    return low, high


def read_steps(text: str | None) -> int | Literal["draft", "default", "paper"] | None:
    """A number or a name of NAMED_STEPS."""
    match text:
        case None:
            return None
        case "draft" | "default" | "paper":
            return text
        case _ if text.isascii() and text.isdigit() and int(text) > 0:
            return int(text)
    raise UsageError(f"--steps {text}: expected a number from 1 up, draft, default or paper.")


def read_checkpoint(text: str) -> Literal["newest", "best"] | int:
    """`newest`, `best` or a step."""
    if text == "newest":
        return "newest"
    if text == "best":
        return "best"
    if not text.isdecimal():
        raise UsageError(f"--checkpoint {text}: expected newest, best or a step, such as 20000.")
    return int(text)


def read_text(path: Path) -> str:
    """A text file's content."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{path} cannot be read; expected a text file in UTF-8.") from None


def read_seeds(text: str) -> list[int]:
    """`0-999`, `7` or `0-3,17` as a list without repeats."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise UsageError(f"--seeds {text}: expected numbers and rising ranges such as 0-999 or 0-3,17.")
        seeds.extend(range(int(first), int(last or first) + 1))
    return list(dict.fromkeys(seeds))
